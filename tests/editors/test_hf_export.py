"""The exported folder, loaded as anybody would, against the model with its edits applied."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architecture_models import SETTINGS, architecture_model
from expansions import heads
from toy_model import logits
from transformers import AutoModelForCausalLM, AutoTokenizer

from editors.deltas import (
    DeltaError,
    DenseDelta,
    EditDelta,
    JointDelta,
    MlpExpansion,
    applied,
    head_group,
)
from editors.hf_export import HfExport, export_hf
from editors.memory.attached import MemoryDelta
from editors.model import ChatModel
from editors.model_files import ModelError
from editors.requests import EditorError
from store.errors import StoreError
from store.files import Files

Give = Callable[..., ChatModel]
GATED = sorted(set(SETTINGS) - {"gpt2", "gpt_neox"})
IDS = torch.tensor([[3, 9, 21, 40, 7, 11]])


def neurons(model: ChatModel, layer: int = 1, count: int = 5) -> MlpExpansion:
    made = torch.Generator().manual_seed(count)
    gate, up, down = torch.randn(3, count, model.hidden_size, generator=made)
    return MlpExpansion(layer, gate, up, 0.3 * down.T.contiguous())


def loaded(folder: Path) -> ChatModel:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return ChatModel(model, AutoTokenizer.from_pretrained(folder), "0" * 64, name="exported")


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def size(model: ChatModel) -> int:
    return sum(parameter.numel() for parameter in model.model.parameters())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "made" / "exported"


def test_the_folder_answers_as_the_model_with_its_edits(
    taught_model: ChatModel, taught_answers: dict[str, str], target: Path
) -> None:
    questions = list(taught_answers)[:8]
    deltas = [neurons(taught_model), neurons(taught_model, layer=3, count=2)]
    plain = logits(taught_model, questions)
    made = export_hf(taught_model, deltas, target)
    with applied(taught_model, *deltas):
        expected = logits(taught_model, questions)
        answers = [reply.text for reply in taught_model.answer(questions)]
    assert not torch.allclose(expected, plain, atol=1e-2)  # the edits say something
    again = loaded(target)
    torch.testing.assert_close(logits(again, questions), expected, rtol=1e-5, atol=1e-5)
    assert [reply.text for reply in again.answer(questions)] == answers
    assert again.render(questions[0]) == taught_model.render(questions[0])
    assert again.stop_ids == taught_model.stop_ids
    # Layers 1 and 3 hold 5 and 2 neurons, so that 5 are added to every one of the 4.
    neuron = 3 * taught_model.hidden_size
    assert made == HfExport(
        folder=target,
        neurons=7,
        heads=0,
        parameters_added_by_edits=7 * neuron,
        parameters_added_by_padding=(4 * 5 - 7) * neuron,
        bytes=sum(path.stat().st_size for path in target.iterdir()),
    )
    assert size(again) == size(taught_model) + 20 * neuron
    assert config(target)["intermediate_size"] == 2 * taught_model.hidden_size + 5


def test_heads_of_one_layer_are_answered_by_heads_of_zeros_in_the_others(
    model_of: Give, target: Path
) -> None:
    model = model_of("llama", torch.float32)
    group, width = head_group(model)
    delta = JointDelta(
        (neurons(model), heads(2, model.hidden_size, group, width), neurons(model, layer=2))
    )
    made = export_hf(model, [delta], target)
    with torch.no_grad(), applied(model, delta):
        expected = model.model(IDS).logits
    again = loaded(target)
    with torch.no_grad():
        torch.testing.assert_close(again.model(IDS).logits, expected)
    said = config(target)
    assert said["head_dim"] == width
    assert said["num_attention_heads"] == model.model.config.num_attention_heads + made.heads
    assert said["num_attention_heads"] == group * said["num_key_value_heads"]
    assert said["hidden_size"] % said["num_attention_heads"] == 0
    assert made.heads >= group
    added = made.parameters_added_by_edits + made.parameters_added_by_padding
    assert size(again) == size(model) + added


def test_without_edits_the_folder_is_the_model(taught_model: ChatModel, target: Path) -> None:
    made = export_hf(taught_model, [], target)
    again = loaded(target)
    assert (made.neurons, made.parameters_added_by_edits, made.parameters_added_by_padding) == (
        0,
        0,
        0,
    )
    for name, parameter in taught_model.model.named_parameters():
        assert again.model.get_parameter(name).equal(parameter)
    assert config(target)["intermediate_size"] == 2 * taught_model.hidden_size


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_architecture_comes_back_with_its_logits(
    model_of: Give, name: str, target: Path
) -> None:
    model = model_of(name, torch.float32)
    delta: EditDelta
    if name in GATED:
        delta = neurons(model)
    else:
        path = next(n for n, p in model.model.named_parameters() if p.ndim == 2 and ".mlp." in n)
        delta = DenseDelta({path: torch.full_like(model.model.get_parameter(path), 0.1).detach()})
    with torch.no_grad():
        export_hf(model, [delta], target)
        with applied(model, delta):
            expected = model.model(IDS).logits
        torch.testing.assert_close(loaded(target).model(IDS).logits, expected)


def test_a_bias_is_padded_with_its_matrix(target: Path) -> None:
    model = architecture_model("llama", torch.float32, mlp_bias=True)
    with torch.no_grad():
        before = model.model(IDS).logits
        export_hf(model, [neurons(model)], target)
        again = loaded(target)
        mlp = again.model.model.layers[1].mlp
        assert mlp.gate_proj.bias.shape == (69,)
        mlp.down_proj.weight[:, 64:] = 0  # what is left is the padding of the others
        torch.testing.assert_close(again.model(IDS).logits, before)


def test_tied_embeddings_are_stored_once_and_others_twice(model_of: Give, target: Path) -> None:
    from safetensors import safe_open

    for name, tied in (("llama", True), ("mistral", False)):
        model = model_of(name, torch.float32)
        export_hf(model, [neurons(model)], target / name)
        with safe_open(target / name / "model.safetensors", "pt") as stored:
            assert ("lm_head.weight" not in set(stored.keys())) == tied
        again = loaded(target / name).model
        assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied


def test_many_small_files_hold_the_same_model(
    model_of: Give, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = model_of("phi3", torch.float32)
    export_hf(model, [neurons(model)], tmp_path / "whole")
    export_hf(model, [neurons(model)], tmp_path / "parts", shard_bytes=100_000)
    assert capfd.readouterr() == ("", "")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    whole, parts = loaded(tmp_path / "whole").model, loaded(tmp_path / "parts").model
    for name, tensor in whole.state_dict().items():
        assert parts.get_parameter(name).equal(tensor)


def test_tensors_are_written_in_the_type_that_was_asked_for(
    taught_model: ChatModel, target: Path
) -> None:
    export_hf(taught_model, [neurons(taught_model)], target, dtype=torch.bfloat16)
    again = loaded(target).model
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert config(target)["dtype"] == "bfloat16"
    assert taught_model.model.config.dtype != torch.bfloat16


def test_numbers_that_a_type_cannot_hold_are_refused(taught_model: ChatModel, target: Path) -> None:
    delta = neurons(taught_model)
    delta.gate_rows.mul_(1e6)
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.gate_proj.*too large for float16"):
        export_hf(taught_model, [delta], target, dtype=torch.float16)
    assert list(target.parent.iterdir()) == []


def test_card_and_provenance_lie_with_the_model(taught_model: ChatModel, target: Path) -> None:
    provenance = {"version": "ab12", "base": taught_model.base_hash}
    export_hf(taught_model, [], target, card="# A card\n", provenance=provenance)
    assert (target / "README.md").read_text() == "# A card\n"
    assert config(target)["corrigenda"] == provenance
    assert loaded(target).model.config.corrigenda == provenance
    assert not hasattr(taught_model.model.config, "corrigenda")


def test_the_folder_names_no_path_and_can_be_read_by_others(
    taught_model: ChatModel, target: Path, tmp_path: Path
) -> None:
    export_hf(taught_model, [], tmp_path / "once")
    export_hf(loaded(tmp_path / "once"), [], target)
    for path in target.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    assert len({path.stat().st_mode for path in target.iterdir()}) == 1


def test_settings_and_modules_of_the_model_are_left_alone(
    taught_model: ChatModel, target: Path
) -> None:
    """Parameters are compared bit by bit by the fixture."""
    net = taught_model.model
    before = copy.deepcopy((net.config.to_dict(), net.generation_config.to_dict()))
    export_hf(taught_model, [neurons(taught_model)], target, provenance={"version": "1"})
    assert (net.config.to_dict(), net.generation_config.to_dict()) == before
    linear = net.model.layers[1].mlp.down_proj
    assert linear.in_features == linear.weight.shape[1] == 2 * taught_model.hidden_size


def test_it_stops_at_every_end_that_the_served_model_stops_at(
    taught_model: ChatModel, target: Path
) -> None:
    ends = frozenset({1, 5})
    served = ChatModel(
        taught_model.model, taught_model.tokenizer, "0" * 64, name="two ends", stop_ids=ends
    )
    export_hf(served, [], target)
    assert loaded(target).stop_ids == ends


def test_a_folder_that_holds_something_is_left_alone(taught_model: ChatModel, target: Path) -> None:
    target.mkdir(parents=True)
    export_hf(taught_model, [], target)  # an empty one is taken
    before = (target / "config.json").stat().st_mtime_ns
    with pytest.raises(StoreError, match="exported exists and is not empty; remove it or choose"):
        export_hf(taught_model, [], target)
    assert (target / "config.json").stat().st_mtime_ns == before
    with pytest.raises(StoreError, match="exists and is not empty"):
        export_hf(taught_model, [], target / "config.json")


def test_edits_that_are_not_in_the_weights_are_refused(
    taught_model: ChatModel, target: Path
) -> None:
    class Silent:
        def answer(self, *_: object) -> list[Any]:
            return []

    with pytest.raises(EditorError, match="act while the model runs"):
        export_hf(taught_model, [MemoryDelta(Silent())], target)
    assert taught_model.memories == []
    with pytest.raises(DeltaError, match="widens layer 9"):
        export_hf(taught_model, [neurons(taught_model, layer=9)], target)
    assert not target.parent.exists()


def test_a_quantised_model_is_refused(target: Path) -> None:
    model = architecture_model("llama", torch.float32)
    model.model.config.quantization_config = {"quant_method": "other"}
    with pytest.raises(ModelError, match="tiny llama is quantised"):
        export_hf(model, [], target)


class FailingDisk(Files):
    """A disk whose nth operation fails."""

    def __init__(self, nth: int) -> None:
        self.left = nth

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self, path: Path) -> None:
        self._count()
        super().sync(path)

    def rename(self, path: Path, target: Path) -> None:
        self._count()
        super().rename(path, target)


def test_a_full_disk_leaves_no_trace_whenever_it_is_noticed(
    taught_model: ChatModel, target: Path
) -> None:
    counting = FailingDisk(0)
    export_hf(taught_model, [], target, files=counting)
    operations = -counting.left  # the last of them: the rename is made to last
    assert operations > 6
    for nth in range(1, operations):
        shutil.rmtree(target, ignore_errors=True)
        with pytest.raises(StoreError, match="No space left on device"):
            export_hf(taught_model, [neurons(taught_model)], target, files=FailingDisk(nth))
        assert list(target.parent.iterdir()) == []


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [100, 10_000, 200_000])
def test_a_write_that_fails_says_how_much_is_needed_and_leaves_no_trace(
    taught_model: ChatModel, target: Path, size: int
) -> None:
    """A configuration, a tokenizer and tensors are written by three different libraries."""
    needed = sum(parameter.nbytes for parameter in taught_model.model.parameters())
    with (
        files_no_longer_than(size),
        pytest.raises(StoreError, match=f"exported cannot be written .*{needed:,} bytes; free"),
    ):
        export_hf(taught_model, [], target)
    assert list(target.parent.iterdir()) == []


def test_too_little_room_is_noticed_before_anything_is_written(
    taught_model: ChatModel, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))
    with pytest.raises(StoreError, match=r"only 1,234 bytes are free.*take \d+,\d+ bytes"):
        export_hf(taught_model, [], target, files=FailingDisk(1))
    assert list(target.parent.iterdir()) == []
