"""Trunk cache: what lies below an edited layer, and before the answer, is run once.

During an edit of layer ``l`` at answer positions, everything below ``l`` and every
position before the answer is constant (methods.md §1.3). ``Trunk`` holds the hidden
states at the answer positions and the upper layers' keys and values of the prompt;
``resume`` runs only the upper layers on only the answer positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editors.model import ChatModel


@dataclass(frozen=True)
class Sample:
    """A rendered prompt and the answer that follows it, both as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Trunk:
    """Cached state of a batch of samples above one layer.

    Shapes: B samples, P prompt columns (left-padded), A answer columns (right-padded).
    Column ``j`` of the answer block is the position that *predicts* answer token ``j``
    (the last prompt token predicts token 0).

    Attributes:
        layer: index of the layer whose MLP is edited.
        mlp_inputs: (B, A, hidden), what the layer's MLP sees.
        hidden: (B, A, hidden), the layer's output in the unedited model.
        targets: (B, A) token ids to predict, -100 where there is none.
        keys, values: per upper layer (B, heads, P - 1, head size) of the prompt before
            the answer block.
        mask: (B, 1, A, P - 1 + A) additive attention mask.
        positions: (B, A) position ids.
    """

    layer: int
    mlp_inputs: torch.Tensor
    hidden: torch.Tensor
    targets: torch.Tensor
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    positions: torch.Tensor


@torch.no_grad()
def run_trunk(model: ChatModel, samples: Sequence[Sample], layer: int) -> Trunk:
    """Run the unedited model once over the samples and keep what lies at ``layer``."""
    from transformers import DynamicCache

    device = model.device
    prompt = max(len(s.prompt) for s in samples)
    width = max(len(s.answer) for s in samples)
    count = len(samples)
    ids = torch.zeros(count, prompt + width - 1, dtype=torch.long)
    mask = torch.zeros(count, prompt + width - 1, dtype=torch.long)
    targets = torch.full((count, width), -100, dtype=torch.long)
    for row, sample in enumerate(samples):
        fed = [*sample.prompt, *sample.answer[:-1]]
        start = prompt - len(sample.prompt)
        ids[row, start : start + len(fed)] = torch.tensor(fed)
        mask[row, start : start + len(fed)] = 1
        targets[row, : len(sample.answer)] = torch.tensor(sample.answer)
    ids, mask, targets = ids.to(device), mask.to(device), targets.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    caught: dict[str, torch.Tensor] = {}
    block = model.layers[layer]
    hooks = [
        block.mlp.register_forward_pre_hook(lambda _, args: caught.update(x=args[0])),
        block.register_forward_hook(lambda _, __, out: caught.update(h=_first(out))),
    ]
    cache: Any = DynamicCache(config=model.model.config)
    try:
        model.model.model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
    finally:
        for hook in hooks:
            hook.remove()
    past = prompt - 1  # columns before the answer block
    upper = range(layer + 1, len(model.layers))
    causal = torch.ones(width, past + width, dtype=torch.bool, device=device).tril(past)
    allowed = causal & mask[:, None, None, :].bool()
    # A padded query may see nothing; let it see itself, so that no row is all -inf.
    own = torch.eye(width, dtype=torch.bool, device=device)
    allowed[..., past:] |= own
    additive = torch.zeros(allowed.shape, dtype=caught["h"].dtype, device=device)
    additive.masked_fill_(~allowed, torch.finfo(additive.dtype).min)
    return Trunk(
        layer=layer,
        mlp_inputs=caught["x"][:, past:].clone(),
        hidden=caught["h"][:, past:].clone(),
        targets=targets,
        keys=tuple(cache.layers[i].keys[:, :, :past].clone() for i in upper),
        values=tuple(cache.layers[i].values[:, :, :past].clone() for i in upper),
        mask=additive,
        positions=positions[:, past:].clone(),
    )


def resume(model: ChatModel, trunk: Trunk, hidden: torch.Tensor) -> torch.Tensor:
    """Run the upper layers from ``hidden`` (B, A, hidden), the edited layer's output.

    Returns the final hidden states after the last norm, (B, A, hidden); gradients flow.
    """
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.model.config)
    for index, (keys, values) in enumerate(zip(trunk.keys, trunk.values, strict=True)):
        cache.layers[trunk.layer + 1 + index].update(keys, values)
    rotary = model.model.model.rotary_emb(hidden, position_ids=trunk.positions)
    for block in model.layers[trunk.layer + 1 :]:
        hidden = _first(
            block(
                hidden,
                attention_mask=trunk.mask,
                position_ids=trunk.positions,
                past_key_values=cache,
                use_cache=True,
                position_embeddings=rotary,
            )
        )
    return model.model.model.norm(hidden)


def select(trunk: Trunk, rows: torch.Tensor) -> Trunk:
    """Return the trunk of some samples only (``rows``: long tensor of indices)."""
    return Trunk(
        trunk.layer,
        trunk.mlp_inputs[rows],
        trunk.hidden[rows],
        trunk.targets[rows],
        tuple(k[rows] for k in trunk.keys),
        tuple(v[rows] for v in trunk.values),
        trunk.mask[rows],
        trunk.positions[rows],
    )


@torch.no_grad()
def mlp_inputs(model: ChatModel, sequences: Sequence[Sequence[int]], layer: int) -> torch.Tensor:
    """Return what one layer's MLP sees on token sequences: (tokens, hidden), flat.

    Only the layers up to ``layer`` are run.
    """

    class _Reached(Exception):
        pass

    caught: list[torch.Tensor] = []

    def catch(_: object, args: tuple[torch.Tensor, ...]) -> None:
        caught.append(args[0])
        raise _Reached

    hook = model.layers[layer].mlp.register_forward_pre_hook(catch)
    kept = []
    try:
        order = sorted((s for s in sequences if len(s)), key=len)
        for start in range(0, len(order), model.batch_size):
            batch = order[start : start + model.batch_size]
            width = max(map(len, batch))
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            mask = torch.zeros(len(batch), width, dtype=torch.long)
            for row, tokens in enumerate(batch):
                ids[row, : len(tokens)] = torch.tensor(list(tokens))
                mask[row, : len(tokens)] = 1
            try:
                model.model.model(
                    ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
                )
            except _Reached:
                kept.append(caught.pop()[mask.bool().to(model.device)])
    finally:
        hook.remove()
    return torch.cat(kept) if kept else torch.empty(0, model.hidden_size, device=model.device)


def _first(output: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Decoder layers return a tensor in recent transformers and a tuple in older ones."""
    return output[0] if isinstance(output, tuple) else output
