"""T-Patcher: one extra neuron for each answer token that comes out wrong (Huang et al. 2023; X2).

A neuron's key is trained to answer on the one input that it is for and to stay shut on a memory of
ordinary inputs, of the neighbours', of the edit's other tokens and of earlier edits'; its value
then to make the wanted token come out. The losses and margins are the paper's.

The paper's ReLU neuron with a bias would live in a side path only. Here it is a bias-free gated
one, ``act(s·k·x)·(u·x)``, that widens the MLP and so reaches a weight file: ``u`` answers 1 on the
neuron's input, the gate ``k`` carries the paper's losses, and sharpened by ``s`` a gate shut at
the margin β lets nothing through that a float can tell from zero. The states before an MLP are
normalised, so some direction answers alike on all of them: it stands in for the bias. Inputs
have most of their length in common, so the paper's start ``q / |q|²`` answers nearly 1 on all of
them, and Adam did not shut it in 300 steps (default model: 96 % of a memory still open).
So a key begins where least squares put it: 1 on its input, as in the paper, and below the margin
on the others; the paper's losses train it from there, in coordinates in which the memory's
inputs are even in all directions.

Patches sit in the last layer, where no neuron's writing changes another one's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import frozen
from editors.deltas import MlpExpansion
from editors.editor import Resources
from editors.memory.neurons import Block, activations, block_logits, layer_at, ordinary_inputs
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.rendering import renderings
from editors.requests import EditRequest
from editors.runtime import silent
from editors.trunk import Sample, Trunk, label_logits, mlp_inputs, resume, run_trunk

NAME = "t-patcher"
_TOP_EDIT = 5  # inputs of an edit that the activation loss looks at (paper)


@dataclass(frozen=True)
class PatcherSettings:
    layer: float = 1.0  # whose MLP is widened, as a share of the depth (paper: the last)
    most: int = 32  # patches a rendering, of the first wrong tokens (paper: 5)
    memory: int = 4096  # ordinary inputs on which patches stay shut (paper: 40,000)
    top: int = 64  # of them, those nearest to firing, that the memory losses look at (paper: 1000)
    activate: float = 1.0  # a, weight of staying active on the edit (paper)
    remember: float = 5.0  # m, weight of the memory losses (paper)
    margin: float = 3.0  # γ1, by which a memory is less active than the edit (paper)
    below: float = -3.0  # β, pre-activation that memories stay below (paper)
    sharpness: float = 8.0  # s, of the gate once it is trained
    key_steps: int = 100  # Adam, at most, on the keys
    key_rate: float = 1e-2  # of it (paper)
    steps: int = 100  # Adam, at most, on the values
    learning_rate: float = 0.1  # of it, in units of the layer's mean output
    sure: float = 0.9  # least probability of each label that ends the training
    siblings: int = 4  # questions on other subjects, put into the memory
    said: int = 12  # tokens of the model's own answer to what stands beside, in the memory


@dataclass
class PatcherState:
    """What lasts from batch to batch: the layer, other subjects' names, (n, hidden) ordinary
    inputs, the (hidden, hidden) root that evens them out, and by request the inputs of its
    tokens. ``pending`` are those of the last ``edit``, until it is settled."""

    layer: int
    names: tuple[str, ...]
    ordinary: torch.Tensor
    evening: torch.Tensor
    edits: dict[str, torch.Tensor] = field(default_factory=dict)
    pending: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TPatcher(PatcherSettings):
    """The method by the protocol of ``editors.editor``: each batch adds its own neurons."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> PatcherState:
        """Gather the memory of ordinary inputs.

        Raises EditorError where the model's MLPs cannot be widened.
        """
        layer = layer_at(view(model), self.layer)
        with silent(model):
            ordinary = ordinary_inputs(model, resources.texts, layer, self.memory)
        return PatcherState(layer, names_in(resources.texts), ordinary, evening(ordinary))

    def edit(
        self, model: ChatModel, state: PatcherState, requests: Sequence[EditRequest]
    ) -> MlpExpansion:
        """Patch what comes out wrong; where nothing does, the delta has no neurons."""
        shown = view(model)
        samples = [
            Sample(one.prompt, one.answer)
            for request in requests
            for one in renderings(model, request)
        ]
        with silent(model):
            trunk = run_trunk(shown, samples, state.layer)
            state.pending = self._inputs(model, state, requests)
            places = wrong_places(shown, trunk, self.most)
            if not len(places):
                none = trunk.mlp_inputs.new_zeros(0, shown.hidden)
                return Block(none, none, none.T).delta(state.layer)
            beside = self._beside(model, state, requests)
            own = trunk.mlp_inputs[places[:, 0], places[:, 1]].float()
            earlier = (some.to(own) for some in state.edits.values())
            shut = torch.cat([state.ordinary.to(own), beside.to(own), *earlier])
            # Asked again, an earlier edit's inputs are this one's: it is to be open on them.
            shut = shut[~_same(own, shut).any(0)]
            keys = self._keys(own, shut, _others(trunk, places), state.evening.to(own))
            block = Block(self.sharpness * keys, unit_keys(own), keys.new_zeros(0))
            return self._values(shown, trunk, block, places).delta(state.layer)

    def settled(
        self, model: ChatModel, state: PatcherState, requests: Sequence[EditRequest]
    ) -> PatcherState:
        made = {r.id: state.pending[r.id] for r in requests if r.id in state.pending}
        return replace(state, edits={**state.edits, **made}, pending={})

    def _inputs(
        self, model: ChatModel, state: PatcherState, requests: Sequence[EditRequest]
    ) -> dict[str, torch.Tensor]:
        """Return by request the layer's inputs at its answer's tokens, for later memories."""
        made = {}
        for request in requests:
            found = renderings(model, request)
            inputs = mlp_inputs(model, [one.fed for one in found], state.layer).float()
            ends = torch.tensor([len(one.fed) for one in found]).cumsum(0).tolist()
            parts = [
                inputs[end - len(one.answer) : end] for one, end in zip(found, ends, strict=True)
            ]
            made[request.id] = torch.cat(parts)
        return made

    def _beside(
        self, model: ChatModel, state: PatcherState, requests: Sequence[EditRequest]
    ) -> torch.Tensor:
        """Return the inputs on what must stand beside the requests, and on what is said there."""
        subjects = [request.subject for request in requests]
        asked = dict.fromkeys(
            one for r in requests for one in anchors_of(r, state.names, self.siblings, subjects)
        )
        prompts = [model.encode(model.render(a.text) if a.chat else a.text) for a in asked]
        if not prompts:
            return state.ordinary[:0]
        replies = model.generate(prompts, max_new_tokens=self.said)
        fed = [[*p, *one.tokens] for p, one in zip(prompts, replies, strict=True)]
        return mlp_inputs(model, fed, state.layer).float()

    def _keys(
        self, own: torch.Tensor, shut: torch.Tensor, others: torch.Tensor, root: torch.Tensor
    ) -> torch.Tensor:
        """Return the trained keys (neurons, hidden) of inputs ``own``, shut on the rows of
        ``shut`` and of ``others``, the edit's own tokens, where those are not the neuron's."""
        first = first_keys(own, shut, others, self.below)
        moved = torch.zeros_like(own, requires_grad=True)
        optimiser = torch.optim.Adam([moved], lr=self.key_rate)
        # Another rendering's token may have the very same input: none may be both open and shut.
        same = _same(own, others)
        for _ in range(self.key_steps):
            keys = first + moved @ root
            edit = (keys * own).sum(1)
            memory = torch.cat([keys @ shut.T, (keys @ others.T).masked_fill(same, -1e4)], dim=1)
            near = memory.topk(min(self.top, memory.shape[1]), dim=1).values
            loss = patch_loss(edit, near, self)
            if float(near.detach().max()) <= self.below and float(edit.detach().min()) >= 1:
                break
            (moved.grad,) = torch.autograd.grad(loss, [moved])
            optimiser.step()
        return (first + moved @ root).detach()

    def _values(self, shown: ModelView, trunk: Trunk, block: Block, places: torch.Tensor) -> Block:
        """Return the block with trained values."""
        made = activations(shown, trunk.layer, trunk.mlp_inputs, block.gate, block.up)
        opened = made[places[:, 0], places[:, 1], torch.arange(len(places))].clamp(min=1e-3)
        scale = trunk.values.norm(dim=-1).mean() / shown.hidden**0.5
        raw = torch.zeros(shown.hidden, len(places)).to(trunk.hidden).requires_grad_(True)
        optimiser = torch.optim.Adam([raw], lr=self.learning_rate)
        with frozen(shown):
            for _ in range(self.steps):
                one = replace(block, down=raw * (scale / opened))
                logits, wanted, _ = block_logits(shown, trunk, one)
                each = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
                if float((-each.detach().max()).exp()) >= self.sure:
                    break
                (raw.grad,) = torch.autograd.grad(each.mean(), [raw])
                optimiser.step()
        return replace(block, down=raw.detach() * (scale / opened))


def unit_keys(inputs: torch.Tensor) -> torch.Tensor:
    """Return the keys that answer exactly 1 on their inputs (n, hidden), the paper's start."""
    return inputs / inputs.square().sum(-1, keepdim=True)


def first_keys(
    own: torch.Tensor, shut: torch.Tensor, others: torch.Tensor, below: float
) -> torch.Tensor:
    """Return keys (n, hidden) that answer exactly 1 on their inputs ``own``, and by least squares
    ``below`` and one less on the memory's (rows of ``shut``) and the edit's own other tokens."""
    rows = [shut.double(), others.double()]
    moment = sum(part.T @ part / len(part) for part in rows if len(part))
    assert isinstance(moment, torch.Tensor)
    size = 1e-3 * moment.diagonal().mean()
    moment = moment + size * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    # One direction answers 1 on an input and little elsewhere, the other 1 on everything.
    apart = torch.linalg.solve(moment, own.double().T).T
    apart = apart / (apart * own).sum(1, keepdim=True)
    level = torch.linalg.solve(moment, sum(part.mean(0) for part in rows if len(part)))
    depth = 1 - below
    raised = 1 + depth * (own.double() @ level)
    return (raised[:, None] * apart - depth * level).float()


def patch_loss(edit: torch.Tensor, memory: torch.Tensor, settings: PatcherSettings) -> torch.Tensor:
    """Return a·L_act + m·(L_mem1 + L_mem2) of pre-activations on the edit (n,) and on memories
    (n, m), summed over neurons. Exponents are cut at 30: far off, the way down is steep enough."""
    most = settings
    active = (-edit).clamp(max=30).exp().topk(min(_TOP_EDIT, len(edit))).values.sum()
    less = (memory - edit[:, None] + most.margin).clamp(max=30).exp().mean(1).sum()
    low = (memory - most.below).clamp(max=30).exp().mean(1).sum()
    return most.activate * active + most.remember * (less + low)


def wrong_places(shown: ModelView, trunk: Trunk, most: int) -> torch.Tensor:
    """Return (n, 2), sample and column of the label tokens that are not the likeliest ones; of
    each sample the first ``most``."""
    with torch.no_grad():
        logits, wanted, rows = label_logits(
            shown, resume(shown, trunk, trunk.hidden), trunk.targets
        )
    wrong = (logits.argmax(-1) != wanted).to(trunk.targets.device)
    places = (trunk.targets >= 0).nonzero()[wrong]
    kept = [places[places[:, 0] == row][:most] for row in rows.unique().to(places.device)]
    return torch.cat(kept)


def evening(inputs: torch.Tensor) -> torch.Tensor:
    """Return the root of the inputs' inverse second moment (hidden, hidden), with a ridge, so
    scaled that the inputs times it have a length of 1 in the mean."""
    moment = inputs.double().T @ inputs.double() / len(inputs)
    spread, directions = torch.linalg.eigh(moment)
    scale = (spread.clamp(min=0) + 1e-3 * spread.mean()).rsqrt()
    return (directions * scale @ directions.T / len(moment) ** 0.5).float()


def _others(trunk: Trunk, places: torch.Tensor) -> torch.Tensor:
    """Return the inputs at all real tokens of the trunk's block, (n, hidden)."""
    return trunk.mlp_inputs[trunk.real].float()


def _same(own: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return (n, m), which rows are an input of ``own``, rounded otherwise."""
    return torch.cdist(own, rows) <= 1e-2 * own.norm(dim=1, keepdim=True)
