"""`corrigenda relations`: looking at the registry, and trying it on a text."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import main
from agent.config import FILE_NAME
from agent.workspace import Workspace
from detectors.relations import load_registry

ROOT = Path(__file__).parents[2]
SENTENCE = "Friedrich Merz is sworn in as chancellor of Germany."

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("CORRIGENDA_HOME", str(folder))
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def own(home: Path) -> Path:
    """The worked example of docs/relations.md, as a file in the home folder."""
    guide = (ROOT / "docs" / "relations.md").read_text("utf-8")
    found = re.search(r"```toml\n(\[\[relation\]\].*?)```", guide, re.DOTALL)
    assert found is not None
    path = home / "own.toml"
    path.write_text(found.group(1), "utf-8")
    return path


def test_every_relation_is_listed_once_and_as_json_with_all_that_is_in_force(run: Run) -> None:
    _, out, _ = run("relations", "ls")
    code, lines, _ = run("relations", "ls", "--json")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert code == 0
    assert [row["id"] for row in rows] == [relation.id for relation in load_registry()]
    assert len(out.splitlines()) == len(rows) + 1
    assert all(row["questions"] and row["statement"] for row in rows)


def test_one_relation_is_shown_with_its_questions_and_tolerance(run: Run) -> None:
    code, out, _ = run("relations", "show", "population")
    assert code == 0
    assert "How many people live in {subject}?" in out
    assert re.search(r"^tolerance +0\.02$", out, re.MULTILINE)
    row = json.loads(run("relations", "show", "population", "--json")[1])
    assert (row["object_type"], row["unit"], row["tolerance"]) == ("number", "people", 0.02)
    assert json.loads(run("relations", "show", "capital", "--json")[1])["tolerance"] is None


def test_an_unknown_relation_is_a_usage_error_that_names_the_known_ones(run: Run) -> None:
    code, out, err = run("relations", "show", "shoe_size")
    assert (code, out) == (2, "")
    assert "shoe_size" in err
    assert "head_of_state" in err


def test_a_text_is_tried_and_each_claim_shown_with_span_and_dates(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "news.txt"
    path.write_text(f"Berlin.\n{SENTENCE}\n")
    code, out, _ = run("relations", "test", str(path), "--published", "2025-05-06")
    assert code == 0
    assert "chancellor of Germany: Friedrich Merz [current]" in out
    assert "from 2025-05-06 (by the publication date)" in out
    line = run("relations", "test", str(path), "--published", "2025-05-06", "--json")[1]
    (claim,) = [json.loads(each) for each in line.splitlines()]
    start = f"Berlin.\n{SENTENCE}\n".index(claim["quote"])
    assert claim["relation"] == "head_of_government"
    assert (claim["start"], claim["end"]) == (start, start + len(claim["quote"]))
    assert (claim["valid_from"], claim["dated_by"]) == ("2025-05-06", "published")


def test_a_text_may_come_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SENTENCE.encode()), "utf-8"))
    code, out, _ = run("relations", "test", "-")
    assert code == 0
    assert "Friedrich Merz" in out


def test_a_text_without_claims_is_said_to_have_none(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_text("The sea is grey, the wind is cold.\n")
    assert run("relations", "test", str(path))[:2] == (
        0,
        "nothing found: no sentence or field states a value that a relation asks for\n",
    )
    assert run("relations", "test", str(path), "--json")[:2] == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.txt",), "no file none.txt"),
        (("FILE", "--published", "soon"), "'soon' is no date"),
        (("FILE", "--relations", "none.toml"), "cannot read the relation file none.toml"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(
    run: Run, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    path = tmp_path / "news.txt"
    path.write_text(SENTENCE)
    code, out, err = run("relations", "test", *(str(path) if w == "FILE" else w for w in words))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_relations_of_ones_own_are_tried_by_flag_or_configuration(
    run: Run, home: Path, own: Path
) -> None:
    page = home / "page.txt"
    page.write_text("Keeper: Jane Marlowe (since 3 May 2024)\n")
    words = ("relations", "test", str(page), "--title", "Eddystone Lighthouse", "--json")
    assert run(*words)[:2] == (0, "")
    (found,) = run(*words, "--relations", str(own))[1].splitlines()
    (home / FILE_NAME).write_text('[detect]\nrelations = "own.toml"\n')
    (same,) = run(*words)[1].splitlines()
    for line in (found, same):
        claim = json.loads(line)
        assert claim["relation"] == "lighthouse_keeper"
        assert (claim["subject"], claim["object"]) == ("Eddystone Lighthouse", "Jane Marlowe")
        assert claim["valid_from"] == "2024-05-03"


def test_the_configured_file_is_looked_for_in_the_home_folder(home: Path, own: Path) -> None:
    (home / FILE_NAME).write_text('[detect]\nrelations = "own.toml"\n')
    with Workspace.open(home) as ws:
        assert "lighthouse_keeper" in ws.registry
    (home / FILE_NAME).write_text(f'[detect]\nrelations = "{own}"\n')
    with Workspace.open(home) as ws:
        assert "lighthouse_keeper" in ws.registry


def test_trying_a_text_opens_no_database_and_loads_no_model(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "news.txt"
    path.write_text(SENTENCE)
    script = (
        "import sys; from agent.cli import main; "
        f"code = main(['relations', 'test', {str(path)!r}]); "
        "assert code == 0; assert not {'torch', 'sqlalchemy', 'chromadb'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Friedrich Merz" in done.stdout
    assert list(home.iterdir()) == []
