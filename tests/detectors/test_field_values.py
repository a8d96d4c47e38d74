"""Information boxes: the fields of things, people, numbers and versions, in their notations."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detectors.extractors import fields
from detectors.relations import load_registry
from store.records import Claim, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()

Row = tuple[str, str, str, str | None, str | None]


def _claims(title: str, text: str) -> list[Claim]:
    document = Document("d", "feed", "u", title, text, NOW, None, "h")
    claims = fields.extract(document, REGISTRY, NOW)
    assert all(document.text[c.start : c.end] == c.quote for c in claims)
    return claims


def _read(title: str, *lines: str) -> list[Row]:
    return [
        (c.relation, c.object, c.role.value, c.valid_from, c.valid_until)
        for c in _claims(title, "\n".join(lines))
    ]


@pytest.mark.parametrize(
    "line",
    [
        "CEO: Tim Cook (since 2011)",
        "CEO | Tim Cook (since 2011)",
        "| CEO | Tim Cook (since 2011) |",
        "CEO\tTim Cook (since 2011)",
        "| ceo = [[Timothy Cook|Tim Cook]] (since 2011)",
        "**CEO:** Tim Cook (since 2011)",
        "• Chief executive officer: Tim Cook (2011–present)",
        "CEO: Tim Cook since 2011",
        "CEO: Tim Cook (since 2011)[3]",
    ],
)
def test_one_field_is_read_in_every_notation(line: str) -> None:
    assert _read("Apple Inc.", line) == [("ceo", "Tim Cook", "current", "2011", None)]


@pytest.mark.parametrize(
    ("title", "line", "expected"),
    [
        ("FC Barcelona", "Head coach | Hansi Flick", ("head_coach", "Hansi Flick")),
        ("Twitter", "Owner: X Corp. (2022–present)", ("owner", "X Corp.")),
        ("Nestlé", "Headquarters: Vevey, Switzerland", ("headquarters", "Vevey")),
        ("Fannie Mae", "Headquarters: Washington, D.C.", ("headquarters", "Washington, D.C.")),
        ("Germany", "currency: euro (EUR)", ("currency", "euro")),
        ("Python", "Stable release: 3.14.1 / 2 December 2025", ("latest_version", "3.14.1")),
        ("Android", "Latest release: Android 15 (3 September 2024)", ("latest_version", "15")),
        ("Ubuntu", "Latest version: 24.04 LTS", ("latest_version", "24.04 LTS")),
        ("Nestlé", "Number of employees: 277,000 (2024)", ("employees_count", "277,000")),
        ("Acme", "Employees: 1.2 million", ("employees_count", "1.2 million")),
    ],
)
def test_things_of_every_kind_are_read(title: str, line: str, expected: tuple[str, str]) -> None:
    ((relation, value, role, _, _),) = _read(title, line)
    assert (relation, value, role) == (*expected, "current")


@pytest.mark.parametrize(
    ("line", "day"),
    [
        ("Stable release: 3.14.1 / 2 December 2025", "2025-12-02"),
        ("Stable release: 3.14.1 (December 2025)", "2025-12"),
        ("Stable release: 3.14.1", None),
    ],
)
def test_a_version_is_dated_by_what_follows_it(line: str, day: str | None) -> None:
    (claim,) = _claims("Python", line)
    assert (claim.valid_from, claim.dated_by) == (day, "text" if day else "none")


def test_key_people_are_told_apart_by_their_titles() -> None:
    line = "Key people: Tim Cook (CEO), Arthur Levinson (chair), Jane Doe (former CEO)"
    assert [row[:2] for row in _read("Apple", line)] == [
        ("ceo", "Tim Cook"),
        ("chair", "Arthur Levinson"),
    ]


def test_several_spells_in_one_field_are_a_history() -> None:
    assert _read("Apple", "CEO: Steve Jobs (1997–2011), Tim Cook (2011–present)") == [
        ("ceo", "Steve Jobs", "former", "1997", "2011"),
        ("ceo", "Tim Cook", "current", "2011", None),
    ]
    assert _read("Apple", "CEO: Jane Doe (until May 2020)") == [
        ("ceo", "Jane Doe", "former", None, "2020-05")
    ]
    assert _read("Apple", "CEO: Jane Doe (from 1 January 2030)") == [
        ("ceo", "Jane Doe", "future", "2030-01-01", None)
    ]


def test_an_interim_holder_in_brackets_is_marked() -> None:
    (claim,) = _claims("Apple", "CEO: Jane Doe (interim)")
    assert claim.acting


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Netflix", "CEO: Ted Sarandos, Greg Peters"),
        ("Netflix", "CEO: Ted Sarandos and Greg Peters"),
        ("Netflix", "CEO: Ted Sarandos (since 2020); Greg Peters (since 2023), both"),
        ("Apple", "CEO: Jane Doe (designate)"),
        ("Apple", "CEO: former CEO Jane Doe"),
        ("Apple", "CEO: vacant"),
        ("Apple", "CEO: TBD"),
        ("Apple", "CEO 2019: Jane Doe"),
        ("Apple", "CEO | Jane Doe | 2011 | 2020"),
        ("Apple", "CEO = {{nowrap|Jane Doe}}"),
        ("Apple", "Headquarters: London and Paris"),
        ("Apple", "Headquarters: 1 Apple Park Way, Cupertino, California"),
        ("Aruba", "currency: Aruban guilders/florins per US dollar -"),
        ("Chile", "currency: Chilean pesos (CLP) per US dollar -"),
        ("Python", "Stable release: 3.15.0rc1 / 2 December 2025"),
        ("Firefox", "Stable release: 131.0.1 (Windows), 130.2 (macOS)"),
        ("Moldova", "capital: Chisinau in Romanian (Kishinev in Russian)"),
        ("Benin", "capital: Porto-Novo (constitutional capital); Cotonou (seat of government)"),
        ("Apple", "Employees: over 5,000"),
        ("Apple", "Employees: 5,000–10,000"),
        ("Apple", "Employees: 5,000 or more"),
        ("Apple", "Employees: 10,000+"),
        ("Germany", "population: 18 births/1,000 population"),
        ("Germany", "population: 45% (2020)"),
        ("Germany", "population: no indigenous inhabitants (July 2021 est.)"),
        ("Germany", "population: 1,220,042 453,007,803 (July 2021 est.)"),
        ("Germany", "unemployment rate: 1,500,000 (2020)"),
        ("Germany", "unemployment rate: NA% (2020)"),
        ("Germany", "inflation rate: world average: 3.8% (2015 est.)"),
        ("Germany", "inflation rate: 8% (2015 est.) ++ 5% (2015 est.)"),
        ("Germany", "inflation rate: 8% (2035 est.)"),
    ],
)
def test_what_is_not_one_plain_present_value_is_not_read(title: str, line: str) -> None:
    assert _read(title, line) == []


@pytest.mark.parametrize(
    ("line", "value", "day"),
    [
        ("population: 146,836 (July 2013 est.)", "146,836", "2013-07"),
        ("population: 1.4 billion (2023 est.)", "1.4 billion", "2023"),
        ("population: 65,761,117 United Kingdom (July 2020 est.)", "65,761,117", "2020-07"),
        ("population: 9,043,387 (2023 est.) (includes the Golan Heights)", "9,043,387", "2023"),
        ("population: 20,172,332", "20,172,332", None),
        ("inflation rate: -2.4% (2013 est.)", "-2.4%", "2013"),
        ("unemployment rate: NA% (2017 est.) / 11.8% (2016 est.)", "11.8%", "2016"),
        ("GDP (official exchange rate): $1.2 trillion (2021 est.)", "$1.2 trillion", "2021"),
        ("life expectancy at birth > total population: 80.8 years", "80.8 years", None),
    ],
)
def test_numbers_keep_their_unit_and_their_year(line: str, value: str, day: str | None) -> None:
    ((_, read, role, since, _),) = _read("Germany", line)
    assert (read, role, since) == (value, "current", day)


@pytest.mark.parametrize(
    "lines",
    [
        ["inflation rate: 3.5% (2020 est.) 2.1% (2019 est.)"],
        ["inflation rate: 3.5% (2020 est.) ++ 2.1% (2019 est.)"],
        ["inflation rate: 2.1% (2019 est.) / 3.5% (2020 est.)"],
        ["Inflation rate 2019: 2.1% (2019 est.)", "Inflation rate 2020: 3.5% (2020 est.)"],
        ["Inflation rate 2020: 3.5%", "Inflation rate 2019: 2.1%"],
    ],
)
def test_of_several_years_the_newest_is_present_and_the_others_former(lines: list[str]) -> None:
    assert sorted(_read("Germany", *lines)) == [
        ("inflation_rate", "2.1%", "former", "2019", "2020"),
        ("inflation_rate", "3.5%", "current", "2020", None),
    ]


def test_two_fields_that_disagree_leave_the_slot_open() -> None:
    assert _read("Apple", "CEO: Tim Cook", "Chief executive: Jane Doe") == []
    assert _read("Apple", "CEO: Tim Cook", "Chief executive: Timothy Cook (since 2011)") == [
        ("ceo", "Timothy Cook", "current", "2011", None)
    ]


def test_a_title_in_another_field_yields_to_the_field_of_the_office_itself() -> None:
    branch = "Government > Executive branch > "
    assert [
        row[:2]
        for row in _read(
            "Kenya",
            branch + "head of government: President Jane DOE (since 2022)",
            branch + "chief of state: President William RUTO (since 13 September 2022)",
        )
    ] == [("head_of_state", "William Ruto")]


_LINES = [
    "Government > Executive branch > chief of state: President Bola TINUBU (since 29 May 2023)",
    "Government > Executive branch > head of government: President Bola TINUBU (since 2023)",
    "Government > Capital > name: Abuja",
    "People and Society > Population: 230,842,743 (2023 est.)",
    "Economy > Unemployment rate > Unemployment rate 2021: 9.79% (2021 est.)",
    "Economy > Unemployment rate > Unemployment rate 2020: 9.71% (2020 est.)",
    "Economy > Overview: West Africa's largest economy",
    "currency = [[naira]]",
]


def _content(lines: list[str]) -> set[tuple[object, ...]]:
    return {
        (c.relation, c.object, c.role, c.title, c.valid_from, c.valid_until, c.quote)
        for c in _claims("Nigeria", "\n".join(lines))
    }


@settings(deadline=None)
@given(st.permutations(_LINES))
def test_the_order_of_the_lines_changes_no_claim(lines: list[str]) -> None:
    assert _content(lines) == _content(_LINES)
    assert len(_content(_LINES)) == 6


_VALUES = st.text(alphabet="Ab(3.,)–;/%[]|={} \t2019'", max_size=60)


@settings(deadline=None)
@given(st.sampled_from(["ceo", "population", "capital", "stable release", "key people"]), _VALUES)
@example("ceo", "[[A b (2019")
@example("population", "3.,(2019)")
def test_whatever_a_value_is_quotes_are_exact_and_reading_again_is_the_same(
    name: str, value: str
) -> None:
    text = f"{name}: {value}"
    assert _claims("Acme", text) == _claims("Acme", text)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_a_text_without_a_known_field_gives_no_claim(text: str) -> None:
    unknown = "\n".join(f"colour of {line}" for line in text.split("\n"))
    assert _claims("Germany", unknown) == []
    assert _claims("Acme", unknown) == []


def test_a_hostile_value_is_read_in_no_time() -> None:
    for part in ("since 2011 ", "(", ";", "1,", "x (2011", "and "):
        _claims("Acme", "ceo: " + part * 20_000)
        _claims("Acme", "employees: " + part * 20_000)
