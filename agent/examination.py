"""Examining a candidate: its weights alone, measured against the unedited model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agent.battery import (
    IN_SCOPE,
    LOCALITY,
    Everyday,
    Reference,
    Result,
    everyday,
    leaks,
    locality_questions,
    run_battery,
    share,
)
from agent.consolidation import Consolidated
from agent.forms import FORMS, degenerate
from agent.gate import Measured
from agent.progress import Progress
from agent.soundness import Ground, faults
from agent.workspace import Workspace
from agent.writers import Writer, writer_of
from editors import metrics
from editors.deltas import EditDelta, applied, from_tensors, head_group
from editors.metrics import Interval
from editors.model import ChatModel
from store.records import Edit, EditState, ProbeKind

Test = Callable[[str], bool]
"""Tells whether an answer has what is asked for."""


class Unfit(Exception):
    """A candidate that cannot be measured; ``reasons`` says why, a readable line each."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Examined:
    """A candidate's weights, measured: the figures and the answers behind them."""

    measured: Measured
    results: tuple[Result, ...]
    answers: dict[str, str]


def examine_candidate(
    ws: Workspace,
    candidate: Consolidated,
    edits: Sequence[Edit],
    progress: Progress,
    daily: Everyday | None = None,
) -> Examined:
    """Measure what was stored: these very bytes are what would be served.

    Raises Unfit, with the model as it was, for a candidate that cannot be read, is not sound
    (``agent.soundness``) or cannot be measured, whatever the error.
    """
    with _unfit("its tensors cannot be used"):
        tensors = ws.store.versions.load(candidate.version)
        ground = _ground(ws.model, edits, writer_of(candidate.version.editor))
        found = faults(candidate.version, tensors, edits, ground)
        if found:
            raise Unfit(*found)
        delta = from_tensors(tensors)
    return examine(ws, [delta], edits, progress, daily)


def examine(
    ws: Workspace,
    deltas: Sequence[EditDelta],
    edits: Sequence[Edit],
    progress: Progress,
    daily: Everyday | None = None,
) -> Examined:
    """Measure weights alone; ``daily`` are the shipped everyday probes unless given.

    Every question is asked once, all in one go; the unedited model's answers are kept on disk.
    Raises Unfit, with the model as it was, where anything goes wrong on the way.
    """
    daily = daily or everyday()
    tokens = ws.config.model.max_new_tokens
    wanted = sorted({*locality_questions(edits), *daily.asked})
    # A stage may open by ending the work: that is no fault of the candidate's.
    with (
        progress.stage("asking the unedited model", len(wanted)) as advance,
        _unfit("the unedited model cannot be asked"),
    ):
        known = Reference(ws.model, ws.home / "cache", tokens).answers(wanted, advance)
        before = ws.model.perplexity(daily.texts)
    answers: dict[str, str] = {}
    endless: set[str] = set()

    def ask(questions: Sequence[str]) -> list[str]:
        every = sorted({*questions, *daily.asked})
        replies = ws.model.answer(every, max_new_tokens=tokens)
        answers.update((r.question, r.text) for r in replies)
        endless.update(r.question for r in replies if r.tokens >= tokens)
        return [answers[q] for q in questions]

    with progress.stage("testing the new weights", None), _unfit("it cannot be measured"):
        with applied(ws.model, *deltas):
            results = run_battery(ask, edits, known, ws.registry)
            after = ws.model.perplexity(daily.texts)
        held = {edit.id for edit in edits if edit.state is EditState.CONSOLIDATED}
        measured = summarise(results, known, answers, daily, after / before, held, endless)
    return Examined(measured, tuple(results), answers)


def summarise(
    results: Sequence[Result],
    before: Mapping[str, str],
    after: Mapping[str, str],
    daily: Everyday,
    ppl_ratio: float,
    held: set[str] | frozenset[str] = frozenset(),
    endless: set[str] | frozenset[str] = frozenset(),
) -> Measured:
    """Put the figures together. Pure. Each locality question counts once.

    Args:
        before, after: the unedited model's and the candidate's answers by question.
        held: ids of the edits that the weights answered until now.
        endless: the questions whose answers did not stop by themselves.
    """
    local = {r.question: r.prefix for r in results if r.kind in LOCALITY}
    about = {r.question: r.prefix for r in results if r.kind is ProbeKind.SAME_SUBJECT}
    for question in daily.questions:
        local[question] = metrics.shared_prefix(before[question].split(), after[question].split())
    same = [after.get(q, before[q]) == before[q] for q in local]
    scoped = {r.question: r for r in results if r.kind in IN_SCOPE}
    # Long is what the model may be that no edit has touched: only an edit's answer must stop.
    broken = sum(
        degenerate(r.answer) or (r.passed and question in endless) for question, r in scoped.items()
    )
    kept = [r for r in results if r.edit_id in held]
    others = [question for question in {*local, *daily.asked} if question in after]
    return Measured(
        accuracy=share(results, ProbeKind.EDIT),
        generality=share(results, ProbeKind.PARAPHRASE, ProbeKind.ALIAS),
        retention=share(kept, ProbeKind.EDIT),
        leak=leaks(results),
        broken=metrics.wilson(broken, len(scoped)),
        locality_exact=metrics.wilson(sum(same), len(same)),
        locality_prefix=metrics.mean_share(list(local.values())),
        same_subject=metrics.mean_share(list(about.values())),
        ability=ability(before, after, daily),
        form=_still(before, after, {q: FORMS[form] for q, form in daily.forms.items()}),
        length_ratio=_ratio(_words(after, others), _words(before, others)),
        ppl_ratio=ppl_ratio,
    )


def ability(before: Mapping[str, str], after: Mapping[str, str], daily: Everyday) -> Interval:
    """Return, of the easy questions that the unedited model answers rightly, the share that is
    answered so now. Pure."""
    return _still(before, after, {q: _names(right) for q, right in daily.ability.items()})


@contextmanager
def _unfit(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into a reason to hold the candidate: the gate fails closed."""
    try:
        yield
    except Unfit:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise Unfit(f"{what}: {type(error).__name__}: {lines[0]}") from error


def _ground(model: ChatModel, edits: Sequence[Edit], writer: Writer) -> Ground:
    """Return what a version that carries these edits must fit."""
    least = sum(writer.neurons(model, edit.new)[0] for edit in edits)
    # Without edits, as after the last was taken back, nothing is added and no heads are.
    heads = head_group(model) if writer.heads and edits else None
    return Ground(model.base_hash, len(model.layers), model.hidden_size, least, heads)


def _still(
    before: Mapping[str, str], after: Mapping[str, str], tests: Mapping[str, Test]
) -> Interval:
    """Return, of the questions whose test the unedited answer passes, the share that still do."""
    passed = [q for q, test in tests.items() if test(before[q])]
    return metrics.wilson(sum(tests[q](after[q]) for q in passed), len(passed))


def _names(values: Sequence[str]) -> Test:
    """Return what tells whether a text holds one of some words, standing alone."""
    words = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, values))})(?!\w)", re.IGNORECASE)
    return lambda text: words.search(text) is not None


def _words(answers: Mapping[str, str], questions: Sequence[str]) -> int:
    return sum(len(answers[question].split()) for question in questions)


def _ratio(after: int, before: int) -> float:
    """Return after over before; a model that never said anything may go on so."""
    if before == 0:
        return 1.0 if after == 0 else float("inf")
    return after / before
