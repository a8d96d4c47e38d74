"""The battery: an edit's own questions, asked and judged (design.md §5)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

from detectors.relations import Registry
from editors import metrics
from editors.metrics import Interval
from editors.model import ChatModel
from store.files import Files
from store.records import Edit, Probe, ProbeKind

IN_SCOPE = frozenset({ProbeKind.EDIT, ProbeKind.PARAPHRASE, ProbeKind.ALIAS})
"""What an edit must answer: retention and the gate count these."""
REACH = frozenset({ProbeKind.NEGATION, ProbeKind.ONE_HOP})
"""What follows from an edit: measured and reported, but no floor stands under it."""
LOCALITY = frozenset({ProbeKind.SAME_SUBJECT, ProbeKind.NEAR_ENTITY})

_DENIAL = re.compile(r"^no\b|\bnot\b|n['’]t\b|\bno longer\b|\bnever\b|\bformer\b", re.IGNORECASE)
_ASSENT = re.compile(r"yes\b|correct\b|that is (?:right|correct)\b", re.IGNORECASE)

Ask = Callable[[Sequence[str]], Sequence[str]]
"""Answers questions, in order."""


@dataclass(frozen=True)
class Result:
    """One probe's outcome. ``prefix``: share of words up to the first difference from the
    unedited answer (locality probes; 1 for the others)."""

    edit_id: str
    kind: ProbeKind
    question: str
    answer: str
    passed: bool
    leaked: bool = False
    prefix: float = 1.0


@dataclass(frozen=True)
class Everyday:
    """What no edit may change.

    Attributes:
        questions: answered word for word as before, as far as that goes.
        texts: as likely as before.
        ability: by question, the values of which a right answer names one.
        forms: by question, the form (``agent.forms``) that is asked for.
    """

    questions: tuple[str, ...]
    texts: tuple[str, ...]
    ability: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def asked(self) -> list[str]:
        """Every question of every kind, once each."""
        return sorted({*self.questions, *self.ability, *self.forms})


def everyday() -> Everyday:
    """Return the shipped everyday probes."""
    data = tomllib.loads(resources.files("agent").joinpath("probes.toml").read_text("utf-8"))
    return Everyday(
        questions=tuple(data["questions"]),
        texts=tuple(" ".join(text.split()) for text in data["texts"]),
        ability={row["question"]: tuple(row["right"]) for row in data["ability"]},
        forms={row["question"]: row["form"] for row in data["forms"]},
    )


def probes_of(edit: Edit, most: int = 4) -> list[Probe]:
    """Return an edit's probes, with at most so many of each kind (the first ones)."""
    chosen: list[Probe] = []
    for kind in ProbeKind:
        chosen += [probe for probe in edit.probes if probe.kind is kind][:most]
    return chosen


def trimmed(edits: Sequence[Edit], *kinds: ProbeKind) -> list[Edit]:
    """Return the edits with only their probes of some kinds, for a shorter run."""
    return [replace(e, probes=tuple(p for p in e.probes if p.kind in kinds)) for e in edits]


def locality_questions(edits: Sequence[Edit]) -> list[str]:
    """Return the edits' locality questions that no edit of the same set answers."""
    scope = {p.question for e in edits for p in e.probes if p.kind in IN_SCOPE}
    found = {p.question for e in edits for p in e.probes if p.kind in LOCALITY}
    return sorted(found - scope)


def run_battery(
    ask: Ask,
    edits: Sequence[Edit],
    reference: Mapping[str, str],
    registry: Registry,
    most: int = 4,
) -> list[Result]:
    """Ask every edit's battery in one go and judge it.

    ``reference`` holds the unedited model's answers to the locality questions; a locality
    probe that another of the edits answers is left out. ``most`` bounds the probes of a kind.
    """
    local = set(locality_questions(edits))
    asked = [
        (edit, probe)
        for edit in edits
        for probe in probes_of(edit, most)
        if probe.kind not in LOCALITY or probe.question in local
    ]
    questions = sorted({probe.question for _, probe in asked})
    answers = dict(zip(questions, ask(questions), strict=True))
    return [
        judged(edit, probe, answers[probe.question], reference, registry) for edit, probe in asked
    ]


def judged(
    edit: Edit, probe: Probe, answer: str, reference: Mapping[str, str], registry: Registry
) -> Result:
    """Judge one answer: names the new value (naming a former one too is a leak, counted
    apart), denies the former one, or is the same as the unedited one."""
    if probe.kind in LOCALITY:
        before = reference[probe.question]
        prefix = metrics.shared_prefix(before.split(), answer.split())
        same = answer == before
        return Result(edit.id, probe.kind, probe.question, answer, same, prefix=prefix)
    relation, others = registry[edit.relation], tuple(edit.former)
    right = relation.mentions(answer, edit.new, others)
    if probe.kind is ProbeKind.NEGATION:  # the question names the former value: no leak
        return Result(edit.id, probe.kind, probe.question, answer, right or denies(answer))
    leaked = any(relation.mentions(answer, old, (edit.new,)) for old in others)
    return Result(edit.id, probe.kind, probe.question, answer, right, leaked)


def denies(answer: str) -> bool:
    """Return whether an answer says no to what was asked, in its first sentence."""
    first = re.split(r"(?<=[.!?])\s", answer.strip(), maxsplit=1)[0]
    return _DENIAL.search(first) is not None and not _ASSENT.match(first)


def share(results: Sequence[Result], *kinds: ProbeKind) -> Interval:
    """Return the share of passed probes of some kinds, with its Wilson interval."""
    chosen = [r.passed for r in results if r.kind in kinds]
    return metrics.wilson(sum(chosen), len(chosen))


def leaks(results: Sequence[Result]) -> Interval:
    """Return the share of in-scope answers that still name a former value."""
    chosen = [r.leaked for r in results if r.kind in IN_SCOPE]
    return metrics.wilson(sum(chosen), len(chosen))


class Reference:
    """The unedited model's answers, asked once and kept on disk under the model's hash."""

    def __init__(self, model: ChatModel, folder: Path, max_new_tokens: int) -> None:
        self._model = model
        self._tokens = max_new_tokens
        self._path = folder / f"reference-{model.base_hash[:16]}-{max_new_tokens}.json"
        self._known: dict[str, str] = {}
        if self._path.exists():
            self._known = json.loads(self._path.read_text(encoding="utf-8"))

    def answers(
        self, questions: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> Mapping[str, str]:
        """Return answers to at least ``questions``. The model must be unedited now."""
        missing = sorted(set(questions) - set(self._known))
        if progress:
            progress(len(set(questions)) - len(missing))
        if missing:
            replies = self._model.answer(missing, max_new_tokens=self._tokens, progress=progress)
            self._known.update((r.question, r.text) for r in replies)
            Files().replace(self._path, json.dumps(self._known, ensure_ascii=False).encode())
        return self._known
