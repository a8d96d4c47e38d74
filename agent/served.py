"""The model as it is served: base weights, the serving version's delta, the memory tier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agent.workspace import Workspace
from detectors.entities import normalise, subject_aliases
from detectors.questions import parse_question
from detectors.relations import Registry
from editors.deltas import EditDelta, MlpExpansion, applied
from editors.memory.tier import Answered, MemoryTier
from editors.model import ChatModel
from store.records import ACTIVE_STATES, Edit, Reply, Slot, Version


def aliases_of(subjects: Sequence[str]) -> dict[str, str]:
    """Map the normal form of every name of every subject to the name it is filed under."""
    names = {normalise(alias): s for s in subjects for alias in subject_aliases(s)}
    return names | {normalise(subject): subject for subject in subjects}


def scope_by_question(registry: Registry, subjects: Sequence[str]) -> Callable[[str], str | None]:
    """Return the memory tier's scope: the key of the slot a question asks for, or None."""
    aliases = aliases_of(subjects)

    def scope(question: str) -> str | None:
        asked = parse_question(question, registry, aliases)
        return asked.slot.key if asked else None

    return scope


@dataclass
class Served:
    """What answers a user. Applying a version's delta and undoing it is bit-exact."""

    model: ChatModel
    tier: MemoryTier
    version: Version | None
    deltas: tuple[EditDelta, ...]
    max_new_tokens: int = 48

    def answer(
        self, questions: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Answered]:
        """Answer as served: an edit in scope is told and guided, all else is the weights'."""
        with applied(self.model, *self.deltas):
            return self.tier.answer(
                self.model, questions, max_new_tokens=self.max_new_tokens, progress=progress
            )

    def identity(self, slot: Slot) -> str:
        """Name what answers a slot now: base, serving version, and the slot's edit."""
        edit = self.tier.edits.get(slot.key)
        parts = [self.model.base_hash[:12], self.version.id[:12] if self.version else "base"]
        return "+".join([*parts, edit.id] if edit else parts)

    @contextmanager
    def weights_only(self) -> Iterator[ChatModel]:
        """Yield the model with the serving version's weights and no memory attached."""
        with applied(self.model, *self.deltas):
            yield self.model


class ServedAsker:
    """Lets the detectors ask the served model (``detectors.beliefs.Asker``)."""

    def __init__(
        self, served: Served, max_new_tokens: int, progress: Callable[[int], None] | None = None
    ) -> None:
        self._served = dataclasses.replace(served, max_new_tokens=max_new_tokens)
        self._progress = progress

    @property
    def model(self) -> str:
        return self._served.model.name

    def ask(self, questions: Sequence[str]) -> Sequence[Reply]:
        return [answered.reply for answered in self._served.answer(questions, self._progress)]


def active_edits(ws: Workspace) -> list[Edit]:
    """Return the edits that the served model answers, oldest first."""
    return ws.store.edits.ls(*ACTIVE_STATES)


def open_served(ws: Workspace) -> Served:
    """Open the served model: the ``serving`` version over the base, and all active edits."""
    edits = active_edits(ws)
    tier = MemoryTier(scope_by_question(ws.registry, sorted({e.subject for e in edits})))
    for edit in edits:
        tier.remember(edit)
    version = ws.store.versions.alias("serving")
    deltas: tuple[EditDelta, ...] = ()
    if version and version.edit_ids:
        if version.base_hash != ws.model.base_hash:
            from editors.model import ModelError

            raise ModelError(
                f"version {version.id} was made for another base model; "
                "set model.path back, or use another home folder for this model"
            )
        deltas = (MlpExpansion.from_tensors(ws.store.versions.load(version)),)
    return Served(ws.model, tier, version, deltas, ws.config.model.max_new_tokens)
