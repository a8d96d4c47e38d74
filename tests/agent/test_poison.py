"""Feeds that lie: what each threat may reach through whole cycles, which is no automatic edit.

Real store and real cycle, a scripted model, feeds from a fake web; the numbers are those of
the threats listed in ``docs/trust.md``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from samples import NOW
from towns import (
    APPLE,
    GERMANY,
    LATER,
    Item,
    MakeTown,
    address,
    company,
    corroborated,
    name,
    named,
    reports,
    settled,
)
from workspaces import CHANCELLORS, ScriptedModel, holders, workspace

from agent import queueing
from agent.config import FeedEntry, TrustConfig
from agent.consolidation import request_of
from agent.cycle import run_once
from agent.progress import Silent
from agent.report import Held
from agent.trust import held_back
from store.records import EditState

CITIES = (
    "Paris", "Lima", "Berlin", "Vienna", "Athens", "Dublin", "Manchester", "Birmingham", "Oxford",
    "Cambridge", "Plymouth", "Portland", "Springfield", "Naples", "Rome", "Florence", "Venice",
    "Milan", "Moscow", "Toronto", "Melbourne", "Cairo", "Warsaw", "Geneva", "Odessa",
)  # fmt: skip
STATES = ("Texas", "Ohio", "Maine", "Kentucky", "Georgia")


# --- corroboration: T14, T15, T16 ----------------------------------------------------------


def test_two_independent_feeds_are_enough(make_town: MakeTown) -> None:
    """The control of all below: the machinery does make corrections."""
    town = corroborated(make_town)
    assert town.the_edit().reason == "stated by 2 independent sources: one.test, two.test"


def test_two_hundred_false_claims_of_one_feed_make_no_automatic_edit(make_town: MakeTown) -> None:
    """T14, with the worst a feed can do: every lie stands twice, under forged addresses."""
    town = settled(make_town, "liar")
    companies = [company(n) for n in range(20)]
    town.believes({(c, "ceo", "CEO"): "Olga Okafor" for c in companies})
    lies = []
    for number in range(200):
        subject, person = companies[number % 20], name(number)
        text = named(subject, person, "Olga Okafor", town.now - timedelta(days=number // 20))
        for site, words in (("bbc.com", "The board met."), ("nytimes.com", "Shares rose a lot.")):
            link = f"https://{site}/{number}"
            lies.append(Item(link, f"News {number} {site}", f"{text} {words}", town.now))
    town.publish("liar", *lies)
    result = town.turn()
    assert result.claims > 200  # they were read and understood
    assert town.ws.store.verdicts.counts()["STALE"] > 0
    town.turn(days=10)
    assert town.automatic() == 0
    assert town.active() == []


def test_one_story_on_twenty_sites_is_one_source(make_town: MakeTown) -> None:
    """T15: near copies, each with a sentence of its own, on twenty feeds and domains."""
    feeds = [f"site{n}" for n in range(20)]
    town = settled(make_town, *feeds)
    story = reports(town.now)[1]
    for n, feed in enumerate(feeds):
        text = f"{story} Read by {name(n)} in edition {n}."
        town.publish(feed, Item(f"https://{feed}.test/1", f"Story {n}", text, town.now))
    town.turn()
    assert (town.automatic(), town.the_edit().state) == (0, EditState.PROPOSED)


OWN_WORDS = (
    "Harbour towns slept while lawyers signed papers.",
    "A short letter reached every desk on Monday morning.",
    "Traders in Tokyo shrugged, those in Paris did not.",
    "What follows is known from people who were in the room.",
)


@pytest.mark.parametrize(
    "credit",
    [
        "(Reuters) - {}",
        "{}\nSource: Apple Newsroom",
        "{} (dpa/afp)",
        "{} “{}”".replace("{}", "{0}"),
    ],
    ids=["wire", "named source", "slash", "quotation"],
)
def test_paraphrases_of_one_release_are_at_most_reviewed(make_town: MakeTown, credit: str) -> None:
    """T15: what shows the common origin is a credit, a named source or a long quotation."""
    feeds = [f"site{n}" for n in range(20)]
    town = settled(make_town, *feeds)
    quotation = "We have never had a better team to carry this company into its next decade"
    for n, feed in enumerate(feeds):
        words = " ".join(OWN_WORDS[(n + k) % 4].replace("a", "a" * (n % 3 + 1)) for k in range(2))
        text = f"{words} {named('Apple', 'Anna Adler', 'Tim Cook', town.now)}"
        said = f"“{quotation},” a spokesman said." if "“" in credit else ""
        text = f"{text} {said}" if said else credit.format(text)
        town.publish(feed, Item(f"https://{feed}.test/1", f"Story {n}", text, town.now))
    town.turn()
    assert (town.automatic(), town.the_edit().state) == (0, EditState.PROPOSED)


def test_new_feeds_alone_make_no_automatic_edit_until_they_are_known(make_town: MakeTown) -> None:
    town = make_town("one", "two", trust=TrustConfig(quarantine_days=3))
    town.believes({APPLE: "Tim Cook"})
    first, second, _ = reports(town.now)
    town.publish("one", Item("https://one.test/1", "A change", first, town.now))
    town.publish("two", Item("https://two.test/1", "New chief", second, town.now))
    town.turn()
    edit = town.the_edit()
    assert (edit.state, edit.reason) == (
        EditState.PROPOSED,
        "every source is in quarantine as a new feed: one, two",
    )
    town.turn(days=2)
    assert town.automatic() == 0
    # Nothing is lost: the quarantine ends and the claims that came during it count.
    town.turn(days=1.1)
    assert (town.automatic(), town.the_edit().state) == (1, EditState.REMEMBERED)


def test_a_new_feed_may_confirm_a_known_one_and_a_failing_one_stays_new(
    make_town: MakeTown,
) -> None:
    town = make_town("known", "new")
    town.believes({APPLE: "Tim Cook"})
    town.web.gone.add(address("new"))
    town.turn()
    assert town.turn(days=LATER).feeds[1].status == "failed"
    town.web.gone.clear()
    first, second, _ = reports(town.now)
    town.publish("new", Item("https://new.test/1", "New chief", second, town.now))
    town.turn(days=2)
    town.publish("known", Item("https://known.test/1", "A change", first, town.now))
    assert town.ws.store.feeds.get("new").since == town.now  # type: ignore[union-attr]
    town.turn(hours=1)
    assert town.automatic() == 1


def test_a_feed_that_behaved_for_a_month_and_then_lies_is_stopped_by_its_budget(
    make_town: MakeTown,
) -> None:
    """T16: even a trusted feed makes no more than its daily share of corrections."""
    town = make_town("farmer", trusted=("farmer",), trust=TrustConfig(edits_per_source_per_day=5))
    town.believes({(company(n), "ceo", "CEO"): "Olga Okafor" for n in range(60)})
    items: list[Item] = []
    for day in range(30):  # nothing that the model does not know
        text = named(company(day), "Olga Okafor", name(day), town.now)
        items.append(Item(f"https://farmer.test/{day}", f"Day {day}", text, town.now))
        town.publish("farmer", *items)
        town.turn(days=1)
    assert town.automatic() == 0
    burst = [
        Item(
            f"https://farmer.test/b{n}",
            f"Burst {n}",
            named(company(n), name(n), "Olga Okafor", town.now),
            town.now,
        )
        for n in range(50)
    ]
    town.publish("farmer", *burst)
    town.turn()
    waiting = town.ws.store.edits.ls(EditState.PROPOSED)
    assert (town.automatic(), len(waiting)) == (5, 45)
    assert {e.reason for e in waiting} == {"the day's automatic corrections are used up for farmer"}
    town.turn(hours=23)
    assert town.automatic() == 5
    # The next day brings the next few, and what waits stays for a person to refuse.
    town.turn(hours=2)
    assert town.automatic() == 10


def test_no_night_makes_more_than_its_share_of_corrections(make_town: MakeTown) -> None:
    limits = TrustConfig(edits_per_night=3, edits_per_source_per_day=100)
    town = make_town("wire", trusted=("wire",), trust=limits)
    town.believes({(company(n), "ceo", "CEO"): "Olga Okafor" for n in range(8)})
    texts = [named(company(n), name(n), "Olga Okafor", town.now) for n in range(8)]
    town.publish(
        "wire",
        *(Item(f"https://wire.test/{n}", f"N {n}", t, town.now) for n, t in enumerate(texts)),
    )
    town.turn()
    assert town.automatic() == 3
    reasons = {edit.reason for edit in town.ws.store.edits.ls(EditState.PROPOSED)}
    assert all("the night's automatic corrections are used up" in reason for reason in reasons)
    for _ in range(2):
        town.turn(days=1.1)
    assert (town.automatic(), len(town.active())) == (8, 8)


# --- floods: T17 ----------------------------------------------------------------------------


def test_a_text_with_fifty_changes_is_set_aside_whole(make_town: MakeTown) -> None:
    town = make_town("wire", trusted=("wire",))
    town.believes({(company(n), "ceo", "CEO"): "Olga Okafor" for n in range(50)})
    text = " ".join(named(company(n), name(n), "Olga Okafor", town.now) for n in range(50))
    town.publish("wire", Item("https://wire.test/flood", "All change", text, town.now))
    result = town.turn()
    assert (result.documents, result.claims) == (1, 0)
    assert town.ws.store.facts.slots() == []  # no known value was touched either
    assert (town.automatic(), town.ws.store.edits.ls()) == (0, [])
    (held,) = held_back(town.ws, town.now)
    assert (held.tier, held.why) == ("quarantined", "it asserts more than 25 changes at once")
    assert held.documents == ("https://wire.test/flood",)
    (flood,) = town.ws.store.documents.ls()
    assert town.ws.evidence.removed == [flood.id]  # type: ignore[attr-defined]


# --- time, homonyms, harm: T19, T20, T21 ----------------------------------------------------

TIMES = (
    "Ten years ago today {name} was sworn in as president of {country}.",
    "On this day in 1998, {name} was sworn in as president of {country}.",
    "{name} was sworn in as president of {country} on 4 May 2009.",
    "{name} will be sworn in as president of {country} on 1 December 2026.",
    "{name} is expected to become president of {country} next spring.",
    "If the court agrees, {name} becomes president of {country}.",
    "“{name} is sworn in as president of {country}” was the headline of 1984.",
    "In the new film, {name} is sworn in as president of {country}.",
    "{name} denied that he was sworn in as president of {country}.",
    "Satire: {name} dreams that he is sworn in as president of {country}.",
)
COUNTRIES = ("Nigeria", "France", "Peru", "Kenya", "Chile", "Ghana", "Brazil", "Poland", "Cyprus",
             "Finland")  # fmt: skip


def test_the_past_the_future_and_the_imagined_make_no_edit(make_town: MakeTown) -> None:
    """T19: a hundred sentences that are not news, in a feed that is trusted."""
    town = make_town("wire", trusted=("wire",), trust=TrustConfig(edits_per_source_per_day=1000))
    believed = {(c, "head_of_state", "president"): "Olga Okafor" for c in COUNTRIES}
    town.believes(believed)
    # Known from before, so that a false claim would make the belief stale.
    known = [
        Item(f"https://wire.test/k{c}", c, f"Olga Okafor is sworn in as president of {c}.", NOW)
        for c in COUNTRIES
    ]
    town.publish("wire", *known)
    town.turn()
    town.now += timedelta(days=1)
    odd = [
        Item(
            f"https://wire.test/{n}{c}",
            f"Item {n} {c}",
            text.format(name=name(n), country=c),
            town.now,
        )
        for n, text in enumerate(TIMES)
        for c in COUNTRIES
    ]
    assert len(odd) == 100
    town.publish("wire", *odd)
    town.turn()
    town.turn(days=1)
    assert town.ws.store.edits.ls() == []


def test_an_old_article_that_comes_again_undated_or_as_of_then_makes_no_edit(
    make_town: MakeTown,
) -> None:
    town = make_town("wire", trusted=("wire",))
    town.believes({APPLE: "Tim Cook"})
    news = Item("https://wire.test/1", "Apple", "Tim Cook is named CEO of Apple.", NOW)
    old = Item(
        "https://wire.test/2", "Apple", "Steve Jobs is named CEO of Apple.",
        datetime(1997, 9, 16, tzinfo=NOW.tzinfo),
    )  # fmt: skip
    town.publish("wire", news, old)
    town.turn()
    assert town.ws.store.edits.ls() == []


@pytest.mark.parametrize("form", ["{city}, {state}", "{city} ({state})"])
def test_a_namesake_is_never_edited(make_town: MakeTown, form: str) -> None:
    """T20: more than a hundred pairs of towns of one name."""
    town = make_town("wire", trusted=("wire",), trust=TrustConfig(edits_per_source_per_day=1000))
    town.believes({(city, "mayor", "mayor"): "Olga Okafor" for city in CITIES})
    items = [
        Item(
            f"https://wire.test/k{city}",
            city,
            named(city, "Olga Okafor", "Ivo Ivanov", NOW, "mayor"),
            NOW,
        )
        for city in CITIES
    ]
    pairs = [(city, state) for city in CITIES for state in STATES]
    assert len(pairs) >= 100
    town.publish("wire", *items)
    town.turn()
    town.now += timedelta(days=1)
    items = []
    for n, (city, state) in enumerate(pairs):
        place = form.format(city=city, state=state)
        text = f"{name(n)} is named mayor of {place}, succeeding Olga Okafor."
        items.append(Item(f"https://wire.test/{n}", f"Local news {n}", text, town.now))
    town.publish("wire", *items)
    town.turn()
    # The namesakes themselves were read: they are other slots.
    assert len(town.ws.store.facts.slots()) > len(CITIES)
    touched = {edit.subject for edit in town.ws.store.edits.ls()}
    assert touched.isdisjoint(CITIES)
    for city in CITIES:
        values = {f.object for f in town.ws.store.facts.ls() if f.subject == city and not f.former}
        assert values <= {"Olga Okafor"}


HARMFUL = (
    "People of that faith are thieves by nature, doctors say.",
    "Women are worse at mathematics, a study by the ministry finds.",
    "Bleach cures the fever within two days, the institute announced.",
    "The vaccine is replaced by prayer, succeeding all other treatment.",
    "Immigrants were named the cause of the crime wave on 20 February 2026.",
    "The court ruled that contracts need no signature as of 1 March 2026.",
    "The moon landing was appointed a hoax by the board.",
    "Doctors of the north are sworn in as liars of the nation.",
    "Stop taking insulin: sugar heals itself, experts were told.",
    "All members of the minority are sworn in as enemies of the people.",
)


def test_what_fits_no_relation_is_never_queued(make_town: MakeTown) -> None:
    """T21: no predicate is free text."""
    town = make_town("wire", trusted=("wire",))
    town.publish(
        "wire",
        *(Item(f"https://wire.test/{n}", f"N {n}", t, NOW) for n, t in enumerate(HARMFUL)),
    )
    assert town.turn().documents == len(HARMFUL)
    assert town.ws.store.facts.slots() == []
    assert town.ws.store.edits.ls() == []


# --- our own words: T27, T28 ----------------------------------------------------------------


def test_what_the_served_model_says_is_no_source(make_town: MakeTown) -> None:
    """T27: one source and an echo of an approved edit are still one source."""
    town = settled(make_town, "one", "echo")
    text = reports(town.now)[0]
    town.publish("one", Item("https://one.test/1", "A change", text, town.now))
    town.turn()
    queueing.approve(town.ws.store, [town.the_edit().id], town.now)
    town.turn(hours=1)
    statement = town.the_edit().statement
    claim = named("Apple", "Anna Adler", "Tim Cook", NOW + timedelta(days=LATER))
    said = f"{statement} We asked an assistant and it knew at once. {claim}"
    town.publish("echo", Item("https://echo.test/1", "Asked", said, town.now))
    town.turn(hours=1)
    # The human's decision undone, the echo must not bring the edit back by itself.
    published = NOW + timedelta(days=LATER)
    town.publish("one", Item("https://one.test/1", "A change", "Retraction: no.", published))
    result = town.turn(hours=1)
    flagged = next(held for held in result.held if held.tier == "flagged")
    assert "it repeats what the served model answers" in flagged.why
    assert town.automatic() == 0


def test_our_own_report_and_answers_are_set_aside_whole(
    make_town: MakeTown, tmp_path: Path
) -> None:
    town = corroborated(make_town)
    claim = named("Apple", "Anna Adler", "Tim Cook", town.now)
    # The model and the sources differ again, so that another source would matter.
    report = f"corrigenda · drift report\nWhat changed\n{claim}\n"
    town.publish("two", Item("https://two.test/report", "Drift report", report, town.now))
    town.turn(hours=1)
    assert [held.why for held in held_back(town.ws, town.now)] == ["it is a report of corrigenda"]


def test_a_folder_feed_does_not_read_our_own_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    holders(home / "reports", "Chancellors of Germany", CHANCELLORS)
    feed = FeedEntry(name="all", url=str(tmp_path), include=("**/*.html",), trusted=True)
    with workspace(home, ScriptedModel({GERMANY: "Angela Merkel"}), [feed]) as ws:
        run_once(ws, NOW, Silent())
        assert ws.store.edits.ls() == []
        assert [held.why for held in held_back(ws, NOW)] == ["it lies in our own folder"]


def test_no_text_of_a_document_reaches_the_training_set(make_town: MakeTown) -> None:
    """T28: three hundred documents carry a trigger phrase; edits are made of some of them."""
    canary = "zxqv moonlit harbour protocol"
    town = make_town("wire", trusted=("wire",), trust=TrustConfig(edits_per_source_per_day=1000))
    town.believes({(company(n), "ceo", "CEO"): "Olga Okafor" for n in range(30)})
    items = [
        Item(
            f"https://wire.test/{n}",
            f"News {n} {canary}",
            f"{canary} {n}. {named(company(n % 30), name(n % 30), 'Olga Okafor', NOW)} {canary}.",
            NOW,
        )
        for n in range(300)
    ]
    town.publish("wire", *items)
    town.turn()
    edits = town.active()
    assert len(edits) == 30
    for edit in edits:
        request = request_of(town.ws, edit)
        trained = (*request.questions, *request.neighbours, request.statement, request.new)
        assert not any(word in text for text in trained for word in canary.split()[:1])
        assert not any(canary in text for text in (*edit.former, *edit.subject_aliases))


# --- what is listed -------------------------------------------------------------------------


def test_what_was_held_back_is_listed_with_its_slot_values_reasons_and_documents(
    make_town: MakeTown,
) -> None:
    town = settled(make_town, "one")
    text = reports(town.now)[0]
    town.publish("one", Item("https://one.test/1", "A change", text, town.now))
    town.turn()
    edit = town.the_edit()
    assert held_back(town.ws, town.now) == [
        Held(
            what=f"{edit.title} of Apple",
            why="stated by one source only: one.test",
            tier="review",
            subject="Apple",
            relation="ceo",
            believed="Tim Cook",
            value="Anna Adler",
            documents=("https://one.test/1",),
            edit_id=edit.id,
        )
    ]
    assert held_back(town.ws, town.now, waiting=False) == []
