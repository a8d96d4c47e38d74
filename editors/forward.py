"""Running some layers on some columns of a text, for every architecture alike.

What lies before these columns is in a ``Past`` (keys and values), what lies below the
layers is in the hidden states that are handed in. Masks are built from positions and not
from columns, so that padding may stand anywhere, a prefix may be shared by all rows, and
an attention window counts tokens. Trunk cache and early exit stand on this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from editors.architectures import ModelView, device_of

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of attention, each (B, heads, columns, head size)."""


class Past:
    """Keys and values of the columns before those being run; a layer takes it for its cache.

    Attributes:
        before: per layer the blocks of keys and values, in the order of their columns; a
            block of one row stands for all rows (a prefix that they share).
        positions: (B or 1, columns) position ids of these columns, -1 where padding.
        made: per layer the keys and values of the columns run, if ``record`` is set.
    """

    def __init__(
        self,
        before: Mapping[int, Sequence[KeyValue]] | None = None,
        positions: torch.Tensor | None = None,
        record: bool = False,
    ) -> None:
        self.before = before or {}
        self.positions = positions
        self.record = record
        self.made: dict[int, KeyValue] = {}

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> KeyValue:
        """Called by a layer's attention: return all keys and values, these new ones last."""
        if self.record:
            self.made[layer] = (keys, values)
        blocks = self.before.get(layer, ())
        if not blocks:
            return keys, values
        rows = len(keys)
        return (
            torch.cat([*(block[0].expand(rows, -1, -1, -1) for block in blocks), keys], dim=2),
            torch.cat([*(block[1].expand(rows, -1, -1, -1) for block in blocks), values], dim=2),
        )


def embed(view: ModelView, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return what enters the first layer: (B, T) ids and positions → (B, T, hidden)."""

    def caught(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Caught(args[0] if args else kwargs["hidden_states"])

    # Each architecture scales, adds positions and drops out in its own way: the model itself
    # is run, as far as its first layer.
    hook = view.layers[0].register_forward_pre_hook(caught, with_kwargs=True, prepend=True)
    try:
        view.decoder(
            ids, attention_mask=torch.ones_like(ids), position_ids=positions, use_cache=False
        )
    except _Caught as reached:
        return reached.hidden
    finally:
        hook.remove()
    raise AssertionError("a decoder runs its first layer")


def run(
    view: ModelView,
    hidden: torch.Tensor,
    layers: Iterable[int],
    positions: torch.Tensor,
    real: torch.Tensor,
    past: Past | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run some layers on some columns.

    Args:
        view: the model's view.
        hidden: (B, T, hidden), what enters the first of the layers.
        layers: indices in ascending order.
        positions: (B, T) position ids of the columns.
        real: (B, T) bool, false where a column is padding.
        past: the columns before these.
        weights: tensors that stand in for parameters of these layers, by parameter name (as
            ``ModelView.names`` gives it, in the stored orientation); gradients flow into them.

    Returns:
        (B, T, hidden), the last layer's output (no final norm). Gradients flow, and hooks
        (``editors.capture``) fire as in a forward of the whole model.
    """
    past = past or Past()
    keys = torch.where(real, positions, -1)
    if past.positions is not None:
        keys = torch.cat([past.positions.expand(len(keys), -1), keys], dim=1)
    masks: dict[tuple[int | None, torch.device], torch.Tensor] = {}
    turned: dict[tuple[str, torch.device], KeyValue] = {}
    for layer in layers:
        block = view.layers[layer]
        device = device_of(block, hidden)
        hidden, at = hidden.to(device), positions.to(device)
        window = view.window(layer)
        if (window, device) not in masks:
            masks[window, device] = _mask(at, keys.to(device), window, hidden.dtype)
        arguments: dict[str, Any] = {view.row.cache: past, "position_ids": at}
        if view.row.rotary:
            kind = view.config.layer_types[layer] if view.row.rotary == "type" else ""
            if (kind, device) not in turned:
                cos, sin = view.decoder.rotary_emb(hidden, at, *([kind] if kind else []))
                turned[kind, device] = (cos.to(device), sin.to(device))
            arguments["position_embeddings"] = turned[kind, device]
        arguments["attention_mask"] = masks[window, device]
        mine = _of_layer(view, layer, weights)
        made = functional_call(block, mine, (hidden,), arguments) if mine else None
        hidden = first(block(hidden, **arguments) if made is None else made)
    return hidden


def first(output: Any) -> torch.Tensor:
    """Modules return a tensor, or a tuple that begins with it (older releases' layers do)."""
    return output[0] if isinstance(output, tuple) else output


def _of_layer(
    view: ModelView, layer: int, weights: Mapping[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """Return the stand-ins for one layer's parameters, by their names below the layer."""
    root = f"{view.row.decoder}.{view.row.layers}.{layer}."
    return {n.removeprefix(root): w for n, w in (weights or {}).items() if n.startswith(root)}


def _mask(
    queries: torch.Tensor, keys: torch.Tensor, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """Return the additive attention mask (B, 1, T, K).

    Args:
        queries: (B, T) positions of the last T columns.
        keys: (B, K) positions of all columns, -1 where padding.
        window: how many positions a query sees, its own included; None: all before it.
        dtype: that of the hidden states.
    """
    behind = queries[:, :, None] - keys[:, None, :]
    allowed = (behind >= 0) & (keys[:, None, :] >= 0)
    if window is not None:
        allowed &= behind < window
    # A padded query may see nothing; let it see itself, so that no row is all -inf.
    width = queries.shape[1]
    allowed[..., -width:] |= torch.eye(width, dtype=torch.bool, device=allowed.device)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


class _Caught(Exception):
    """Carries what enters the first layer out of the model."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden
