"""Ways to answer the corrected questions, side by side (design.md §5.6): the unedited
model, the same facts by retrieval only, the memory tier, the edited weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.battery import (
    IN_SCOPE,
    LOCALITY,
    Ask,
    Reference,
    Result,
    leaks,
    locality_questions,
    probes_of,
    run_battery,
    share,
    trimmed,
)
from agent.progress import Progress
from agent.report import Baseline
from agent.served import Served
from agent.workspace import Workspace
from editors.memory.retrieval import answer_with_passages
from editors.metrics import mean_share
from store.records import Edit, ProbeKind

MOST_EDITS = 24  # edits asked for the rows; more would only cost time
PASSAGES = 2  # passages a question in the retrieval row
KINDS = (ProbeKind.EDIT, ProbeKind.PARAPHRASE, ProbeKind.SAME_SUBJECT)
PROBES = 2  # probes of a kind and edit: retrieval's long prompts are what costs time


def compare(
    ws: Workspace,
    served: Served,
    edits: Sequence[Edit],
    weights: Sequence[Result],
    progress: Progress,
) -> list[Baseline]:
    """Ask the batteries of some edits in every way and return a row each.

    ``weights`` are the results of the edited weights alone, which are at hand already.
    """
    some = chosen(edits)
    tokens = ws.config.model.max_new_tokens
    reference = Reference(ws.model, ws.home / "cache", tokens)
    local = locality_questions(some)

    def unedited(questions: Sequence[str]) -> list[str]:
        known = reference.answers(questions)
        return [known[q] for q in questions]

    def retrieval(questions: Sequence[str]) -> list[str]:
        retriever = ws.evidence.retriever(PASSAGES)
        found = [
            [p.page_content for p in passages] for passages in retriever.batch(list(questions))
        ]
        replies = answer_with_passages(ws.model, questions, found, tokens)
        return [reply.text for reply in replies]

    def memory(questions: Sequence[str]) -> list[str]:
        replies = served.tier.ask(ws.model, questions, max_new_tokens=tokens)
        return [reply.text for reply in replies]

    rows = []
    ways: tuple[tuple[str, Ask], ...] = (
        ("unedited model", unedited),
        ("same facts by retrieval only", retrieval),
        ("memory tier", memory),
    )
    with progress.stage("comparing with retrieval and the unedited model", len(ways)) as advance:
        known = reference.answers(local)
        for label, ask in ways:
            rows.append(row(label, _asked(ws, ask, some, known)))
            advance()
    return [*rows, row("edited weights alone", comparable(edits, weights))]


def chosen(edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits that are asked for the rows, with the kinds of probes that are."""
    return trimmed(edits[:MOST_EDITS], *KINDS)


def comparable(edits: Sequence[Edit], results: Sequence[Result]) -> list[Result]:
    """Return the results on what every row is asked: figures on different questions do not
    compare."""
    same = {(e.id, probe.question) for e in chosen(edits) for probe in probes_of(e, PROBES)}
    return [result for result in results if (result.edit_id, result.question) in same]


def row(label: str, results: Sequence[Result]) -> Baseline:
    """Put a way's results into one row. Pure."""
    local = {r.question: r.prefix for r in results if r.kind in LOCALITY}
    return Baseline(
        label=label,
        accuracy=share(results, ProbeKind.EDIT),
        generality=share(results, ProbeKind.PARAPHRASE, ProbeKind.ALIAS),
        leak=leaks(results),
        locality=mean_share(list(local.values())) if local else None,
        n=sum(r.kind in IN_SCOPE for r in results),
    )


def _asked(
    ws: Workspace, ask: Ask, edits: Sequence[Edit], known: Mapping[str, str]
) -> list[Result]:
    return run_battery(ask, edits, known, ws.registry, PROBES)
