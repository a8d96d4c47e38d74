"""A GGUF file run by llama.cpp (package ``xllamacpp``), as the people run it who are given it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from editors.model_files import ModelError

CONTEXT = 1024
"""Tokens of one question and its answer."""
_CANDIDATES = 1000  # likeliest tokens that are told of each next one


def available() -> bool:
    """Whether llama.cpp is installed."""
    return find_spec("xllamacpp") is not None


class LlamaCpp:
    """A model file, loaded, in the file's own chat template.

    Args:
        path: of a GGUF file.
        threads: None: one for every two processors. llama.cpp's threads wait for one
            another by spinning: one too many, and an answer takes a hundred times as long.

    Raises ModelError: llama.cpp is not installed, or refuses the file.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        if not available():
            raise ModelError("running a GGUF needs llama.cpp: pip install 'corrigenda[gguf]'")
        import xllamacpp

        threads = threads or max(1, (os.cpu_count() or 1) // 2)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = CONTEXT
        params.n_parallel = 1
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
        params.n_threads_http = 1
        params.warmup = False
        params.verbosity = -1
        self._asked = False
        try:
            self._server: Any = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"llama.cpp does not load {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._asked:  # a server that was never asked does not end
            self._completed({"prompt": "a", "n_predict": 1})
        self._server = None  # unloads the model

    def answer(
        self,
        questions: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Answer questions, greedily, each in a chat of its own."""
        found = []
        for question in questions:
            self._asked = True
            reply = self._server.handle_chat_completions(
                {
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": max_new_tokens,
                    "temperature": 0,
                }
            )
            found.append(str(_choice(reply)["message"]["content"]).strip())
            progress(1)
        return found

    def go_on(
        self,
        texts: Sequence[str],
        max_new_tokens: int,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """Continue plain texts, greedily."""
        found = []
        for text in texts:
            asked = {"prompt": text, "n_predict": max_new_tokens, "temperature": 0}
            found.append(str(self._completed(asked)["text"]).strip())
            progress(1)
        return found

    def loss(self, tokens: Sequence[int], plain: int) -> tuple[float, int]:
        """Return the summed loss (nats) of a plain text's tokens after the first, and their number.

        llama.cpp's server tells the probability of tokens that it writes, not of a text: so
        each next token is asked for by itself, what was read before staying in its cache. It
        tells nothing where it writes the end or half a character; ``plain``, any token that
        is a word, is what it is made to write.
        """
        total = 0.0
        for at in range(1, len(tokens)):
            written = self._completed(
                {
                    "prompt": list(tokens[:at]),
                    "n_predict": 1,
                    "temperature": 0,
                    "n_probs": _CANDIDATES,
                    "post_sampling_probs": False,
                    "cache_prompt": True,
                    "logit_bias": [[plain, 1000.0]],
                }
            )
            seen = written["logprobs"]["content"][0]["top_logprobs"]
            known = {one["id"]: one["logprob"] for one in seen}
            # A token that is not among the likeliest is at most as likely as the last of them.
            total -= known.get(tokens[at], min(known.values()))
        return total, max(len(tokens) - 1, 0)

    def _completed(self, asked: dict[str, Any]) -> Any:
        self._asked = True
        return _choice(self._server.handle_completions(asked))


def _choice(reply: Any) -> Any:
    if not isinstance(reply, dict) or "choices" not in reply:
        raise ModelError(f"llama.cpp gives no answer: {reply}")
    return reply["choices"][0]
