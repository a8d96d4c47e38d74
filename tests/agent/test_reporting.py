"""From the store to the report's data and back from the file."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from samples import NOW
from workspaces import (
    CHANCELLORS,
    GERMANY,
    NIGERIA,
    PRESIDENTS,
    ScriptedModel,
    holders,
    news,
    workspace,
)

from agent import queueing
from agent.config import FeedEntry
from agent.cycle import run_once
from agent.progress import Silent
from agent.report import FeedStatus, Status, load_report
from agent.reporting import gather, write_current_report
from agent.retested import RetentionRun
from agent.workspace import Workspace
from editors.metrics import wilson
from store.records import EditState, VerdictKind, to_json


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    holders(tmp_path / "archive", "Chancellors of Germany", CHANCELLORS)
    holders(tmp_path / "archive", "Presidents of Nigeria", PRESIDENTS)
    text = "Anna Adler was named CEO of Apple on 20 February 2026, succeeding Tim Cook."
    news(tmp_path / "news", ("https://one.example/1", "A new CEO", text))
    feeds = [
        FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True),
        FeedEntry(name="news", url=str(tmp_path / "news")),
        FeedEntry(name="gone", url=str(tmp_path / "gone")),
    ]
    beliefs = {
        GERMANY: "Angela Merkel",
        NIGERIA: "Bola Tinubu",
        ("Apple", "ceo", "CEO"): "Tim Cook",
    }
    with workspace(tmp_path / "home", ScriptedModel(beliefs), feeds) as opened:
        yield opened


def test_an_empty_home_has_a_report_too(ws: Workspace) -> None:
    data = gather(ws, NOW)
    assert (data.status, data.documents, data.corrections) == (Status.NOTHING, 0, ())
    assert set(data.verdict_counts) == set(VerdictKind)
    assert (data.side_effects, data.retention, data.baselines) == (None, (), ())
    assert write_current_report(ws, NOW).html.exists()


def test_the_report_tells_what_the_turn_found_and_did(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    data = gather(ws, NOW)
    assert (data.status, data.documents, data.slots) == (Status.REMEMBERED, 3, 3)
    assert data.claims == ws.store.claims.count() > 0
    assert (data.verdict_counts["STALE"], data.verdict_counts["KEEP"]) == (2, 1)
    assert [feed.status for feed in data.feeds] == [
        FeedStatus.OK,
        FeedStatus.OK,
        FeedStatus.FAILED,
    ]
    (correction,) = data.corrections
    assert correction.question == "Who is the chancellor of Germany?"
    assert (correction.old, correction.new) == ("Angela Merkel", "Friedrich Merz")
    assert correction.before.text == "The chancellor of Germany is Angela Merkel."
    assert correction.after_memory is not None
    assert correction.after_memory.right is True
    assert correction.after_memory.text == "The chancellor of Germany is Friedrich Merz."
    assert correction.after_weights is None
    (source,) = correction.sources
    assert (source.name, source.date) == ("archive: Chancellors of Germany", "2025-05-06")
    assert "Friedrich Merz" in source.quote
    assert correction.path[-1] == "stated by the trusted feed archive"
    (waiting,) = data.pending
    assert (waiting.subject, waiting.why) == ("Apple", "stated by one source only: one.example")
    assert data.model == "toy.gguf"
    assert data.model_hash == ws.base_hash[:12]


def test_what_a_person_refused_is_listed_as_refused(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    (waiting,) = ws.store.edits.ls(EditState.PROPOSED)
    queueing.reject(ws.store, [waiting.id], "a rumour", NOW)
    data = gather(ws, NOW)
    assert data.pending == ()
    assert [(row.edit_id, row.why) for row in data.rejected] == [(waiting.id, "a rumour")]


def test_the_last_recorded_answer_of_a_tier_counts(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    (edit,) = ws.store.edits.ls(EditState.REMEMBERED)
    for tier, text, right in (
        ("weights", "Friedrich Merz.", True),
        ("weights", "Angela Merkel.", False),
        ("memory", "Merz.", True),
    ):
        body = {"tier": tier, "answers": {edit.id: {"text": text, "right": right}}}
        ws.store.runs.add("answers", NOW, body)
    (correction,) = gather(ws, NOW).corrections
    assert correction.after_weights is not None
    assert correction.after_memory is not None
    assert (correction.after_weights.text, correction.after_weights.right) == (
        "Angela Merkel.",
        False,
    )
    assert correction.after_memory.text == "Merz."


def test_retention_runs_are_drawn_oldest_first(ws: Workspace) -> None:
    for hours, passed in ((0, 9), (6, 3)):
        at = NOW + timedelta(hours=hours)
        share = wilson(passed, 10)
        run = RetentionRun(f"run {hours}", at, share, 0.6, share.low < 0.6, wilson(0, 10))
        ws.store.runs.add("retention", at, to_json(run))
    assert [run.label for run in gather(ws, NOW).retention] == ["run 0", "run 6"]
    assert gather(ws, NOW).retention[0].pass_rate == wilson(9, 10)


def test_failures_and_missed_jobs_are_noted(ws: Workspace) -> None:
    ws.store.runs.add("failure", NOW, {"job": "nightly", "error": "no disk"})
    ws.store.runs.add("missed", NOW, {"job": "poll"})
    notes = gather(ws, NOW).notes
    assert "nightly failed: no disk" in notes
    assert "poll was missed at 2026-03-01 08:00" in notes


def test_the_written_report_is_the_gathered_one(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    paths = write_current_report(ws, NOW)
    assert load_report(paths.json) == gather(ws, NOW)
    assert "Friedrich Merz" in paths.html.read_text("utf-8")
