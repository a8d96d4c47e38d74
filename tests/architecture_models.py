"""Tiny random models of every architecture that editors know, all with the toy's tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from toy_model import tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from editors.model import ChatModel

LAYERS, HIDDEN, INNER = 3, 32, 64
_LLAMA: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_GEMMA = {**_LLAMA, "head_dim": 8, "sliding_window": 4, "layer_types": _MIXED}
_SIGHT = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
    "patch_size": 14,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {**_LLAMA, "tie_word_embeddings": True},
    "mistral": {**_LLAMA, "sliding_window": 4},
    "qwen2": _LLAMA,
    "qwen3": {
        **_LLAMA,
        "head_dim": 8,
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": _MIXED,
    },
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": {"text_config": _GEMMA, "vision_config": _SIGHT, "mm_tokens_per_image": 1},
    "phi3": _LLAMA,
    "gpt2": {
        "n_embd": HIDDEN,
        "n_inner": INNER,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_positions": 128,
        "initializer_range": 0.2,
    },
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.5},
}
"""Per architecture the settings of its tiny model. Windows are so narrow that they count."""


def architecture_model(
    name: str, dtype: torch.dtype = torch.float64, **settings: object
) -> ChatModel:
    """Return a model with random weights; norms and biases are random too, so that nothing
    is right by being one or zero."""
    words = tokenizer()
    tokens = {
        "vocab_size": len(words),
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    given: dict[str, Any] = {**SETTINGS.get(name, _LLAMA), **settings}
    if "text_config" in given:
        given["text_config"] = {**given["text_config"], **tokens}
    config = AutoConfig.for_model(name, **given, **tokens)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return ChatModel(net.to(dtype), words, base_hash="a7" * 32, name=f"tiny {name}", batch_size=3)
