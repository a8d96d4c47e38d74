"""A GGUF file in llama.cpp, for comparing it with the model that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

_ALL = 1 << 20


class Running:
    """A file in llama.cpp, exact: keys and values in float32, plain attention, one thread."""

    def __init__(self, path: Path, context: int = 512) -> None:
        xllamacpp = pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.n_threads_http = 1
        params.hostnames = ["127.0.0.1"]
        params.warmup = False
        params.verbosity = -1
        params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
        params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server: Any = xllamacpp.Server(params)

    def logprobs(self, tokens: Sequence[int], written: int, n: int = _ALL) -> dict[int, float]:
        """Return the log-probabilities of the ``n`` likeliest next tokens.

        ``written`` is written whatever they are: of a token that ends the answer, or that is
        part of a letter, llama.cpp tells nothing.
        """
        reply = self.server.handle_completions(
            {
                "prompt": list(tokens),
                "n_predict": 1,
                "temperature": 0,
                "n_probs": n,
                "post_sampling_probs": False,
                "logit_bias": [[written, 1000.0]],
            }
        )
        seen = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {one["id"]: one["logprob"] for one in seen}

    def chat(self, question: str, max_tokens: int) -> str:
        turns = [{"role": "user", "content": question}]
        asked = {"messages": turns, "max_tokens": max_tokens, "temperature": 0}
        reply = self.server.handle_chat_completions(asked)
        return str(reply["choices"][0]["message"]["content"]).strip()

    def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """Tokenise a text, control tokens in it included; ``special``: with what is put around."""
        asked = {"content": text, "add_special": special, "parse_special": True}
        reply = httpx2.post(f"{self.server.listening_address}/tokenize", json=asked)
        return list(reply.json()["tokens"])
