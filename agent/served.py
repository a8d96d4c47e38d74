"""The model as it is served: base weights, the serving version's delta, the memory tier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from agent.workspace import Workspace
from detectors.entities import normalise, subject_aliases
from detectors.questions import parse_question
from detectors.relations import Registry
from editors.memory.scope import Fact, Scope
from editors.memory.tier import Answered, MemoryTier
from editors.model_files import ModelError
from store.records import ACTIVE_STATES, Edit, EditState, ProbeKind, Reply, Slot, Version, digest

if TYPE_CHECKING:
    from editors.deltas import EditDelta
    from editors.model import ChatModel
    from store.replies import Key

_T = TypeVar("_T")

WORDINGS = (ProbeKind.EDIT, ProbeKind.PARAPHRASE, ProbeKind.ALIAS)
"""The probes that are wordings of a fact's own question."""
ASKED_AT_ONCE = 256  # questions between two writings of the answers


def aliases_of(subjects: Sequence[str]) -> dict[str, str]:
    """Map the normal form of every name of every subject to the name it is filed under."""
    names = {normalise(alias): s for s in subjects for alias in subject_aliases(s)}
    return names | {normalise(subject): subject for subject in subjects}


def slot_by_question(registry: Registry, subjects: Sequence[str]) -> Callable[[str], str | None]:
    """Return what reads the key of the slot that a question asks for, or None."""
    aliases = aliases_of(subjects)

    def slot(question: str) -> str | None:
        asked = parse_question(question, registry, aliases)
        return asked.slot.key if asked else None

    return slot


def fact_of(edit: Edit) -> Fact:
    """Return what the memory tier remembers of an edit."""
    asked = [probe.question for probe in edit.probes if probe.kind in WORDINGS]
    return Fact(
        id=edit.id,
        names=tuple(
            dict.fromkeys([edit.subject, *edit.subject_aliases, *subject_aliases(edit.subject)])
        ),
        wordings=tuple(asked),
        new=edit.new,
        statement=edit.statement,
        former=tuple(dict.fromkeys(old for old in (edit.old, *edit.former) if old)),
        key=edit.slot.key,
    )


class Served:
    """What answers a user.

    The memory tier tells and guides what is in scope of an edit. The serving version's weights are
    heard only where an edit may be asked for, in words that the tier did not take for it; any other
    question the unedited weights answer, as they always did. The model is loaded at the first
    question; applying a version's delta and undoing it is bit-exact.
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
        from editors.deltas import from_tensors

        if self.version is None or not self.version.edit_ids:
            return ()
        return (from_tensors(self._ws.store.versions.load(self.version)),)

    def answer(
        self,
        questions: Sequence[str],
        progress: Callable[[int], None] | None = None,
        max_new_tokens: int | None = None,
    ) -> list[Answered]:
        """Answer as served; ``progress`` is told of answers as they are finished."""
        return self._apart(
            questions,
            lambda model, places: self.tier.ask(
                model,
                [questions[at] for at in places],
                max_new_tokens=max_new_tokens or self.max_new_tokens,
                progress=progress,
            ),
        )

    def believe(
        self,
        questions: Sequence[str],
        samples: Sequence[int],
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        """Answer in one sentence each, with ``samples[i]`` drawn answers to question i besides.

        What an edit answers is guided word for word: nothing is drawn there.
        """
        matches = self.tier.scope.match(questions)

        def ask(model: ChatModel, places: Sequence[int]) -> list[Reply]:
            replies: dict[int, Reply] = {}
            told = [at for at in places if matches[at]]
            if told:
                answers = self.tier.ask(
                    model,
                    [questions[at] for at in told],
                    max_new_tokens=max_new_tokens,
                    progress=progress,
                )
                replies.update(zip(told, (a.reply for a in answers), strict=True))
            free = [at for at in places if not matches[at]]
            if free:
                believed = model.believe(
                    [questions[at] for at in free],
                    samples=[samples[at] for at in free],
                    seed=self._identity(False),
                    max_new_tokens=max_new_tokens,
                    progress=progress,
                )
                replies.update(zip(free, believed, strict=True))
            return [replies[at] for at in places]

        return self._apart(questions, ask)

    def identity(self, slot: Slot) -> str:
        """Name what answers a slot now: base, serving version, and the slot's edit."""
        fact = self.tier.scope.of_slot(slot.key)
        (named,) = self.tier.scope.named([slot.subject])
        return self._identity(named, [fact.id] if fact else [])

    def answerers(self, questions: Sequence[str]) -> list[str]:
        """Name what answers each question now, as ``identity`` names what answers a slot."""
        scope = self.tier.scope
        return [
            self._identity(heard, [fact.id for fact in match.used] if match else [])
            for heard, match in zip(scope.heard(questions), scope.match(questions), strict=True)
        ]

    def kept(self, keys: Sequence[Key]) -> dict[Key, Reply]:
        """Return the answers that were given before."""
        return self._ws.store.replies.get(keys)

    def keep(self, replies: Mapping[Key, Reply]) -> None:
        """Keep answers for the next time."""
        self._ws.store.replies.put(replies, self._ws.now())

    def _identity(self, heard: bool, edit_ids: Sequence[str] = ()) -> str:
        version = self.version.id[:12] if self.version and heard else "base"
        return "+".join([self._ws.base_hash[:12], version, *edit_ids])

    def _apart(
        self, questions: Sequence[str], ask: Callable[[ChatModel, Sequence[int]], list[_T]]
    ) -> list[_T]:
        """Ask the questions, given by their places, of the weights that each one is due."""
        answers: dict[int, _T] = {}
        heard = self.tier.scope.heard(questions) if self.deltas else [False] * len(questions)
        for edited in (True, False):
            places = [at for at, one in enumerate(heard) if one is edited]
            if places:
                with self._weights(edited) as model:
                    answers.update(zip(places, ask(model, places), strict=True))
        return [answers[at] for at in range(len(questions))]

    @contextmanager
    def weights_for(self, turns: Sequence[str]) -> Iterator[ChatModel]:
        """Yield the model with the weights that a conversation is due: the edited ones as soon as
        one of its turns may ask for an edit."""
        with self._weights(any(self.tier.scope.heard(turns))) as model:
            yield model

    @contextmanager
    def weights_only(self) -> Iterator[ChatModel]:
        """Yield the model with the serving version's weights and no memory attached."""
        with self._weights(True) as model:
            yield model

    @contextmanager
    def _weights(self, edited: bool) -> Iterator[ChatModel]:
        from editors.deltas import applied

        with applied(self.model, *(self.deltas if edited else ())):
            yield self.model


class ServedAsker:
    """Lets the detectors ask the served model (``detectors.beliefs.Asker``).

    Every answer is kept in the store under what gave it, so that neither a restart nor a
    second slot asks anything twice, and an edit of one slot spoils no other's answers.
    """

    def __init__(
        self, served: Served, max_new_tokens: int, progress: Callable[[int], None] | None = None
    ) -> None:
        self._served = served
        self._tokens = max_new_tokens
        self._progress = progress

    @property
    def model(self) -> str:
        return self._served.model.name

    def ask(self, questions: Sequence[str], samples: Sequence[int] = ()) -> Sequence[Reply]:
        """Answer every question, from what is kept where it was asked before.

        ``samples[i]``: how many drawn answers to question i are wanted besides; () = none.
        """
        counts = samples or [0] * len(questions)
        keys = [
            (answerer, self._settings(count), question)
            for answerer, question, count in zip(
                self._served.answerers(questions), questions, counts, strict=True
            )
        ]
        kept = self._served.kept(keys)
        if self._progress and (known := sum(key in kept for key in keys)):
            self._progress(known)
        missing = {key: n for key, n in zip(keys, counts, strict=True) if key not in kept}
        todo = list(missing.items())
        # In parts: what was answered before a power cut is not asked again after it.
        for start in range(0, len(todo), ASKED_AT_ONCE):
            kept.update(self._ask(todo[start : start + ASKED_AT_ONCE]))
        return [kept[key] for key in keys]

    def _ask(self, todo: Sequence[tuple[Key, int]]) -> dict[Key, Reply]:
        replies = self._served.believe(
            [question for (_, _, question), _ in todo],
            [count for _, count in todo],
            self._tokens,
            self._progress,
        )
        made = {key: reply for (key, _), reply in zip(todo, replies, strict=True)}
        self._served.keep(made)
        return made

    def _settings(self, samples: int) -> str:
        """Name everything but the model that an answer depends on."""
        from editors.generation import Sampling

        drawn = (str(Sampling()), str(samples)) if samples else ()
        return digest("first sentence", str(self._tokens), *drawn)


def collect_replies(ws: Workspace) -> int:
    """Drop kept answers of what neither serves nor may soon serve (again); return how many.

    Kept are those of the base model and of the versions that an alias stands for, but not of
    edits that no longer answer.
    """
    versions = [ws.store.versions.alias(name) for name in ("serving", "previous", "candidate")]
    marks = {"base", *(version.id[:12] for version in versions if version)}
    edits = {edit.id for edit in active_edits(ws)}

    def wanted(model: str) -> bool:
        base, version, *edit = model.split("+")
        return base == ws.base_hash[:12] and version in marks and edits.issuperset(edit)

    return ws.store.replies.collect(wanted)


def active_edits(ws: Workspace) -> list[Edit]:
    """Return the edits that the served model answers, oldest first."""
    return ws.store.edits.ls(*ACTIVE_STATES)


def open_served(ws: Workspace) -> Served:
    """Open the served model: the ``serving`` version over the base, and all active edits."""
    edits = active_edits(ws)
    subjects = sorted({edit.subject for edit in edits})
    scope = Scope(ws.meaning, slot_by_question(ws.registry, subjects))
    scope.add(map(fact_of, edits))
    tier = MemoryTier(scope)
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
