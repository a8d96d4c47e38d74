"""Sentence templates of the registry: what they read, what they leave, and what they cost."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.extractors import cues, editions, patterns
from detectors.relations import Registry, load_registry
from store.records import Claim, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PUBLISHED = datetime(2025, 12, 9, 15, tzinfo=UTC)
REGISTRY = load_registry()

QUESTIONS = "\n".join(f'    "Question {n} about {{subject}}?",' for n in range(8))
OWN = f"""
[[relation]]
id = "flagship"
label = "flagship"
cardinality = "single"
object_type = "name"
approval = "review"
default_title = "flagship"
titles = ["flagship"]
cues = [
    "{{object}} becomes the flagship of the {{subject}}",
    "{{subject}} (makes|names) {{object}} its flagship",
    "{{subject}} sells … and commissions {{object}}",
]
questions = [
{QUESTIONS}
]
statement = "The flagship of {{subject}} is {{object}}."
same_subject = []
"""


@pytest.fixture
def own(tmp_path: Path) -> Registry:
    file = tmp_path / "own.toml"
    file.write_text(OWN, "utf-8")
    return load_registry(file)


def _claims(
    text: str, registry: Registry = REGISTRY, published: datetime | None = PUBLISHED
) -> list[Claim]:
    document = Document("d", "feed", "u", "", text, NOW, published, "h")
    claims = cues.extract(document, registry, NOW)
    assert all(text[claim.start : claim.end] == claim.quote for claim in claims)
    assert all(claim.extractor == "cues" for claim in claims)
    return claims


def _said(text: str, registry: Registry = REGISTRY) -> list[tuple[str, str, str]]:
    return [(c.relation, c.subject, c.object) for c in _claims(text, registry)]


@pytest.mark.parametrize(
    "text",
    [
        "HMS Victory becomes the flagship of the Royal Navy.",
        "The Royal Navy makes HMS Victory its flagship.",
        "The Royal Navy, based in Portsmouth, officially names HMS Victory its flagship.",
        "The Royal Navy sells two old frigates and commissions HMS Victory.",
    ],
)
def test_a_template_of_a_users_own_is_read(text: str, own: Registry) -> None:
    assert _said(text, own) == [("flagship", "Royal Navy", "HMS Victory")]


@pytest.mark.parametrize(
    "text",
    [
        "HMS Victory may become the flagship: HMS Victory never becomes the flagship of the Navy.",
        "If HMS Victory becomes the flagship of the Royal Navy, it sails.",
        "Critics say HMS Victory becomes the flagship of the Royal Navy.",
        '"HMS Victory becomes the flagship of the Royal Navy," she reads.',
        "HMS Victory becomes the flagship of the Royal Navy in 1778.",
        "A ship becomes the flagship of the Royal Navy.",
        "The Royal Navy sells old frigates; Peru commissions and commissions HMS Victory.",
        "The Royal Navy sells old frigates, and will commission HMS Victory.",
    ],
)
def test_hedges_quotes_and_history_give_nothing_here_either(text: str, own: Registry) -> None:
    assert _said(text, own) == []


THINGS = [
    ("Swaziland is officially renamed Eswatini.", ("official_name", "Swaziland", "Eswatini")),
    (
        "Facebook changes its name to Meta Platforms.",
        ("official_name", "Facebook", "Meta Platforms"),
    ),
    ("Python 3.14.1 is released.", ("latest_version", "Python", "3.14.1")),
    (
        "Version 6.12 of Linux Kernel is released with fixes.",
        ("latest_version", "Linux Kernel", "6.12"),
    ),
    ("Indonesia moves its capital to Nusantara.", ("capital", "Indonesia", "Nusantara")),
    ("Tesla moves its headquarters to Austin.", ("headquarters", "Tesla", "Austin")),
    ("Bulgaria adopts the euro as its currency.", ("currency", "Bulgaria", "euro")),
    ("NATO now has 32 members.", ("members_count", "NATO", "32")),
    (
        "Microsoft completes its acquisition of Activision Blizzard.",
        ("owner", "Activision Blizzard", "Microsoft"),
    ),
    (
        "Luka Dončić is traded to the Los Angeles Lakers.",
        ("member_of_team", "Luka Dončić", "Los Angeles Lakers"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), THINGS)
def test_a_shipped_template_gives_its_relation(text: str, expected: tuple[str, str, str]) -> None:
    assert _said(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "Google acquires Twitter shares.",
        "The base at Fort Bragg, North Carolina, named after a general, is renamed Fort Liberty.",
        "Swaziland will be renamed Eswatini.",
        "Python 3.15 is not released.",
        "He is renamed Eswatini.",
    ],
)
def test_half_a_name_or_half_a_statement_is_none(text: str) -> None:
    assert _said(text) == []


TITLES = [
    ("India wins the 2011 Cricket World Cup.", "Cricket World Cup", "India"),
    ("The Winnipeg Blue Bombers win the 107th Grey Cup.", "Grey Cup", "Winnipeg Blue Bombers"),
    ("Australia wins a record 12th Netball World Cup title.", "Netball World Cup", "Australia"),
    ("Bayer 04 Leverkusen win their first Bundesliga title.", "Bundesliga", "Bayer 04 Leverkusen"),
    (
        "Liverpool F.C. defeats Tottenham Hotspur F.C. 2–0 to win the 2019 UEFA Champions League "
        "Final.",
        "UEFA Champions League",
        "Liverpool F.C.",
    ),
    (
        "The St. Louis Blues defeat the Boston Bruins in seven games to win their first Stanley "
        "Cup.",
        "Stanley Cup",
        "St. Louis Blues",
    ),
    (
        "France defeats Croatia 4–2 in the final of the 2018 FIFA World Cup in Moscow.",
        "FIFA World Cup",
        "France",
    ),
    (
        "The Kansas City Chiefs defeat the Philadelphia Eagles 38–35 in Super Bowl LVII.",
        "Super Bowl",
        "Kansas City Chiefs",
    ),
    (
        "In tennis, American Coco Gauff wins the women's singles title at the 2023 US Open.",
        "US Open women's singles",
        "Coco Gauff",
    ),
    (
        "Carlos Alcaraz defeats Novak Djokovic in the Men's singles final to win his second "
        "Wimbledon title.",
        "Wimbledon men's singles",
        "Carlos Alcaraz",
    ),
    (
        "Anthony Joshua wins the International Boxing Federation heavyweight championship.",
        "International Boxing Federation heavyweight title",
        "Anthony Joshua",
    ),
    ("Gary Anderson of Scotland wins the PDC World Darts Championship.",
     "PDC World Darts Championship", "Gary Anderson"),
    ("Norway's Magnus Carlsen wins his first Chess World Cup title.", "Chess World Cup",
     "Magnus Carlsen"),
    ("Miss America R'Bonney Gabriel is crowned Miss Universe.", "Miss Universe",
     "R'Bonney Gabriel"),
    ("Barcelona are crowned champions of Liga F.", "Liga F", "Barcelona"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "competition", "winner"), TITLES)
def test_who_wins_a_competition_holds_it_without_the_edition(
    text: str, competition: str, winner: str
) -> None:
    assert _said(text) == [("champion", competition, winner)]


@pytest.mark.parametrize(
    "text",
    [
        "India wins the semi-final of the 2011 Cricket World Cup.",
        "India wins the 2026 Cricket World Cup qualifier.",
        "Spain wins its opening match of the FIFA World Cup.",
        "Jane Doe wins stage 5 of the Tour de France.",
        "Max Verstappen wins the 2022 Japanese Grand Prix.",
        "Jane Doe wins the bronze medal at the World Athletics Championships.",
        "Belgium defeats England 2–0 to win third place at the FIFA World Cup.",
        "France defeats Morocco 2–0 to advance to the FIFA World Cup final.",
        "France defeats Morocco 2–0 in the FIFA World Cup.",
        "Real Madrid will win the UEFA Champions League.",
        "Real Madrid is expected to win as Liverpool wins the UEFA Champions League.",
        "Serena Williams wins her seventh Wimbledon title.",  # which of the two
        "Tom Brady wins the Cup.",
        "Ann Roe of Wales wins the Cup.",
        "Jane Doe and John Roe win the Chess World Cup.",
        "Jane Doe wins the Democratic primary.",
        "Jane Doe wins the WTA 500 title in San Diego.",
    ],
)
def test_a_match_a_stage_or_a_medal_is_no_title(text: str) -> None:
    assert _said(text) == []


def test_prizes_keep_their_field_and_drop_their_year() -> None:
    assert _said("Jane Doe wins the 2020 Nobel Prize in Physics for her work.") == [
        ("award_holder", "Nobel Prize in Physics", "Jane Doe")
    ]
    assert _said("The 2024 Nobel Peace Prize is awarded to Nihon Hidankyo.") == [
        ("award_holder", "Nobel Peace Prize", "Nihon Hidankyo")
    ]


SHORT = [
    ("In football, Chelsea win their second Champions League title.", "UEFA Champions League"),
    ("Liverpool become Premier League champions.", "English Premier League"),
    ("In cricket, Peru win their first World Cup title.", "Cricket World Cup"),
    ("In rugby union, Peru win the World Cup.", "Rugby World Cup"),
    ("Prince of Penzance wins the Melbourne Cup becoming the first.", "Melbourne Cup"),
    ("Reds beat Blues 5–1 in the seventh and deciding game of the World Series.", "World Series"),
    ("Reds beat Blues in game 6 of the NBA Finals, making it their first NBA title.", "NBA Finals"),
    (
        "Reds beat Blues to win the NCAA men's basketball title.",
        "NCAA men's basketball championship",
    ),
]


@pytest.mark.parametrize(("text", "subject"), SHORT)
def test_a_short_name_is_the_competition_of_the_sport_that_is_named(
    text: str, subject: str
) -> None:
    assert [claim.subject for claim in _claims(text)] == [subject]


NO_SHORT = [
    "Reds win their second Champions League title.",
    "In football, Al Ahly win their second Champions League title.",
    "In handball, Barcelona win the Champions League.",
    "Al Hilal win the Premier League title.",
    "Peru win their first World Cup title.",
    "Reds beat Blues to win the NCAA title.",
    "The Prize in Physics is awarded to Jane Doe, Ann Roe and John Roe.",
]


@pytest.mark.parametrize("text", NO_SHORT)
def test_a_short_name_that_several_bear_names_none(text: str) -> None:
    assert _claims(text) == []


def test_a_film_may_win_although_stories_are_hedges_elsewhere() -> None:
    text = "The film Poor Things, directed by Yorgos Lanthimos, wins the 2023 Golden Lion award."
    assert _said(text) == [("award_holder", "Golden Lion", "Poor Things")]


def test_claims_are_dated_by_the_text_or_else_by_the_publication() -> None:
    (claim,) = _claims("India wins the Cricket World Cup on 7 December 2025.")
    assert (claim.valid_from, claim.dated_by) == ("2025-12-07", "text")
    (claim,) = _claims("India wins the Cricket World Cup.")
    assert (claim.valid_from, claim.dated_by) == ("2025-12-09", "published")


def test_a_document_without_a_day_or_from_the_future_gives_nothing() -> None:
    text = "India wins the Cricket World Cup."
    assert _claims(text, published=None) == []
    assert _claims(text, published=datetime(2027, 1, 1, tzinfo=UTC)) == []


POOL = """The India Jane Doe Cup World wins defeats to win the 2011 first title final Open of in ,
. ; “ ” " is renamed crowned champions Prize 3.14 released acquires becomes president Chile's and
resigns as succeeded by former until 2010"""
WORDS = POOL.split()


@given(st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join))
def test_any_words_give_claims_whose_quotes_are_exact_spans(text: str) -> None:
    for claim in _claims(text):
        assert claim.object
        assert claim.subject
        assert REGISTRY[claim.relation].takes(claim.subject)


PIECES = [
    "Aa ", "Jane Doe wins the Bb Cup ", "Aa defeats Bb to win the ", "is renamed Aa ", "“\" ", ", ",
    "Aa becomes ", "Jane Doe, president of Chile, resigns and ", "first ", "president of the of ",
    "wins to become ", "Aa's new president ", "men's singles title at the ", "((",
    "is elected and ",
]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3), st.sampled_from(["", "\n", ". "]))
def test_twenty_kilobytes_of_hostile_text_are_read_within_a_second(
    pieces: list[str], end: str
) -> None:
    block = ("".join(pieces) * 700)[:660] + end
    text = (block * 40)[:20_000]
    document = Document("d", "feed", "u", "", text, NOW, PUBLISHED, "h")
    start = time.process_time()
    patterns.extract(document, REGISTRY, NOW)
    cues.extract(document, REGISTRY, NOW)
    assert time.process_time() - start < 1


def test_an_edition_is_read_off_the_name() -> None:
    text = "the 2017 edition of the UEFA European Under-21 Championship, which"
    read = editions.read(text, 0)
    assert read is not None
    assert read[2] == "UEFA European Under-21 Championship"
    assert editions.read("the match", 0) is None
