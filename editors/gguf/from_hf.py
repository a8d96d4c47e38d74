"""A model folder as a GGUF file, whole: what llama.cpp's converter makes of it.

Tensors get llama.cpp's names (package ``gguf``) and the metadata says what the configuration
does. Three things differ between the two worlds. llama.cpp rotates neighbouring numbers of a
query under the architecture "llama", ``transformers`` the two halves: rows of the projections
change places. Gemma's norms multiply by one more than their weight: the one is added. And
"llama3" scaling of positions is a tensor of factors.

Windows of attention are narrower than the context in some models; llama.cpp keeps to them for
Gemma, and looks back on everything for the others. Up to the window that is the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editors.architectures import ModelView, view
from editors.gguf import quantise
from editors.gguf.container import size_of
from editors.gguf.matrices import neighbours
from editors.gguf.tokenizer import REMEDY, Vocabulary, strips_right, vocabulary
from editors.model_files import ModelError
from editors.requests import EditorError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from gguf import GGUFWriter

    from editors.model import ChatModel

_ROWS = 8192  # rows that are quantised at once
_PHI_TOKENS = frozenset({"<unk>", "<s>", "</s>", "<|endoftext|>"})


@dataclass(frozen=True)
class Kind:
    """How an architecture stands in a GGUF.

    Attributes:
        name: llama.cpp's.
        halves: whether rows of the query and key projections change places.
        shift: what norms' weights are stored larger by.
        windows: whether llama.cpp keeps to windows, and layers without one are told it.
        large: number of layers of the size whose queries are scaled by hidden / heads.
        scalings: of positions, besides none.
    """

    name: str
    halves: bool = False
    shift: float = 0.0
    windows: bool = False
    large: int = 0
    scalings: frozenset[str] = frozenset({"linear", "yarn"})


_LLAMA = Kind("llama", halves=True, scalings=frozenset({"linear", "yarn", "llama3"}))
_LINEAR = frozenset({"linear"})
_GEMMA3 = Kind("gemma3", shift=1.0, windows=True, large=62, scalings=_LINEAR)
KINDS: Mapping[str, Kind] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Kind("qwen2"),
    "qwen3": Kind("qwen3"),
    "gemma2": Kind("gemma2", shift=1.0, windows=True, large=46, scalings=_LINEAR),
    "gemma3_text": _GEMMA3,
    "gemma3": _GEMMA3,
    "phi3": Kind("phi3", scalings=frozenset({"longrope"})),
}
"""By ``config.model_type``."""


@dataclass(frozen=True)
class _Tensor:
    """A tensor to be written: (rows, columns) or (columns,), float32 when it is asked for."""

    name: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def full_gguf(model: ChatModel, path: Path, type: int) -> None:
    """Write a chat model as a GGUF file that llama.cpp loads; the model stays as it is.

    Tensors are converted one by one: what is in memory besides the model is one of them. What
    was begun is left where writing fails: the caller gives a temporary path.

    Args:
        type: ggml type of the matrices; what it does not fit gets the type that llama.cpp
            falls back to. Vectors are float32.

    Raises:
        ModelError: llama.cpp has no such architecture, tokenizer or setting (no file is begun
            then), or the type cannot be written here.
        OSError: the file cannot be written.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    kind, shown = _kind(model)
    rows = model.model.get_input_embeddings().weight.shape[0]
    words = vocabulary(model, rows)
    factors, tensors = _rope_factors(model, kind, shown), list(_tensors(model, kind, shown))
    tensors[:0] = [_vector(name, values) for name, values in factors.items()]
    writer = GGUFWriter(path, kind.name)
    try:
        _general(writer, model, words, type)
        _settings(writer, model, kind, shown, rows)
        words.write(writer)
        for one in tensors:
            own = _type(one, type)
            size = size_of(own, one.shape[::-1], one.name)
            writer.add_tensor_info(one.name, one.shape, _float32(), size, GGMLQuantizationType(own))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for one in tensors:
            writer.write_tensor_data(_encoded(one, _type(one, type)))
    finally:
        writer.close()


def _kind(model: ChatModel) -> tuple[Kind, ModelView]:
    name = str(model.model.config.model_type)
    kind = KINDS.get(name)
    if kind is None:
        raise ModelError(f"a GGUF of the architecture {name!r} is not written here: {REMEDY}")
    try:
        return kind, view(model)
    except EditorError as error:
        raise ModelError(f"{error}; {REMEDY}") from error


def _unsupported(model: ChatModel, what: str) -> ModelError:
    return ModelError(f"{model.name} has {what}, which is not written here: {REMEDY}")


def _general(writer: GGUFWriter, model: ChatModel, words: Vocabulary, type: int) -> None:
    from gguf import GGML_QUANT_VERSION

    writer.add_type("model")
    writer.add_name(_name(model, words))
    licence = getattr(model.model.config, "license", None)
    if isinstance(licence, str):
        writer.add_license(licence)
    writer.add_file_type(quantise.FILE_TYPES[quantise.NAMES[type]])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _name(model: ChatModel, words: Vocabulary) -> str:
    """Return the model's name. llama.cpp goes by it: where it says "phi-3" or "phi3", control
    tokens swallow the spaces after them, and some tokens must be there."""
    said = re.search(r"phi-?3", model.name, re.IGNORECASE)
    if strips_right(model) and words.kind == "llama" and _PHI_TOKENS.issubset(words.tokens):
        return model.name if said else f"{model.name} (Phi-3)"
    return re.sub(r"(?i)(phi)-?3", r"\1 3", model.name)


def _settings(
    writer: GGUFWriter, model: ChatModel, kind: Kind, shown: ModelView, rows: int
) -> None:
    config, head = shown.config, _head(shown.config)
    writer.add_vocab_size(rows)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(len(shown.layers))
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _positions(writer, model, kind, config)
    _windows(writer, model, kind, config)
    attention, final = (
        getattr(config, f"{part}_logit_softcapping", None) for part in ("attn", "final")
    )
    if kind.name == "gemma2" and attention and final:
        writer.add_attn_logit_softcapping(attention)
        writer.add_final_logit_softcapping(final)
    elif attention or final or kind.name == "gemma2":
        raise _unsupported(model, "capped logits of another kind")
    scale = getattr(config, "query_pre_attn_scalar", None)
    large = kind.large and len(shown.layers) == kind.large
    if scale and scale != (config.hidden_size / config.num_attention_heads if large else head):
        raise _unsupported(model, f"queries scaled by {scale}")
    act = getattr(config, "hidden_activation", None) or config.hidden_act
    if act != ("gelu_pytorch_tanh" if kind.shift else "silu"):
        raise _unsupported(model, f"an activation {act!r}")


def _positions(writer: GGUFWriter, model: ChatModel, kind: Kind, config: Any) -> None:
    """Write how positions are told: the rotation's base, what of a head rotates, scaling."""
    from gguf import RopeScalingType

    rope, local = _ropes(config)
    turned = _turned(config)
    if turned != _head(config) and kind.name != "phi3":
        raise _unsupported(model, f"heads of which {turned} of {_head(config)} numbers rotate")
    writer.add_rope_dimension_count(turned)
    writer.add_rope_freq_base(rope["rope_theta"])
    if local is not None:
        if local["rope_type"] != "default":
            raise _unsupported(model, "scaled positions in windows")
        writer.add_rope_freq_base_swa(local["rope_theta"])
    scaling = rope["rope_type"]
    if scaling == "default":
        return
    own = {key for key in ("attention_factor", "mscale", "beta_fast", "beta_slow") if rope.get(key)}
    if scaling not in kind.scalings or (own and scaling != "longrope"):
        raise _unsupported(model, f"positions scaled by {' '.join((scaling, *sorted(own)))}")
    if scaling == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif scaling == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif scaling == "longrope":
        before = rope["original_max_position_embeddings"]
        ratio = config.max_position_embeddings / before
        factor = math.sqrt(1 + math.log(ratio) / math.log(before)) if ratio > 1 else 1.0
        writer.add_rope_scaling_orig_ctx_len(before)
        writer.add_rope_scaling_attn_factors(rope.get("attention_factor") or factor)


def _windows(writer: GGUFWriter, model: ChatModel, kind: Kind, config: Any) -> None:
    types = list(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if not window or (types and "sliding_attention" not in types):
        return
    writer.add_sliding_window(window)
    if kind.windows:
        full = [at for at, type in enumerate(types) if type == "full_attention"]
        period = full[0] + 1 if full else len(types) + 1
        if any((at % period == period - 1) != (at in full) for at in range(len(types))):
            raise _unsupported(model, "windows in layers of no fixed period")
        writer.add_sliding_window_pattern(period)


def _rope_factors(model: ChatModel, kind: Kind, shown: ModelView) -> dict[str, list[float]]:
    """Return tensors of what each frequency is divided by, (half of what rotates,).

    Frequencies whose wave is longer than the context they were trained on are divided by the
    factor, much shorter ones by 1, those between by something between (Llama 3.1).
    """
    rope, _ = _ropes(shown.config)
    half, scaling = _turned(shown.config) // 2, rope["rope_type"]
    if scaling == "longrope" and scaling in kind.scalings:
        found = {f"rope_factors_{one}": list(rope[f"{one}_factor"]) for one in ("long", "short")}
        if any(len(factors) != half for factors in found.values()):
            raise _unsupported(model, "a wrong number of factors for its positions")
        return {f"{name}.weight": factors for name, factors in found.items()}
    if scaling != "llama3" or scaling not in kind.scalings:
        return {}
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for at in range(half):
        wave = 2 * math.pi * rope["rope_theta"] ** (at / half)
        kept = (rope["original_max_position_embeddings"] / wave - low) / (high - low)
        kept = min(max(kept, 0.0), 1.0)
        factors.append(1 / ((1 - kept) / factor + kept))
    return {"rope_freqs.weight": factors}


def _ropes(config: Any) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Return settings of the rotation, and those of layers with a window if they are others."""
    said = config.rope_parameters
    if "full_attention" in said:
        return said["full_attention"], said.get("sliding_attention")
    return said, None


def _head(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _turned(config: Any) -> int:
    """Return how many numbers of a head rotate."""
    return int(_head(config) * (_ropes(config)[0].get("partial_rotary_factor") or 1.0))


def _tensors(model: ChatModel, kind: Kind, shown: ModelView) -> Iterator[_Tensor]:
    """Yield what is written of the weights, by llama.cpp's names."""
    from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, get_tensor_name_map

    (arch,) = [one for one in MODEL_ARCH if MODEL_ARCH_NAMES[one] == kind.name]
    names = get_tensor_name_map(arch, len(shown.layers))
    found = {f"model.{name}": p for name, p in shown.decoder.named_parameters()}
    if not shown.tied:
        found |= {f"lm_head.{name}": p for name, p in shown.head.named_parameters()}
    for name, parameter in found.items():
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None or not parameter.is_floating_point() or parameter.is_meta:
            raise _unsupported(model, f"a tensor {name}")
        yield _tensor(new, parameter, _change(name, kind, shown.config))


def _change(name: str, kind: Kind, config: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what a tensor goes through."""
    part = name.split(".")[-2]
    if kind.halves and part in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
        return lambda values: neighbours(values, heads)
    if kind.shift and part.endswith("norm"):
        return lambda values: values + kind.shift
    return lambda values: values


def _tensor(
    name: str, parameter: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]
) -> _Tensor:
    def values() -> np.ndarray:
        return change(parameter.detach().float().cpu()).contiguous().numpy()

    return _Tensor(name, tuple(parameter.shape), values)


def _vector(name: str, values: Sequence[float]) -> _Tensor:
    import numpy as np

    return _Tensor(name, (len(values),), lambda: np.array(values, np.float32))


def _type(tensor: _Tensor, wanted: int) -> int:
    if len(tensor.shape) < 2:
        return quantise.F32
    return quantise.fitting(wanted, tensor.shape[-1])


def _float32() -> Any:
    import numpy as np

    return np.dtype(np.float32)


def _encoded(tensor: _Tensor, type: int) -> np.ndarray:
    """Return a tensor's bytes: (rows, bytes of a row) uint8."""
    import numpy as np

    values = tensor.values()
    values = values.reshape(-1, values.shape[-1])
    parts = [quantise.encode(values[at : at + _ROWS], type) for at in range(0, len(values), _ROWS)]
    return np.concatenate(parts)
