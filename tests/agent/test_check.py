"""One question put to the model, the sources and the served model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import NOW
from workspaces import CHANCELLORS, GERMANY, ScriptedModel, holders, workspace

from agent.check import UnfitQuestion, check
from agent.config import FeedEntry
from agent.cycle import run_once
from agent.progress import Silent
from agent.workspace import Workspace
from store.records import Slot, VerdictKind

MERKEL = "The chancellor of Germany is Angela Merkel."


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    holders(tmp_path / "archive", "Chancellors of Germany", CHANCELLORS)
    feed = FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True)
    model = ScriptedModel({GERMANY: "Angela Merkel"})
    with workspace(tmp_path / "home", model, [feed]) as opened:
        yield opened


def test_before_and_after_the_correction_the_bare_belief_is_shown(ws: Workspace) -> None:
    question = "Who's Germany's chancellor?"
    before = check(ws, question, NOW)
    assert (before.kind, before.current, before.sources) == (VerdictKind.UNSUPPORTED, None, ())
    run_once(ws, NOW, Silent())
    after = check(ws, question, NOW)
    assert after.slot == Slot("Germany", "head_of_government")
    assert (after.kind, after.believed, after.current) == (
        VerdictKind.STALE,
        "Angela Merkel",
        "Friedrich Merz",
    )
    assert after.served == "The chancellor of Germany is Friedrich Merz."
    (edit,) = ws.store.edits.ls()
    assert after.edit_id == edit.id
    assert after.path
    (source,) = after.sources
    assert source.name == "archive: Chancellors of Germany"
    assert source.url.startswith("file://")
    assert source.date == "2025-05-06"
    assert "Friedrich Merz" in source.quote


def test_checking_changes_nothing(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    verdicts = ws.store.verdicts.ls(latest_only=False)
    ledger = sum(1 for _ in ws.store.ledger.entries())
    check(ws, "Who is the chancellor of Germany?", NOW)
    assert ws.store.verdicts.ls(latest_only=False) == verdicts
    assert sum(1 for _ in ws.store.ledger.entries()) == ledger


def test_an_alias_of_the_subject_leads_to_the_same_slot(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    found = check(ws, "Who is the chancellor of the Federal Republic of Germany?", NOW)
    assert (found.slot.subject, found.current) == ("Germany", "Friedrich Merz")


@pytest.mark.parametrize("question", ["How are you?", "", "Who was the first man on the moon?"])
def test_a_question_that_fits_no_relation_is_refused_with_what_would(
    ws: Workspace, question: str
) -> None:
    with pytest.raises(UnfitQuestion, match="fits no relation; ask for the present holder"):
        check(ws, question, NOW)


def test_a_slot_without_sources_is_unsupported_and_shows_the_belief(ws: Workspace) -> None:
    found = check(ws, "Who is the president of France?", NOW)
    assert (found.kind, found.believed) == (VerdictKind.UNSUPPORTED, "I do not know.")
    assert (found.served, found.edit_id) == ("I do not know.", None)
