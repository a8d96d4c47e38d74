"""The retention monitor: the bound decides, samples are spread, fallen edits go back to memory."""

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NOW, an_edit

from agent.battery import Result
from agent.retention import assess, sampled
from editors.metrics import wilson
from store.records import Edit, ProbeKind

MERZ = an_edit()
COOK = an_edit("Tim Cook", "Apple", "ceo", "CEO", "Steve Jobs")


def results(edit: Edit, kind: ProbeKind, *passed: bool, leaked: bool = False) -> list[Result]:
    return [Result(edit.id, kind, f"{kind} {n}", "", ok, leaked) for n, ok in enumerate(passed)]


def test_the_lower_bound_triggers_and_not_the_point() -> None:
    # 8 of 10 is above a floor of 0.6, its lower bound (0.49) is not.
    found = assess(
        "x", NOW, [MERZ], results(MERZ, ProbeKind.PARAPHRASE, *[True] * 8, False, False), 0.6
    )
    assert found.run.pass_rate == wilson(8, 10)
    assert found.run.pass_rate.point > 0.6 > found.run.pass_rate.low
    assert found.triggered
    # 80 of 100 has its bound (0.71) above it.
    many = results(MERZ, ProbeKind.PARAPHRASE, *[True] * 80, *[False] * 20)
    assert not assess("x", NOW, [MERZ], many, 0.6).triggered
    assert assess("x", NOW, [MERZ], many, 0.72).triggered


def test_a_bound_on_the_floor_does_not_trigger() -> None:
    same = results(MERZ, ProbeKind.PARAPHRASE, *[True] * 8, False, False)
    assert not assess("x", NOW, [MERZ], same, wilson(8, 10).low).triggered


def test_a_perfect_run_of_few_probes_triggers_nothing() -> None:
    assert wilson(5, 5).low < 0.6
    perfect = results(MERZ, ProbeKind.PARAPHRASE, *[True] * 5)
    assert not assess("x", NOW, [MERZ], perfect, 0.6).triggered
    one_wrong = results(MERZ, ProbeKind.PARAPHRASE, *[True] * 4, False)
    assert assess("x", NOW, [MERZ], one_wrong, 0.6).triggered


def test_nothing_asked_triggers_nothing() -> None:
    found = assess("x", NOW, [], [], 0.6)
    assert not found.triggered
    assert (found.run.pass_rate.n, found.run.kinds, found.fallen) == (0, (), ())


def test_locality_probes_do_not_count_as_retained() -> None:
    local = results(MERZ, ProbeKind.SAME_SUBJECT, *[False] * 50)
    found = assess("x", NOW, [MERZ], [*results(MERZ, ProbeKind.EDIT, *[True] * 20), *local], 0.6)
    assert found.run.pass_rate == wilson(20, 20)
    assert not found.triggered
    assert {rate.kind: rate.share.point for rate in found.run.kinds} == {
        ProbeKind.EDIT: 1.0,
        ProbeKind.SAME_SUBJECT: 0.0,
    }


def test_an_edit_falls_when_its_own_question_fails() -> None:
    given = [
        *results(MERZ, ProbeKind.EDIT, True),
        *results(MERZ, ProbeKind.PARAPHRASE, False, False),
        *results(COOK, ProbeKind.EDIT, False, leaked=True),
        *results(COOK, ProbeKind.PARAPHRASE, True),
    ]
    found = assess("night", NOW, [MERZ, COOK], given, 0.6)
    assert found.fallen == (COOK,)
    assert [(e.label, e.passed, e.asked) for e in found.run.edits] == [
        ("chancellor of Germany", 1, 3),
        ("CEO of Apple", 1, 2),
    ]
    assert found.run.leaks == wilson(1, 5)
    assert (found.run.label, found.run.at, found.results) == ("night", NOW, tuple(given))


RELATIONS = ("head_of_state", "head_of_government", "ceo")


@st.composite
def ledgers(draw: st.DrawFn) -> list[Edit]:
    rows = draw(st.lists(st.tuples(st.sampled_from(RELATIONS), st.integers(0, 400)), max_size=60))
    base = dataclasses.replace(MERZ, probes=())
    return [
        dataclasses.replace(base, id=f"e{n}", relation=relation, created=NOW - timedelta(days=days))
        for n, (relation, days) in enumerate(rows)
    ]


@given(edits=ledgers(), size=st.integers(1, 40))
def test_a_sample_has_its_size_no_edit_twice_and_is_reproducible(
    edits: list[Edit], size: int
) -> None:
    drawn = sampled(edits, size, "seed")
    assert len(drawn) == min(size, len(edits))
    assert len({edit.id for edit in drawn}) == len(drawn)
    assert {edit.id for edit in drawn} <= {edit.id for edit in edits}
    assert sampled(edits, size, "seed") == drawn


@given(edits=ledgers())
def test_every_relation_of_every_age_is_in_a_sample_that_has_room(edits: list[Edit]) -> None:
    by_age = sorted(edits, key=lambda edit: edit.created)
    group = {e.id: (e.relation, 4 * n // len(by_age)) for n, e in enumerate(by_age)}
    size = len(set(group.values())) or 1
    drawn = sampled(edits, size, "seed")
    assert {group[edit.id] for edit in drawn} == set(group.values())


def test_another_seed_draws_another_sample() -> None:
    edits = [dataclasses.replace(MERZ, id=f"e{n}") for n in range(100)]
    samples = {tuple(e.id for e in sampled(edits, 10, str(seed))) for seed in range(5)}
    assert len(samples) == 5


@pytest.mark.parametrize("size", [1, 3])
def test_a_small_ledger_is_asked_whole_in_its_order(size: int) -> None:
    edits = [MERZ, COOK][:size]
    assert sampled(edits, 3, "seed") == edits
