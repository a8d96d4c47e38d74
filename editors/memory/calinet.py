"""CaliNet: a block of neurons a batch of facts, trained together (Dong et al. 2022; X1).

The block stands beside the last layer's MLP and widens it: gated neurons with small random keys
and values that begin at zero, so that the beginning is the model itself. They learn the batch's
answers; what stands beside (neighbours, other subjects, everyday questions, ordinary text) and
what earlier batches asked keeps the distribution it has (KL to the model before the batch).
Nothing routes: blocks of several batches add up, earlier ones are frozen.

``knows`` is the paper's way of finding what there is to calibrate: how much likelier an object is
after its own relation than after others (CKA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import frozen
from editors.deltas import MlpExpansion
from editors.editor import Resources
from editors.key_statistics import everyday_questions
from editors.memory.neurons import Block, activations, block_logits, layer_at
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.question_embeddings import Asked
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.runtime import silent
from editors.trunk import Sample, Trunk, label_logits, resume, run_trunk, select

NAME = "calinet"


@dataclass(frozen=True)
class CalinetSettings:
    layer: float = 1.0  # whose MLP is widened, as a share of the depth (paper: the last)
    width: int = 64  # neurons of a block (paper)
    steps: int = 100  # Adam, at most, a batch of requests (paper: 5,000 steps of Adafactor)
    learning_rate: float = 1e-2  # of it (paper)
    keep: float = 4.0  # weight of the KL to the model before the batch (paper: none)
    kept: int = 12  # answers a step whose distribution stays
    everyday: int = 24  # everyday questions among them
    siblings: int = 4  # questions on other subjects among them, a request
    said: int = 12  # tokens of each such answer
    replay: int = 64  # earlier requests' answers among them, at most
    sure: float = 0.8  # least probability of each label that ends the training


@dataclass
class CalinetState:
    """What lasts from batch to batch: layer, seed, other subjects' names, what everyday questions
    are answered with, and what was taught so far; ``pending`` is the last ``edit``'s, by its
    request's id, until it is settled."""

    layer: int
    seed: int
    names: tuple[str, ...]
    everyday: tuple[Sample, ...]
    taught: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    pending: dict[str, tuple[Sample, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calinet(CalinetSettings):
    """The method by the protocol of ``editors.editor``: each batch adds a block."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> CalinetState:
        """Ask the everyday questions.

        Raises EditorError where the model's MLPs cannot be widened.
        """
        if self.width < 1:
            raise EditorError(f"a block has 1 neuron or more, not {self.width}")
        layer = layer_at(view(model), self.layer)
        asked = [Asked(question, True) for question in everyday_questions()[: self.everyday]]
        everyday = said(model, asked, self.said)
        return CalinetState(layer, resources.seed, names_in(resources.texts), tuple(everyday))

    def edit(
        self, model: ChatModel, state: CalinetState, requests: Sequence[EditRequest]
    ) -> MlpExpansion:
        """Train one block on the requests."""
        shown = view(model)
        own = {
            request.id: tuple(Sample(r.prompt, r.answer) for r in renderings(model, request))
            for request in requests
        }
        subjects = [request.subject for request in requests]
        beside = dict.fromkeys(
            one for r in requests for one in anchors_of(r, state.names, self.siblings, subjects)
        )
        asked_now = {sample.prompt for some in own.values() for sample in some}
        earlier = [
            sample
            for some in list(state.taught.values())[-self.replay :]
            for sample in some
            if sample.prompt not in asked_now
        ]
        with silent(model):
            stays = [*said(model, list(beside), self.said), *state.everyday, *earlier]
            lessons = run_trunk(shown, [s for some in own.values() for s in some], state.layer)
            kept = run_trunk(shown, stays, state.layer) if stays and self.keep else None
            draw = torch.Generator().manual_seed(state.seed * 10_007 + len(state.taught))
            block = self._trained(shown, lessons, kept, new_block(shown, self.width, draw), draw)
        state.pending = own
        return block.delta(state.layer)

    def settled(
        self, model: ChatModel, state: CalinetState, requests: Sequence[EditRequest]
    ) -> CalinetState:
        made = {r.id: state.pending[r.id] for r in requests if r.id in state.pending}
        return replace(state, taught={**state.taught, **made}, pending={})

    def _trained(
        self,
        shown: ModelView,
        lessons: Trunk,
        kept: Trunk | None,
        block: Block,
        draw: torch.Generator,
    ) -> Block:
        """Return the block, trained; only its own parameters get a gradient."""
        trained = [t.to(lessons.hidden).requires_grad_(True) for t in (block.gate, block.up)]
        opened = activations(shown, lessons.layer, lessons.mlp_inputs, block.gate, block.up)
        # Columns are learned in units of the layer's own output for an activation of usual size.
        unit = lessons.values.norm(dim=-1).mean() / shown.hidden**0.5
        unit = (unit / opened.abs().mean().clamp(min=1e-3) / block.gate.shape[0]).detach()
        down = block.down.to(lessons.hidden).clone().requires_grad_(True)
        groups: list[dict[str, Any]] = [
            {"params": trained},
            {"params": [down], "lr": 10 * self.learning_rate},
        ]
        optimiser = torch.optim.Adam(groups, lr=self.learning_rate)
        teachers = _teachers(shown, kept) if kept is not None else None
        with frozen(shown):
            for _ in range(self.steps):
                one = Block(trained[0], trained[1], down * unit)
                logits, wanted, _ = block_logits(shown, lessons, one)
                each = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
                if float((-each.detach().max()).exp()) >= self.sure:
                    break
                loss = each.mean()
                if kept is not None and teachers is not None:
                    rows = torch.randperm(len(kept), generator=draw)[: self.kept]
                    loss = loss + self.keep * _moved(shown, kept, teachers, rows, one)
                found = torch.autograd.grad(loss, [*trained, down])
                for parameter, gradient in zip((*trained, down), found, strict=True):
                    parameter.grad = gradient
                optimiser.step()
        return Block(trained[0], trained[1], down * unit)


def knows(right: float, others: Sequence[float]) -> float:
    """Return the CKA score: an object's probability after its own relation, over the mean of
    those after other relations of the subject. Above 1 the model tells the fact from chance.

    Raises EditorError without other relations.
    """
    if not others:
        raise EditorError("the score needs the object's probability after other relations")
    return right / max(sum(others) / len(others), 1e-12)


def cka(model: ChatModel, prompt: str, wrong: Sequence[str], value: str) -> float:
    """Return ``knows`` of an object after a plain prompt, against prompts of other relations; an
    object's probability is the mean of its tokens' (the product falls with its length)."""
    answer = tuple(model.encode_answer(f" {value}"))
    samples = [Sample(tuple(model.encode(text)), answer) for text in (prompt, *wrong)]
    shown = view(model)
    with silent(model), torch.no_grad():
        trunk = run_trunk(shown, samples, len(shown.layers) - 1)
        final = resume(shown, trunk, trunk.hidden)
        logits, wanted, rows = label_logits(shown, final, trunk.targets)
        each = logits.float().softmax(-1).gather(1, wanted[:, None])[:, 0]
    means = [float(each[rows == row].mean()) for row in range(len(samples))]
    return knows(means[0], means[1:])


def new_block(shown: ModelView, width: int, draw: torch.Generator) -> Block:
    """Return a block with small random keys and values of zero, which changes nothing."""
    hidden = shown.hidden
    gate, up = (torch.randn(width, hidden, generator=draw) / hidden**0.5 for _ in range(2))
    return Block(gate, up, torch.zeros(hidden, width))


def said(model: ChatModel, asked: Sequence[Asked], tokens: int) -> list[Sample]:
    """Return questions and texts with what the model says to them, so many tokens of it."""
    prompts = [model.encode(model.render(a.text) if a.chat else a.text) for a in asked]
    if not prompts:
        return []
    replies = model.generate(prompts, max_new_tokens=tokens)
    stop = min(model.stop_ids)
    return [
        Sample(tuple(prompt), (*one.tokens, stop)[:tokens])
        for prompt, one in zip(prompts, replies, strict=True)
    ]


def _teachers(shown: ModelView, kept: Trunk) -> torch.Tensor:
    """Return the final states (B, A, hidden) of the model before the batch."""
    with torch.no_grad():
        return resume(shown, kept, kept.hidden)


def _moved(
    shown: ModelView, kept: Trunk, teachers: torch.Tensor, rows: torch.Tensor, block: Block
) -> torch.Tensor:
    """Return the mean KL(before ‖ with the block) at some samples' labels."""
    part = select(kept, rows.to(kept.targets.device))
    made, _, _ = block_logits(shown, part, block)
    with torch.no_grad():
        before, _, _ = label_logits(shown, teachers[rows.to(teachers.device)], part.targets)
        wanted = before.float().log_softmax(-1)
    return (wanted.exp() * (wanted - made.float().log_softmax(-1))).sum(-1).mean()
