"""The stream experiment: nights counted, samples spread, and what is served told apart."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from edit_benches import Nothing, Scripted, Spoken, a_bench, write_facts
from workspaces import toy_home

from agent.benchmarks.edit_run import Bench, fingerprint
from agent.benchmarks.retain_report import RetainBench, as_json, markdown, picture, tables
from agent.benchmarks.retain_run import (
    SERVED,
    UNEDITED,
    WEIGHTS,
    Night,
    Retained,
    Tier,
    retain,
    sampled,
)
from agent.benchmarks.retaining import Wanted, measure
from agent.config import ConfigError
from agent.progress import Silent
from editors.metrics import wilson
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_facts(tmp_path / "facts.jsonl")


@pytest.fixture
def bench(taught_model: ChatModel, data: Path, tmp_path: Path) -> Bench:
    return a_bench(taught_model, data, tmp_path)


def test_a_perfect_editor_keeps_every_night_right(bench: Bench, data: Path) -> None:
    made = retain(bench, "perfect", Scripted(data), {}, sample=10, tier=None)
    assert [night.edits for night in made.nights] == [2, 4]
    assert [[share.point for share in night.cohorts] for night in made.nights] == [[1], [1, 1]]
    assert [one.name for one in made.carried] == [UNEDITED, WEIGHTS]
    assert made.carried[1].scores["chat"].accuracy.point == made.carried[1].first.point == 1.0
    assert {age: share.n for age, share in made.by_age().items()} == {0: 4, 1: 2}


def test_an_edit_that_a_later_night_undoes_is_seen_in_the_older_nights_alone(
    bench: Bench, data: Path
) -> None:
    class Forgetful(Scripted):
        stacks = False

        def edit(
            self, model: ChatModel, state: None, requests: Sequence[EditRequest]
        ) -> Spoken:  # only the newest night's edits are carried
            return super().edit(model, state, requests[-2:])

    made = retain(bench, "forgetful", Forgetful(data), {}, sample=10, tier=None)
    assert [share.point for share in made.nights[-1].cohorts] == [0.0, 1.0]
    assert made.by_age()[1].point == 0.0
    assert made.by_age()[0].point == 1.0
    assert made.carried[-1].scores["chat"].accuracy.point == 0.5


def test_the_tier_stands_before_the_weights_only_at_the_end(bench: Bench, data: Path) -> None:
    script = Scripted(data)

    def tier() -> Tier:
        spoken = script.edit(bench.model, None, bench.chosen.requests)
        return Tier(spoken, lambda texts: [True] * len(texts))

    made = retain(bench, "nothing", Nothing(), {}, sample=10, tier=tier)
    assert [one.name for one in made.carried] == [UNEDITED, WEIGHTS, SERVED]
    accuracies = [one.scores["chat"].accuracy.point for one in made.carried]
    assert accuracies == [0.0, 0.0, 1.0]
    assert all(share.point == 0.0 for night in made.nights for share in night.cohorts)


@pytest.mark.parametrize("heard", [True, False])
def test_as_served_edited_weights_are_heard_where_an_edit_may_be_asked_for_alone(
    bench: Bench, heard: bool
) -> None:
    def tier() -> Tier:
        return Tier(Spoken({}), lambda texts: [heard] * len(texts))

    noisy = Nothing(change=0.5)
    unedited, weights, served = retain(bench, "noisy", noisy, {}, sample=10, tier=tier).carried
    assert weights.scores != unedited.scores
    assert weights.perplexity_ratio != unedited.perplexity_ratio
    assert dataclasses.replace(served, name="") == dataclasses.replace(
        weights if heard else unedited, name=""
    )
    assert unedited.ability.n == 0  # the toy model answers none of the easy questions


def test_a_night_that_fails_keeps_what_was_measured_before_and_the_weights(bench: Bench) -> None:
    before, told = fingerprint(bench.model), []
    failing = Nothing(fails_at=1, change=0.5)
    made = retain(bench, "failing", failing, {}, sample=10, tier=None, written=told.append)
    assert (made.error, len(made.nights), len(made.carried)) == ("cannot", 1, 1)
    assert told[-1] == made
    assert fingerprint(bench.model) == before


def test_weights_that_are_not_put_back_stop_the_run(bench: Bench) -> None:
    weight = next(bench.model.model.parameters())
    kept = weight.detach().clone()

    class Sticky(Nothing):
        def settled(self, model: ChatModel, state: int, requests: object) -> int:
            weight.data[0] += 1e-3
            return state + 1

    try:
        with pytest.raises(EditorError, match="sticky did not leave the weights"):
            retain(bench, "sticky", Sticky(), {}, sample=10, tier=None)
    finally:
        weight.data.copy_(kept)


def test_a_sample_has_the_whole_last_night_and_as_many_of_each_before(bench: Bench) -> None:
    record = bench.chosen.records[0]
    records = [dataclasses.replace(record, id=str(at)) for at in range(50)]
    chosen = [int(one.id) for one in sampled(records, 10, 8, "seed")]
    assert [sum(at // 10 == night for at in chosen) for night in range(5)] == [2, 2, 2, 2, 10]
    assert chosen == [int(one.id) for one in sampled(records, 10, 8, "seed")]
    assert [one.id for one in sampled(records[:7], 10, 1, "seed")] == list("0123456")


def test_growth_and_parameters_follow_from_the_nights() -> None:
    nights = tuple(
        Night(10 * n, seconds, 1.0, 100 * n, (wilson(1, 2),) * n)
        for n, seconds in ((1, 9.0), (2, 4.0), (3, 6.0))
    )
    made = Retained("some", nights=nights, parameters=10_000)
    assert made.growth == 1.5
    assert made.added == pytest.approx(0.1)
    assert dataclasses.replace(made, nights=nights[:2]).growth is None
    assert Retained("none").added is None


def test_a_run_is_written_as_json_a_page_and_a_picture(
    taught_model: ChatModel, tmp_path: Path, data: Path
) -> None:
    out = tmp_path / "out"
    settings = {"learning_rate": 0.01, "steps": 60, "shield": 0}
    wanted = Wanted(
        "ft-m", (data,), nights=2, per_night=2, out=out, settings=settings, served=False
    )
    with toy_home(tmp_path, taught_model) as ws:
        result = measure(ws, wanted, Silent())
    weights = result.made.carried[-1]
    assert (weights.name, weights.scores["chat"].accuracy.point) == (WEIGHTS, 1.0)
    kept = json.loads((out / "retain.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(as_json(result)))
    assert len(kept["made"]["nights"]) == 2
    assert set(kept["retention_by_age"]) == {"0", "1"}
    page = (out / "retain.md").read_text(encoding="utf-8")
    assert page == markdown(result)
    assert "Retention by age" in page
    ElementTree.parse(out / "retain.svg")


def test_what_is_shown_is_what_was_measured(bench: Bench, data: Path) -> None:
    made = retain(bench, "perfect", Scripted(data), {"steps": 1}, sample=10, tier=None)
    whole = RetainBench("m", "b" * 64, "d", "s" * 64, 0, 2, 10, "", 16, 24, "cpu", made)
    found = {title: rows for title, _, rows in tables(whole)}
    assert found["Retention by age"][0][1].startswith("1.000")
    assert found["Nights, the weights alone"][1][:4] == ["2", "4", "1.00", "1.00"]
    assert as_json(whole)["growth"] is None
    assert "steps = 1" in markdown(whole)
    assert picture(whole).count("<polyline") == 1


def test_too_few_records_for_so_many_nights_are_said(
    taught_model: ChatModel, tmp_path: Path, data: Path
) -> None:
    wanted = Wanted("ft-m", (data,), nights=3, per_night=2)
    with (
        toy_home(tmp_path, taught_model) as ws,
        pytest.raises(ConfigError, match="--n is 6, but the file has 4 records"),
    ):
        measure(ws, wanted, Silent())
