"""Export to a GGUF where the base model is a folder: the whole file is written, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Config, ModelConfig
from agent.exporting import export_gguf
from agent.progress import Silent
from agent.workspace import Workspace
from editors.gguf import container
from editors.gguf.quantise import TYPES
from editors.model import ChatModel
from editors.model_files import ModelError


def home_with_folder(folder: Path, model: ChatModel) -> Workspace:
    """Return a home whose base model is a folder."""
    base = folder / "base"
    model.model.save_pretrained(base)
    model.tokenizer.save_pretrained(base)
    return Workspace(folder / "home", Config(model=ModelConfig(path=str(base))))


def test_a_model_folder_is_exported_by_a_file_that_is_made_of_it_once(
    tmp_path: Path, tiny_model: ChatModel
) -> None:
    with home_with_folder(tmp_path, tiny_model) as ws:
        first = export_gguf(ws, None, tmp_path / "same.gguf", Silent())
        made = ws.home / "cache" / "gguf" / f"{ws.base_hash[:16]}-f16.gguf"
        written = made.stat().st_mtime_ns
        export_gguf(ws, None, tmp_path / "again.gguf", Silent())
        assert made.stat().st_mtime_ns == written
        small = export_gguf(ws, None, tmp_path / "small.gguf", Silent(), type="q8_0")
    assert (first.architecture, small.architecture) == ("llama", "llama")
    types = {t.type for t in container.read(tmp_path / "small.gguf").tensors if len(t.shape) > 1}
    assert types == {TYPES["q8_0"]}
    assert sorted(path.name for path in made.parent.iterdir()) == [
        f"{ws.base_hash[:16]}-{type}.gguf" for type in ("f16", "q8_0")
    ]


def test_a_type_that_is_none_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model: ChatModel
) -> None:
    with home_with_folder(tmp_path, tiny_model) as ws:
        with pytest.raises(ModelError, match="--type q9: use same"):
            export_gguf(ws, None, tmp_path / "out.gguf", Silent(), type="q9")
        assert not (ws.home / "cache" / "gguf").exists()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    ws = Workspace(tmp_path, Config(model=ModelConfig(path=str(tmp_path / "no.gguf"))))
    with ws, pytest.raises(ModelError, match=r"no\.gguf"):
        export_gguf(ws, None, tmp_path / "out.gguf", Silent())
