"""A version as a file: written by the source, asked by llama.cpp, and clear where it cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from expansions import joint
from samples import NOW, HashedWords, an_edit
from toy_model import one_thread
from workspaces import LENIENT, remembered, toy_settings

import agent.exporting
from agent.cli import main
from agent.config import Config, ModelConfig
from agent.export_folder import card, export_folder
from agent.exporting import export_gguf, exported
from agent.llama_cpp import LlamaCpp
from agent.nightly import nightly
from agent.progress import Silent
from agent.reporting import gather
from agent.workspace import Workspace
from editors.deltas import MlpExpansion
from editors.gguf import container
from editors.gguf.from_hf import full_gguf
from editors.gguf.quantise import TYPES
from editors.model import ChatModel
from editors.model_files import ModelError
from store.records import Version

MERZ = an_edit(neighbours=[("France", "president", "head_of_state")])
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def opened(home: Path, base: Path) -> Workspace:
    config = Config(
        model=ModelConfig(path=str(base), max_new_tokens=16),
        consolidation=toy_settings(base.parent, **LENIENT),
    )
    ws = Workspace(home, config)
    ws.__dict__.update(embeddings=HashedWords(), meaning=None)
    return ws


@pytest.fixture(scope="module")
def made(_taught_model: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model as a GGUF of eight bits, and the home of a night with it."""
    folder = tmp_path_factory.mktemp("made")
    with one_thread():
        full_gguf(_taught_model, folder / "toy.gguf", TYPES["q8_0"])
        with opened(folder / "home", folder / "toy.gguf") as ws:
            remembered(ws, MERZ, TINUBU)
            assert nightly(ws, NOW, Silent()).status == "promoted"
    return folder


@pytest.fixture
def base(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "toy.gguf", tmp_path / "toy.gguf"))


@pytest.fixture
def ws(made: Path, base: Path, tmp_path: Path) -> Iterator[Workspace]:
    shutil.copytree(made / "home", tmp_path / "home")
    with opened(tmp_path / "home", base) as ws:
        yield ws


@pytest.fixture
def version(ws: Workspace) -> Version:
    found = ws.store.versions.alias("serving")
    assert found is not None
    return found


def test_the_base_model_is_the_source_byte_for_byte(
    ws: Workspace, base: Path, tmp_path: Path
) -> None:
    made = export_gguf(ws, None, tmp_path / "out.gguf", Silent())
    assert Path(made.path).read_bytes() == base.read_bytes()
    assert (made.edits, made.neurons, made.changed, made.checked) == (0, 0, (), None)


def test_a_version_is_asked_by_llama_cpp_and_stands_in_the_report(
    ws: Workspace, version: Version, base: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")
    folder = tmp_path / "out"
    folder.mkdir()
    made = exported(ws, version, folder, Silent())
    path = Path(made.path)
    assert path == folder / f"toy.{version.id[:12]}.gguf"
    file, source = container.read(path), container.read(base)
    assert file.get("corrigenda.base") == ws.base_hash
    assert file.get("corrigenda.version") == version.id
    assert file.get("corrigenda.edits") == 2
    head = ws.store.ledger.head()
    assert head is not None
    layer = MlpExpansion.from_tensors(ws.store.versions.load(version)).layer
    assert {name.split(".")[1] for name in made.changed} == {str(layer)}
    same = [t for t in source.tensors if t.name not in made.changed]
    assert made.copied == len(same)
    for tensor in same:
        written = file.tensor(tensor.name)
        assert written is not None
        assert file.bytes_of(written) == source.bytes_of(tensor)
    checked = made.checked
    assert checked is not None
    assert checked.held
    questions = [edit.probes[0].question for edit in (MERZ, TINUBU)]
    with LlamaCpp(path) as running:
        assert dict(zip(questions, running.answer(questions, 16), strict=True)) == checked.answers
    rows = {row.label: row for row in gather(ws, NOW).baselines}
    assert rows["as exported"] == checked.row
    assert rows["as exported"].n == rows["edited weights alone"].n


def test_an_export_of_another_version_is_not_in_the_report(ws: Workspace, version: Version) -> None:
    exported(ws, version, ws.home, Silent())
    ws.store.versions.set_alias("serving", None, NOW)
    assert "as exported" not in {row.label for row in gather(ws, NOW).baselines}


def test_without_llama_cpp_the_file_is_written_at_ones_word(
    ws: Workspace, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.exporting, "available", lambda: False)
    out = tmp_path / "out.gguf"
    with pytest.raises(ModelError, match=r"pip install 'corrigenda\[gguf\]', or --no-check"):
        export_gguf(ws, version, out, Silent())
    assert not out.exists()
    made = export_gguf(ws, version, out, Silent(), check=False)
    assert (made.checked, made.edits) == (None, 2)


class Case(NamedTuple):
    """What stands in the way, and what is said."""

    out: Callable[[Path], Path]
    said: str


@pytest.mark.parametrize(
    "case",
    [
        Case(lambda tmp: tmp / "toy.gguf", r"is the model itself; give the export another name"),
        Case(lambda tmp: tmp / "notes.txt", r"notes\.txt exists and is no export; .* --force"),
        Case(lambda tmp: tmp / "notes.txt" / "x.gguf", r"x\.gguf cannot be written"),
    ],
)
def test_what_is_in_the_way_is_named_and_left(ws: Workspace, tmp_path: Path, case: Case) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=case.said):
        export_gguf(ws, None, case.out(tmp_path), Silent())
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_earlier_export_is_replaced_and_anything_else_by_force_alone(
    ws: Workspace, version: Version, tmp_path: Path
) -> None:
    out = tmp_path / "out.gguf"
    first = export_gguf(ws, version, out, Silent(), check=False)
    again = export_gguf(ws, version, out, Silent(), check=False)
    assert first.sha256 == again.sha256
    out.write_text("mine")
    assert export_gguf(ws, version, out, Silent(), check=False, force=True).size > 1000


def test_a_disk_without_room_is_said_with_the_bytes_and_nothing_is_left(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 3, 7))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match=r"out\.gguf cannot be written: [\d,]+ .* 7 are free"):
        export_gguf(ws, None, tmp_path / "out.gguf", Silent())
    assert sorted(tmp_path.iterdir()) == before


def test_a_version_of_another_base_is_refused(ws: Workspace, tmp_path: Path) -> None:
    neuron = torch.zeros(1, 64)
    tensors = MlpExpansion(1, neuron, neuron, neuron.T.contiguous()).tensors()
    other = ws.store.versions.save("00" * 32, "compiled", [], tensors, {}, NOW)
    with pytest.raises(ModelError, match=r"another base model; set model\.path back"):
        export_gguf(ws, other, tmp_path / "out.gguf", Silent(), check=False)


def test_a_version_with_heads_is_written(ws: Workspace, tmp_path: Path) -> None:
    delta = joint()
    version = ws.store.versions.save(ws.base_hash, "recall", [], delta.tensors(), {}, NOW)
    made = export_gguf(ws, version, tmp_path / "out.gguf", Silent(), check=False)
    assert (made.architecture, made.heads, made.neurons) == ("deci", 2, 96)
    assert set(made.types) == {"gate", "up", "down", "q", "k", "v", "output"}
    folder = export_folder(ws, version, tmp_path / "folder", "same", Silent())
    assert folder.parameters_added_by_edits == delta.parameters_added
    with pytest.raises(ModelError, match=r"run a night, and export that version"):
        export_gguf(ws, version, tmp_path / "padded.gguf", Silent(), padded=True, check=False)


def test_a_card_names_every_correction_on_one_line() -> None:
    version = Version("v" * 16, "b" * 64, "compiled", (MERZ.id,), "", NOW, ())
    text = card("toy", version, [MERZ, an_edit("A|B\nC", "Nigeria", "head_of_state", "president")])
    assert "| Germany | chancellor | Angela Merkel | Friedrich Merz |" in text
    assert "A\\|B C" in text
    assert "without corrections" in card("toy", None, [])


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def home(ws: Workspace, version: Version, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORRIGENDA_MODEL__PATH", str(base))
    monkeypatch.setenv("CORRIGENDA_MODEL__MAX_NEW_TOKENS", "16")
    monkeypatch.setenv("CORRIGENDA_HOME", str(ws.home))
    return ws.home


def test_the_commands_write_and_tell(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    code, said, _ = run(capsys, "export", "gguf", str(out), "--json")
    told: dict[str, Any] = json.loads(said)
    assert code == 0
    assert (told["path"], told["edits"], told["architecture"]) == (str(out), 2, "deci")
    code, said, _ = run(capsys, "export", "gguf", str(out), "--no-check", "--type", "f16")
    assert code == 0
    assert "f16" in said
    assert "not asked" in said
    code, said, _ = run(capsys, "export", "modelfile", str(out))
    assert (code, said.strip()) == (0, str(tmp_path / "Modelfile"))
    assert (tmp_path / "Modelfile").read_text().startswith("FROM ./out.gguf\nTEMPLATE ")
    code, _, error = run(capsys, "export", "modelfile", str(out))
    assert code == 2
    assert "Modelfile exists" in error
    code, said, _ = run(capsys, "export", "hf", str(tmp_path / "hf"), "--json")
    assert code == 0
    assert json.loads(said)["neurons"] > 0
    code, _, error = run(capsys, "export", "hf", str(tmp_path / "hf"))
    assert code == 1
    assert "is not empty" in error


def test_a_modelfile_is_not_written_for_what_is_not_there_or_of_another_base(
    home: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, "export", "modelfile", str(tmp_path / "no.gguf"))
    assert code == 2
    assert "corrigenda export gguf" in error
    run(capsys, "export", "gguf", str(tmp_path / "out.gguf"), "--no-check")
    file = container.read(tmp_path / "out.gguf")
    entries = [
        container.Entry.text("corrigenda.base", "0" * 64) if e.key == "corrigenda.base" else e
        for e in file.entries
    ]
    with (tmp_path / "other.gguf").open("wb") as handle:
        container.write(handle, file, entries, [file.unchanged(t) for t in file.tensors])
    code, _, error = run(capsys, "export", "modelfile", str(tmp_path / "other.gguf"))
    assert code == 2
    assert "another base model" in error
