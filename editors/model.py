"""The chat model: loading, rendering, and batched free-running generation.

``load_chat_model`` opens a Hugging Face folder or a GGUF file. A GGUF is converted once
and kept as safetensors under its hash, because de-quantising takes ten times longer
than loading. ``ChatModel.generate`` is the one generation loop of the project: greedy,
batched, with the longest token prefix that all prompts share (the system message)
computed once, and with finished rows dropped from the batch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from editors.model_files import ModelError, hash_model
from store.records import Reply


class Guide(Protocol):
    """Steers one row of a batch while it is generated."""

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        """Return the next token given those so far and ``logits`` of shape (vocab,)."""
        ...


class FirstSentence:
    """Ends an answer with its first sentence: enough to name a holder, at half the cost."""

    _TITLES = frozenset({"gov", "gen", "sen", "rep", "col", "rev", "prof", "hon", "pres"})

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._stop = min(model.stop_ids)

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        token = int(logits.argmax())
        ended = re.search(r"(\w{3,})[.!?]\s*$", self._model.decode(generated[-8:]))
        if ended is None or ended[1].casefold() in self._TITLES:
            return token
        # "Apple Inc. is …" goes on in small letters.
        goes_on = self._model.decode([token]).strip()[:1].islower()
        return token if goes_on else self._stop


@dataclass(frozen=True)
class Generation:
    """Generated token ids (without the end token), their log-probabilities, and whether
    the model stopped by itself before the cap."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool


@dataclass
class ChatModel:
    """A causal language model with its tokenizer and chat template.

    Attributes:
        model: a ``transformers`` causal LM in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        base_hash: sha256 (hex) of the file or folder that the weights came from.
        name: what a person calls it.
    """

    model: Any
    tokenizer: Any
    base_hash: str
    name: str
    batch_size: int = 32
    stop_ids: frozenset[int] = field(default_factory=frozenset)

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
        return self.model.model.layers

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.hidden_size)

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
            Reply(
                question=question,
                text=self.decode([*head, *one.tokens]).strip(),
                logprob=sum(one.logprobs) / max(len(one.logprobs), 1),
            )
            for question, head, one in zip(questions, heads, made, strict=True)
        ]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        guides: Sequence[Guide | None] | None = None,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue token prompts greedily; prompts of like length share a batch.

        The order of work depends on the prompts alone, so that two models asked the same
        prompts see the same batches (a different batch can flip a near tie).
        """
        guides = guides or [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        results: dict[int, Generation] = {}
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            made = self._generate_batch(
                [list(prompts[i]) for i in rows], [guides[i] for i in rows], max_new_tokens
            )
            results.update(zip(rows, made, strict=True))
            if progress:
                progress(len(rows))
        return [results[i] for i in range(len(prompts))]

    @torch.inference_mode()
    def _generate_batch(
        self, prompts: list[list[int]], guides: list[Guide | None], max_new_tokens: int
    ) -> list[Generation]:
        from transformers import DynamicCache

        count, device = len(prompts), self.device
        cache = DynamicCache(config=self.model.config)
        shared = _shared_prefix(prompts) if count > 1 else 0
        if shared:
            self.model(
                torch.tensor([prompts[0][:shared]], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache.batch_repeat_interleave(count)
        rests = [prompt[shared:] for prompt in prompts]
        width = max(map(len, rests))
        ids = torch.zeros(count, width, dtype=torch.long)
        mask = torch.ones(count, shared + width, dtype=torch.long)
        for row, rest in enumerate(rests):
            ids[row, width - len(rest) :] = torch.tensor(rest)
            mask[row, shared : shared + width - len(rest)] = 0
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]

        tokens: list[list[int]] = [[] for _ in range(count)]
        logprobs: list[list[float]] = [[] for _ in range(count)]
        stopped = [False] * count
        live = list(range(count))
        for _ in range(max_new_tokens):
            logits = self.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            chosen = logits.argmax(-1).tolist()
            for at, row in enumerate(live):
                guide = guides[row]
                if guide is not None:
                    chosen[at] = guide.choose(tokens[row], logits[at])
            scores = torch.log_softmax(logits.float(), -1)
            picked = scores[torch.arange(len(live)), torch.tensor(chosen)].tolist()
            keep = []
            for at, row in enumerate(live):
                if chosen[at] in self.stop_ids:
                    stopped[row] = True
                else:
                    tokens[row].append(chosen[at])
                    logprobs[row].append(picked[at])
                    keep.append(at)
            if not keep:
                break
            next_ids = torch.tensor([[chosen[at]] for at in keep], device=device)
            if len(keep) < len(live):
                index = torch.tensor(keep, device=device)
                cache.batch_select_indices(index)
                mask, positions = mask[index], positions[index]
                live = [live[at] for at in keep]
            ids = next_ids
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        return [
            Generation(tuple(t), tuple(p), s)
            for t, p, s in zip(tokens, logprobs, stopped, strict=True)
        ]

    @torch.inference_mode()
    def perplexity(self, texts: Sequence[str], max_tokens: int = 512) -> float:
        """Return the token perplexity of plain texts, each cut at ``max_tokens``."""
        total, count = 0.0, 0
        for text in texts:
            ids = self.encode(text)[:max_tokens]
            if len(ids) < 2:
                continue
            batch = torch.tensor([ids], device=self.device)
            logits = self.model(batch).logits[0, :-1].float()
            total += float(nn.functional.cross_entropy(logits, batch[0, 1:], reduction="sum"))
            count += len(ids) - 1
        if not count:
            raise ValueError("perplexity needs a text of at least two tokens")
        return float(torch.tensor(total / count).exp())


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
    folder = _converted(path, cache / base_hash[:16]) if path.is_file() else path
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
        raise ModelError(f"model {path} cannot be loaded: {_first_line(error)}") from error
    if not tokenizer.chat_template:
        raise ModelError(f"model {path} has no chat template; choose a chat (instruct) model")
    return ChatModel(model, tokenizer, base_hash, name=path.stem if path.is_file() else path.name)


def _converted(gguf: Path, folder: Path) -> Path:
    """Convert a GGUF to a model folder once; a half-written folder never gets the name."""
    if (folder / "config.json").exists():
        return folder
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    with gguf.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise ModelError(
                f"{gguf} is not a GGUF file; set model.path to a GGUF file or a model folder"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".convert-", dir=folder.parent))
    try:
        where: dict[str, Any] = {
            "pretrained_model_name_or_path": gguf.parent,
            "gguf_file": gguf.name,
        }
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # A model loaded from GGUF is marked quantised and refuses to be saved: rebuild it.
        settings = model.config.to_dict()
        settings.pop("quantization_config", None)
        config = AutoConfig.for_model(**settings)
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(model.state_dict())
        plain.generation_config = model.generation_config
        plain.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "source.json").write_text(json.dumps({"gguf": gguf.name}))
        temporary.replace(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if (folder / "config.json").exists():  # another process converted it meanwhile
            return folder
        raise ModelError(f"{gguf} cannot be read as a model: {_first_line(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the token prefix common to all prompts, leaving each at least one token."""
    first, limit = prompts[0], min(map(len, prompts)) - 1
    for at in range(limit):
        if any(prompt[at] != first[at] for prompt in prompts):
            return at
    return max(limit, 0)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
