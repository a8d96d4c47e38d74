"""Model view: where each architecture keeps its parts.

Every local method speaks of the same few things: the *key* that enters an MLP's output
projection ("down"), the *value* that leaves it, the matrix between them, the residual
stream around them (methods.md §1.2, §3.1). ``view`` finds them in a model by one row of
``ARCHITECTURES``; a new architecture of this shape is a new row.

Matrices are handed out in (out, in) orientation whatever the storage, so that ``y = W x``.
A value is measured at the output of the down projection, bias included. Gemma normalises
it once more before it joins the residual stream (``post_feedforward_layernorm``):
``entering`` says what a value becomes there; for the other architectures it is the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from editors.requests import EditorError

if TYPE_CHECKING:
    from editors.model import ChatModel

PARTS = ("layer", "mlp", "down", "up", "gate", "attention")
"""What ``ModelView.module`` finds in a layer: the layer itself, its MLP, the MLP's output
projection, its input projections, and the attention's output projection."""


@dataclass(frozen=True)
class Architecture:
    """One row: the paths of an architecture's parts; the defaults are those of Llama.

    Attributes:
        name: ``config.model_type``.
        decoder: the base model without its head, below the causal LM.
        layers, norm: the decoder layers and the final norm, below the decoder.
        mlp, down, up, gate: the MLP and its projections, below a layer; no gate in a plain
            MLP; ``gate`` equal to ``up`` means one fused matrix with the gate's rows first.
        attention: the attention's output projection, below a layer.
        queries: the attention's input projections, one fused or three.
        mlp_leaves, attention_leaves: norms between an output and the residual stream.
        rotary: who is asked for rotary embeddings: "model" (once), "type" (once a layer
            type), "" (nobody: positions are in the input).
        cache: the keyword under which a layer takes its keys and values.
    """

    name: str
    decoder: str = "model"
    layers: str = "layers"
    norm: str = "norm"
    mlp: str = "mlp"
    down: str = "mlp.down_proj"
    up: str = "mlp.up_proj"
    gate: str | None = "mlp.gate_proj"
    attention: str = "self_attn.o_proj"
    queries: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    mlp_leaves: str | None = None
    attention_leaves: str | None = None
    rotary: str = "model"
    cache: str = "past_key_values"


_LLAMA = Architecture("llama")
_GEMMA2 = Architecture(
    "gemma2",
    mlp_leaves="post_feedforward_layernorm",
    attention_leaves="post_attention_layernorm",
)
_GEMMA3 = Architecture(
    "gemma3_text",
    mlp_leaves=_GEMMA2.mlp_leaves,
    attention_leaves=_GEMMA2.attention_leaves,
    rotary="type",
)
_ROWS = (
    _LLAMA,
    Architecture("mistral"),
    Architecture("qwen2"),
    Architecture("qwen3"),
    _GEMMA2,
    _GEMMA3,
    Architecture(  # the text half of the model that also sees pictures
        "gemma3",
        decoder="model.language_model",
        mlp_leaves=_GEMMA2.mlp_leaves,
        attention_leaves=_GEMMA2.attention_leaves,
        rotary="type",
    ),
    Architecture(
        "phi3",
        up="mlp.gate_up_proj",
        gate="mlp.gate_up_proj",
        queries=("self_attn.qkv_proj",),
    ),
    Architecture(
        "gpt2",
        decoder="transformer",
        layers="h",
        norm="ln_f",
        down="mlp.c_proj",
        up="mlp.c_fc",
        gate=None,
        attention="attn.c_proj",
        queries=("attn.c_attn",),
        rotary="",
    ),
    Architecture(
        "gpt_neox",
        decoder="gpt_neox",
        norm="final_layer_norm",
        down="mlp.dense_4h_to_h",
        up="mlp.dense_h_to_4h",
        gate=None,
        attention="attention.dense",
        queries=("attention.query_key_value",),
        cache="layer_past",
    ),
)
ARCHITECTURES: Mapping[str, Architecture] = {row.name: row for row in _ROWS}


@dataclass(frozen=True)
class LayerNames:
    """Names of one layer's weights, as ``DenseDelta`` and ``ModelView.matrix`` take them.

    ``gate_rows`` and ``up_rows`` are the rows of the gate and of the up projection in their
    (out, in) matrices: all rows, but halves of one matrix where the two are fused.
    """

    down: str
    up: str
    gate: str | None
    attention: str
    queries: tuple[str, ...]
    up_rows: slice
    gate_rows: slice


@dataclass(frozen=True)
class ModelView:
    """A model's parts by what they do. Made by ``view``; holds no copy of any weight.

    Attributes:
        chat: the chat model that is viewed.
        row: where its architecture keeps what.
        decoder: the base model without its head.
        layers: its decoder layers, in order.
        norm: the norm after the last layer.
        head: the output head, a linear module (hidden → vocabulary).
    """

    chat: ChatModel
    row: Architecture
    decoder: Any
    layers: Any
    norm: Any
    head: Any

    @property
    def config(self) -> Any:
        """The settings of the text model."""
        return self.decoder.config

    @property
    def hidden(self) -> int:
        """Width d of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate (SwiGLU or GeGLU)."""
        return self.row.gate is not None

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP read the same input (GPT-NeoX), so that a change of the
        attention's output does not reach the same layer's MLP."""
        return bool(getattr(self.config, "use_parallel_residual", False))

    @property
    def tied(self) -> bool:
        """Whether the head and the input embedding are one tensor, which no edit may touch."""
        return self.head.weight is self.chat.model.get_input_embeddings().weight

    @property
    def output_weight(self) -> torch.Tensor:
        """The head's matrix (vocabulary, hidden)."""
        return self.head.weight

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return self.chat.model.get_input_embeddings().weight.device

    def inner(self, layer: int) -> int:
        """Width m of a layer's keys (a widened layer has more than its neighbours)."""
        return self.matrix(self.names(layer).down).shape[1]

    def names(self, layer: int) -> LayerNames:
        """Return the names of a layer's weights."""
        row, root = self.row, f"{self.row.decoder}.{self.row.layers}.{self._checked(layer)}"
        every, half = slice(None), 0
        if row.gate == row.up:
            half = self.matrix(f"{root}.{row.up}.weight").shape[0] // 2
        return LayerNames(
            down=f"{root}.{row.down}.weight",
            up=f"{root}.{row.up}.weight",
            gate=f"{root}.{row.gate}.weight" if row.gate else None,
            attention=f"{root}.{row.attention}.weight",
            queries=tuple(f"{root}.{path}.weight" for path in row.queries),
            up_rows=slice(half, None) if half else every,
            gate_rows=slice(half) if half else every,
        )

    def module(self, layer: int, part: str) -> nn.Module:
        """Return one of the ``PARTS`` of a layer.

        Raises:
            EditorError: there is no such layer or part.
        """
        block = self.layers[self._checked(layer)]
        if part == "layer":
            return block
        path = getattr(self.row, part) if part in PARTS else None
        if path is None:
            raise EditorError(f"a layer of {self.row.name} has no part {part!r}")
        return block.get_submodule(path)

    def parameter(self, name: str) -> nn.Parameter:
        """Return a parameter by its name, as it is stored.

        Raises:
            EditorError: there is none, or its numbers are not here (quantised, offloaded).
        """
        try:
            found = self.chat.model.get_parameter(name)
        except AttributeError as error:
            raise EditorError(f"{self.chat.name} has no parameter {name}") from error
        if not found.is_floating_point() or found.is_meta:
            where = "offloaded" if found.is_meta else f"quantised ({found.dtype})"
            raise EditorError(
                f"{name} of {self.chat.name} is {where}; load the model whole, "
                "in float32 or bfloat16, to edit it"
            )
        return found

    def matrix(self, name: str) -> torch.Tensor:
        """Return a weight matrix as (out, in), a view on the parameter and never a copy."""
        weight = self.parameter(name)
        return weight.T if self._transposed(name) else weight

    def stored(self, name: str, change: torch.Tensor) -> torch.Tensor:
        """Turn a change of ``matrix(name)``, (out, in), into one of the stored parameter."""
        wanted = self.matrix(name).shape
        if change.shape != wanted:
            raise EditorError(
                f"a change of {name} must be (out, in) = {tuple(wanted)}, not {tuple(change.shape)}"
            )
        return (change.T if self._transposed(name) else change).contiguous()

    def entering(self, layer: int, value: torch.Tensor, part: str = "down") -> torch.Tensor:
        """Return what an output of "down" or "attention" adds to the residual stream."""
        path = self.row.mlp_leaves if part == "down" else self.row.attention_leaves
        return self.layers[layer].get_submodule(path)(value) if path else value

    def window(self, layer: int) -> int | None:
        """Positions that a layer's attention looks back on, its own included; None: all."""
        types = getattr(self.config, "layer_types", None)
        if types and types[layer] != "sliding_attention":
            return None
        return getattr(self.config, "sliding_window", None)

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the norm after the last layer."""
        return self.norm(hidden.to(device_of(self.norm, hidden)))

    def logits(self, final: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits (…, vocabulary) of final hidden states (…, hidden), after the norm; of
        some ``tokens`` (n,) only, (…, n)."""
        final = final.to(device_of(self.head, final))
        if tokens is None:
            logits = self.head(final)
        else:
            bias = getattr(self.head, "bias", None)
            rows = tokens.to(final.device)
            logits = nn.functional.linear(
                final, self.head.weight[rows], None if bias is None else bias[rows]
            )
        cap = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _checked(self, layer: int) -> int:
        if not 0 <= layer < len(self.layers):
            raise EditorError(
                f"{self.chat.name} has layers 0 to {len(self.layers) - 1}, not {layer}"
            )
        return layer

    def _transposed(self, name: str) -> bool:
        from transformers.pytorch_utils import Conv1D

        return isinstance(self.chat.model.get_submodule(name.rpartition(".")[0]), Conv1D)


def view(model: ChatModel | ModelView) -> ModelView:
    """Return the view of a chat model (of a view: itself).

    Raises:
        EditorError: the architecture has no row, or the model lacks a part that its row
            names (a mixture of experts has no one MLP); the message names what is missing.
    """
    if isinstance(model, ModelView):
        return model
    net = model.model
    name = str(net.config.model_type)
    row = ARCHITECTURES.get(name)
    if row is None:
        lacking = _lacking(net, _LLAMA)
        raise EditorError(
            f"editors do not know the architecture {name!r} (known: {', '.join(ARCHITECTURES)}); "
            f"of the Llama shape it lacks {', '.join(lacking) or 'only its row in the table'}"
        )
    lacking = _lacking(net, row)
    if lacking:
        raise EditorError(f"this {name} model cannot be edited: it lacks {', '.join(lacking)}")
    decoder = net.get_submodule(row.decoder)
    attention = decoder.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise EditorError(
            f"editors need attention masks, which {attention} does not take; load the model "
            "with attn_implementation='sdpa' or 'eager'"
        )
    return ModelView(
        model,
        row,
        decoder,
        decoder.get_submodule(row.layers),
        decoder.get_submodule(row.norm),
        net.get_output_embeddings(),
    )


def device_of(module: nn.Module, hidden: torch.Tensor) -> torch.device:
    """Where a module wants its input; one whose weights are offloaded is fed by its own hook."""
    weight = next(module.parameters(), None)
    return hidden.device if weight is None or weight.is_meta else weight.device


def _lacking(net: nn.Module, row: Architecture) -> list[str]:
    """Return the paths of a row that a model does not have."""
    decoder = _found(net, row.decoder)
    if decoder is None:
        return [row.decoder]
    lacking = [p for p in (row.layers, row.norm) if _found(decoder, p) is None]
    layers = _found(decoder, row.layers)
    for block in layers.children() if layers is not None else ():
        leaves = [row.mlp_leaves, row.attention_leaves]
        paths = dict.fromkeys([row.mlp, row.down, row.up, row.gate, row.attention, *row.queries])
        lacking += [p for p in (*paths, *leaves) if p and _found(block, p) is None]
        if lacking:
            break
    return lacking


def _found(root: nn.Module, path: str) -> nn.Module | None:
    try:
        return root.get_submodule(path)
    except AttributeError:
        return None
