"""From the ledger to a version: what the editor is asked, from what, and again the same."""

import dataclasses
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, repeat
from pathlib import Path

import pytest
from samples import NOW, an_edit
from toy_model import random_model
from workspaces import LENIENT, remembered, toy_home

from agent.config import ConfigError, ConsolidationConfig
from agent.consolidation import consolidate, request_of
from agent.examination import examine_candidate
from agent.nightly import nightly
from agent.progress import Silent
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from agent.writers import chosen, load_statistics, within_room, writer_of
from editors.deltas import head_group
from editors.memory.compiled import CompiledSettings
from editors.memory.lookup import Lookup
from editors.model import ChatModel
from editors.requests import EditRequest
from store.records import EditState, ProbeKind

MERZ = an_edit(neighbours=[("France", "president", "head_of_state")])
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")


@pytest.fixture
def ws(taught_model: ChatModel, tmp_path: Path) -> Iterator[Workspace]:
    with toy_home(tmp_path, taught_model) as opened:
        yield opened


def test_the_ledger_alone_rebuilds_the_same_version(ws: Workspace) -> None:
    remembered(ws, MERZ, TINUBU)
    first = consolidate(ws, [MERZ, TINUBU], NOW, Silent())
    again = consolidate(ws, [TINUBU, MERZ], NOW + timedelta(days=1), Silent())
    assert again.version == first.version
    assert again.version.editor == "compiled"
    assert again.version.settings == dataclasses.asdict(CompiledSettings())
    tensors = ws.store.versions.load(first.version)
    assert all(tensors[name].equal(t) for name, t in again.delta.tensors().items())


@pytest.mark.parametrize("editor", ["compiled", "lookup"])
def test_the_way_of_writing_can_be_chosen(
    editor: str, taught_model: ChatModel, tmp_path: Path
) -> None:
    with toy_home(tmp_path, taught_model, editor=editor) as opened:
        remembered(opened, MERZ)
        version = consolidate(opened, [MERZ], NOW, Silent()).version
    settings = {"compiled": CompiledSettings(), "lookup": Lookup()}[editor]
    assert (version.editor, version.settings) == (editor, dataclasses.asdict(settings))


def test_by_itself_it_is_recall_heads_where_a_model_has_room_for_them(
    taught_model: ChatModel,
) -> None:
    grouped = random_model(seed=2, hidden=64, key_heads=1)
    assert [chosen("auto", model) for model in (grouped, taught_model)] == ["recall", "compiled"]
    assert chosen("lookup", grouped) == "lookup"


@pytest.mark.parametrize("editor", ["compiled", "lookup", "recall"])
def test_a_ledger_that_is_empty_again_makes_a_sound_version(
    editor: str, taught_model: ChatModel, tmp_path: Path
) -> None:
    """Else what was taken back would stay in the weights that serve."""
    with toy_home(tmp_path, taught_model, editor=editor) as opened:
        candidate = consolidate(opened, [], NOW, Silent())
        assert candidate.delta.parameters_added == 0
        examine_candidate(opened, candidate, [], Silent())


def test_what_the_night_has_no_time_for_stays_in_memory_and_the_next_goes_on(
    taught_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editors.memory.states._TOGETHER", 1)
    later = dataclasses.replace(TINUBU, created=NOW + timedelta(hours=1))
    with toy_home(tmp_path, taught_model, minutes=1.0, editor="lookup", **LENIENT) as ws:
        remembered(ws, MERZ, later)
        ticks = iter((0.0, 59.0, 61.0))
        short = consolidate(ws, [later, MERZ], NOW, Silent(), clock=lambda: next(ticks))
        assert short.edits == (MERZ,)
        assert short.version.edit_ids == (MERZ.id,)
        found = nightly(ws, NOW, Silent())
        assert found.status == "promoted"
        assert {e.id for e in ws.store.edits.ls()} == {MERZ.id, later.id}
        serving = ws.store.versions.alias("serving")
        assert serving is not None
        assert set(serving.edit_ids) == {MERZ.id, later.id}


def test_training_that_would_end_too_late_takes_fewer_corrections(
    taught_model: ChatModel, tmp_path: Path
) -> None:
    """Ten seconds a step, and then hardly any: of six minutes one of two has its share."""
    later = dataclasses.replace(TINUBU, created=NOW + timedelta(hours=1))
    with toy_home(tmp_path, taught_model, minutes=6.0) as ws:
        remembered(ws, MERZ, later)
        ticks = chain((0.0, 0.0), (10.0 * step for step in range(1, 10)), repeat(91.0))
        short = consolidate(ws, [later, MERZ], NOW, Silent(), clock=lambda: next(ticks))
        alone = consolidate(ws, [MERZ], NOW, Silent())
    assert short.version.edit_ids == (MERZ.id,)
    assert short.version == alone.version


def test_training_ends_with_the_night_whatever_was_foretold(
    taught_model: ChatModel, tmp_path: Path
) -> None:
    with toy_home(tmp_path, taught_model, minutes=1.0) as ws:
        remembered(ws, MERZ)
        ticks = chain((0.0, 0.0, 1.0, 1.0), repeat(61.0))
        candidate = consolidate(ws, [MERZ], NOW, Silent(), clock=lambda: next(ticks))
    assert candidate.edits == ()
    assert candidate.delta.parameters_added == 0


def test_what_there_is_no_room_for_stays_in_memory_and_the_night_says_so(
    taught_model: ChatModel, tmp_path: Path
) -> None:
    later = dataclasses.replace(TINUBU, created=NOW + timedelta(hours=1))
    size = sum(p.numel() for p in taught_model.model.parameters())
    neurons = sum(len(taught_model.encode_answer(lead + MERZ.new)) + 1 for lead in ("", " "))
    growth = neurons * 3 * taught_model.hidden_size * 1.01 / size
    with toy_home(tmp_path, taught_model, growth=growth, editor="lookup", **LENIENT) as ws:
        remembered(ws, MERZ, later)
        first = nightly(ws, NOW, Silent())
        assert first.status == "promoted"
        assert "1 of 2 corrections stay in the memory tier" in first.reasons[-1]
        states = {e.id: e.state for e in ws.store.edits.ls()}
        assert states[later.id] is EditState.REMEMBERED
        again = nightly(ws, NOW + timedelta(days=1), Silent())
        assert again.status == "nothing to do"
        assert again.reasons == first.reasons[-1:]


def test_heads_take_their_room_before_the_first_correction(taught_model: ChatModel) -> None:
    writer = writer_of("recall")
    request = EditRequest("e", ("Who?",), "Friedrich Merz", "It is Friedrich Merz.", subject="He")
    neuron = 3 * taught_model.hidden_size
    most = neuron * writer.neurons(taught_model, request.new)[1]
    group, width = head_group(taught_model)
    heads = 2 * (group + 1) * width * taught_model.hidden_size
    assert within_room(writer, taught_model, [request, request], heads + most) == [request]
    assert within_room(writer, taught_model, [request], heads + most - 1) == []
    alone = most - 2 * neuron  # no flags
    assert within_room(writer_of("lookup"), taught_model, [request], alone) == [request]


def test_key_statistics_are_measured_once_for_a_model_and_text(ws: Workspace) -> None:
    first = load_statistics(ws, CompiledSettings(), Silent())
    (path,) = (ws.home / "cache" / "statistics").iterdir()
    written = path.stat().st_mtime_ns
    again = load_statistics(ws, CompiledSettings(), Silent())
    assert path.stat().st_mtime_ns == written
    assert again.moment.equal(first.moment)
    Path(ws.config.consolidation.statistics).write_text("Another text. " * 400)
    load_statistics(ws, CompiledSettings(), Silent())
    assert len(list((ws.home / "cache" / "statistics").iterdir())) == 2


def test_a_folder_of_texts_is_read_and_what_is_no_text_left_out(
    ws: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("First.")
    (folder / "b.html").write_text("<html><body><p>Second.</p></body></html>")
    config = ws.config.model_copy(
        update={"consolidation": ConsolidationConfig(statistics=str(folder))}
    )
    ws.config = config
    assert ordinary_texts(ws) == ["First.", "Second."]


def test_an_edit_is_trained_on_what_the_battery_does_not_ask(ws: Workspace) -> None:
    request = request_of(ws, MERZ)
    tested = {probe.question for probe in MERZ.probes if probe.kind is not ProbeKind.EDIT}
    assert not tested & {*request.questions, *request.neighbours}
    assert request.questions[0] == MERZ.probes[0].question
    assert (request.old, request.new, request.statement) == (MERZ.old, MERZ.new, MERZ.statement)
    assert request.neighbours


def test_texts_that_cannot_be_read_are_named_with_their_setting(
    ws: Workspace, tmp_path: Path
) -> None:
    ws.config = ws.config.model_copy(
        update={"consolidation": ConsolidationConfig(statistics=str(tmp_path / "none.txt"))}
    )
    with pytest.raises(ConfigError, match=r"consolidation\.statistics: .*none\.txt cannot be read"):
        ordinary_texts(ws)
