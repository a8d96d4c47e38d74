"""Elections that someone won, and those that are only spoken of."""

from datetime import UTC, datetime

import pytest

from detectors.extractors import patterns
from detectors.extractors.contests import contests
from detectors.relations import load_registry
from store.records import Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()


def _said(text: str) -> list[tuple[str, str, str, str]]:
    document = Document("d", "feed", "u", "", text, NOW, NOW, "h")
    claims = patterns.extract(document, REGISTRY, NOW)
    return [(c.subject, c.relation, c.object, c.role.value) for c in claims]


CHILE = ("Chile", "head_of_state", "Jane Doe", "future")

WON = [
    ("Jane Doe wins the Chilean presidential election.", CHILE),
    ("Jane Doe wins the 2026 Chilean presidential election.", CHILE),
    ("Jane Doe wins Chile's presidential run-off with 56% of the vote.", CHILE),
    ("Jane Doe wins Sunday's Chilean presidential election.", CHILE),
    ("Jane Doe wins Chile's May 21 presidential election.", CHILE),
    ("Jane Doe is declared the winner of the presidential election in Chile.", CHILE),
    ("Jane Doe wins the second round of Chile's presidential election.", CHILE),
    ("Jane Doe of the Socialist Party defeats John Roe in the Chilean presidential election.",
     CHILE),
    ("Chile votes. Jane Doe, of the Left, wins the presidential election.", CHILE),
    ("Jane Doe wins the Ohio gubernatorial election.", ("Ohio", "governor", "Jane Doe", "future")),
    ("Jane Doe wins Houston's mayoral election.", ("Houston", "mayor", "Jane Doe", "future")),
    ("Jane Doe wins the Fine Gael leadership election.",
     ("Fine Gael", "party_leader", "Jane Doe", "current")),
    ("Jane Doe wins the leadership election of Japan's Liberal Democratic Party.",
     ("Liberal Democratic Party (Japan)", "party_leader", "Jane Doe", "current")),
    ("Chilean president Jane Doe wins the presidential election.", (*CHILE[:3], "current")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WON)
def test_who_wins_an_election_waits_for_the_office_or_holds_it(
    text: str, expected: tuple[str, ...]
) -> None:
    assert _said(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "Jane Doe wins the first round of Chile's presidential election.",
        "Jane Doe wins the most votes in the Chilean presidential election.",
        "Jane Doe wins the Republican nomination in the Chilean presidential election.",
        "Jane Doe loses the Chilean presidential election.",
        "Exit polls show that Jane Doe wins the Chilean presidential election.",
        "Jane Doe is expected to win the Chilean presidential election.",
        "Jane Doe won the 2010 Chilean presidential election.",
        "Jane Doe wins the presidential election.",
        "Jane Doe wins a Chilean presidential election debate.",
        "The Socialist Party wins the Chilean presidential election.",
        "The Lions win their fourth AFL premiership title.",
    ],
)
def test_a_round_a_poll_or_an_old_election_gives_nothing(text: str) -> None:
    assert _said(text) == []


def test_a_contest_says_where_its_verb_stands() -> None:
    text = "Jane Doe wins the Chilean presidential election."
    (contest,) = contests(text)
    assert text[contest.verb :].startswith("wins")
    assert text[: contest.end].endswith("election")
    assert (contest.title, contest.subject) == ("president", "Chile")
