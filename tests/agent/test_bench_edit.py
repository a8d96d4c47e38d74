"""The benchmark of editing: what is measured is what happened, and the model is put back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from edit_benches import WEIGHT, Nothing, Scripted, Spoken, a_bench, write_facts
from workspaces import toy_home

from agent.benchmarks import editing
from agent.benchmarks.edit_layouts import BenchProbe, EditRecord, Prompt
from agent.benchmarks.edit_report import as_json, markdown, picture, tables
from agent.benchmarks.edit_run import (
    PLAIN_TOKENS,
    Bench,
    Unedited,
    edited_row,
    fingerprint,
    growth,
    measured_at,
    prompts_of,
    retrieval_row,
    score,
    unedited_row,
)
from agent.benchmarks.editing import Wanted, measure, pieces
from agent.cli import main
from agent.progress import Silent
from editors.deltas import DenseDelta
from editors.generation import Generation
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from store.records import Reply


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_facts(tmp_path / "facts.jsonl")


@pytest.fixture
def bench(taught_model: ChatModel, data: Path, tmp_path: Path) -> Bench:
    return a_bench(taught_model, data, tmp_path)


def test_an_editor_that_does_nothing_scores_as_the_unedited_model(bench: Bench) -> None:
    unedited, row = unedited_row(bench), edited_row(bench, "nothing", Nothing(), {})
    assert row.scores == unedited.scores
    assert row.perplexity_ratio == unedited.perplexity_ratio == 1.0
    chat = row.scores["chat"]
    assert (chat.accuracy.point, chat.leak.point) == (0.0, 1.0)
    assert (chat.locality_exact.point, chat.locality_prefix.point) == (1.0, 1.0)


def test_a_perfect_editor_scores_one_everywhere_and_leaks_nothing(bench: Bench, data: Path) -> None:
    row = edited_row(bench, "perfect", Scripted(data), {})
    for rendering, edits in (("chat", 4), ("plain", 0)):
        scores = row.scores[rendering]
        assert scores.accuracy.n == edits
        assert scores.generality.point == 1.0
        assert scores.leak.point == 0.0
    chat = row.scores["chat"]
    assert chat.accuracy.point == chat.portability.point == chat.locality_exact.point == 1.0
    assert chat.local["locality"].n == chat.locality_exact.n == 8
    assert row.retention["chat"].edits == (2, 4)
    assert row.retention["chat"].forgetting == 0.0
    assert "plain" not in row.retention


def test_a_former_value_that_is_still_named_is_seen_beside_the_new_one(
    bench: Bench, data: Path
) -> None:
    row = edited_row(bench, "leaking", Scripted(data, "{new}, who followed {old}."), {})
    assert row.scores["chat"].accuracy.point == 1.0
    assert row.scores["chat"].leak.point == row.scores["plain"].leak.point == 1.0


def test_a_question_that_many_records_share_counts_once_in_locality() -> None:
    shared, own = (
        BenchProbe(Prompt(text, chat=True), group="neighbour") for text in ("Shared?", "Own?")
    )
    edit = BenchProbe(Prompt("Who?", chat=True), ("She",))
    records = [
        EditRecord(str(at), "X", str(at), "", edit, (), "She.", "", locality=local)
        for at, local in enumerate([(shared, own), (shared,), (shared,)])
    ]
    known = {shared.prompt: "as before", own.prompt: "as before"}

    def answer(_: EditRecord, prompt: Prompt) -> str:
        return "otherwise" if prompt == shared.prompt else "as before"

    found = score(records, answer, known, lambda text: [len(word) for word in text.split()])["chat"]
    assert (found.locality_exact.point, found.locality_exact.n) == (0.5, 2)
    assert (found.local["neighbour"].point, found.local["neighbour"].n) == (0.5, 2)


def test_an_edit_that_changes_other_answers_loses_locality(bench: Bench, data: Path) -> None:
    local = {p.prompt.text: "No idea." for r in bench.chosen.records for p in r.locality}

    class Careless(Scripted):
        def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> Spoken:
            return Spoken(local)

    row = edited_row(bench, "careless", Careless(data), {})
    assert row.scores["chat"].locality_exact.point == 0.0
    assert row.scores["chat"].locality_prefix.point < 0.5


def test_a_stacking_editor_is_given_each_batch_and_another_all_so_far_on_base_weights(
    bench: Bench,
) -> None:
    ids = tuple(record.id for record in bench.chosen.records)
    base = fingerprint(bench.model)
    stacking, joint = Nothing(change=1e-4), Nothing(stacks=False, change=1e-4)
    edited_row(bench, "stacking", stacking, {})
    edited_row(bench, "joint", joint, {})
    assert stacking.seen == [ids[:2], ids[2:]]
    assert joint.seen == [ids[:2], ids]
    assert stacking.weights[0] == base != stacking.weights[1]
    assert joint.weights == [base, base]


def test_alone_every_edit_finds_the_unedited_model_and_answers_for_itself(
    bench: Bench, data: Path
) -> None:
    alone = dataclasses.replace(bench, alone=True, batch=1)
    base, seen = fingerprint(bench.model), []

    class Watched(Scripted):
        def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> Spoken:
            seen.append(tuple(request.id for request in requests))
            assert fingerprint(model) == base
            made = super().edit(model, state, requests)
            local = [p.prompt.text for r in bench.chosen.records for p in r.locality]
            own = next(r for r in bench.chosen.records if r.id == requests[0].id)
            others = set(local) - {probe.prompt.text for probe in own.locality}
            return Spoken(dict(made.script) | dict.fromkeys(others, "No idea."))

    row = edited_row(alone, "watched", Watched(data), {})
    assert seen == [(record.id,) for record in bench.chosen.records]
    chat = row.scores["chat"]
    assert chat.accuracy.point == chat.locality_exact.point == 1.0
    assert row.perplexity_ratio == 1.0
    assert row.retention == {}
    assert row.seconds is not None
    assert row.seconds.total == 4.0


def test_the_time_is_that_of_the_editing_and_growth_compares_its_ends(bench: Bench) -> None:
    seconds = edited_row(bench, "nothing", Nothing(), {}).seconds
    assert seconds is not None  # the clock ticks once each time it is read
    assert (seconds.prepare, seconds.total, seconds.median) == (1.0, 2.0, 0.5)
    assert seconds.growth == 1.0
    assert growth([1.0] * 10 + [3.0] * 10, batch=5) == 3.0
    assert growth([1.0] * 10, batch=10) is None


@pytest.mark.parametrize(
    ("n", "batch", "measurements", "ends"),
    [(100, 10, 5, {20, 40, 60, 80}), (10, 10, 5, set()), (10, 4, 2, {4}), (10, 1, 1, set())],
)
def test_measurements_on_the_way_are_spread_over_the_batches(
    n: int, batch: int, measurements: int, ends: set[int]
) -> None:
    assert measured_at(n, batch, measurements) == ends


def test_an_editor_that_cannot_gives_a_row_with_its_reason(bench: Bench) -> None:
    row = edited_row(bench, "failing", Nothing(fails_at=1, change=0.5), {})
    assert (row.error, row.scores) == ("cannot", {})


def test_an_interruption_leaves_the_model_as_it_was(bench: Bench) -> None:
    before = fingerprint(bench.model)
    stopped = Nothing(fails_at=1, change=0.5, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        edited_row(bench, "stopped", stopped, {})
    assert fingerprint(bench.model) == before


def test_weights_that_are_not_put_back_stop_the_run(bench: Bench) -> None:
    weight = bench.model.model.get_parameter(WEIGHT)
    kept = weight.detach().clone()

    class Sticky(Nothing):
        def edit(self, model: ChatModel, state: int, requests: Sequence[EditRequest]) -> DenseDelta:
            with torch.no_grad():
                weight[0, 0] += 1e-3
            return super().edit(model, state, requests)

    try:
        with pytest.raises(EditorError, match="sticky did not leave the weights"):
            edited_row(bench, "sticky", Sticky(), {})
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_fingerprint_sees_one_bit(tiny_model: ChatModel) -> None:
    before = fingerprint(tiny_model)
    weight = tiny_model.model.get_parameter(WEIGHT)
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.view(-1)[7].copy_(torch.nextafter(weight.view(-1)[7], torch.tensor(9.0)))
    changed = fingerprint(tiny_model)
    with torch.no_grad():
        weight.copy_(kept)
    assert changed != before == fingerprint(tiny_model)


def test_retrieval_is_told_each_records_own_fact_in_both_renderings(bench: Bench) -> None:
    told: list[tuple[str, str]] = []
    real_answer, real_generate = bench.model.answer, bench.model.generate

    def answer(questions: Sequence[str], **more: Any) -> list[Reply]:
        told.extend(zip(questions, more.get("systems") or [""] * len(questions), strict=True))
        return real_answer(questions, **more)

    def generate(prompts: Sequence[Sequence[int]], **more: Any) -> list[Generation]:
        told.extend((bench.model.decode(prompt), "") for prompt in prompts)
        return real_generate(prompts, **more)

    unedited_row(bench)
    vars(bench.model).update(answer=answer, generate=generate)
    try:
        row = retrieval_row(bench)
    finally:
        del bench.model.answer, bench.model.generate
    assert set(row.scores) == {"chat", "plain"}
    germany = next(r for r in bench.chosen.records if r.id == "Germany")
    systems = dict(told)
    for probe in (germany.edit, *germany.locality):
        assert systems[probe.prompt.text] == f"Be brief.\nThis is up to date: {germany.statement}"
    assert f"{germany.statement} The chancellor of Germany is" in systems


def test_unedited_answers_are_asked_once_and_kept(bench: Bench, tmp_path: Path) -> None:
    first = dict(bench.unedited.ask(prompts_of(bench.chosen.records), Silent()))
    assert {prompt.chat for prompt in first} == {True, False}

    class Mute:
        base_hash = bench.model.base_hash

        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the model was asked: {name}")

    again = Unedited(Mute(), tmp_path / "cache", 16)  # type: ignore[arg-type]
    assert again.ask(prompts_of(bench.chosen.records), Silent()) == first


def test_a_whole_run_edits_writes_its_results_and_puts_the_model_back(
    taught_model: ChatModel, data: Path, tmp_path: Path
) -> None:
    wanted = Wanted(
        ("ft-m",),
        (data,),
        n=2,
        batch=2,
        out=tmp_path / "out",
        settings={"ft-m": {"learning_rate": 0.01, "steps": 60, "shield": 0}},
    )
    with toy_home(tmp_path, taught_model) as ws:
        result = measure(ws, wanted, Silent())
    rows = {row.name: row for row in result.rows}
    assert list(rows) == ["unedited", "retrieval", "ft-m"]
    assert rows["ft-m"].scores["chat"].accuracy.point == 1.0
    assert rows["unedited"].scores["chat"].accuracy.point == 0.0
    assert rows["ft-m"].settings["steps"] == 60
    assert (rows["ft-m"].peak_mib or 0) > 10
    kept = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(as_json(result)))
    assert (kept["layout"], kept["seed"], kept["plain_tokens"]) == ("corrigenda", 0, PLAIN_TOKENS)
    assert len(kept["sha256"]) == 64
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") == markdown(result)
    svg = ElementTree.fromstring((tmp_path / "out" / "results.svg").read_text(encoding="utf-8"))
    titles = [node.text or "" for node in svg.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("ft-m: 1.00 [") for title in titles)


def test_rows_that_are_done_are_kept_when_the_next_is_interrupted(
    taught_model: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = Nothing(fails_at=0, error=KeyboardInterrupt())
    monkeypatch.setattr(editing, "build", lambda name, settings: stopped)
    wanted = Wanted(("ft-m",), (data,), n=2, out=tmp_path / "out")
    with toy_home(tmp_path, taught_model) as ws, pytest.raises(KeyboardInterrupt):
        measure(ws, wanted, Silent())
    kept = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in kept["rows"]] == ["unedited", "retrieval"]


def test_tables_keep_the_renderings_apart_and_leave_failed_rows_out(
    taught_model: ChatModel, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Nothing(fails_at=0)
    monkeypatch.setattr(editing, "build", lambda name, settings: failing)
    with toy_home(tmp_path, taught_model) as ws:
        result = measure(ws, Wanted(("bad|one",), (data,), n=2), Silent())
    shown = {title: rows for title, _, rows in tables(result)}
    assert list(shown) == [
        "Questions in the chat template",
        "Prompts as plain continuation",
        "Cost",
    ]
    assert [row[0] for row in shown["Cost"]] == ["unedited", "retrieval"]
    plain = shown["Prompts as plain continuation"][0]
    assert plain[1] == "-"  # every edit prompt is a question
    assert "bad|one failed: cannot" in markdown(result)
    assert "bad|one" not in picture(result)


def test_pieces_of_text_end_at_lines_and_lose_nothing() -> None:
    lines = [f"{number} " + "word " * 40 for number in range(30)]
    cut = pieces(["\n".join(lines), "short", ""])
    assert len(cut) > 3
    assert [line.strip() for piece in cut for line in piece.splitlines()] == [
        *(line.strip() for line in lines),
        "short",
    ]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "--editor"),
        (["--editor", "ft-m", "--set", "steps"], "name=value"),
        (["--editors", "ft-m,compiled", "--set", "steps=3"], "editor.name=value"),
        (["--editor", "ft-m", "--set", "compiled.steps=3"], "editor of this run"),
        (["--editor", "ft-m", "--n", "9"], "has 4 records"),
    ],
)
def test_what_cannot_be_run_is_one_line_before_any_model_is_opened(
    given: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = [] if "--n" in given else ["--n", "2"]
    home = ["--home", str(tmp_path / "home")]
    assert main([*home, "bench", "edit", "--data", str(data), *number, *given]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_an_unknown_editor_or_setting_is_named_with_those_there_are(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, said in (
        (["--editor", "retrieval"], "editors: memory, recall"),
        (["--editor", "ft-m", "--set", "speed=2"], "settings: layer, layers"),
        (["--editor", "ft-m", "--set", "steps=many"], "setting steps of ft-m is a int"),
    ):
        home = ["--home", str(tmp_path / "home")]
        assert main([*home, "bench", "edit", "--data", str(data), "--n", "1", *given]) == 1
        assert said in capsys.readouterr().err
