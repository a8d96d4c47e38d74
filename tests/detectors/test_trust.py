"""How far a claim may be acted on, and what limits that."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NOW, REGISTRY, a_claim, a_document

from detectors.trust import Approval, Standing, approve, crowded, spent

HEAD = REGISTRY["head_of_government"]
TODAY = NOW.date().isoformat()
TEXTS = (
    "Friedrich Merz was sworn in at noon. The gallery was full and it rained all afternoon.",
    "A quiet ceremony, a short speech: Friedrich Merz now leads the government in Berlin.",
    "Our correspondent saw Friedrich Merz enter the chancellery by bicycle before breakfast.",
)


def approved(
    feeds: Sequence[str], standing: Standing | None = None, trusted: Sequence[str] = ()
) -> Approval:
    """The approval of one value that documents of some feeds state, each in its own words."""
    documents = [
        a_document(TEXTS[n], feed=feed, url=f"https://{feed}.test/{n}")
        for n, feed in enumerate(feeds)
    ]
    claims = [
        a_claim(d, "Friedrich Merz", id=d.feed, valid_from=TODAY, dated_by="text")
        for d in documents
    ]
    return approve(claims, {d.id: d for d in documents}, HEAD, trusted, TODAY, standing=standing)


def test_an_automatic_correction_names_the_feeds_it_rests_on() -> None:
    assert approved("ab") == Approval(
        "auto", ("stated by 2 independent sources: a.test, b.test",), ("a", "b")
    )
    assert approved("ab", trusted=["b"]).feeds == ("b",)


@pytest.mark.parametrize(
    ("feeds", "standing", "reason"),
    [
        ("ab", Standing(spent=frozenset("a")), "the day's automatic corrections are used up for a"),
        (
            "ab",
            Standing(fresh=frozenset("ab")),
            "every source is in quarantine as a new feed: a, b",
        ),
        ("ab", Standing(full=True), "the night's automatic corrections are used up"),
        ("ab", Standing(withdrawn={"a": "gone"}), "stated by one source only: b.test"),
        ("a", Standing(), "stated by one source only: a.test"),
    ],
)
def test_what_stands_against_a_correction_is_named(
    feeds: str, standing: Standing, reason: str
) -> None:
    found = approved(feeds, standing)
    assert (found.tier, found.path[-1], found.feeds) == ("review", reason, ())


@pytest.mark.parametrize(
    ("feeds", "standing"),
    [
        ("abc", Standing(spent=frozenset("a"))),
        ("ab", Standing(fresh=frozenset("a"))),
        ("abc", Standing(withdrawn={"a": "gone"})),
    ],
)
def test_enough_other_sources_outweigh_it(feeds: str, standing: Standing) -> None:
    assert approved(feeds, standing).tier == "auto"


def test_a_trusted_feed_has_a_budget_and_no_quarantine() -> None:
    assert approved("a", Standing(fresh=frozenset("a")), "a").tier == "auto"
    used = approved("a", Standing(spent=frozenset("a")), "a")
    assert (used.tier, used.path) == (
        "review",
        ("the day's automatic corrections are used up for a",),
    )
    assert approved("ab", Standing(spent=frozenset("a")), "ab").feeds == ("b",)


def test_without_any_claim_left_nothing_is_even_asked() -> None:
    found = approved("ab", Standing(withdrawn={"a": "gone", "b": "corrected"}), "ab")
    assert (found.tier, set(found.path)) == ("held", {"gone", "corrected"})


moments = st.floats(-48, 0).map(lambda hours: NOW + timedelta(hours=hours))
histories = st.lists(st.tuples(moments, st.lists(st.sampled_from("abc"), unique=True)), max_size=20)


@given(history=histories, limit=st.integers(0, 5))
def test_a_budget_is_used_up_by_as_many_corrections_of_the_last_day(
    history: list[tuple[datetime, list[str]]], limit: int
) -> None:
    recent = [feeds for at, feeds in history if NOW - at < timedelta(days=1)]
    counts = {feed: sum(feed in feeds for feeds in recent) for feed in "abc"}
    used = spent(history, NOW, limit)
    assert used == {feed for feed, n in counts.items() if n and n >= limit}


@given(
    spent_feeds=st.frozensets(st.sampled_from("abc")),
    fresh=st.frozensets(st.sampled_from("abc")),
    withdrawn=st.frozensets(st.sampled_from("abc")),
    full=st.booleans(),
    trusted=st.frozensets(st.sampled_from("abc")),
)
def test_no_mark_against_a_source_ever_makes_a_correction_easier(
    spent_feeds: frozenset[str],
    fresh: frozenset[str],
    withdrawn: frozenset[str],
    full: bool,
    trusted: frozenset[str],
) -> None:
    marked = Standing(
        fresh=fresh, spent=spent_feeds, full=full, withdrawn=dict.fromkeys(withdrawn, "gone")
    )
    order = ("held", "review", "auto")
    found = approved("abc", marked, sorted(trusted))
    assert order.index(found.tier) <= order.index(approved("abc", trusted=sorted(trusted)).tier)
    if found.tier == "auto":
        rests_on = set(found.feeds)
        assert not full
        assert rests_on.isdisjoint(spent_feeds | withdrawn)
        assert rests_on & trusted or (len(rests_on) > 1 and rests_on - fresh)


def test_every_extractor_of_running_text_is_counted_and_lists_are_not() -> None:
    document = a_document(" ".join(f"Person {n}." for n in range(30)))
    claims = [a_claim(document, f"Person {n}.", subject=f"Town {n}") for n in range(30)]
    assert crowded(claims, 29) == {document.id}
    assert crowded(claims, 30) == frozenset()
