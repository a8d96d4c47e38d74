"""Statements of entities: what ranks and qualifiers say of today, and what they leave open."""

import dataclasses
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.extractors import fields, holders, patterns, wikidata
from detectors.extractors.wikidata_lines import (
    Item,
    Statement,
    item_line,
    read_item,
    read_statement,
    statement_line,
    writable,
)
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()
GERMANY = Item("Q183", "Germany", "country", "Germany")
APPLE = Item("Q312", "Apple Inc.", "other", "Apple Inc.")

FORMER, CURRENT, FUTURE = ClaimRole.FORMER, ClaimRole.CURRENT, ClaimRole.FUTURE


def document(text: str, title: str = "Germany") -> Document:
    return Document("d", "feed", "u", title, text, NOW, NOW, "h")


def says(item: Item, property_id: str, value: str, **more: Any) -> Statement:
    """A statement; its value is an entity of that label unless the form is given."""
    ids = {"value_id": f"Q{sum(map(ord, value)) + 1000}"} if "form" not in more else {}
    given = {"form": "entity", "value": value, **ids, **more}
    return Statement(item.id, item.label, property_id, **given)


def text_of(item: Item, *statements: Statement) -> str:
    return "\n".join([item_line(item), *(statement_line(one, "label") for one in statements)])


def claims_of(text: str) -> list[Claim]:
    found = wikidata.extract(document(text), REGISTRY, NOW)
    assert all(text[c.start : c.end] == c.quote for c in found)
    return found


def read(item: Item, *statements: Statement) -> list[tuple[str, str, ClaimRole]]:
    return [(c.relation, c.object, c.role) for c in claims_of(text_of(item, *statements))]


def test_a_dated_statement_is_a_claim_with_its_whole_line_as_the_quote() -> None:
    stated = says(GERMANY, "P6", "Friedrich Merz", start="2025-05-06", preferred=True)
    [claim] = claims_of(text_of(GERMANY, stated))
    assert (claim.subject, claim.relation, claim.object) == (
        "Germany",
        "head_of_government",
        "Friedrich Merz",
    )
    assert (claim.role, claim.valid_from, claim.valid_until) == (CURRENT, "2025-05-06", None)
    assert (claim.dated_by, claim.extractor, claim.acting) == ("text", "wikidata", False)
    assert claim.quote == statement_line(stated, "label")


@pytest.mark.parametrize(
    ("start", "end", "role", "dates"),
    [
        (None, None, CURRENT, (None, None, "none")),
        ("2021", None, CURRENT, ("2021", None, "text")),
        ("2021-12", None, CURRENT, ("2021-12", None, "text")),
        ("2026-03-01", None, CURRENT, ("2026-03-01", None, "text")),
        ("2021", "2027-01-01", CURRENT, ("2021", "2027-01-01", "text")),
        ("2021-12-08", "2025-05-06", FORMER, ("2021-12-08", "2025-05-06", "text")),
        (None, "2025", FORMER, (None, "2025", "text")),
        ("2021", "2026-03-01", FORMER, ("2021", "2026-03-01", "text")),
        ("2021", "unknown", FORMER, ("2021", None, "text")),
        ("1940", "1940s", FORMER, ("1940", None, "text")),
        (None, "unknown", FORMER, (None, None, "none")),
        ("2026-03-02", None, FUTURE, ("2026-03-02", None, "text")),
        ("2027", "2031", FUTURE, ("2027", "2031", "text")),
    ],
)
def test_qualifiers_decide_the_role(
    start: str | None, end: str | None, role: ClaimRole, dates: tuple[str | None, ...]
) -> None:
    [claim] = claims_of(text_of(GERMANY, says(GERMANY, "P6", "Olaf Scholz", start=start, end=end)))
    assert claim.role is role
    assert (claim.valid_from, claim.valid_until, claim.dated_by) == dates


@pytest.mark.parametrize(
    "more",
    [
        {"end": "2026"},  # this year: over, or still to come?
        {"end": "2026-03"},
        {"end": "2020s"},
        {"start": "2022", "end": "2021"},
        {"doubtful": True},
        {"point": "2015"},  # held on that day; since?
        {"value": ""},
    ],
)
def test_a_statement_that_leaves_it_open_says_nothing(more: dict[str, Any]) -> None:
    assert read(GERMANY, dataclasses.replace(says(GERMANY, "P6", "Olaf Scholz"), **more)) == []


def test_a_deprecated_rank_is_not_even_a_statement() -> None:
    line = statement_line(says(GERMANY, "P6", "Olaf Scholz"))
    assert read_statement(line)
    assert read_statement(line.replace("normal rank", "deprecated rank")) is None


def test_a_preferred_value_stands_before_normal_ones() -> None:
    assert read(
        GERMANY,
        says(GERMANY, "P6", "Olaf Scholz", start="2021"),
        says(GERMANY, "P6", "Friedrich Merz", start="2025", preferred=True),
    ) == [("head_of_government", "Friedrich Merz", CURRENT)]


@pytest.mark.parametrize(
    "blocking",
    [
        {"form": "nothing", "value": "", "value_id": ""},  # a vacancy
        {"value": ""},  # a value without a label
        {"doubtful": True},
        {"end": "2026"},
    ],
)
def test_a_preferred_statement_without_a_usable_value_still_stands_before_others(
    blocking: dict[str, Any],
) -> None:
    preferred = dataclasses.replace(
        says(GERMANY, "P6", "Friedrich Merz", preferred=True), **blocking
    )
    assert read(GERMANY, says(GERMANY, "P6", "Olaf Scholz", start="2021"), preferred) == []


def test_a_single_valued_relation_with_two_present_values_says_nothing_of_today() -> None:
    assert read(
        GERMANY,
        says(GERMANY, "P6", "Olaf Scholz", start="2021"),
        says(GERMANY, "P6", "Friedrich Merz", start="2025"),
        says(GERMANY, "P6", "Angela Merkel", start="2005", end="2021"),
    ) == [("head_of_government", "Angela Merkel", FORMER)]


def test_one_holder_in_two_open_terms_is_one_value() -> None:
    merz = says(GERMANY, "P6", "Friedrich Merz", start="2025")
    again = dataclasses.replace(merz, start="2025-11")
    assert len(read(GERMANY, merz, again)) == 2


def test_a_many_valued_relation_gives_every_present_value() -> None:
    assert read(
        APPLE,
        says(APPLE, "P127", "Vanguard Group", start="2010"),
        says(APPLE, "P127", "BlackRock"),
        says(APPLE, "P127", "Mike Markkula", end="1997"),
    ) == [
        ("owner", "Vanguard Group", CURRENT),
        ("owner", "BlackRock", CURRENT),
        ("owner", "Mike Markkula", FORMER),
    ]


def test_the_office_that_the_item_names_gives_the_title() -> None:
    office = says(GERMANY, "P1313", "Federal Chancellor of Germany")
    holder = says(GERMANY, "P6", "Friedrich Merz")
    assert [claim.title for claim in claims_of(text_of(GERMANY, office, holder))] == ["chancellor"]
    assert [claim.title for claim in claims_of(text_of(GERMANY, holder))] == [""]


@pytest.mark.parametrize(
    ("item", "property_id", "office", "relation"),
    [
        (GERMANY, ("P6", "P1313"), "", "head_of_government"),
        (GERMANY, ("P35", "P1906"), "President of Germany", "head_of_state"),
        (GERMANY, ("P35", "P1906"), "", "head_of_state"),
        (Item("Q794", "Iran", "country"), ("P35", "P1906"), "Supreme Leader of Iran",
         "supreme_leader"),
        (Item("Q99", "California", "other"), ("P6", "P1313"), "Governor of California", "governor"),
        (Item("Q65", "Los Angeles"), ("P6", "P1313"), "mayor of Los Angeles", "mayor"),
        (Item("Q65", "Los Angeles"), ("P6", "P1313"), "", None),  # governor or mayor?
        (Item("Q9630", "Labour Party of Malta"), ("P488", "P1313"), "", "chair"),  # not its leader
    ],
)  # fmt: skip
def test_one_property_is_several_relations_told_apart_by_the_office(
    item: Item, property_id: tuple[str, str], office: str, relation: str | None
) -> None:
    rows = [says(item, property_id[0], "Jane Doe")]
    rows += [says(item, property_id[1], office)] if office else []
    assert [found[0] for found in read(item, *rows)] == ([relation] if relation else [])


def test_an_acting_holder_is_marked() -> None:
    [claim] = claims_of(text_of(APPLE, says(APPLE, "P169", "Jane Doe", acting=True)))
    assert claim.acting


def figures(item: Item, property_id: str, *points: tuple[str, str | None]) -> list[Statement]:
    return [says(item, property_id, n, form="number", point=point) for n, point in points]


def test_of_figures_the_newest_is_current_and_older_ones_end_with_the_next() -> None:
    rows = figures(GERMANY, "P1082", ("80,219,695", "2011-05-09"), ("83,577,140", "2024"),
                   ("82,792,351", "2017"))  # fmt: skip
    found = [
        (c.object, c.role, c.valid_from, c.valid_until) for c in claims_of(text_of(GERMANY, *rows))
    ]
    assert found == [
        ("80,219,695", FORMER, "2011-05-09", "2017"),
        ("83,577,140", CURRENT, "2024", None),
        ("82,792,351", FORMER, "2017", "2024"),
    ]


def test_figures_that_disagree_on_the_newest_day_leave_the_present_open() -> None:
    rows = figures(GERMANY, "P1082", ("80,219,695", "2024-05"), ("83,577,140", "2024"))
    assert read(GERMANY, *rows) == []
    preferred = dataclasses.replace(rows[1], preferred=True)
    assert ("population", "83,577,140", CURRENT) in read(GERMANY, rows[0], preferred)


def test_projections_and_undated_figures_beside_dated_ones_are_not_read() -> None:
    rows = figures(GERMANY, "P1082", ("70,000,000", "2050"), ("83,577,140", "2024"), ("1", None))
    assert read(GERMANY, *rows) == [("population", "83,577,140", CURRENT)]


def test_a_figure_alone_needs_no_date() -> None:
    assert read(GERMANY, *figures(GERMANY, "P1082", ("83,577,140", None))) == [
        ("population", "83,577,140", CURRENT)
    ]


def test_only_so_many_former_figures_are_taken_and_a_long_series_costs_no_time() -> None:
    began = time.perf_counter()
    points = [(f"{1000 + 50 * year:,}", str(year)) for year in range(1500, 2000)]
    found = read(GERMANY, *figures(GERMANY, "P1082", *points))
    assert time.perf_counter() - began < 2.0
    assert [role for _, _, role in found].count(FORMER) == 20
    assert found[-1] == ("population", "100,950", CURRENT)


@pytest.mark.parametrize(
    ("property_id", "unit", "shown"),
    [
        ("P1198", "percent", "3.4%"),
        ("P1198", "", None),
        ("P1198", "year", None),
        ("P2250", "year", "3.4 years"),
        ("P2250", "", None),
        ("P2131", "United States dollar", "$3.4"),
        ("P2131", "euro", None),
        ("P1082", "", "3.4"),
        ("P1082", "percent", None),
    ],
)
def test_a_figure_in_another_unit_is_another_figure(
    property_id: str, unit: str, shown: str | None
) -> None:
    stated = says(GERMANY, property_id, "3.4", form="number", unit=unit)
    assert [claim[1] for claim in read(GERMANY, stated)] == ([shown] if shown else [])


def test_a_version_is_dated_by_its_publication() -> None:
    python = Item("Q28865", "Python", "other", "Python (programming language)")
    assert read(python, says(python, "P348", "3.14.1", form="text")) == []  # whose name is it?
    linux = Item("Q14579", "Linux kernel", "other", "Linux kernel")
    rows = [
        says(linux, "P348", number, form="text", point=day)
        for number, day in (("6.18", "2025-11-30"), ("6.17", "2025-09-28"))
    ]
    assert read(linux, *rows) == [
        ("latest_version", "6.18", CURRENT),
        ("latest_version", "6.17", FORMER),
    ]


@pytest.mark.parametrize(
    ("item", "subject"),
    [
        (Item("Q230", "Georgia", "country", "Georgia (country)"), "Georgia"),
        (Item("Q1428", "Georgia", "other", "Georgia (U.S. state)"), None),
        (Item("Q1428", "Georgia", "", "Georgia (U.S. state)"), None),
        (Item("Q1428", "Georgia", "other"), None),
        (Item("Q27", "Ireland", "country", "Republic of Ireland"), "Ireland"),
        (Item("Q183", "Germany"), "Germany"),
        (Item("Q836", "Burma", "country"), "Myanmar"),
        (Item("Q312", "Apple Inc.", "other", "Apple Inc."), "Apple"),
        (Item("Q3884", "Amazon", "other", "Amazon (company)"), "Amazon"),
        (Item("Q830149", "Paris", "other", "Paris, Texas"), "Paris, Texas"),
        (Item("Q90", "Paris", "other", "Paris"), "Paris"),
        (Item("Q5", "Danny Ward", "other", "Danny Ward (footballer, born 1993)"), None),
        (Item("Q6", "Bank of Spain", "other", "Banco de España"), "Bank of Spain"),
    ],
)
def test_a_subject_is_taken_only_under_a_name_of_its_own(item: Item, subject: str | None) -> None:
    assert wikidata.subject_of(item) == subject


def test_two_items_of_one_name_are_both_left_out() -> None:
    other = Item("Q9", "Apple", "other")
    blocks = [text_of(item, says(item, "P169", "Tim Cook")) for item in (APPLE, other)]
    assert claims_of("\n".join(blocks)) == []
    assert len(claims_of(blocks[0])) == 1


def test_two_values_of_one_name_in_a_relation_are_both_left_out() -> None:
    older = says(APPLE, "P169", "John Smith", end="1990", value_id="Q1")
    newer = says(APPLE, "P169", "John Smith", start="2020", value_id="Q2")
    assert read(APPLE, older, newer) == []
    assert len(read(APPLE, older, dataclasses.replace(newer, value_id="Q1"))) == 2


def test_properties_that_are_stated_of_the_object_are_not_read() -> None:
    merkel = Item("Q567", "Angela Merkel", "other")
    assert read(merkel, says(merkel, "P39", "Foreign Minister")) == []
    assert read(merkel, says(merkel, "P166", "Nobel Prize")) == []


def test_lines_of_another_kind_of_document_are_not_read() -> None:
    line = statement_line(says(GERMANY, "P6", "Jane Doe"))
    article = f"Somebody wrote this.\n{item_line(GERMANY)}\n{line}"
    assert not wikidata.reads(document(article))
    assert claims_of(article) == []
    assert claims_of(line) == []  # an item must be opened first
    assert claims_of(f"{item_line(APPLE)}\n{line}") == []


def test_other_extractors_find_nothing_in_these_lines() -> None:
    hostile = Item("Q1", "CEO: Jane Doe is sworn in as president of Nigeria", "other")
    rows = [
        says(hostile, "P169", "a > head of government: John Roe"),
        says(hostile, "P6", "Jane Doe (2019 – present)"),
    ]
    text = text_of(hostile, *rows) + "\n" + text_of(GERMANY, says(GERMANY, "P6", "Jane Doe"))
    titled = dataclasses.replace(document(text, "List of presidents of Nigeria"), published=None)
    for extractor in (fields, holders, patterns):
        assert extractor.extract(titled, REGISTRY, NOW) == []


LABELS = st.text(min_size=1, max_size=40).map(writable).filter(bool)
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "Evil | P6: head of government | Q6: Jane Doe | preferred rank",
            "Evil\nQ183: Germany | P6: x | Q6: Jane Doe | preferred rank",
            "Evil\u2028Q183: Germany | P6: x | Q6: Jane Doe | preferred rank",
            "Evil\x85Q183: Germany | item",
            "no value",
            "number 5",
            "x | acting",
            "Q6: Jane Doe",
            "e" * 10_000,
        ]
    ),
)
DAYS = st.sampled_from([None, "2019", "2021-12", "2025-05-06", "2031-01-01"])


@st.composite
def statements(draw: st.DrawFn, item: Item = GERMANY) -> Statement:
    form = draw(st.sampled_from(["entity", "number", "text", "nothing"]))
    value = draw(LABELS) if form == "text" else draw(st.sampled_from(["12", "3.5"]))
    if form == "entity":
        value = draw(st.one_of(LABELS, st.just("")))
    return Statement(
        item.id,
        item.label,
        draw(st.sampled_from(["P6", "P35", "P36", "P38", "P1082", "P1313", "P190"])),
        form,
        value_id=f"Q{draw(st.integers(1, 20))}" if form == "entity" else "",
        value="" if form == "nothing" else value,
        unit=draw(st.sampled_from(["", "percent"])) if form == "number" else "",
        preferred=draw(st.booleans()),
        start=draw(DAYS),
        end=draw(st.one_of(DAYS, st.sampled_from(["unknown", "1940s"]))),
        point=draw(DAYS),
        acting=draw(st.booleans()),
        doubtful=draw(st.booleans()),
    )


@given(statements())
def test_a_statement_is_read_back_as_it_was_written(stated: Statement) -> None:
    line = statement_line(stated, "a label")
    assert read_statement(line) == stated
    assert read_item(line) is None
    assert "\n" not in line


@given(LABELS, st.sampled_from(["", "country", "other"]), st.one_of(st.just(""), LABELS))
def test_an_item_is_read_back_as_it_was_written(label: str, kind: str, article: str) -> None:
    item = Item("Q7", label, kind, article)
    assert read_item(item_line(item)) == item


@given(HOSTILE)
def test_what_is_writable_can_not_leave_its_field(text: str) -> None:
    label = writable(text)
    assert "|" not in label
    assert len(label) <= 120
    assert len(label.splitlines()) <= 1
    stated = dataclasses.replace(says(GERMANY, "P6", "x"), value=label)
    assert read_statement(statement_line(stated)) == stated


@given(st.lists(statements(), max_size=8), st.randoms())
def test_the_order_of_statements_changes_nothing(rows: list[Statement], random: Any) -> None:
    def content(given: list[Statement]) -> list[Any]:
        return sorted(
            (c.relation, c.object, c.role, c.title, str(c.valid_from), str(c.valid_until), c.acting)
            for c in claims_of(text_of(GERMANY, *given))
        )

    shuffled = random.sample(rows, len(rows))
    assert content(rows) == content(shuffled)


@given(st.lists(statements(), min_size=1, max_size=6), HOSTILE)
def test_a_hostile_label_changes_no_other_claim(rows: list[Statement], hostile: str) -> None:
    evil = Statement("Q183", "Germany", "P6", "entity", "Q6", writable(hostile))
    rest = [row for row in rows if row.property not in ("P6", "P1313")]
    before = {(c.relation, c.object) for c in claims_of(text_of(GERMANY, *rest))}
    after = {(c.relation, c.object) for c in claims_of(text_of(GERMANY, *rest, evil))}
    assert before <= after
    assert {relation for relation, _ in after - before} <= {"head_of_government"}


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    claims_of(f"{item_line(GERMANY)}\n{text}")


def test_a_hundred_entities_a_second_are_read() -> None:
    rows = [
        says(GERMANY, property_id, f"{name} Doe", start=str(2000 + n), end=str(2001 + n))
        for property_id in ("P6", "P35", "P36", "P38")
        for n, name in enumerate(["Jane", "John", "Ann", "Max", "Eva"])
    ]
    text = text_of(GERMANY, *rows, *figures(GERMANY, "P1082", ("1", "2001"), ("2", "2002")))
    began = time.perf_counter()
    for _ in range(20):
        assert len(claims_of(text)) == 22
    assert time.perf_counter() - began < 0.2 * 5  # five times the bound, for a busy machine
