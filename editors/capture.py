"""Capture: what goes into a module, what comes out of it, and the loss's gradient there.

One tutorial for all of it (methods.md §3.2)::

    here = Site(5, "down")                        # layer 5's output projection
    with captured(view, [here]) as seen:          # any forward inside is watched
        model.model(ids)
    seen.inputs(here)                             # keys u, (B, T, m)
    seen.outputs(here)                            # values, (B, T, d)

    with captured(view, [here], gradients=True) as seen:
        loss = loss_of(model.model(ids).logits)
    u, delta = seen.inputs(here), seen.deltas(loss)[here]
    outer_sum(delta, u)                           # = the weight's gradient, exactly

    with replaced(view, here, lambda value: value + vector):
        model.model(ids)                          # as if the MLP had said so

    keys_at(view, prompts, [4, 5], positions=[-1] * len(prompts))   # early exit

The model is the same afterwards: hooks and ``requires_grad`` flags are put back even if the
block raises, and no parameter ever gets a ``.grad``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.forward import Past, embed, first, run
from editors.generation import shared_prefix
from editors.model import ChatModel
from editors.requests import EditorError

SIDES = ("input", "output")


@dataclass(frozen=True)
class Site:
    """A module of a model: a layer, and one of ``architectures.PARTS`` in it."""

    layer: int
    part: str = "down"


class Captures:
    """What was captured at some sites in the last forward inside ``captured``."""

    def __init__(self, positions: torch.Tensor | None) -> None:
        self._positions = positions
        self._inputs: dict[Site, torch.Tensor] = {}
        self._outputs: dict[Site, torch.Tensor] = {}

    def inputs(self, site: Site) -> torch.Tensor:
        """Return what went in: (B, T, width), or what the asked positions leave of it."""
        return self._picked(self._at(self._inputs, site).detach())

    def outputs(self, site: Site) -> torch.Tensor:
        """Return what came out, in the shape of ``inputs``."""
        return self._picked(self._at(self._outputs, site).detach())

    def deltas(self, loss: torch.Tensor, keep: bool = False) -> dict[Site, torch.Tensor]:
        """Return ∂loss/∂output at each site, in the shape of ``outputs``.

        Only what lies between the lowest site and the loss is differentiated. ``keep`` keeps
        the graph for another loss. Needs ``gradients=True``.
        """
        sites = list(self._outputs)
        outputs = [self._outputs[site] for site in sites]
        if not all(output.requires_grad for output in outputs):
            raise EditorError("deltas need captured(..., gradients=True) and a loss with a graph")
        found = torch.autograd.grad(loss, outputs, retain_graph=keep, materialize_grads=True)
        return {site: self._picked(delta) for site, delta in zip(sites, found, strict=True)}

    def _at(self, where: dict[Site, torch.Tensor], site: Site) -> torch.Tensor:
        if site not in where:
            raise EditorError(f"nothing was captured at {site}: not asked for, or no forward ran")
        return where[site]

    def _picked(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._positions is None:
            return tensor
        at = self._positions.to(tensor.device)
        if at.dtype == torch.bool:
            return tensor[at]
        return tensor[torch.arange(len(at), device=tensor.device), at]


@contextlib.contextmanager
def captured(
    model: ChatModel | ModelView,
    sites: Sequence[Site],
    positions: torch.Tensor | None = None,
    gradients: bool = False,
) -> Iterator[Captures]:
    """Watch some modules for the length of a ``with`` block (tutorial: the module's docstring).

    Args:
        model: the model or its view.
        sites: the modules.
        positions: None for all (B, T); a bool mask (B, T) for the marked ones, flat (n, …);
            or one column a row, (B,) long, for (B, …).
        gradients: prepare ``Captures.deltas``. Parameters are frozen meanwhile: nothing below
            the lowest site is kept for the backward pass, and no weight's gradient computed.

    Yields:
        The captures; each forward replaces those of the one before.
    """
    seen = Captures(positions)
    shown = view(model)

    def watch(site: Site) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            out = first(output)
            if gradients and torch.is_grad_enabled() and not out.requires_grad:
                out.requires_grad_(True)
            seen._inputs[site], seen._outputs[site] = args[0], out

        return hook

    with contextlib.ExitStack() as stack:
        if gradients:
            stack.enter_context(frozen(shown))
        for site in dict.fromkeys(sites):
            module = shown.module(site.layer, site.part)
            stack.callback(module.register_forward_hook(watch(site)).remove)
        yield seen


@contextlib.contextmanager
def replaced(
    model: ChatModel | ModelView,
    site: Site,
    function: Callable[[torch.Tensor], torch.Tensor],
    side: str = "output",
) -> Iterator[None]:
    """Replace what comes out of a module (or goes into it) for the length of a ``with`` block.

    ``function`` takes the tensor (B, T, width) of every forward and returns the one to go on
    with; gradients flow through it. It must not write into its argument. Blocks nest: the
    inner one sees what the outer one made, and a ``captured`` further in sees the result.
    """
    if side not in SIDES:
        raise EditorError(f"side is one of {', '.join(SIDES)}, not {side!r}")
    module = view(model).module(site.layer, site.part)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        changed = function(first(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (function(args[0]), *args[1:])

    hook = (
        module.register_forward_hook(after)
        if side == "output"
        else module.register_forward_pre_hook(before)
    )
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def frozen(model: ChatModel | ModelView) -> Iterator[None]:
    """Let no parameter ask for a gradient for the length of a ``with`` block: a backward pass
    then stores and computes only what leads to the vectors that are optimised."""
    asking = [p for p in view(model).chat.model.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def outer_sum(deltas: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Return Σ δ uᵀ over all positions, (out, in): the gradient of a weight ``y = W u``."""
    return deltas.flatten(0, -2).T @ inputs.flatten(0, -2)


def keys_at(
    model: ChatModel | ModelView,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    positions: Sequence[int | Sequence[int]] | None = None,
    part: str = "down",
    side: str = "input",
) -> torch.Tensor:
    """Return the keys (or another part's input or output) of some layers on token sequences.

    Args:
        model: the model or its view.
        sequences: token ids; empty ones are skipped.
        layers: at least one; only the layers up to the highest are run.
        positions: for each sequence one position or several, negative ones from its end;
            None: all tokens. Tokens behind the last position are not run.
        part, side: which module, and which side of it.

    Returns:
        (layers, n, width) on the model's first device: the positions of the first sequence
        in the order asked for, then those of the second, …
    """
    shown = view(model)
    sites = [Site(layer, part) for layer in layers]
    rows: dict[int, torch.Tensor] = {}
    for index, found in streamed(shown, sequences, sites, positions, side):
        rows.update(zip(index, found, strict=True))
    if not rows:
        width = _width(shown, sites[0], side)
        return shown.output_weight.new_empty(len(sites), 0, width, device=shown.device)
    return torch.cat([rows[i] for i in sorted(rows)], dim=1)


@torch.no_grad()
def streamed(
    model: ChatModel | ModelView,
    sequences: Sequence[Sequence[int]],
    sites: Sequence[Site],
    positions: Sequence[int | Sequence[int]] | None = None,
    side: str = "input",
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """``keys_at`` a batch at a time, for texts whose keys do not fit into memory.

    Sequences of like length share a batch of the model's ``batch_size``; what all sequences
    begin with is run once, as far as no position in it is asked for.

    Yields:
        Indices of some sequences, and for each of them (sites, n, width).
    """
    shown = view(model)
    if side not in SIDES:
        raise EditorError(f"side is one of {', '.join(SIDES)}, not {side!r}")
    wanted = {i: _asked(s, i, positions) for i, s in enumerate(sequences) if len(s)}
    wanted = {i: at for i, at in wanted.items() if at}
    cut = {i: list(sequences[i][: max(at) + 1]) for i, at in wanted.items()}
    if not cut:
        return
    upto = range(max(site.layer for site in sites) + 1)
    shared = min(shared_prefix(list(cut.values())), min(min(at) for at in wanted.values()))
    past = run_prefix(shown, next(iter(cut.values()))[:shared], upto)
    order = sorted(cut, key=lambda i: (len(cut[i]), i))
    size = shown.chat.batch_size
    for part in (order[at : at + size] for at in range(0, len(order), size)):
        ids, real = padded([cut[i][shared:] for i in part])
        ids, real = ids.to(shown.device), real.to(shown.device)
        where = (real.cumsum(-1) - 1).clamp(min=0) + shared
        with captured(shown, sites) as seen:
            run(shown, embed(shown, ids, where), upto, where, real, past)
        read = seen.inputs if side == "input" else seen.outputs
        found = torch.stack([read(site).to(shown.device) for site in sites])
        rows = [[at - shared for at in wanted[i]] for i in part]
        yield part, [found[:, row, at] for row, at in enumerate(rows)]


def run_prefix(shown: ModelView, prefix: Sequence[int], layers: range) -> Past:
    """Run what all rows begin with once; return its keys and values in these layers."""
    if not len(prefix):
        return Past()
    ids = torch.tensor([list(prefix)], device=shown.device)
    where = torch.arange(len(prefix), device=shown.device)[None]
    past = Past(record=True)
    run(shown, embed(shown, ids, where), layers, where, torch.ones_like(ids).bool(), past)
    return Past({layer: [pair] for layer, pair in past.made.items()}, where)


def padded(sequences: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, T) token ids, padded on the right with 0, and (B, T) bool: what is real."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*s, *[0] * (width - len(s))] for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    return ids, torch.arange(width) < lengths[:, None]


def _asked(
    sequence: Sequence[int], index: int, positions: Sequence[int | Sequence[int]] | None
) -> list[int]:
    if positions is None:
        return list(range(len(sequence)))
    asked = positions[index]
    every = [asked] if isinstance(asked, int) else list(asked)
    if any(not -len(sequence) <= at < len(sequence) for at in every):
        raise EditorError(
            f"sequence {index} has {len(sequence)} tokens; position {every} is not among them"
        )
    return [at % len(sequence) for at in every]


def _width(shown: ModelView, site: Site, side: str) -> int:
    if site.part in ("layer", "mlp"):
        return shown.hidden
    name = f"{shown.row.decoder}.{shown.row.layers}.{site.layer}.{getattr(shown.row, site.part)}"
    return shown.matrix(f"{name}.weight").shape[1 if side == "input" else 0]
