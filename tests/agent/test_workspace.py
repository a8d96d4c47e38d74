"""A home folder opens what is needed when it is needed, and says what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from workspaces import ScriptedModel, workspace

from agent.config import Config, ConfigError, ModelConfig
from agent.workspace import Workspace
from editors.model import ModelError


def test_listing_things_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from agent.workspace import Workspace\n"
        f"with Workspace.open(Path({str(tmp_path / 'home')!r})) as ws:\n"
        "    ws.store.edits.ls(); ws.registry.titles()\n"
        "print(sorted({'torch', 'transformers', 'chromadb', 'langchain'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"


def test_what_was_opened_is_closed_and_can_be_opened_again(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "home", ScriptedModel({}))
    with ws:
        first = ws.store
        assert ws.evidence.count() == 0
    assert "store" not in ws.__dict__
    assert "evidence" not in ws.__dict__
    with ws:
        assert ws.store is not first
        assert ws.store.edits.ls() == []


def test_a_missing_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    ws = Workspace(tmp_path, Config(model=ModelConfig(path=str(tmp_path / "no.gguf"))))
    with pytest.raises(ModelError, match=r"no\.gguf does not exist; set model\.path"):
        ws.model  # noqa: B018 (reading it loads it)
    with pytest.raises(ModelError, match=r"no\.gguf does not exist; set model\.path"):
        ws.base_hash  # noqa: B018 (reading it hashes it)


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot create .*CORRIGENDA_HOME"):
        Workspace(tmp_path / "file" / "home", Config()).store  # noqa: B018 (reading it opens it)


def test_the_clock_gives_aware_times(tmp_path: Path) -> None:
    offset = Workspace(tmp_path, Config()).now().utcoffset()
    assert offset is not None
    assert not offset
