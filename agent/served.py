"""The model as it is served: base weights, the serving version's delta, the memory tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from agent.workspace import Workspace
from detectors.entities import normalise, subject_aliases
from detectors.questions import parse_question
from detectors.relations import Registry
from editors.memory.tier import Answered, MemoryTier
from editors.model_files import ModelError
from store.records import ACTIVE_STATES, Edit, EditState, Reply, Slot, Version

if TYPE_CHECKING:
    from editors.deltas import EditDelta
    from editors.model import ChatModel


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


class Served:
    """What answers a user. The model is loaded at the first question, so that what only
    compares identities costs nothing; applying a version's delta and undoing it is bit-exact.
    """

    def __init__(self, ws: Workspace, tier: MemoryTier, version: Version | None) -> None:
        self._ws = ws
        self.tier = tier
        self.version = version
        self.max_new_tokens = ws.config.model.max_new_tokens

    @property
    def model(self) -> ChatModel:
        """The base model, unedited unless within ``weights_only``."""
        return self._ws.model

    @cached_property
    def deltas(self) -> tuple[EditDelta, ...]:
        """The serving version's delta, verified as it is read."""
        from editors.deltas import MlpExpansion

        if self.version is None or not self.version.edit_ids:
            return ()
        return (MlpExpansion.from_tensors(self._ws.store.versions.load(self.version)),)

    def answer(
        self,
        questions: Sequence[str],
        progress: Callable[[int], None] | None = None,
        max_new_tokens: int | None = None,
        first_sentence: bool = False,
    ) -> list[Answered]:
        """Answer as served: an edit in scope is told and guided, all else is the weights'.

        ``first_sentence`` ends every answer with its first sentence.
        """
        from editors.model import FirstSentence

        with self.weights_only() as model:
            return self.tier.answer(
                model,
                questions,
                max_new_tokens=max_new_tokens or self.max_new_tokens,
                progress=progress,
                otherwise=FirstSentence(model) if first_sentence else None,
            )

    def identity(self, slot: Slot) -> str:
        """Name what answers a slot now: base, serving version, and the slot's edit."""
        edit = self.tier.edits.get(slot.key)
        parts = [self._ws.base_hash[:12], self.version.id[:12] if self.version else "base"]
        return "+".join([*parts, edit.id] if edit else parts)

    @contextmanager
    def weights_only(self) -> Iterator[ChatModel]:
        """Yield the model with the serving version's weights and no memory attached."""
        from editors.deltas import applied

        with applied(self.model, *self.deltas):
            yield self.model


class ServedAsker:
    """Lets the detectors ask the served model (``detectors.beliefs.Asker``)."""

    def __init__(
        self, served: Served, max_new_tokens: int, progress: Callable[[int], None] | None = None
    ) -> None:
        self._served = served
        self._tokens = max_new_tokens
        self._progress = progress

    @property
    def model(self) -> str:
        return self._served.model.name

    def ask(self, questions: Sequence[str]) -> Sequence[Reply]:
        answers = self._served.answer(questions, self._progress, self._tokens, True)
        return [answered.reply for answered in answers]


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
    if version and version.base_hash != ws.base_hash:
        raise ModelError(
            f"version {version.id} was made for another base model; "
            "set model.path back, or use another home folder for this model"
        )
    if version and any(
        (known := ws.store.edits.get(id)) and known.state is EditState.REVERTED
        for id in version.edit_ids
    ):
        # A reverted edit must not be answered from the weights either: until a night makes a
        # version without it, the base weights serve and memory answers the other edits.
        version = None
    return Served(ws, tier, version)
