"""The edited model as a Hugging Face folder that loads without any code of ours.

A configuration has one ``intermediate_size`` and one number of heads for all layers. So where
edits widen one layer, the others are padded to its width with neurons of zeros: their gate is
zero, they write zero, and the logits stay what they were. Heads of zeros pad those that have
fewer in the same way. Tensors are padded, cast and written shard by shard, so that what is in
memory besides the model is one shard.
"""

from __future__ import annotations

import copy
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from editors.architectures import ModelView, view
from editors.deltas import EditDelta, applied
from editors.model import ChatModel
from editors.model_files import ModelError, first_line
from editors.requests import EditorError
from store.errors import StoreError
from store.files import Files

SHARD_BYTES = 2 * 10**9
"""Greatest size of one file of tensors, and so of what is held in memory at a time."""
PROVENANCE = "corrigenda"
"""The key of ``config.json`` under which the provenance stands."""


@dataclass(frozen=True)
class HfExport:
    """What was written.

    Attributes:
        folder: where.
        neurons: FFN neurons that the edits added, in all layers.
        parameters_added_by_edits: parameters that the model grew by because of them.
        heads: query heads that every layer has more.
        parameters_added_by_padding: zeros that give all layers the width of the widest, and as
            many heads.
        bytes: size of all files.
    """

    folder: Path
    neurons: int
    heads: int
    parameters_added_by_edits: int
    parameters_added_by_padding: int
    bytes: int


def export_hf(
    model: ChatModel,
    deltas: Sequence[EditDelta],
    folder: Path,
    dtype: torch.dtype | None = None,
    card: str = "",
    provenance: Mapping[str, str] | None = None,
    *,
    shard_bytes: int = SHARD_BYTES,
    files: Files | None = None,
) -> HfExport:
    """Write a model with deltas as a folder for ``AutoModelForCausalLM.from_pretrained``.

    The folder gets its name when it is complete and on disk. The model is widened while it is
    written, and afterwards what it was before.

    Args:
        folder: does not exist yet, or is empty; the folders above it are made.
        dtype: of the floating-point tensors; None keeps the model's.
        card: text of the ``README.md``; none is written where it is empty.
        provenance: kept in ``config.json`` under ``PROVENANCE``.
        shard_bytes: greatest size of a file of tensors.

    Raises:
        StoreError: the folder is not empty, or cannot be written.
        DeltaError, EditorError: the deltas do not fit the model, or do not act in its weights.
        ModelError: the model cannot be saved so; its numbers are too large for ``dtype``.
    """
    folder = folder.resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise StoreError(f"{folder} exists and is not empty; remove it or choose another folder")
    before = sum(_widths(view(model)))
    acting = len(model.runtimes), len(model.memories)
    with applied(model, *deltas):
        if (len(model.runtimes), len(model.memories)) != acting:
            raise EditorError(
                "these edits act while the model runs and are not in its weights; "
                "export a version whose editor writes weights"
            )
        content = _Content.of(model, dtype)
        with _whole(folder, content.bytes, files or Files()) as temporary:
            _write_settings(model, content, dtype or model.model.dtype, provenance or {}, temporary)
            if card:
                (temporary / "README.md").write_text(card, encoding="utf-8")
            content.write(temporary, shard_bytes)
        neurons = sum(_widths(view(model))) - before
    return HfExport(
        folder=folder,
        neurons=neurons,
        heads=content.heads.more if content.heads else 0,
        parameters_added_by_edits=sum(delta.parameters_added for delta in deltas),
        parameters_added_by_padding=content.padding,
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


@dataclass(frozen=True)
class _Pad:
    """Zeros that bring a tensor's ``dim`` to ``halves`` times ``width``, at the end of each
    half: a fused matrix has the gate's rows above and the others below."""

    dim: int
    halves: int
    width: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.shape[self.dim]
        if size == self.halves * self.width:
            return tensor
        shape = list(tensor.shape)
        shape[self.dim] = self.width - size // self.halves
        zeros = tensor.new_zeros(shape)
        parts = [p for half in tensor.chunk(self.halves, self.dim) for p in (half, zeros)]
        return torch.cat(parts, self.dim)


@dataclass(frozen=True)
class _Heads:
    """How many heads every layer has, where some have more than the configuration says.

    Attributes:
        query, key: heads of a layer.
        width: of a head.
        more: query heads above what the configuration says.
    """

    query: int
    key: int
    width: int
    more: int

    @classmethod
    def of(cls, shown: ModelView) -> _Heads | None:
        """Return the least number of whole groups that all layers fit into; None where they are
        what the configuration says."""
        config, most = shown.config, max(map(_key_rows, shown.layers))
        width = int(getattr(shown.layers[0].self_attn, "head_dim", 0)) if most else 0
        if not width or most <= config.num_key_value_heads * width:
            return None
        group, key = config.num_attention_heads // config.num_key_value_heads, most // width
        # transformers wants the hidden size to be a multiple of the heads, however wide these are.
        while config.hidden_size % (group * key) and group * key < config.hidden_size:
            key += 1
        return cls(group * key, key, width, group * key - config.num_attention_heads)

    def pads(self, shown: ModelView) -> dict[str, _Pad]:
        query, key = _Pad(0, 1, self.query * self.width), _Pad(0, 1, self.key * self.width)
        parts = {"q_proj": query, "k_proj": key, "v_proj": key}
        parts["o_proj"] = _Pad(1, 1, self.query * self.width)
        names = {id(module): name for name, module in shown.chat.model.named_modules()}
        found: dict[str, _Pad] = {}
        for layer in shown.layers:
            within = names[id(layer.self_attn)]
            found |= {f"{within}.{part}.weight": pad for part, pad in parts.items()}
        return found


def _key_rows(layer: Any) -> int:
    """Return how many rows a layer's keys have; 0 where they lie in no matrix of their own."""
    projection = getattr(getattr(layer, "self_attn", None), "k_proj", None)
    return projection.weight.shape[0] if isinstance(projection, torch.nn.Linear) else 0


@dataclass(frozen=True)
class _Content:
    """The tensors of a folder before they are made.

    Attributes:
        net: the transformers model.
        tensors: its tensors by name, none twice; no copies.
        pads: what is appended to some of them, by name.
        width: FFN width of every layer.
        heads: of every layer, None: those of the configuration.
        dtype: of the floating-point tensors as written; None: each keeps its own.
    """

    net: Any
    tensors: dict[str, torch.Tensor]
    pads: dict[str, _Pad]
    width: int
    heads: _Heads | None
    dtype: torch.dtype | None

    @classmethod
    def of(cls, model: ChatModel, dtype: torch.dtype | None) -> _Content:
        from transformers.modeling_utils import remove_tied_weights_from_state_dict

        shown, net = view(model), model.model
        tensors = remove_tied_weights_from_state_dict(net.state_dict(), net)
        if getattr(net.config, "quantization_config", None) is not None or any(
            tensor.is_meta for tensor in tensors.values()
        ):
            raise ModelError(
                f"{model.name} is quantised or offloaded; load it whole, in float32 or bfloat16, "
                "to export it"
            )
        width, heads = max(_widths(shown)), _Heads.of(shown)
        pads = _pads(shown, width) | (heads.pads(shown) if heads else {})
        return cls(net, tensors, pads, width, heads, dtype)

    @property
    def bytes(self) -> int:
        """What all tensors take on disk."""
        return sum(tensor.nbytes for tensor in self._shapes().values())

    @property
    def padding(self) -> int:
        """Number of zeros appended."""
        shapes = self._shapes()
        return sum(shapes[name].numel() - t.numel() for name, t in self.tensors.items())

    def write(self, folder: Path, shard_bytes: int) -> None:
        """Write the tensors, as one file or as several and their index."""
        from huggingface_hub import split_torch_state_dict_into_shards
        from safetensors.torch import save_file
        from transformers.core_model_loading import revert_weight_conversion

        split = split_torch_state_dict_into_shards(self._shapes(), max_shard_size=shard_bytes)
        places: dict[str, str] = {}
        for file, names in split.filename_to_tensors.items():
            made = {name: self._tensor(name) for name in names}
            # Other programs know the tensors by the names of the published checkpoint.
            shard = revert_weight_conversion(self.net, made)
            save_file(shard, folder / file, metadata={"format": "pt"})
            # safetensors lets only the owner read; what is exported is meant for others too.
            (folder / file).chmod((folder / "config.json").stat().st_mode)
            places |= dict.fromkeys(shard, file)
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": places}
            path = folder / "model.safetensors.index.json"
            path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _shapes(self) -> dict[str, torch.Tensor]:
        """The tensors as they will be, without their numbers."""
        return {name: self._cast(name, tensor.to("meta")) for name, tensor in self.tensors.items()}

    def _tensor(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name]
        made = self._cast(name, tensor).cpu().contiguous()
        if made.dtype != tensor.dtype and not made.isfinite().all() and tensor.isfinite().all():
            raise ModelError(
                f"{name} holds numbers too large for {_dtype_name(made.dtype)}; "
                "export in bfloat16 or float32"
            )
        return made

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = self.pads[name](tensor) if name in self.pads else tensor
        floating = self.dtype is not None and tensor.is_floating_point()
        return tensor.to(self.dtype) if floating else tensor


def _widths(shown: ModelView) -> list[int]:
    return [shown.inner(layer) for layer in range(len(shown.layers))]


def _pads(shown: ModelView, width: int) -> dict[str, _Pad]:
    """Return what brings each layer's MLP to a width, by the name of the tensor."""
    if not shown.gated:  # nothing widens these (MlpExpansion refuses)
        return {}
    pads = {}
    for layer in range(len(shown.layers)):
        names = shown.names(layer)
        pads[names.down] = _Pad(1, 1, width)
        for name in {names.up, names.gate or names.up}:
            pads[name] = _Pad(0, 2 if names.gate == names.up else 1, width)
            # A bias, where there is one, is as long as before the layer was widened.
            pads[f"{name.removesuffix('weight')}bias"] = pads[name]
    return pads


def _write_settings(
    model: ChatModel,
    content: _Content,
    dtype: torch.dtype,
    provenance: Mapping[str, str],
    folder: Path,
) -> None:
    """Write configuration, generation settings, tokenizer and chat template."""
    config = copy.deepcopy(model.model.config)
    text = config.get_text_config()
    if getattr(text, "intermediate_size", content.width) != content.width:
        text.intermediate_size = content.width
    if content.heads:
        text.head_dim = content.heads.width
        text.num_attention_heads = content.heads.query
        text.num_key_value_heads = content.heads.key
    config.architectures = [type(model.model).__name__]
    config.dtype = text.dtype = _dtype_name(dtype)
    if provenance:
        setattr(config, PROVENANCE, dict(provenance))
    # With the tokenizer's own end among the ends, it stops where the served model does.
    generation = copy.deepcopy(model.model.generation_config)
    ends = sorted(model.stop_ids)
    if ends:
        generation.eos_token_id = ends if len(ends) > 1 else ends[0]
    try:
        config.save_pretrained(folder)
        # Not save_pretrained, which refuses settings that it has read without complaint.
        generation.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
        model.tokenizer.save_pretrained(folder)
    except ValueError as error:
        raise ModelError(
            f"the settings of {model.name} cannot be saved: {first_line(error)}"
        ) from error


@contextmanager
def _whole(folder: Path, needed: int, files: Files) -> Iterator[Path]:
    """Give a folder beside ``folder`` that gets its name at the end, or leaves no trace."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        free = shutil.disk_usage(temporary).free
        if free < needed:
            raise StoreError(_unwritable(folder, f"only {free:,} bytes are free", needed))
        yield temporary
        for path in (*sorted(temporary.rglob("*")), temporary):
            files.sync(path)
        files.rename(temporary, folder)
        files.sync(folder.parent)
    except Exception as error:
        # Tensors and tokenizer are written in Rust, where a full disk is no OSError.
        if not isinstance(error, OSError) and "os error" not in str(error):
            raise
        reason = error.strerror if isinstance(error, OSError) else None
        raise StoreError(_unwritable(folder, reason or first_line(error), needed)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unwritable(folder: Path, reason: str, needed: int) -> str:
    return (
        f"{folder} cannot be written ({reason}): the tensors take {needed:,} bytes; "
        "free some space or choose another folder"
    )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
