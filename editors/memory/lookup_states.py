"""What is run for an edit of lookup neurons, and its states, kept from night to night.

The states are those of the unedited model at its last layer: nothing that is edited changes
them, so that a sequence is run once and never again. On disk they lie in shards, one written
whenever some edits are done: what is killed goes on from the last shard. They are kept in half
precision, and used so too when they are fresh: a night that goes on finds what a night
from scratch finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from editors.architectures import ModelView
from editors.capture import keys_at
from editors.memory.compiled import own_lead
from editors.memory.shared_wordings import Lent
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from store.files import Files

REPLY_TOKENS = 24
"""How far a reply that must stand is looked at."""
_TOGETHER = 512  # sequences from which on what is missing is run
_SHARD = 4096  # sequences from which on a shard is written


@dataclass(frozen=True)
class Line:
    """A sequence to run: ``count`` states before its end are wanted, the last ones.

    ``targets`` are what these are to write (none: a negative); ``bare`` says that the answer
    begins at once, without a lead; ``own`` that the request itself asks so.
    """

    ids: tuple[int, ...]
    count: int
    targets: tuple[int, ...] = ()
    bare: bool = True
    own: bool = False

    @property
    def name(self) -> str:
        """A digest of what is run."""
        text = ",".join(map(str, (self.count, *self.ids)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass
class States:
    """States by line, each (count, hidden) float16 on the CPU.

    Attributes:
        folder: where they are kept, None: nowhere. It belongs to one model.
    """

    folder: Path | None = None
    known: dict[str, torch.Tensor] = field(default_factory=dict)
    _fresh: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.folder is not None and self.folder.exists():
            from safetensors.torch import load_file

            for path in sorted(self.folder.glob("*.safetensors")):
                self.known.update(load_file(path))

    def of(self, line: Line) -> torch.Tensor:
        """Return a line's states, (count, hidden) float32."""
        return self.known[line.name].float()

    def put(self, found: Mapping[str, torch.Tensor]) -> None:
        """Keep states; on disk they are once enough have come, or at ``flush``."""
        rounded = {name: states.half().contiguous() for name, states in found.items()}
        self.known.update(rounded)
        if self.folder is not None:
            self._fresh.update(rounded)
            if len(self._fresh) >= _SHARD:
                self.flush()

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self.folder is None or not self._fresh:
            return
        from safetensors.torch import save

        name = hashlib.sha256("".join(sorted(self._fresh)).encode()).hexdigest()[:16]
        Files().replace(self.folder / f"{name}.safetensors", save(self._fresh))
        self._fresh = {}

    def keep_only(self, lines: Iterable[Line]) -> None:
        """Forget what no line needs, and put the rest into one shard, if much is idle."""
        needed = {line.name for line in lines}
        if len(self.known) <= 2 * max(len(needed), _SHARD):
            return
        self.known = {name: states for name, states in self.known.items() if name in needed}
        if self.folder is not None:
            old = list(self.folder.glob("*.safetensors"))
            self._fresh = dict(self.known)
            self.flush()
            kept = hashlib.sha256("".join(sorted(self.known)).encode()).hexdigest()[:16]
            for path in old:
                if path.stem != kept:
                    path.unlink()


def lines_of(
    model: ChatModel, request: EditRequest, given: Lent, replies: Mapping[str, str]
) -> list[Line]:
    """Return what is run for one request: its wordings with the answer, then its negatives."""
    stop = min(model.stop_ids)
    bare = tuple(model.encode_answer(request.new))
    spaced = tuple(model.encode_answer(f" {request.new}"))
    made = []
    own = [Asked(q, True) for q in request.questions] + [Asked(p, False) for p in request.prompts]
    for asked in (*own, *given.alike):
        prompt = _prompt(model, asked)
        answer = (*bare, stop) if asked.chat else spaced
        made.append(_answered(prompt, answer, bare=True, own=asked in own))
        if asked.chat and (lead := own_lead(replies.get(asked.text, ""), request.old)):
            begun = (*prompt, *model.encode_answer(lead))
            made.append(_answered(begun, (*spaced, stop), bare=False, own=asked in own))
    made += [Line(_prompt(model, asked), 1) for asked in (*given.beside, *given.elsewhere)]
    for question in request.neighbours:
        prompt = _prompt(model, Asked(question, True))
        reply = tuple(model.encode_answer(replies.get(question, ""))[:REPLY_TOKENS])
        made.append(Line((*prompt, *reply), len(reply) + 1))
    return made


def run(
    shown: ModelView,
    states: States,
    lines: Sequence[Sequence[Line]],
    layer: int,
    step: Callable[[int, int], None] = lambda done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Run what was not run before, edit by edit, and keep its states.

    Args:
        lines: by edit.
        step: told how many edits are done, of how many.
        stop: asked before some sequences are run: whether the time is over.

    Returns:
        Of how many edits, the first ones, all states are there.
    """
    begun, missing = 0, dict[str, Line]()
    for at, own in enumerate(lines, 1):
        missing.update({line.name: line for line in own if line.name not in states.known})
        if len(missing) < _TOGETHER and at < len(lines):
            continue
        if missing and stop():
            states.flush()
            return _whole(lines, states, begun)
        _run(shown, states, list(missing.values()), layer)
        step(at, len(lines))
        begun, missing = at, {}
    states.flush()
    return len(lines)


def _whole(lines: Sequence[Sequence[Line]], states: States, begun: int) -> int:
    """Return how many edits, the first ones, have all their states; ``begun`` do for certain."""
    for at in range(begun, len(lines)):
        if any(line.name not in states.known for line in lines[at]):
            return at
    return len(lines)


def _run(shown: ModelView, states: States, lines: Sequence[Line], layer: int) -> None:
    # Chat and plain texts begin differently: apart, what the chats begin with is run once.
    begin: dict[int, list[Line]] = {}
    for line in lines:
        begin.setdefault(line.ids[0], []).append(line)
    for some in begin.values():
        places = [list(range(len(one.ids) - one.count, len(one.ids))) for one in some]
        found = keys_at(shown, [one.ids for one in some], [layer], places, part="mlp")[0].cpu()
        parts = found.split([one.count for one in some])
        states.put({one.name: part for one, part in zip(some, parts, strict=True)})


def _answered(prompt: tuple[int, ...], answer: tuple[int, ...], bare: bool, own: bool) -> Line:
    return Line((*prompt, *answer[:-1]), len(answer), answer, bare, own)


def _prompt(model: ChatModel, asked: Asked) -> tuple[int, ...]:
    return tuple(model.encode(model.render(asked.text) if asked.chat else asked.text))
