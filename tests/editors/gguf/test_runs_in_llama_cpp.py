"""Widened files in llama.cpp: what it computes is what the widened model computes in torch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from architecture_models import architecture_model
from expansions import expansion, heads, joint
from gguf_samples import finished, written
from running_gguf import Running
from toy_model import one_thread, random_model

from editors.deltas import EditDelta, MlpExpansion, applied
from editors.gguf import container
from editors.gguf.container import GgufFile
from editors.gguf.quantise import TYPES
from editors.gguf.widening import Form, planned
from editors.model import ChatModel

pytest.importorskip("xllamacpp", reason="llama.cpp (the extra gguf) is not installed")

PROMPT = [40, 41, 42, 77, 205, 310, 55, 12]
PADDED = Form(padded=True)
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "phi3": gguf.MODEL_ARCH.PHI3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
# Where the toys' attention is not as llama.cpp has it for their architecture.
SETTINGS: dict[str, dict[str, Any]] = {
    "qwen3": {"use_sliding_window": False, "sliding_window": None, "layer_types": None},
    "phi3": {},
    "gemma3_text": {
        "sliding_window": 64,
        "layer_types": ["sliding_attention"] * 3,
        "query_pre_attn_scalar": 8,
    },
}


def toy(name: str) -> ChatModel:
    if name == "llama":
        return random_model(hidden=64)
    return architecture_model(name, torch.float32, **SETTINGS[name])


def file_of(model: ChatModel, path: Path) -> GgufFile:
    """Write a model as it is, in float32."""
    config = model.model.config
    kind = config.model_type
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURES[kind]])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if kind == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
    words = json.loads(model.tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(words["vocab"], key=words["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    special = set(model.tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(ARCHITECTURES[kind], config.num_hidden_layers)
    for name, weight in model.model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        called = names.get_name(name, try_suffixes=(".weight",))
        assert called is not None, name
        value = weight.float()
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            value = paired(value, head)
        if kind == "gemma3_text" and name.endswith("norm.weight"):
            value = value + 1
        writer.add_tensor(called, value.numpy())
    finished(writer)
    return container.read(path)


def paired(weight: torch.Tensor, head: int) -> torch.Tensor:
    """Return rows in llama.cpp's order for "llama": what is turned together stands together."""
    halves = weight.reshape(-1, 2, head // 2, weight.shape[1])
    return torch.stack([halves[:, 0], halves[:, 1]], dim=2).reshape(weight.shape)


def in_torch(model: ChatModel, *deltas: EditDelta) -> np.ndarray:
    with one_thread(), torch.inference_mode(), applied(model, *deltas):
        logits = model.model(torch.tensor([PROMPT])).logits[0, -1]
    return logits.log_softmax(-1).numpy()


def in_llama_cpp(file: GgufFile) -> np.ndarray:
    found = Running(file.path, 64).logprobs(PROMPT, 40)
    return np.array([found[token] for token in range(len(found))])


def delta_for(model: ChatModel, silent: bool = False) -> MlpExpansion:
    return expansion(5, 1, model.hidden_size, silent)


def close(found: np.ndarray, wanted: np.ndarray, kind: str = "llama") -> None:
    """Check log-probabilities; Gemma's activation is a table of half floats in llama.cpp."""
    np.testing.assert_allclose(found, wanted, atol=0.01 if "gemma" in kind else 1e-4)


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
@pytest.mark.parametrize("form", [Form(), PADDED], ids=["", "padded"])
def test_llama_cpp_computes_what_the_widened_model_computes(
    tmp_path: Path, kind: str, form: Form
) -> None:
    model = toy(kind)
    source = file_of(model, tmp_path / "source.gguf")
    delta = delta_for(model)
    file = written(tmp_path / "made.gguf", source, planned(source, delta, form))
    twin = kind == "llama" and not form.padded
    assert file.architecture == ("deci" if twin else source.architecture)
    before, after = in_torch(model), in_torch(model, delta)
    close(in_llama_cpp(source), before, kind)
    close(in_llama_cpp(file), after, kind)
    assert np.abs(after - before).max() > 1  # the edit is heard


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
@pytest.mark.parametrize("form", [Form(), PADDED], ids=["", "padded"])
def test_neurons_that_write_nothing_change_no_answer(tmp_path: Path, kind: str, form: Form) -> None:
    model = toy(kind)
    source = file_of(model, tmp_path / "source.gguf")
    delta = delta_for(model, silent=True)
    file = written(tmp_path / "made.gguf", source, planned(source, delta, form))
    close(in_llama_cpp(file), in_llama_cpp(source))


def test_a_file_can_be_edited_again(tmp_path: Path) -> None:
    model = toy("llama")
    source = file_of(model, tmp_path / "source.gguf")
    first, second = delta_for(model), expansion(40, 3, model.hidden_size)
    once = written(tmp_path / "once.gguf", source, planned(source, first))
    twice = written(tmp_path / "twice.gguf", once, planned(once, second))
    close(in_llama_cpp(twice), in_torch(model, first, second))


def test_heads_and_neurons_of_several_layers_run_as_in_torch(tmp_path: Path) -> None:
    model = toy("llama")
    source = file_of(model, tmp_path / "source.gguf")
    delta = joint(group=2, width=model.model.config.head_dim)
    plan = planned(source, delta)
    file = written(tmp_path / "made.gguf", source, plan)
    assert (file.architecture, plan.heads, plan.padding) == ("deci", 2, 0)
    before, after = in_torch(model), in_torch(model, delta)
    close(in_llama_cpp(file), after)
    assert np.abs(after - before).max() > 1
    # The heads alone are heard too, and turned by position as those beside them.
    alone = heads(width=model.model.config.head_dim)
    close(
        in_llama_cpp(written(tmp_path / "alone.gguf", source, planned(source, alone))),
        in_torch(model, alone),
    )
    assert np.abs(in_torch(model, alone) - before).max() > 0.1


def test_heads_that_write_nothing_change_no_answer(tmp_path: Path) -> None:
    model = toy("llama")
    source = file_of(model, tmp_path / "source.gguf")
    delta = joint(size=0.0, width=model.model.config.head_dim)
    file = written(tmp_path / "made.gguf", source, planned(source, delta))
    close(in_llama_cpp(file), in_llama_cpp(source))


def test_a_file_with_heads_can_be_edited_again(tmp_path: Path) -> None:
    model = toy("llama")
    source = file_of(model, tmp_path / "source.gguf")
    first = joint(width=model.model.config.head_dim)
    second = expansion(40, 3, model.hidden_size)
    once = written(tmp_path / "once.gguf", source, planned(source, first))
    twice = written(tmp_path / "twice.gguf", once, planned(once, second))
    close(in_llama_cpp(twice), in_torch(model, first, second))


@pytest.mark.parametrize(
    ("type", "lost"), [("f16", 0.01), ("bf16", 0.03), ("q8_0", 0.06), ("q5_1", 0.4), ("q4_0", 1)]
)
def test_a_quantised_file_with_edits_runs_as_a_twin_and_padded_alike(
    tmp_path: Path, type: str, lost: float
) -> None:
    model = toy("llama")
    source = file_of(model, tmp_path / "source.gguf")
    delta = delta_for(model)
    form = Form(type=TYPES[type])
    found = []
    for one in (form, replace(form, padded=True)):
        plan = planned(source, delta, one)
        found.append(in_llama_cpp(written(tmp_path / "made.gguf", source, plan)))
    close(found[0], found[1])
    wanted = in_torch(model, delta)
    assert np.abs(found[0] - wanted).mean() < lost < np.abs(in_torch(model) - wanted).mean()


def test_edits_run_in_finer_types_than_the_rest(tmp_path: Path) -> None:
    model = toy("llama")
    plain = file_of(model, tmp_path / "plain.gguf")
    plan = planned(plain, None, Form(type=TYPES["q8_0"]))
    source = written(tmp_path / "source.gguf", plain, plan)
    carrying = {"gate": TYPES["f16"], "up": TYPES["f32"], "down": TYPES["bf16"]}
    delta = delta_for(model)
    plan = planned(source, delta, Form(carrying=carrying))
    found = in_llama_cpp(written(tmp_path / "made.gguf", source, plan))
    assert np.abs(found - in_torch(model, delta)).mean() < 0.06
