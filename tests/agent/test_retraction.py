"""Stories that are taken back, through whole cycles: the corrections that rest on them go too."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from samples import NOW
from towns import (
    GERMANY,
    Item,
    MakeTown,
    corroborated,
    named,
    reports,
    settled,
)
from workspaces import CHANCELLORS, ScriptedModel, holders, workspace

from agent import queueing
from agent.config import FeedEntry, TrustConfig
from agent.cycle import run_once
from agent.progress import Silent
from agent.served import open_served
from agent.trust import WITHDRAWN, held_back
from store.records import EditState

REVISIONS = {
    "the opposite": "Anna Adler is not the CEO of Apple. Tim Cook stays in office, the board said.",
    "another value": "{other}",
    "a correction": "Correction: an earlier version of this article said that the board of Apple "
    "had appointed Anna Adler. It has not.",
    "a retraction": "Retraction: this story was false.",
    "kept and retracted": "This story has been retracted. {same}",
    "silence": "{rest}",
}


@pytest.mark.parametrize("kind", REVISIONS)
def test_a_retracted_story_takes_its_correction_back_within_one_cycle(
    make_town: MakeTown, kind: str
) -> None:
    town = corroborated(make_town)
    published = town.now
    first = reports(published)[0]
    claim = named("Apple", "Anna Adler", "Tim Cook", published)
    text = REVISIONS[kind].format(
        other=named("Apple", "Bela Brandt", "Tim Cook", published),
        same=first,
        rest=first.removeprefix(claim).strip() + " The board of Apple met on Tuesday.",
    )
    if kind == "silence":  # the rest of the story stands, the name is gone
        text = f"{first.removeprefix(claim).strip()} Apple would not comment."
    town.publish("one", Item("https://one.test/1", "A change at Apple", text, published))
    town.turn(hours=1)
    first_edit = town.ws.store.edits.ls()[0]
    assert first_edit.state is EditState.REVERTED
    assert first_edit.reason.startswith(WITHDRAWN)
    (answered,) = open_served(town.ws).answer(["Who is the CEO of Apple?"])
    assert answered.edit_id is None
    # It is not made again on the word that is left, and nothing flaps.
    states = [(e.id, e.state) for e in town.ws.store.edits.ls() if e.new == "Anna Adler"]
    town.turn(hours=1)
    assert [(e.id, e.state) for e in town.ws.store.edits.ls() if e.new == "Anna Adler"] == states
    assert town.active() == []


def test_a_page_that_is_gone_takes_its_correction_back_where_wanted(
    make_town: MakeTown,
) -> None:
    town = corroborated(make_town, trust=TrustConfig(recheck_days=7))
    town.web.gone.add("https://one.test/1")
    town.turn(hours=1)
    edit = town.the_edit()
    assert (edit.state, edit.reason) == (EditState.REVERTED, f"{WITHDRAWN}: the page is gone")
    unasked = corroborated(make_town)
    unasked.web.gone.add("https://one.test/1")
    unasked.turn(hours=1)
    assert unasked.the_edit().state is EditState.REMEMBERED


def test_a_correction_with_enough_other_sources_stands(make_town: MakeTown) -> None:
    town = settled(make_town, "one", "two", "three")
    for feed, text in zip(("one", "two", "three"), reports(town.now), strict=True):
        town.publish(feed, Item(f"https://{feed}.test/1", f"News of {feed}", text, town.now))
    town.turn()
    gone = "Retraction: this story was false."
    town.publish("one", Item("https://one.test/1", "News of one", gone, town.now))
    town.turn(hours=1)
    assert town.the_edit().state is EditState.REMEMBERED
    town.publish("two", Item("https://two.test/1", "News of two", gone, town.now))
    town.turn(hours=1)
    assert town.the_edit().state is EditState.REVERTED


def test_a_correction_taken_back_comes_back_with_new_sources(make_town: MakeTown) -> None:
    town = corroborated(make_town)
    third = reports(town.now)[2]
    published = town.now
    town.publish("one", Item("https://one.test/1", "A change", "Retraction: not so.", published))
    town.turn(hours=1)
    assert town.the_edit().state is EditState.REVERTED
    town.publish("one", Item("https://one.test/2", "It is so after all", third, town.now))
    town.turn(hours=1)
    assert (town.the_edit().state, town.automatic()) == (EditState.REMEMBERED, 2)


def test_an_approved_correction_is_flagged_and_stays(make_town: MakeTown) -> None:
    town = settled(make_town, "one")
    first = reports(town.now)[0]
    published = town.now
    town.publish("one", Item("https://one.test/1", "A change", first, published))
    town.turn()
    queueing.approve(town.ws.store, [town.the_edit().id], town.now)
    town.turn(hours=1)
    town.publish("one", Item("https://one.test/1", "A change", "Retraction: not so.", published))
    result = town.turn(hours=1)
    assert town.the_edit().state is EditState.REMEMBERED
    assert ("flagged", town.the_edit().id) in [(held.tier, held.edit_id) for held in result.held]
    # It is listed until someone decides.
    assert any(held.tier == "flagged" for held in town.turn(hours=1).held)


def test_a_proposal_whose_only_source_is_retracted_no_longer_waits(make_town: MakeTown) -> None:
    town = settled(make_town, "one")
    published = town.now
    town.publish("one", Item("https://one.test/1", "A change", reports(published)[0], published))
    town.turn()
    town.publish("one", Item("https://one.test/1", "A change", "Retraction: not so.", published))
    town.turn(hours=1)
    assert town.the_edit().state is EditState.SUPERSEDED
    assert [held.tier for held in held_back(town.ws, town.now)] == ["held"]


KEPT = {
    "reworded": "The board in Cupertino has decided. {claim}",
    "longer": "{text} More to follow: the company will present figures in April.",
    "corrected elsewhere": "{text}\nCorrection: the hardware group has 4,000 staff, not 400.",
    "moved on": "Weather: rain is expected in Lisbon, Porto and Faro until the weekend is over.",
}


@pytest.mark.parametrize("kind", KEPT)
def test_a_page_that_changes_without_taking_its_story_back_changes_nothing(
    make_town: MakeTown, kind: str
) -> None:
    town = corroborated(make_town)
    published, text = town.now, reports(town.now)[0]
    claim = named("Apple", "Anna Adler", "Tim Cook", published)
    new = KEPT[kind].format(text=text, claim=claim)
    town.publish("one", Item("https://one.test/1", "A change at Apple", new, published))
    town.turn(hours=1)
    assert town.the_edit().state is EditState.REMEMBERED


def test_a_successor_on_the_same_page_is_no_retraction(tmp_path: Path) -> None:
    holders(tmp_path / "archive", "Chancellors of Germany", CHANCELLORS)
    feed = FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True)
    with workspace(tmp_path / "home", ScriptedModel({GERMANY: "Angela Merkel"}), [feed]) as ws:
        run_once(ws, NOW, Silent())
        spells = [*CHANCELLORS[:2], ("Friedrich Merz", "6 May 2025", "10 February 2026")]
        spells.append(("Anna Adler", "10 February 2026", "present"))
        holders(tmp_path / "archive", "Chancellors of Germany", spells)
        run_once(ws, NOW + timedelta(hours=1), Silent())
        assert [(e.new, e.state) for e in ws.store.edits.ls()] == [
            ("Friedrich Merz", EditState.SUPERSEDED),
            ("Anna Adler", EditState.REMEMBERED),
        ]
