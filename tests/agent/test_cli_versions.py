"""The commands on versions: show, diff, rollback, promote, gc, rebuild."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import NOW, an_edit

from agent.cli import main
from editors.model_files import hash_model
from store.library import Store
from store.records import EditState, Version

MERZ = an_edit()
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two versions, the second one served."""
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF, or so")
    monkeypatch.setenv("CORRIGENDA_MODEL__PATH", str(model))
    monkeypatch.setenv("CORRIGENDA_HOME", str(tmp_path / "home"))
    with Store(tmp_path / "home") as store:
        for edit in (MERZ, TINUBU):
            store.edits.add(edit)
            store.edits.move(edit.id, EditState.REMEMBERED, NOW)
            store.edits.move(edit.id, EditState.CONSOLIDATED, NOW)
        for edits in ([MERZ.id], [MERZ.id, TINUBU.id]):
            version = store.versions.save(
                hash_model(model), "compiled", edits, {"t": torch.ones(len(edits))}, {"k": 1}, NOW
            )
            store.versions.set_alias("serving", version.id, NOW)
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run_


def versions(home: Path) -> list[Version]:
    with Store(home) as store:
        return store.versions.ls()


def aliases(home: Path) -> dict[str, str]:
    with Store(home) as store:
        return store.versions.aliases()


def test_rollback_serves_the_previous_version_and_says_what_becomes_of_the_edits(
    home: Path, run: Run
) -> None:
    one, two = versions(home)
    code, out, _ = run("versions", "rollback", "--reason", "it sounded odd")
    assert code == 0
    assert f"version {one.id[:10]} is served now, instead of version {two.id[:10]}" in out
    assert f"answered by memory alone: {TINUBU.id[:10]} {TINUBU.statement}" in out
    assert aliases(home) == {"serving": one.id, "previous": two.id}
    code, out, _ = run("versions", "promote", two.id[:8], "--json")
    assert (code, json.loads(out)["version"]["id"]) == (0, two.id)
    assert aliases(home) == {"serving": two.id, "previous": one.id}


def test_rollback_to_the_base_and_again(home: Path, run: Run) -> None:
    assert "the base model is served now" in run("versions", "rollback", "base")[1]
    assert "the base model is served already" in run("versions", "rollback", "base")[1]
    assert "this is the base model" in run("versions", "show")[1]


def test_a_damaged_version_is_not_served(home: Path, run: Run) -> None:
    one, two = versions(home)
    (home / "versions" / one.id / "delta.safetensors").write_bytes(b"")
    code, out, err = run("versions", "rollback")
    assert (code, out) == (1, "")
    assert err.startswith(f"corrigenda: error: version {one.id} is not as it was saved")
    assert aliases(home)["serving"] == two.id


def test_another_base_model_is_refused(
    home: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.gguf").write_bytes(b"another")
    monkeypatch.setenv("CORRIGENDA_MODEL__PATH", str(tmp_path / "other.gguf"))
    code, _, err = run("versions", "rollback")
    assert code == 1
    assert "made for another base model" in err


def test_diff_lists_corrections_and_tensors(home: Path, run: Run) -> None:
    code, out, _ = run("versions", "diff")
    assert code == 0
    assert out.splitlines() == [
        f"+ correction  {TINUBU.id[:10]} {TINUBU.statement}",
        "~ tensor      t",
    ]
    found = json.loads(run("versions", "diff", "serving", "previous", "--json")[1])
    assert (found["edits_removed"], found["edits_added"]) == ([TINUBU.id], [])
    assert run("versions", "diff", "serving", "serving")[1] == "they do not differ\n"


def test_show_lists_what_a_version_carries(home: Path, run: Run) -> None:
    one, two = versions(home)
    out = run("versions", "show")[1]
    assert two.id in out
    assert MERZ.statement in out
    shown: dict[str, Any] = json.loads(run("versions", "show", one.id[:6], "--json")[1])
    assert (shown["edit_ids"], shown["aliases"]) == ([MERZ.id], ["previous"])


def test_gc_keeps_what_is_configured(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_VERSIONS__KEEP", "1")
    monkeypatch.setenv("CORRIGENDA_VERSIONS__KEEP_MONTHLY", "0")
    one, two = versions(home)
    assert run("versions", "gc")[1] == "no version is outdated\n"  # one is `previous`
    with Store(home) as store:
        store.versions.set_alias("previous", None, NOW)
    assert run("versions", "gc", "--dry-run")[1] == f"{one.id[:10]} would be removed\n"
    assert len(versions(home)) == 2
    assert json.loads(run("versions", "gc", "--json")[1])["removed"] == [one.id]
    assert versions(home) == [two]


def test_rebuild_only_compares(run: Run) -> None:
    code, _, err = run("rebuild")
    assert code == 2
    assert "--check" in err


def test_edit_lists_are_what_is_stored(home: Path, run: Run) -> None:
    with Store(home) as store:
        assert run("edits", "ls", "--json")[1].splitlines() == store.edits.bodies()
    assert "Bola Tinubu" in run("edits", "ls")[1]


def test_facts_are_listed_as_they_were_known(run: Run) -> None:
    code, _, err = run("facts", "as-of", "2026", "--known-on", "2026-13-01")
    assert code == 2
    assert "is no day" in err
    code, out, _ = run("facts", "as-of", "2026", "--known-on", "2026-03-01")
    assert (code, out) == (0, "nothing is known to have held on 2026\n")
