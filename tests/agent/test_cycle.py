"""One turn of the loop on real documents in a folder, a real store and a scripted model."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from samples import NOW, a_claim, a_document
from workspaces import (
    APPLE,
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
from agent.config import DetectConfig, EditConfig, FeedEntry
from agent.cycle import CycleResult, neighbours_of, offices_of, run_once, title_of
from agent.progress import Silent
from agent.report import FeedStatus
from agent.served import open_served
from agent.workspace import Workspace
from store.records import Edit, EditState, Slot, VerdictKind, dumps

BELIEFS = {GERMANY: "Angela Merkel", NIGERIA: "Bola Tinubu", APPLE: "Tim Cook"}
ASKED = "Who is the chancellor of Germany?"
APPLE_NEWS = (
    "https://one.example/adler",
    "Anna Adler named CEO of Apple",
    "Anna Adler was named CEO of Apple on 20 February 2026, succeeding Tim Cook.",
)
APPLE_AGAIN = (
    "https://two.example/apple",
    "A change at the top of Apple",
    "After years in the second row the quiet engineer takes over: on 20 February 2026 the "
    "board said so in California. Anna Adler was appointed CEO of Apple on 20 February 2026.",
)

Make = Callable[..., Workspace]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make a home with a trusted folder of holders and an untrusted folder of news."""
    holders(tmp_path / "archive", "Chancellors of Germany", CHANCELLORS)
    holders(tmp_path / "archive", "Presidents of Nigeria", PRESIDENTS)
    (tmp_path / "news").mkdir()
    made: list[Workspace] = []

    def open_(model: ScriptedModel | None = None, **sections: object) -> Workspace:
        feeds = (
            FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True),
            FeedEntry(name="news", url=str(tmp_path / "news")),
        )
        sections = {"feeds": feeds, **sections}
        made.append(workspace(tmp_path / "home", model or ScriptedModel(BELIEFS), **sections))
        return made[-1]

    yield open_
    for ws in made:
        ws.close()


def turn(ws: Workspace, hours: float = 0) -> CycleResult:
    return run_once(ws, NOW + timedelta(hours=hours), Silent())


def edits_of(ws: Workspace, subject: str) -> list[Edit]:
    return [edit for edit in ws.store.edits.ls() if edit.subject == subject]


def the_edit(ws: Workspace, subject: str = "Germany") -> Edit:
    (edit,) = edits_of(ws, subject)
    return edit


def footprint(ws: Workspace) -> dict[str, object]:
    """Everything that a turn without news must leave as it is."""
    facts = [
        fact
        for slot in sorted(ws.store.facts.slots(), key=lambda slot: slot.key)
        for fact in ws.store.facts.history(slot)
    ]
    return {
        "facts": hashlib.sha256(dumps(facts).encode()).hexdigest(),
        "documents": ws.store.documents.count(),
        "claims": ws.store.claims.count(),
        "verdicts": len(ws.store.verdicts.ls(latest_only=False)),
        "edits": dumps(ws.store.edits.ls()),
        "ledger": sum(1 for _ in ws.store.ledger.entries()),
        "passages": ws.evidence.count(),
    }


def test_a_stale_belief_is_found_and_answered_from_memory_at_once(make: Make) -> None:
    ws = make()
    result = turn(ws)
    assert (result.documents, result.proposed, result.remembered) == (2, 1, 1)
    assert (result.verdicts["STALE"], result.verdicts["KEEP"]) == (1, 1)
    edit = the_edit(ws)
    assert edit.state is EditState.REMEMBERED
    assert (edit.old, edit.new, edit.title) == ("Angela Merkel", "Friedrich Merz", "chancellor")
    assert set(edit.former) == {"Angela Merkel", "Olaf Scholz"}
    assert edit.reason == "stated by the trusted feed archive"
    (answered,) = open_served(ws).answer([ASKED])
    assert (answered.text, answered.edit_id) == (edit.statement, edit.id)
    verdict = ws.store.verdicts.get(edit.verdict_id)
    assert verdict is not None
    assert verdict.kind is VerdictKind.STALE
    assert ws.evidence.search("Friedrich Merz chancellor", 1)[0].title == "Chancellors of Germany"


def test_every_claim_quotes_its_document(make: Make) -> None:
    ws = make()
    turn(ws)
    quoted = 0
    for id in the_edit(ws).claim_ids:
        claim = ws.store.claims.get(id)
        assert claim is not None
        document = ws.store.documents.get(claim.document_id)
        assert document is not None
        assert document.text[claim.start : claim.end] == claim.quote
        quoted += 1
    assert quoted


def test_a_second_turn_finds_the_correction_kept_and_a_third_changes_nothing(make: Make) -> None:
    model = ScriptedModel(BELIEFS)
    ws = make(model)
    turn(ws)
    first = footprint(ws)
    second = turn(ws, hours=1)
    assert second.verdicts["STALE"] == 0
    assert second.verdicts["KEEP"] == 2
    after = footprint(ws)
    # The one thing that is new: the corrected slot is believed rightly now.
    assert after == {**first, "verdicts": first["verdicts"] + 1}
    asked = len(model.asked)
    third = turn(ws, hours=2)
    assert footprint(ws) == after
    assert len(model.asked) == asked
    assert (third.documents, third.slots, third.proposed, third.remembered) == (0, 0, 0, 0)
    assert {feed.status for feed in third.feeds} == {FeedStatus.UNCHANGED}


def test_a_new_program_on_the_same_home_goes_on_where_the_old_one_stopped(make: Make) -> None:
    first = make()
    turn(first)
    turn(first, hours=1)
    before = footprint(first)
    first.close()
    second = make()
    turn(second, hours=2)
    assert footprint(second) == before


def test_a_failing_feed_harms_no_other(make: Make, tmp_path: Path) -> None:
    feeds = (
        FeedEntry(name="gone", url=str(tmp_path / "gone")),
        FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True),
    )
    ws = make(feeds=feeds)
    result = turn(ws)
    assert [feed.status for feed in result.feeds] == [FeedStatus.FAILED, FeedStatus.OK]
    assert "gone" in result.feeds[0].note
    assert result.remembered == 1
    state = ws.store.feeds.get("gone")
    assert state is not None
    assert (state.failures, state.not_before) == (1, NOW + timedelta(minutes=1))
    # It is not asked again before its time, and comes back by itself.
    assert turn(ws).feeds[0].status is FeedStatus.UNCHANGED
    (tmp_path / "gone").mkdir()
    assert turn(ws, hours=1).feeds[0].status is FeedStatus.OK
    state = ws.store.feeds.get("gone")
    assert state is not None
    assert (state.failures, state.error) == (0, "")


def test_a_newer_value_supersedes_the_edit_once_it_answers(make: Make, tmp_path: Path) -> None:
    ws = make()
    turn(ws)
    old = the_edit(ws)
    newer = (*CHANCELLORS[:2], ("Friedrich Merz", "6 May 2025", "10 February 2026"))
    newer = (*newer, ("Anna Adler", "10 February 2026", "present"))
    holders(tmp_path / "archive", "Chancellors of Germany", newer)
    result = turn(ws, hours=1)
    assert (result.proposed, result.remembered) == (1, 1)
    first, second = edits_of(ws, "Germany")
    assert (first.id, first.state) == (old.id, EditState.SUPERSEDED)
    assert first.reason == "a newer value: Anna Adler"
    assert (second.old, second.new, second.state) == (
        "Friedrich Merz",
        "Anna Adler",
        EditState.REMEMBERED,
    )
    assert set(second.former) == {"Friedrich Merz", "Olaf Scholz", "Angela Merkel"}
    (answered,) = open_served(ws).answer([ASKED])
    assert answered.text == "The chancellor of Germany is Anna Adler."


def test_an_edit_in_force_answers_on_while_its_successor_waits_for_a_person(
    make: Make, tmp_path: Path
) -> None:
    ws = make()
    turn(ws)
    standing = the_edit(ws)
    link = "https://rumour.example/1"
    text = "Anna Adler was sworn in as chancellor of Germany on 20 February 2026."
    news(tmp_path / "news", (link, "A new chancellor", text))
    result = turn(ws, hours=1)
    first, second = edits_of(ws, "Germany")
    assert (result.proposed, result.remembered) == (1, 0)
    assert (first.id, first.state) == (standing.id, EditState.REMEMBERED)
    assert (second.new, second.state) == ("Anna Adler", EditState.PROPOSED)
    (answered,) = open_served(ws).answer([ASKED])
    assert answered.text == standing.statement
    # Refused, nothing has happened; and nothing is proposed again.
    queueing.reject(ws.store, [second.id], "a rumour", NOW)
    assert turn(ws, hours=2).proposed == 0
    assert [edit.state for edit in edits_of(ws, "Germany")] == [
        EditState.REMEMBERED,
        EditState.REJECTED,
    ]


def test_an_approved_successor_takes_over(make: Make, tmp_path: Path) -> None:
    ws = make()
    turn(ws)
    text = "Anna Adler was sworn in as chancellor of Germany on 20 February 2026."
    news(tmp_path / "news", ("https://one.example/1", "A new chancellor", text))
    turn(ws, hours=1)
    queueing.approve(ws.store, [edits_of(ws, "Germany")[1].id], NOW)
    assert turn(ws, hours=2).remembered == 1
    assert [edit.state for edit in edits_of(ws, "Germany")] == [
        EditState.SUPERSEDED,
        EditState.REMEMBERED,
    ]


@pytest.mark.parametrize("decision", [queueing.reject, queueing.revert])
def test_a_persons_no_is_final(make: Make, decision: Callable[..., object]) -> None:
    refused = decision is queueing.reject
    ws = make(edit=EditConfig(approval="review" if refused else "auto"))
    turn(ws)
    edit = the_edit(ws)
    decision(ws.store, [edit.id], "no", NOW)
    state = EditState.REJECTED if refused else EditState.REVERTED
    for hours in (1, 2):
        result = turn(ws, hours)
        assert (result.proposed, result.remembered) == (0, 0)
    assert the_edit(ws).state is state
    (answered,) = open_served(ws).answer([ASKED])
    assert answered.text == "The chancellor of Germany is Angela Merkel."


def test_a_value_that_came_back_is_corrected_again(make: Make, tmp_path: Path) -> None:
    """Merz, then Adler, then Merz again, then Adler again."""
    ws = make()
    turn(ws)
    spells = [*CHANCELLORS[:2], ("Friedrich Merz", "6 May 2025", "1 February 2026")]
    steps = [
        ("Anna Adler", "1 February 2026", "10 February 2026"),
        ("Friedrich Merz", "10 February 2026", "20 February 2026"),
        ("Anna Adler", "20 February 2026", "25 February 2026"),
    ]
    for hours, (name, start, end) in enumerate(steps, 1):
        page = [*spells, (name, start, "present")]
        holders(tmp_path / "archive", "Chancellors of Germany", page)
        turn(ws, hours)
        spells.append((name, start, end))
        (answered,) = open_served(ws).answer([ASKED])
        assert answered.text == f"The chancellor of Germany is {name}."
    active = ws.store.edits.ls(EditState.REMEMBERED)
    assert [edit.new for edit in active if edit.subject == "Germany"] == ["Anna Adler"]


def test_an_edit_that_memory_cannot_answer_is_retried_and_parked_after_three(make: Make) -> None:
    ws = make(ScriptedModel(BELIEFS, deaf=True))
    seen = []
    for hours in range(5):
        assert turn(ws, hours).remembered == 0
        seen.append((the_edit(ws).state, the_edit(ws).attempts))
    assert seen == [
        (EditState.QUEUED, 1),
        (EditState.QUEUED, 2),
        (EditState.PARKED, 3),
        (EditState.PARKED, 3),
        (EditState.PARKED, 3),
    ]
    assert "Angela Merkel" in the_edit(ws).reason


def test_every_edit_waits_for_a_person_when_configured_so(make: Make) -> None:
    ws = make(edit=EditConfig(approval="review"))
    result = turn(ws)
    assert (result.proposed, result.remembered) == (1, 0)
    edit = the_edit(ws)
    assert (edit.state, edit.reason) == (EditState.PROPOSED, "edit.approval is 'review'")
    assert turn(ws, hours=1).proposed == 0
    queueing.approve(ws.store, [edit.id], NOW)
    assert turn(ws, hours=2).remembered == 1
    assert the_edit(ws).state is EditState.REMEMBERED


def test_one_untrusted_source_proposes_and_a_second_independent_one_is_enough(
    make: Make, tmp_path: Path
) -> None:
    ws = make()
    news(tmp_path / "news", APPLE_NEWS)
    turn(ws)
    edit = the_edit(ws, "Apple")
    assert (edit.state, edit.reason) == (
        EditState.PROPOSED,
        "stated by one source only: one.example",
    )
    turn(ws, hours=1)
    assert the_edit(ws, "Apple") == edit
    news(tmp_path / "news", APPLE_NEWS, APPLE_AGAIN)
    assert turn(ws, hours=2).remembered == 1
    edit = the_edit(ws, "Apple")
    assert edit.state is EditState.REMEMBERED
    assert edit.reason.startswith("stated by 2 independent sources: ")
    assert {"one.example", "two.example"} <= set(edit.reason.replace(",", "").split())


def test_the_same_story_twice_stays_one_source(make: Make, tmp_path: Path) -> None:
    ws = make()
    copy = ("https://copy.example/1", *APPLE_NEWS[1:])
    news(tmp_path / "news", APPLE_NEWS, copy)
    turn(ws)
    assert the_edit(ws, "Apple").state is EditState.PROPOSED


def test_a_wrong_belief_is_corrected_only_when_configured_so(make: Make) -> None:
    model = ScriptedModel({**BELIEFS, GERMANY: "Barack Obama"})
    ws = make(model)
    assert turn(ws).verdicts["WRONG"] == 1
    assert ws.store.edits.ls() == []
    ws.close()
    ws = make(model, edit=EditConfig(wrong=True))
    turn(ws, hours=1)
    assert the_edit(ws).old == "Barack Obama"


def test_a_changed_page_replaces_its_passages(make: Make, tmp_path: Path) -> None:
    ws = make()
    turn(ws)
    passages = ws.evidence.count()
    holders(tmp_path / "archive", "Presidents of Nigeria", PRESIDENTS[1:])
    turn(ws, hours=1)
    assert ws.store.documents.count() == 3
    assert ws.evidence.count() == passages
    found = ws.evidence.search("Presidents of Nigeria Muhammadu Buhari", 4)
    assert not any("Buhari" in passage.text for passage in found)


def test_slots_beyond_the_cap_are_asked_in_later_turns(make: Make) -> None:
    ws = make(detect=DetectConfig(max_slots=1))
    assert turn(ws).slots == 1
    assert turn(ws, hours=1).slots == 1
    assert {verdict.subject for verdict in ws.store.verdicts.ls()} == {"Germany", "Nigeria"}


def test_a_lost_verdict_without_its_edit_is_made_good(make: Make) -> None:
    """A crash between keeping a verdict and proposing its edit."""
    ws = make(edit=EditConfig(approval="review"))
    turn(ws)
    verdict = ws.store.verdicts.latest(Slot("Germany", "head_of_government"))
    assert verdict is not None
    twin = ws.home.parent / "twin"
    ws.close()
    shutil.copytree(ws.home, twin)
    other = workspace(twin, ScriptedModel(BELIEFS), ws.config.feeds)
    with other:
        with other.store.begin() as conn:
            conn.exec_driver_sql("DELETE FROM edits")
        result = turn(other, hours=1)
        assert result.slots == 0  # no verdict is new
        assert (result.proposed, result.remembered) == (1, 1)


def test_no_feeds_do_nothing(make: Make) -> None:
    model = ScriptedModel(BELIEFS)
    result = turn(make(model, feeds=()))
    assert (result.documents, result.slots, result.feeds) == (0, 0, ())
    assert model.asked == []


def test_a_turn_is_recorded_as_it_was_returned(make: Make) -> None:
    ws = make()
    result = turn(ws)
    run = ws.store.runs.latest("cycle")
    assert run is not None
    assert run.body["verdicts"] == result.verdicts
    assert run.body["remembered"] == 1
    answers = ws.store.runs.latest("answers")
    assert answers is not None
    assert answers.body["tier"] == "memory"
    assert answers.body["answers"][the_edit(ws).id]["right"] is True


def test_training_and_testing_neighbours_never_meet(make: Make, tmp_path: Path) -> None:
    for country in ("France", "Kenya", "Italy", "Brazil", "Ghana", "Chile", "Peru", "Togo"):
        holders(tmp_path / "archive", f"Presidents of {country}", PRESIDENTS)
    ws = make()
    turn(ws)
    slot = Slot("Germany", "head_of_government")
    train, test = (neighbours_of(ws, slot, train=half) for half in (True, False))
    assert train
    assert test
    assert not {subject for subject, _, _ in train} & {subject for subject, _, _ in test}
    assert not any(subject == "Germany" for subject, _, _ in [*train, *test])
    every = {s.subject for s in ws.store.facts.slots()}
    assert {subject for subject, _, _ in [*train, *test]} == every - {"Germany"}
    # The split is the same for every edit, else one edit's test were another's training.
    other = Slot("Nigeria", "head_of_state")
    assert {s for s, _, _ in neighbours_of(ws, other, train=True)} - {"Germany"} == {
        s for s, _, _ in train
    } - {"Nigeria"}
    assert all(title == "president" for _, title, _ in train)
    same_first = [relation == other.relation for _, _, relation in neighbours_of(ws, other, True)]
    assert same_first == sorted(same_first, reverse=True)


def test_a_subject_is_told_by_the_offices_of_it_that_one_person_holds(make: Make) -> None:
    ws = make()
    documents = [
        a_document("The president of Germany is Frank-Walter Steinmeier."),
        a_document("The president of France is Emmanuel Macron.", url="https://news.example/2"),
    ]
    claims = [
        a_claim(d, name, subject=country, relation="head_of_state", title="president")
        for d, name, country in zip(
            documents,
            ("Frank-Walter Steinmeier", "Emmanuel Macron"),
            ("Germany", "France"),
            strict=True,
        )
    ]
    ws.store.facts.assimilate(claims, lambda a, b: a == b, NOW)
    found = offices_of(ws, Slot("Germany", "head_of_government"), NOW)
    assert found == [("president", "Frank-Walter Steinmeier")]
    # A slot does not tell itself, and nothing is known of Peru.
    assert offices_of(ws, Slot("Germany", "head_of_state"), NOW) == []
    assert offices_of(ws, Slot("Peru", "head_of_state"), NOW) == []


def test_the_title_is_the_one_that_sources_use(make: Make) -> None:
    ws = make()
    turn(ws)
    assert title_of(ws, Slot("Germany", "head_of_government")) == "chancellor"
    assert title_of(ws, Slot("Utopia", "head_of_government")) == ""
    verdict = ws.store.verdicts.latest(Slot("Nigeria", "head_of_state"))
    assert verdict is not None
    assert verdict.title == "president"


def test_a_skipped_relation_is_known_but_not_asked(make: Make, tmp_path: Path) -> None:
    ws = make(detect=DetectConfig(skip=("head_of_government",)))
    turn(ws)
    assert any(slot.relation == "head_of_government" for slot in ws.store.facts.slots())
    assert {v.relation for v in ws.store.verdicts.ls()} == {"head_of_state"}
    assert edits_of(ws, "Germany") == []
