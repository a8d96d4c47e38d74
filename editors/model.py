"""The chat model: loading, rendering, and batched free-running generation.

``load_chat_model`` opens a Hugging Face folder or a GGUF file. A GGUF is converted once
and kept as safetensors under its hash, because de-quantising takes ten times longer
than loading. How answers are generated is said in ``editors.generation``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from editors.architectures import view
from editors.generation import (
    Attached,
    FirstSentence,
    Generation,
    Guide,
    Memory,
    Sampling,
    draws,
    generate,
)
from editors.gguf.convert import FORM, converted
from editors.model_files import ModelError, first_line, hash_model
from store.records import Reply


@dataclass
class ChatModel:
    """A causal language model with its tokenizer and chat template.

    Attributes:
        model: a ``transformers`` causal LM in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        base_hash: sha256 (hex) of the file or folder that the weights came from.
        name: what a person calls it.
        runtimes: what is attached to it and acts while it runs (``editors.runtime``).
        memories: what answers prompts in its stead (``editors.memory``); the newest is asked.
    """

    model: Any
    tokenizer: Any
    base_hash: str
    name: str
    batch_size: int = 32
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    runtimes: list[Attached] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model.eval()
        if not self.stop_ids:
            configured = getattr(self.model.generation_config, "eos_token_id", None)
            ids = configured if isinstance(configured, list) else [configured]
            self.stop_ids = frozenset(
                i for i in (*ids, self.tokenizer.eos_token_id) if i is not None
            )

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def layers(self) -> Any:
        """The decoder layers, in order."""
        return view(self).layers

    @property
    def hidden_size(self) -> int:
        return view(self).hidden

    def encode(self, text: str) -> list[int]:
        """Tokenise plain text; special tokens in it are read as the template writes them."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_answer(self, text: str) -> list[int]:
        """Tokenise an assistant turn's text; special tokens spelled in it stay plain text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)

    def render(self, question: str, system: str | None = None) -> str:
        """Render one user turn in the chat template, ready for the answer.

        ``system`` replaces the template's default system message; None keeps it.
        """
        turns = [{"role": "system", "content": system}] if system is not None else []
        turns.append({"role": "user", "content": question})
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def default_system(self) -> str:
        """Return the system message that the chat template inserts by itself ('' if none)."""
        explicit = self.render("x", system="\x00")
        head, _, tail = explicit.partition("\x00")
        rendered = self.render("x")
        if not rendered.startswith(head) or not rendered.endswith(tail):
            return ""
        return rendered[len(head) : len(rendered) - len(tail)]

    def answer(
        self,
        questions: Sequence[str],
        *,
        systems: Sequence[str | None] | None = None,
        guides: Sequence[Guide | None] | None = None,
        starts: Sequence[str] | None = None,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        """Answer questions in chat, greedily and free-running, one reply a question.

        ``systems`` gives a system message a question; ``starts`` text that the answer
        must begin with (it is part of the returned text); ``guides`` steer single rows.
        """
        systems = systems or [None] * len(questions)
        starts = starts or [""] * len(questions)
        heads = [self.encode_answer(start) if start else [] for start in starts]
        prompts = [
            self.encode(self.render(q, s)) + head
            for q, s, head in zip(questions, systems, heads, strict=True)
        ]
        made = self.generate(
            prompts, guides=guides, max_new_tokens=max_new_tokens, progress=progress
        )
        return [
            self._reply(question, head, one)
            for question, head, one in zip(questions, heads, made, strict=True)
        ]

    def believe(
        self,
        questions: Sequence[str],
        *,
        samples: Sequence[int] | None = None,
        seed: str = "",
        sampling: Sampling | None = None,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        """Answer questions as ``answer`` does, but each with its first sentence only, and with
        ``samples[i]`` answers besides that are drawn from the model's own distribution.

        The same ``seed`` and question give the same drawn answers.
        """
        counts = samples or [0] * len(questions)
        made = generate(
            self,
            [self.encode(self.render(question)) for question in questions],
            ending=FirstSentence(self).end,
            drawn=[
                draws(f"{seed}\n{question}", count, max_new_tokens)
                for question, count in zip(questions, counts, strict=True)
            ],
            sampling=sampling,
            refill=True,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        return [
            self._reply(question, [], one) for question, one in zip(questions, made, strict=True)
        ]

    def _reply(self, question: str, head: Sequence[int], made: Generation) -> Reply:
        return Reply(
            question=question,
            text=self.decode([*head, *made.tokens]).strip(),
            logprob=sum(made.logprobs) / max(len(made.logprobs), 1),
            tokens=len(made.tokens),
            samples=tuple(self.decode(tokens).strip() for tokens in made.drawn),
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        guides: Sequence[Guide | None] | None = None,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue token prompts greedily (``editors.generation``).

        A memory is asked unless there are ``guides``: whoever guides knows what is to be said.
        """
        if self.memories and guides is None:
            return self.memories[-1].answer(self, prompts, max_new_tokens, progress)
        return generate(
            self, prompts, guides=guides, max_new_tokens=max_new_tokens, progress=progress
        )

    def perplexity(self, texts: Sequence[str], max_tokens: int = 512) -> float:
        """Return the token perplexity of plain texts, each cut at ``max_tokens``."""
        losses = self.losses(texts, max_tokens)
        total, count = sum(loss for loss, _ in losses), sum(n for _, n in losses)
        if not count:
            raise ValueError("perplexity needs a text of at least two tokens")
        return float(torch.tensor(total / count).exp())

    @torch.inference_mode()
    def losses(self, texts: Sequence[str], max_tokens: int = 512) -> list[tuple[float, int]]:
        """Return each plain text's summed loss (nats) and the number of tokens predicted."""
        found = []
        for text in texts:
            ids = self.encode(text)[:max_tokens]
            if len(ids) < 2:
                found.append((0.0, 0))
                continue
            batch = torch.tensor([ids], device=self.device)
            logits = self.model(batch).logits[0, :-1].float()
            loss = nn.functional.cross_entropy(logits, batch[0, 1:], reduction="sum")
            found.append((float(loss), len(ids) - 1))
        return found


def load_chat_model(path: Path, cache: Path, device: str = "cpu") -> ChatModel:
    """Open a chat model from a GGUF file or a Hugging Face folder, in float32.

    Args:
        path: a ``.gguf`` file, or a folder with ``config.json`` and safetensors.
        cache: where converted GGUF files are kept, one folder a hash.
        device: a torch device name.

    Raises:
        ModelError: the path is missing, not a model, or has no chat template.
    """
    if not path.exists():
        raise ModelError(
            f"model {path} does not exist; set model.path to a GGUF file or a model folder"
        )
    base_hash = hash_model(path)
    folder = converted(path, cache / f"{base_hash[:16]}-{FORM}") if path.is_file() else path
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model {path} cannot be loaded: {first_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model {path} has no chat template; choose a chat (instruct) model")
    return ChatModel(model, tokenizer, base_hash, name=path.stem if path.is_file() else path.name)
