"""Trunk cache: what lies below an edited layer, and before the edited position, is run once.

During an edit of layer ``l`` everything below ``l`` and every position before the first one
that is changed is constant (methods.md §1.3). ``Trunk`` holds the hidden states of the
*block* (the columns from that position on) and the upper layers' keys and values of what
comes before; ``resume`` runs only the upper layers on only the block. What all samples begin
with (the chat template's system message) is run and kept once for all of them.

The block begins at the last prompt token, which predicts the answer's first token, unless a
sample says where (``Sample.start``: the subject's last token, for ROME and its kin; that
position is then column 0). Sites::

    trunk = run_trunk(model, samples, layer)
    resume(model, trunk, trunk.hidden + bump)                        # the layer's output
    resume(model, trunk, with_values(model, trunk, trunk.values + bump))    # its MLP's output
    below = run_trunk(model, samples, layer - 1)                     # -1: above the embedding
    with replaced(model, Site(layer, "attention"), function):        # anything in the layer,
        resume(model, below, below.hidden)                           # on the block's columns

Wrap optimisation in ``capture.frozen(model)``: the graph then holds only what leads to the
optimised vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, captured, keys_at, run_prefix
from editors.forward import KeyValue, Past, embed, run
from editors.generation import shared_prefix
from editors.model import ChatModel
from editors.passages import Passage
from editors.requests import EditorError


@dataclass(frozen=True)
class Sample:
    """A rendered prompt and the answer that follows it, both as token ids.

    ``start`` is the position in the prompt where the block begins; None: at its last token.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    start: int | None = None

    @property
    def begin(self) -> int:
        return len(self.prompt) - 1 if self.start is None else self.start

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens that are run: the last answer token predicts nothing that is asked."""
        return (*self.prompt, *self.answer[:-1])


@dataclass(frozen=True)
class Trunk:
    """Cached state of a batch of samples above one layer.

    Shapes: B samples; S columns that all samples begin with; P columns between those and the
    block (padded on the left); A columns of the block (padded on the right). A column
    *predicts* the token after it.

    Attributes:
        layer: index of the layer whose MLP is edited; -1: what is edited is the embedding.
        mlp_inputs: (B, A, hidden), what the layer's MLP sees (no columns wide for layer -1).
        keys: (B, A, inner), what its down projection sees.
        values: (B, A, hidden), what its down projection gives.
        hidden: (B, A, hidden), the layer's output in the unedited model.
        targets: (B, A) token ids to predict, -100 where there is none.
        real: (B, A) bool, false where a column is padding.
        firsts: (B,) the column that predicts the first answer token.
        positions: (B, A) position ids.
        past: per upper layer keys and values of the P columns; empty if there are none.
        prefix: the same of the S columns, one row for all samples; empty if there are none.
        past_positions: (B, S + P) position ids before the block, -1 where padding.
    """

    layer: int
    mlp_inputs: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    hidden: torch.Tensor
    targets: torch.Tensor
    real: torch.Tensor
    firsts: torch.Tensor
    positions: torch.Tensor
    past: tuple[KeyValue, ...]
    prefix: tuple[KeyValue, ...]
    past_positions: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


@torch.no_grad()
def run_trunk(
    model: ChatModel | ModelView,
    samples: Sequence[Sample],
    layer: int,
    batch: int | None = None,
    passage: Passage | None = None,
) -> Trunk:
    """Run the unedited model once over the samples and keep what lies at ``layer``.

    Args:
        model: the model or its view.
        samples: at least one.
        layer: the edited layer, -1 for the embedding.
        batch: samples that are run together (default: the model's ``batch_size``). Above
            what is kept, memory grows with the batch and not with the samples.
        passage: the same texts (what each sample feeds), begun up to a layer not above
            ``layer``, with nothing shared behind the beginning of a sample's block.
    """
    shown = view(model)
    if not samples or not -1 <= layer < len(shown.layers):
        raise EditorError(f"no trunk of {len(samples)} samples at layer {layer}")
    if any(not 0 <= s.begin < len(s.prompt) for s in samples):
        raise EditorError("a sample's block must begin within its prompt")
    every = range(len(shown.layers))
    size = batch or shown.chat.batch_size
    if passage is None:
        fed = [s.fed for s in samples]
        shared = min(shared_prefix(fed), min(s.begin for s in samples))
        prefix = run_prefix(shown, fed[0][:shared], every)
        room = _Room(samples, shared)
        # Samples of like length are run together; the order of the result is that given.
        order = sorted(range(len(samples)), key=lambda i: (len(fed[i]), i))
        for rows in (order[at : at + size] for at in range(0, len(order), size)):
            _run_batch(shown, room, rows, layer, shared, prefix)
    else:
        # Each group has a beginning of its own: kept with every row, none is left for all.
        shared, prefix, room = 0, Past(), _Room(samples, 0)
        for group in passage.groups:
            before = passage.beginning(group, every[passage.first :])
            for rows in passage.batches(group.members, size):
                _run_batch(shown, room, rows, layer, group.shared, before, passage)
    upper = range(layer + 1, len(shown.layers))
    where, real = _columns(samples, room.past, room.block, shared)
    device = shown.device
    return Trunk(
        layer=layer,
        mlp_inputs=room.states["mlp_inputs"],
        keys=room.states["keys"],
        values=room.states["values"],
        hidden=room.states["hidden"],
        targets=_targets(samples, room.block).to(device),
        real=real[:, room.past :].to(device),
        firsts=torch.tensor([len(s.prompt) - 1 - s.begin for s in samples], device=device),
        positions=where[:, room.past :].to(device),
        past=tuple(room.pairs[i] for i in upper) if room.pairs else (),
        prefix=tuple(prefix.before[i][0] for i in upper) if shared else (),
        past_positions=torch.cat(
            [
                torch.arange(shared).expand(len(samples), -1),
                torch.where(real, where, -1)[:, : room.past],
            ],
            dim=1,
        ).to(device),
    )


def resume(model: ChatModel | ModelView, trunk: Trunk, hidden: torch.Tensor) -> torch.Tensor:
    """Run the upper layers from ``hidden`` (B, A, hidden), the edited layer's output.

    Returns the final hidden states after the last norm, (B, A, hidden); gradients flow.
    ``ModelView.logits`` and ``label_logits`` turn them into logits.
    """
    shown = view(model)
    upper = range(trunk.layer + 1, len(shown.layers))
    before = {
        layer: [blocks[index] for blocks in (trunk.prefix, trunk.past) if blocks]
        for index, layer in enumerate(upper)
    }
    past = Past(before, trunk.past_positions)
    return shown.finish(run(shown, hidden, upper, trunk.positions, trunk.real, past))


def with_values(
    model: ChatModel | ModelView, trunk: Trunk, values: torch.Tensor, part: str = "down"
) -> torch.Tensor:
    """Return the layer's output (B, A, hidden) if its MLP's down projection gave ``values``.

    Unchanged values give ``trunk.hidden`` to the bit.
    """
    shown = view(model)
    new, old = (shown.entering(trunk.layer, v, part) for v in (values, trunk.values))
    return trunk.hidden + (new - old)


def label_logits(
    model: ChatModel | ModelView,
    final: torch.Tensor,
    targets: torch.Tensor,
    tokens: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits at label positions only: the head is a fifth of a small model's cost.

    Args:
        model: the model or its view.
        final: (B, A, hidden), what ``resume`` gives.
        targets: (B, A) token ids, -100 where nothing is asked.
        tokens: ascending ids, all targets among them; None for the whole vocabulary.

    Returns:
        (n, vocabulary or tokens) logits, (n,) the columns of them that should be the highest,
        (n,) the sample each is of.
    """
    at = (targets >= 0).to(final.device)
    logits = view(model).logits(final[at], tokens)
    wanted = targets[targets >= 0].to(logits.device)
    if tokens is not None:
        wanted = torch.searchsorted(tokens.to(logits.device), wanted)
    return logits, wanted, at.nonzero()[:, 0].to(logits.device)


def select(trunk: Trunk, rows: torch.Tensor, trim: bool = False) -> Trunk:
    """Return the trunk of some samples only (``rows``: long tensor of indices).

    ``trim`` also drops block columns that none of them needs, which narrows every tensor
    that goes with it; columns before the block that none needs are always dropped.
    """
    real = trunk.real[rows]
    width = int(real.sum(1).max()) if trim else real.shape[1]
    columns = trunk.past[0][0].shape[2] if trunk.past else 0
    before = trunk.past_positions[rows]
    shared = before.shape[1] - columns
    needed = (before[:, shared:] >= 0).any(0).nonzero()
    drop = int(needed[0]) if len(needed) else columns

    def block(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[rows.to(tensor.device), :width]

    def cached(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[rows.to(tensor.device), :, drop:]

    return replace(
        trunk,
        mlp_inputs=block(trunk.mlp_inputs),
        keys=block(trunk.keys),
        values=block(trunk.values),
        hidden=block(trunk.hidden),
        targets=block(trunk.targets),
        real=real[:, :width],
        firsts=trunk.firsts[rows],
        positions=block(trunk.positions),
        past=tuple((cached(k), cached(v)) for k, v in trunk.past),
        past_positions=torch.cat([before[:, :shared], before[:, shared + drop :]], dim=1),
    )


def mlp_inputs(model: ChatModel, sequences: Sequence[Sequence[int]], layer: int) -> torch.Tensor:
    """Return what one layer's MLP sees on token sequences: (tokens, hidden), flat.

    Only the layers up to ``layer`` are run.
    """
    return keys_at(model, sequences, [layer], part="mlp")[0]


class _Room:
    """Where the batches put what is kept: rows in the samples' order, columns aligned at the
    block. Room is made when the first batch shows what it looks like."""

    def __init__(self, samples: Sequence[Sample], shared: int) -> None:
        self.samples, self.shared = samples, shared
        self.past, self.block = _widths(samples, shared)
        self.states: dict[str, torch.Tensor] = {}
        self.pairs: dict[int, KeyValue] = {}

    def put(self, rows: list[int], states: dict[str, torch.Tensor]) -> None:
        """Keep states (rows, block columns, width) by name."""
        for name, found in states.items():
            if name not in self.states:
                shape = len(self.samples), self.block, found.shape[2]
                self.states[name] = found.new_zeros(shape)
            self.states[name][rows, : found.shape[1]] = found

    def put_pairs(
        self, rows: list[int], made: dict[int, KeyValue], before: dict[int, KeyValue]
    ) -> None:
        """Keep keys and values (rows, heads, past columns, size) by layer, and those ``before``
        them, of one row for all, directly to the left of each row's own."""
        for layer, pair in (made or before).items():
            if layer not in self.pairs:
                k, v = (
                    t.new_zeros(len(self.samples), t.shape[1], self.past, t.shape[3]) for t in pair
                )
                self.pairs[layer] = (k, v)
            for side, kept in enumerate(self.pairs[layer]):
                if made:
                    found = made[layer][side]
                    kept[rows, :, self.past - found.shape[2] :] = found
                for row in rows if before else ():
                    first = before[layer][side]
                    end = self.past - (self.samples[row].begin - first.shape[2])
                    kept[row, :, end - first.shape[2] : end] = first[0]


def _run_batch(
    shown: ModelView,
    room: _Room,
    rows: list[int],
    layer: int,
    shared: int,
    prefix: Past,
    passage: Passage | None = None,
) -> None:
    """Run some samples up to the layer, and what precedes their blocks through all layers.

    ``prefix`` holds the keys and values of the ``shared`` tokens that they begin with.
    """
    samples = [room.samples[i] for i in rows]
    past, block = _widths(samples, shared)
    where, real = _columns(samples, past, block, shared)
    where, real = where.to(shown.device), real.to(shown.device)
    if passage is None:
        first, ids = 0, torch.zeros_like(where)
        ids[real] = torch.tensor([t for s in samples for t in s.fed[shared:]], device=ids.device)
        hidden = embed(shown, ids, where)
    else:
        first = passage.first
        hidden = passage.rows[rows[0]].new_zeros(*where.shape, shown.hidden)
        hidden[real] = torch.cat([passage.rows[row] for row in rows])
    states = dict.fromkeys(("mlp_inputs", "keys", "values"), hidden[:, past:, :0])
    if layer >= 0:
        mlp, down = Site(layer, "mlp"), Site(layer, "down")
        with captured(shown, [mlp, down]) as seen:
            hidden = run(shown, hidden, range(first, layer + 1), where, real, prefix)
        states["mlp_inputs"] = seen.inputs(mlp)[:, past:]
        states["keys"], states["values"] = seen.inputs(down)[:, past:], seen.outputs(down)[:, past:]
    room.put(rows, {**states, "hidden": hidden[:, past:]})
    upper = range(layer + 1, len(shown.layers))
    made = Past(prefix.before, prefix.positions, record=True)
    if past and upper:
        run(shown, hidden[:, :past], upper, where[:, :past], real[:, :past], made)
    kept = {i: prefix.before[i][0] for i in upper} if shared > room.shared else {}
    room.put_pairs(rows, made.made, kept)


def _widths(samples: Sequence[Sample], shared: int) -> tuple[int, int]:
    """Return how many columns stand between the shared ones and the block, and in the block."""
    return max(s.begin for s in samples) - shared, max(len(s.fed) - s.begin for s in samples)


def _columns(
    samples: Sequence[Sample], past: int, block: int, shared: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return positions and what is real, both (B, past + block), the blocks aligned."""
    begins = torch.tensor([s.begin for s in samples])[:, None]
    ends = torch.tensor([len(s.fed) for s in samples])[:, None]
    where = begins - past + torch.arange(past + block)
    real = (where >= shared) & (where < ends)
    # Padding gets a position that the model has.
    return torch.minimum(where.clamp(min=0), ends - 1), real


def _targets(samples: Sequence[Sample], block: int) -> torch.Tensor:
    """Return (B, block) the token that each column is to predict, -100 where none is asked."""
    targets = torch.full((len(samples), block), -100)
    for row, sample in enumerate(samples):
        at = len(sample.prompt) - 1 - sample.begin
        targets[row, at : at + len(sample.answer)] = torch.tensor(sample.answer, dtype=torch.long)
    return targets
