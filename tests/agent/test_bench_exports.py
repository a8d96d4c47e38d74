"""Edits in exported files: real files, really asked, and scored as the weights are."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edit_benches import write_facts
from samples import HashedWords
from toy_model import one_thread
from workspaces import toy_settings

from agent.benchmarks.exports import WEIGHTS, Wanted, heading, measure, tables
from agent.config import Config, ConfigError, ModelConfig
from agent.progress import Silent
from agent.workspace import Workspace
from editors.gguf.from_hf import full_gguf
from editors.gguf.quantise import TYPES
from editors.model import ChatModel
from editors.model_files import ModelError


@pytest.fixture
def ws(taught_model: ChatModel, tmp_path: Path) -> Iterator[Workspace]:
    """A home whose base is the toy model as a GGUF."""
    with one_thread():
        full_gguf(taught_model, tmp_path / "toy.gguf", TYPES["q8_0"])
        config = Config(
            model=ModelConfig(path=str(tmp_path / "toy.gguf"), max_new_tokens=16),
            consolidation=toy_settings(tmp_path),
        )
        with Workspace(tmp_path / "home", config) as opened:
            opened.__dict__.update(embeddings=HashedWords(), meaning=None)
            yield opened


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_facts(tmp_path / "facts.jsonl")


def test_each_type_is_a_row_beside_the_unquantised_weights(
    ws: Workspace, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="the extra gguf is not installed")
    told = Wanted("compiled", (data,), 4, ("same", "f16"), out=tmp_path / "out", text_tokens=20)
    result = measure(ws, told, Silent())
    weights, same, f16 = result.rows
    assert [row.name for row in result.rows] == [WEIGHTS, "same", "f16"]
    assert weights.scores["chat"].accuracy.point == 1.0
    for row in (same, f16):
        assert row.scores["chat"].accuracy.n == 4
        assert row.passed.n == weights.passed.n
        assert row.tries
        assert row.growth is not None
    assert same.growth is not None
    assert f16.growth is not None
    assert 0 < same.growth < f16.growth
    kept = json.loads((tmp_path / "out" / "export.json").read_text())
    assert [row["name"] for row in kept["rows"]] == [WEIGHTS, "same", "f16"]
    titles = [title for title, _, _ in tables(result)]
    assert titles[-2:] == ["The files", "Tried"]
    assert heading(result)[0].startswith("4 edits by compiled")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"types": ("q9",)}, "--type q9: use same, f32"),
        ({"editor": "ft-l"}, "its edits are no extra neurons; use compiled, lookup or recall"),
    ],
)
def test_what_cannot_be_exported_is_said(
    ws: Workspace, data: Path, told: dict[str, Any], said: str
) -> None:
    wanted = dataclasses.replace(Wanted("compiled", (data,), 2), **told)
    with pytest.raises((ConfigError, ModelError), match=said):
        measure(ws, wanted, Silent())
