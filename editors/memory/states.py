"""What was run for edits, kept from night to night.

What a method reads of the unedited model never changes: a line is run once and never again. On
disk the states lie in shards, one written whenever some edits are done: what is killed goes on
from the last shard. They are kept in half precision, and used so too when they are fresh: a night
that goes on finds what a night from scratch finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from store.files import Files

_TOGETHER = 512  # lines from which on what is missing is run
_SHARD = 4096  # lines from which on a shard is written


class Named(Protocol):
    """A text to run."""

    @property
    def ids(self) -> tuple[int, ...]: ...

    @property
    def name(self) -> str:
        """A digest of what is run, and of what is read there."""
        ...


L = TypeVar("L", bound=Named)


def digest(*numbers: object) -> str:
    """Return a name for what is run, given what tells it from all else."""
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()[:32]


@dataclass
class States:
    """States by the name of a line, each (rows, width) float16 on the CPU.

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

    def of(self, line: Named) -> torch.Tensor:
        """Return a line's states, (rows, width) float32."""
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

        Files().replace(self._shard(self._fresh), save(self._fresh))
        self._fresh = {}

    def keep_only(self, lines: Iterable[Named]) -> None:
        """Forget what no line needs, and put the rest into one shard, if much is idle."""
        needed = {line.name for line in lines}
        if len(self.known) <= 2 * max(len(needed), _SHARD):
            return
        self.known = {name: states for name, states in self.known.items() if name in needed}
        if self.folder is not None:
            old = list(self.folder.glob("*.safetensors"))
            self._fresh = dict(self.known)
            self.flush()
            for path in old:
                if path != self._shard(self.known):
                    path.unlink()

    def _shard(self, names: Iterable[str]) -> Path:
        assert self.folder is not None
        mark = hashlib.sha256("".join(sorted(names)).encode()).hexdigest()[:16]
        return self.folder / f"{mark}.safetensors"


def run(
    states: States,
    lines: Sequence[Sequence[L]],
    read: Callable[[list[L]], Mapping[str, torch.Tensor]],
    step: Callable[[int, int], None] = lambda done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Run what was not run before, edit by edit, and keep its states.

    Args:
        lines: by edit.
        read: runs lines, which all begin alike, and gives states by name.
        step: told how many edits are done, of how many.
        stop: asked before some lines are run: whether the time is over.

    Returns:
        Of how many edits, the first ones, all states are there.
    """
    begun, missing = 0, dict[str, L]()
    for at, own in enumerate(lines, 1):
        missing.update({line.name: line for line in own if line.name not in states.known})
        if len(missing) < _TOGETHER and at < len(lines):
            continue
        if missing and stop():
            states.flush()
            return _whole(lines, states, begun)
        # Chat and plain texts begin differently: apart, what the chats begin with is run once.
        begin: dict[int, list[L]] = {}
        for line in missing.values():
            begin.setdefault(line.ids[0], []).append(line)
        for some in begin.values():
            states.put(read(some))
        step(at, len(lines))
        begun, missing = at, {}
    states.flush()
    return len(lines)


def _whole(lines: Sequence[Sequence[Named]], states: States, begun: int) -> int:
    """Return how many edits, the first ones, have all their states; ``begun`` do for certain."""
    for at in range(begun, len(lines)):
        if any(line.name not in states.known for line in lines[at]):
            return at
    return len(lines)
