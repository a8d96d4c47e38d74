"""Claims become a history by rules that do not depend on the order in which they come."""

from datetime import datetime
from itertools import permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_samples import NOW, a_claim, after, former, future, same_name

from store.records import Claim, ClaimRole, Fact
from store.timeline import (
    Spell,
    agree,
    assimilate,
    current,
    day_key,
    later,
    past,
    timeline,
)

TODAY = "2026-11-02"


def brief(*claims: Claim, single: bool = True) -> list[tuple[str, str | None, str | None]]:
    return [
        (spell.object, spell.valid_from, spell.valid_until)
        for spell in timeline(claims, same_name, single)
    ]


def rows(*claims: Claim, single: bool = True) -> list[Fact]:
    return list(assimilate([], claims, same_name, NOW, single).insert)


def now_held(*claims: Claim, today: str = TODAY, single: bool = True) -> list[str]:
    return [fact.object for fact in current(rows(*claims, single=single), today)]


def once_held(*claims: Claim, today: str = TODAY) -> list[str]:
    return [fact.object for fact in past(rows(*claims), today)]


MERKEL = former("Angela Merkel", "2005-11-22", "2021-12-08")
SCHOLZ = former("Olaf Scholz", "2021-12-08", "2025-05-06")
MERZ = a_claim("Friedrich Merz", "2025-05-06", title="chancellor")


# Days


def test_a_partial_day_stands_before_the_days_it_contains() -> None:
    days = ["2018-04-26", "2018", "2019", "2018-04", "2018-12"]
    assert sorted(days, key=day_key) == ["2018", "2018-04", "2018-04-26", "2018-12", "2019"]


def test_days_agree_when_one_may_be_the_other() -> None:
    assert agree("2018", "2018-04")
    assert agree("2018-04-26", "2018")
    assert not agree("2018-04", "2018-05")
    assert not later("2018-04", "2018")
    assert later("2018-05", "2018-04-26")


@pytest.mark.parametrize("day", ["today", "", "2018-04-26-11", "2018-"])
def test_what_is_no_day_is_refused(day: str) -> None:
    with pytest.raises(ValueError, match=r"day|int"):
        day_key(day)


# One value


def test_a_second_source_supports_the_same_row() -> None:
    (spell,) = timeline(
        [
            a_claim("Friedrich Merz", "2025-05-06", title="chancellor", id="1"),
            a_claim("Merz", None, title="chancellor", id="2"),
            a_claim("Friedrich MERZ", "2025", title="federal chancellor", id="3"),
        ],
        same_name,
    )
    assert spell == Spell(
        "Friedrich Merz",
        "2025-05-06",
        None,
        former=False,
        acting=False,
        titles=("chancellor", "federal chancellor"),
        claim_ids=("1", "2", "3"),
    )


def test_a_later_mention_of_the_holder_does_not_move_the_start() -> None:
    mention = a_claim("Friedrich Merz", "2026-03-01", dated_by="published")
    assert brief(MERZ, mention) == [("Friedrich Merz", "2025-05-06", None)]


def test_a_stated_start_is_worth_more_than_a_publication_date() -> None:
    early = a_claim("Friedrich Merz", "2025-05-01", dated_by="published")
    assert brief(early, MERZ) == [("Friedrich Merz", "2025-05-06", None)]


def test_a_spelling_that_fits_two_people_stands_alone() -> None:
    claims = [
        former("George H. W. Bush", "1989-01-20", "1993-01-20"),
        former("George W. Bush", "2001-01-20", "2009-01-20"),
        former("Bush", "2003", "2004"),
    ]
    assert [name for name, *_ in brief(*claims)] == ["George H. W. Bush", "George W. Bush", "Bush"]


def test_an_acting_holder_is_marked_until_a_source_says_otherwise() -> None:
    acting = a_claim("Delcy Rodríguez", "2026-01-05", acting=True)
    confirmed = a_claim("Delcy Rodríguez", "2026-02-01")
    assert [spell.acting for spell in timeline([acting], same_name)] == [True]
    assert [spell.acting for spell in timeline([acting, confirmed], same_name)] == [False]


# Successions


def test_a_later_current_value_ends_the_earlier_one() -> None:
    assert brief(a_claim("Olaf Scholz", "2021-12-08"), MERZ) == [
        ("Olaf Scholz", "2021-12-08", "2025-05-06"),
        ("Friedrich Merz", "2025-05-06", None),
    ]


def test_an_earlier_current_value_goes_into_the_history() -> None:
    claims = [MERZ, SCHOLZ, a_claim("Angela Merkel", "2005-11-22")]
    assert brief(*claims)[0] == ("Angela Merkel", "2005-11-22", "2021-12-08")
    assert now_held(*claims) == ["Friedrich Merz"]


def test_an_outdated_source_cannot_bring_a_former_holder_back() -> None:
    claims = [a_claim("Nicolás Maduro", "2013-04-19"), a_claim("Delcy Rodríguez", "2026-01-05")]
    assert now_held(*claims) == ["Delcy Rodríguez"]
    assert once_held(*claims) == ["Nicolás Maduro"]


def test_a_list_of_holders_gives_their_history() -> None:
    assert brief(SCHOLZ, MERZ, MERKEL) == [
        ("Angela Merkel", "2005-11-22", "2021-12-08"),
        ("Olaf Scholz", "2021-12-08", "2025-05-06"),
        ("Friedrich Merz", "2025-05-06", None),
    ]
    assert once_held(SCHOLZ, MERZ, MERKEL) == ["Angela Merkel", "Olaf Scholz"]


def test_a_year_is_refined_by_the_day_of_the_succession() -> None:
    vague = former("Angela Merkel", "2005", "2021")
    assert brief(vague, a_claim("Olaf Scholz", "2021-12-08"))[0] == (
        "Angela Merkel",
        "2005",
        "2021-12-08",
    )


def test_a_person_may_hold_an_office_twice() -> None:
    claims = [
        former("Shinzo Abe", "2006-09-26", "2007-09-26"),
        former("Yasuo Fukuda", "2007-09-26", "2008-09-24"),
        former("Shinzo Abe", "2012-12-26", "2020-09-16"),
    ]
    assert [row for row in brief(*claims) if row[0] == "Shinzo Abe"] == [
        ("Shinzo Abe", "2006-09-26", "2007-09-26"),
        ("Shinzo Abe", "2012-12-26", "2020-09-16"),
    ]


def test_another_holder_in_between_makes_two_spells_without_stated_ends() -> None:
    claims = [a_claim("A", "2010"), a_claim("B", "2015"), a_claim("A", "2018")]
    assert brief(*claims) == [("A", "2010", "2015"), ("B", "2015", "2018"), ("A", "2018", None)]


def test_a_stray_value_does_not_shorten_a_stated_term() -> None:
    stray = a_claim("Jane Doe", "2015-03-01", dated_by="published")
    assert brief(MERKEL, stray, SCHOLZ) == [
        ("Angela Merkel", "2005-11-22", "2021-12-08"),
        ("Jane Doe", "2015-03-01", "2021-12-08"),
        ("Olaf Scholz", "2021-12-08", "2025-05-06"),
    ]


def test_an_undated_mention_supports_the_latest_spell() -> None:
    claims = [former("A", "2006", "2007"), a_claim("A", "2012"), a_claim("A", id="undated")]
    spells = timeline(claims, same_name)
    assert [("undated" in spell.claim_ids) for spell in spells] == [False, True]


def test_terms_that_follow_each_other_leave_the_present_one_open() -> None:
    claims = [former("A", "2009", "2013"), a_claim("A", "2013")]
    assert now_held(*claims) == ["A"]


def test_a_planned_end_gives_way_to_a_successor() -> None:
    elected = a_claim("Gabriel Attal", "2024-01-09", "2027-05")
    assert brief(elected, a_claim("Michel Barnier", "2024-09-05"))[0] == (
        "Gabriel Attal",
        "2024-01-09",
        "2024-09-05",
    )
    assert now_held(elected) == ["Gabriel Attal"]


# Former values


def test_a_successor_named_with_its_predecessor_ends_it() -> None:
    left = former("Olaf Scholz", None, "2025-05-06")
    assert brief(a_claim("Olaf Scholz", "2021-12-08"), left) == [
        ("Olaf Scholz", "2021-12-08", "2025-05-06")
    ]
    assert now_held(a_claim("Olaf Scholz", "2021-12-08"), left) == []


def test_a_former_value_without_any_date_is_past() -> None:
    assert now_held(former("Olaf Scholz")) == []
    assert once_held(former("Olaf Scholz")) == ["Olaf Scholz"]


def test_former_beats_current_where_neither_has_a_date() -> None:
    assert now_held(a_claim("Olaf Scholz"), former("Olaf Scholz")) == []


def test_an_undated_former_does_not_end_a_dated_second_time_in_office() -> None:
    claims = [a_claim("Donald Trump", "2025-01-20"), former("Donald Trump")]
    assert now_held(*claims) == ["Donald Trump"]


def test_the_publication_of_a_mention_as_former_is_only_a_bound() -> None:
    mention = former("Angela Merkel", "2023-06-01", dated_by="published")
    assert brief(MERKEL, mention) == [("Angela Merkel", "2005-11-22", "2021-12-08")]
    assert brief(a_claim("Angela Merkel", "2005-11-22"), SCHOLZ, mention)[0] == (
        "Angela Merkel",
        "2005-11-22",
        "2021-12-08",
    )
    assert brief(mention) == [("Angela Merkel", None, "2023-06-01")]


def test_an_end_after_the_known_term_is_a_second_term() -> None:
    assert brief(former("Shinzo Abe", "2006-09-26", "2007-09-26"), former("Abe", None, "2020")) == [
        ("Shinzo Abe", None, "2020"),
        ("Shinzo Abe", "2006-09-26", "2007-09-26"),
    ]


def test_impossible_dates_leave_what_can_be_believed() -> None:
    assert brief(former("A", "2021", "2005")) == [("A", None, "2005")]
    assert brief(a_claim("A", "2021", "2005")) == [("A", "2021", None)]


# Future values


def test_a_future_value_takes_over_on_its_day() -> None:
    claims = [MERZ, future("Jane Doe", "2027-01-20")]
    assert now_held(*claims, today="2027-01-19") == ["Friedrich Merz"]
    assert once_held(*claims, today="2027-01-19") == []
    assert now_held(*claims, today="2027-01-20") == ["Jane Doe"]
    assert once_held(*claims, today="2027-01-20") == ["Friedrich Merz"]


def test_a_future_value_without_a_date_from_the_text_leaves_no_trace() -> None:
    assert timeline([future("Jane Doe")], same_name) == []
    assert timeline([future("Jane Doe", "2026-01-01", dated_by="published")], same_name) == []


def test_a_handover_that_did_not_happen_is_mended_by_the_next_report() -> None:
    claims = [MERZ, future("Jane Doe", "2026-01-20"), a_claim("Friedrich Merz", "2026-02-01")]
    assert now_held(*claims) == ["Friedrich Merz"]


# Conflicts


def test_equal_starts_are_a_conflict() -> None:
    assert now_held(MERZ, a_claim("Jane Doe", "2025-05-06")) == ["Friedrich Merz", "Jane Doe"]


def test_starts_that_cannot_be_ordered_are_a_conflict() -> None:
    assert sorted(now_held(MERZ, a_claim("Jane Doe", "2025"))) == ["Friedrich Merz", "Jane Doe"]


def test_undated_values_are_a_conflict_until_one_is_called_former() -> None:
    claims = [a_claim("Friedrich Merz"), a_claim("Olaf Scholz")]
    assert now_held(*claims) == ["Friedrich Merz", "Olaf Scholz"]
    assert now_held(*claims, former("Olaf Scholz")) == ["Friedrich Merz"]


# Many values


def test_many_values_never_end_each_other() -> None:
    claims = [a_claim("Belgium", "1958"), a_claim("Croatia", "2013"), a_claim("Poland", "2004")]
    assert now_held(*claims, single=False) == ["Belgium", "Poland", "Croatia"]


def test_one_of_many_values_ends_by_itself() -> None:
    claims = [a_claim("Belgium", "1958"), former("United Kingdom", "1973", "2020-01-31")]
    assert now_held(*claims, single=False) == ["Belgium"]
    assert once_held(*claims) == ["Belgium", "United Kingdom"]


# Reading rows


def test_what_held_on_a_day_long_past_is_known() -> None:
    assert now_held(MERKEL, SCHOLZ, MERZ, today="2010-01-01") == ["Angela Merkel"]
    assert now_held(MERKEL, SCHOLZ, MERZ, today="2021-12-08") == ["Olaf Scholz"]
    assert now_held(MERKEL, SCHOLZ, MERZ, today="1990-01-01") == []


def test_an_ended_value_of_unknown_start_yields_to_dated_ones() -> None:
    assert now_held(MERKEL, former("Helmut Kohl", None, "2030"), today="2010-01-01") == [
        "Angela Merkel"
    ]


# Assimilation


def test_known_claims_change_nothing() -> None:
    claims = [MERKEL, SCHOLZ, MERZ]
    changes = assimilate(rows(*claims), claims, same_name, after(days=1))
    assert (changes.close, changes.insert) == ((), ())


def test_a_change_closes_the_old_row_and_inserts_its_successor() -> None:
    (scholz,) = rows(a_claim("Olaf Scholz", "2021-12-08", id="1"))
    changes = assimilate(
        [scholz], [a_claim("Olaf Scholz", "2021-12-08", id="1"), MERZ], same_name, after(days=1)
    )
    assert changes.close == (scholz.id,)
    ended, merz = changes.insert
    assert (ended.object, ended.valid_until) == ("Olaf Scholz", "2025-05-06")
    assert (merz.object, merz.recorded_from) == ("Friedrich Merz", after(days=1))
    assert scholz.valid_until is None  # the row itself stays as it was


def test_a_withdrawn_claim_takes_its_value_along() -> None:
    before = rows(SCHOLZ, MERZ)
    changes = assimilate(before, [SCHOLZ], same_name, NOW)
    assert [fact.object for fact in before if fact.id in changes.close] == ["Friedrich Merz"]
    assert changes.insert == ()


def test_a_clock_that_steps_back_does_not_close_rows_before_they_were_known() -> None:
    before = rows(a_claim("Olaf Scholz", "2021-12-08"))
    claims = [a_claim("Olaf Scholz", "2021-12-08"), MERZ]
    changes = assimilate(before, claims, same_name, after(days=-5))
    assert {fact.recorded_from for fact in changes.insert} == {NOW}


# Properties

DAYS = st.one_of(
    st.integers(2000, 2006).map(str),
    st.tuples(st.integers(2000, 2006), st.integers(1, 12)).map(lambda d: f"{d[0]}-{d[1]:02}"),
    st.dates(min_value=datetime(2000, 1, 1).date(), max_value=datetime(2006, 12, 31).date()).map(
        str
    ),
)


@st.composite
def some_claims(draw: st.DrawFn, dated: bool) -> list[Claim]:
    size = draw(st.integers(1, 9))
    return [
        a_claim(
            draw(st.sampled_from(["Ann Lee", "Lee", "Bob Ray", "BOB RAY", "Cy Dow", "Eve"])),
            draw(DAYS if dated else st.none() | DAYS),
            draw(st.none() | DAYS),
            role=draw(st.sampled_from(ClaimRole)),
            dated_by=draw(st.sampled_from(["text", "published"])),
            acting=draw(st.booleans()),
            title=draw(st.sampled_from(["", "president", "prime minister"])),
            id=f"{number:03}",
        )
        for number in range(size)
    ]


def one_by_one(claims: list[Claim], single: bool) -> list[Fact]:
    open_rows: list[Fact] = []
    for count in range(1, len(claims) + 1):
        changes = assimilate(open_rows, claims[:count], same_name, after(minutes=count), single)
        open_rows = [fact for fact in open_rows if fact.id not in changes.close]
        open_rows += changes.insert
    return open_rows


def content(facts: list[Fact]) -> set[tuple[object, ...]]:
    return {
        (f.object, f.valid_from, f.valid_until, f.former, f.acting, f.titles, f.claim_ids)
        for f in facts
    }


@settings(max_examples=150, deadline=None)
@given(some_claims(dated=True), st.randoms(use_true_random=False), st.booleans())
def test_dated_claims_give_the_same_history_in_any_order(
    claims: list[Claim], random: Random, single: bool
) -> None:
    shuffled = list(claims)
    random.shuffle(shuffled)
    assert content(one_by_one(claims, single)) == content(one_by_one(shuffled, single))


@settings(max_examples=150, deadline=None)
@given(some_claims(dated=False), st.booleans())
def test_every_history_is_sound(claims: list[Claim], single: bool) -> None:
    spells = timeline(claims, same_name, single)
    told = [claim for spell in spells for claim in spell.claim_ids]
    assert sorted(told) == sorted(set(told))  # a claim supports one spell
    silent = {claim.id for claim in claims} - set(told)
    assert all(claim.role is ClaimRole.FUTURE for claim in claims if claim.id in silent)
    for spell in spells:
        if spell.valid_from and spell.valid_until:
            assert not later(spell.valid_from, spell.valid_until)
    open_rows = rows(*claims, single=single)
    assert assimilate(open_rows, claims * 2, same_name, after(days=1), single).insert == ()
    if single:
        holding = [f for f in current(open_rows, "2030-01-01") if f.valid_from]
        assert all(
            agree(one.valid_from or "", other.valid_from or "")
            for one, other in permutations(holding, 2)
            if len(one.valid_from or "") == len(other.valid_from or "")
        )
