"""A GGUF as a model: any type, the file's own tokenizer, and clear words where it is none."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizer_kinds import BYTE_LEVEL, TEXTS, byte_level
from toy_model import one_thread
from transformers import LlamaConfig, LlamaForCausalLM

import editors.gguf.convert
from editors.gguf import container, quantise
from editors.gguf.container import Entry
from editors.gguf.from_hf import full_gguf
from editors.gguf.quantise import TYPES
from editors.gguf.widening import planned
from editors.model import ChatModel, load_chat_model
from editors.model_files import ModelError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def model_with(words: str = "gpt-2") -> ChatModel:
    """Return a Llama of one layer whose rows fill a block of every type."""
    tokenizer = byte_level(words)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    return ChatModel(LlamaForCausalLM(config), tokenizer, "0" * 64, "toy")


@pytest.mark.parametrize("type", TYPES)
def test_weights_of_any_type_are_what_the_file_says(type: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    full_gguf(model_with(), path, TYPES[type])
    loaded = load_chat_model(path, tmp_path / "cache")
    source = container.read(path)
    for part in ("gate", "up", "down"):
        tensor = source.tensor(f"blk.0.ffn_{part}.weight")
        assert tensor is not None
        assert tensor.type == TYPES[type]
        raw = np.frombuffer(source.bytes_of(tensor), np.uint8).reshape(tensor.rows, -1)
        wanted = quantise.decode(raw, tensor.type, tensor.columns)
        found = getattr(loaded.layers[0].mlp, f"{part}_proj").weight
        assert found.dtype == torch.float32
        assert found.equal(torch.from_numpy(wanted.copy()))


@pytest.mark.parametrize("words", BYTE_LEVEL)
def test_text_is_split_as_the_file_says(words: str, tmp_path: Path) -> None:
    model, path = model_with(words), tmp_path / "toy.gguf"
    full_gguf(model, path, TYPES["f32"])
    loaded = load_chat_model(path, tmp_path / "cache")
    assert [loaded.encode(text) for text in TEXTS] == [model.encode(text) for text in TEXTS]
    assert loaded.tokenizer.chat_template == model.tokenizer.chat_template


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "toy.gguf"
    full_gguf(model_with(), path, TYPES["q8_0"])
    load_chat_model(path, tmp_path / "cache")

    def refuse(path: Path) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(editors.gguf.convert.container, "read", refuse)
    load_chat_model(path, tmp_path / "cache")


def test_an_export_is_not_edited_again(tmp_path: Path) -> None:
    path, export = tmp_path / "toy.gguf", tmp_path / "export.gguf"
    full_gguf(model_with(), path, TYPES["q8_0"])
    source = container.read(path)
    told = (Entry.text("corrigenda.base", "0" * 64), Entry.uint32("corrigenda.edits", 7))
    plan = planned(source, None, provenance=told)
    with export.open("wb") as handle:
        container.write(handle, source, plan.entries, plan.tensors)
    with pytest.raises(ModelError, match=r"an export with 7 edits in it; set model\.path to the"):
        load_chat_model(export, tmp_path / "cache")


def test_a_file_without_a_tokenizer_or_of_an_unknown_architecture_is_refused(
    tmp_path: Path,
) -> None:
    path, cache = tmp_path / "toy.gguf", tmp_path / "cache"
    full_gguf(model_with(), path, TYPES["q8_0"])
    source = container.read(path)
    tensors = [source.unchanged(tensor) for tensor in source.tensors]
    bare = [entry for entry in source.entries if not entry.key.startswith("tokenizer")]
    foreign = [
        dataclasses.replace(entry, raw=Entry.text("", "martian").raw)
        if entry.key == "general.architecture"
        else entry
        for entry in source.entries
    ]
    for entries, said in ((bare, "has no tokenizer"), (foreign, "martian")):
        with (tmp_path / "bad.gguf").open("wb") as handle:
            container.write(handle, source, entries, tensors)
        with pytest.raises(ModelError, match=said) as caught:
            load_chat_model(tmp_path / "bad.gguf", cache)
        assert "\n" not in str(caught.value)
        assert "bad.gguf" in str(caught.value)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_no_half_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "toy.gguf", tmp_path / "cache"
    full_gguf(model_with(), path, TYPES["q8_0"])

    def full(self: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ModelError, match=r"no room in .*cache for the weights of .*toy\.gguf"):
        load_chat_model(path, cache)
    assert list(cache.iterdir()) == []
