"""Training methods to edit: the loop over episodes that MEND, MALMEN, KE, SLAG, KGEditor and
Editable Training share (methods.md §3.7).

A ``Trainable`` says what is trained, by which loss and optimiser; ``train`` draws episodes,
accumulates and clips gradients, watches a held-out slice, stops when that gets no better, and
keeps two files under the base model's hash in the cache's folder ``trained``::

    NAME-HASH.safetensors          the best networks so far, with metadata (``load`` reads it)
    NAME-HASH.state.safetensors    where training stands, to go on from

Which episodes a step sees depends only on the seed and the step's number, so that a training
that was interrupted and goes on comes to the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from editors.episodes import Episode, Upper
from editors.model import ChatModel
from editors.requests import EditorError
from store.files import Files

TOTAL = "total"
"""The part of a loss that is minimised, and that the held-out slice is watched by."""
Groups = Sequence[Sequence[Episode]]
"""Groups of episodes; the edits of a group are made on one model (at once, or in sequence)."""


@dataclass(frozen=True)
class TrainingOptions:
    """How long and in what portions to train.

    Attributes:
        episodes: to see in all, counted with repeats; training may end before.
        together: episodes of a group, whose edits are made on one model.
        groups: groups that one loss is computed for (they share forward passes).
        accumulate: losses whose gradients are added up before an optimiser's step.
        clip: bound on the norm of the gradient of all that is trained.
        held: episodes of the held-out slice, the last ones given.
        every: optimiser's steps between two looks at the held-out slice.
        patience: looks in a row without a better one after which training ends.
        seed: of the networks' first weights and of the draw.
    """

    episodes: int = 2000
    together: int = 1
    groups: int = 1
    accumulate: int = 4
    clip: float = 1.0
    held: int = 24
    every: int = 20
    patience: int = 6
    seed: int = 0

    @property
    def per_step(self) -> int:
        """Episodes that one optimiser's step sees."""
        return self.together * self.groups * self.accumulate


class Trainable(Protocol):
    """What a method brings to be trained. A frozen dataclass of its settings, as editors are.

    A class attribute ``training`` (``TrainingOptions``), where it has one, is how long and in what
    portions `corrigenda editors train` trains it.
    """

    @property
    def name(self) -> str:
        """The method's name; its files are called so."""
        ...

    def lowest(self, model: ChatModel) -> int:
        """Return the index of the lowest layer that an edit changes."""
        ...

    def networks(self, upper: Upper) -> nn.Module:
        """Return what is trained (parameters) and what is only counted (buffers), untrained.

        Random numbers are drawn from torch's generator, which the caller has seeded.
        """
        ...

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        """Return the optimiser of the parameters, with its groups and learning rates."""
        ...

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        """Return scalars by name, ``total`` (with a graph) among them.

        ``networks.training`` says whether it is training or the held-out slice; statistics
        may be counted only while it is.
        """
        ...

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        """Called after each optimiser's step with its mean losses, and (``held``) after each
        look at the held-out slice: to clamp multipliers and to tighten margins, in place."""
        ...


@dataclass(frozen=True)
class Training:
    """What a training has come to.

    Attributes:
        steps, episodes: done so far.
        held: mean losses of the held-out slice by name, of the networks that were kept.
        history: (steps, mean training losses since the last look, held-out losses) of each look.
        ended: why it ended: "episodes", "patience" or "time"; after "time" it can go on.
        path: file of the networks that were kept.
    """

    steps: int
    episodes: int
    held: Mapping[str, float]
    history: tuple[tuple[int, Mapping[str, float], Mapping[str, float]], ...]
    ended: str
    path: Path


@dataclass
class _Progress:
    """Where training stands, beside the networks and the optimiser."""

    steps: int = 0
    best: dict[str, float] = field(default_factory=dict)
    since_best: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Any] = field(default_factory=list)
    ended: str = ""

    def took(self, losses: Mapping[str, float]) -> None:
        """Count a step."""
        self.steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def looked(self, found: dict[str, float]) -> bool:
        """Record a look at the held-out slice; return whether it is better than ever."""
        steps = self.steps - (self.history[-1][0] if self.history else 0)
        means = {name: value / max(steps, 1) for name, value in self.sums.items()}
        self.history.append((self.steps, means, found))
        self.sums = {}
        better = not self.best or found[TOTAL] < self.best[TOTAL]
        self.best = found if better else self.best
        self.since_best = 0 if better else self.since_best + 1
        return better


def train(
    method: Trainable,
    model: ChatModel,
    episodes: Sequence[Episode],
    options: TrainingOptions,
    cache: Path,
    *,
    data: str = "",
    step: Callable[[int, int], None] = lambda done, of: None,
    reading: Callable[[int, int], None] = lambda done, of: None,
    expired: Callable[[], bool] = lambda: False,
    files: Files | None = None,
) -> Training:
    """Train a method, or go on with a training of the same settings, data and seed.

    The model is the same after the call as before it.

    Args:
        episodes: the last ``options.held`` are held out.
        cache: the folder under which ``trained`` lies.
        data: what names the episodes' source (its sha256), for the metadata.
        step: told the episodes seen and their number, after each optimiser's step.
        reading: told how many texts the lower layers were run over, and their number.
        expired: asked after each step whether time is up; it then stops, and can go on.

    Raises:
        EditorError: too few episodes, or a loss that is no number.
    """
    held, drawn = _slices(episodes, options)
    upper = Upper(model, method.lowest(model))
    upper.remember([sample for episode in episodes for sample in episode.samples], reading)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        networks = method.networks(upper)
    optimiser = method.optimiser(networks)
    kept = _Files(method.name, model, cache, files or Files())
    signature = _signature(method, model, options, episodes, data)
    so_far = kept.resume(networks, optimiser, signature)
    total = math.ceil(options.episodes / options.per_step)
    if so_far.ended == "time" or (so_far.ended == "episodes" and so_far.steps < total):
        so_far.ended = ""
    while not so_far.ended and so_far.steps < total:
        losses = _step(method, upper, networks, optimiser, drawn, options, so_far.steps)
        so_far.took(losses)
        if so_far.steps % options.every == 0 or so_far.steps == total:
            found = _measured(method, upper, networks, held, options)
            method.stepped(networks, found, held=True)
            if so_far.looked(found):
                kept.best(networks, signature, so_far, found)
            if so_far.since_best >= options.patience:
                so_far.ended = "patience"
            kept.state(networks, optimiser, signature, so_far)
        step(so_far.steps * options.per_step, total * options.per_step)
        if not so_far.ended and so_far.steps < total and expired():
            so_far.ended = "time"
    so_far.ended = so_far.ended or "episodes"
    kept.state(networks, optimiser, signature, so_far)
    best = so_far.best
    if not best:  # time was up before the first look; the look is none of the training's own
        best = _measured(method, upper, networks, held, options)
        kept.best(networks, signature, so_far, best)
    return Training(
        so_far.steps,
        so_far.steps * options.per_step,
        dict(best),
        tuple((at, dict(a), dict(b)) for at, a, b in so_far.history),
        so_far.ended,
        kept.path,
    )


def load(method: Trainable, upper: Upper, cache: Path | None, takes: str) -> nn.Module:
    """Return the trained networks of a method for a model, in evaluation mode.

    Args:
        upper: of the model that they were trained for.
        cache: the folder under which ``trained`` lies.
        takes: about how long training takes, in words.

    Raises:
        EditorError: they were never trained (the message says how to), or with settings
            that make them of another shape.
    """
    from safetensors.torch import load_file

    chat = upper.view.chat
    path = trained_path(method.name, chat, cache) if cache is not None else None
    if path is None or not path.exists():
        raise EditorError(
            f"{method.name} is not trained for {chat.name}: run `corrigenda editors train "
            f"{method.name} --data FILE` first ({takes})"
        )
    with torch.random.fork_rng(devices=[]):
        networks = method.networks(upper)
    try:
        networks.load_state_dict(load_file(path))
    except RuntimeError as error:
        made_with = metadata(path).get("settings", {})
        raise EditorError(
            f"{path.name} was trained with other settings ({made_with}): train {method.name} "
            "again, or give it these"
        ) from error
    return networks.requires_grad_(False).eval()


def trained_path(name: str, model: ChatModel, cache: Path) -> Path:
    """Return where a method's trained networks for a model lie."""
    return cache / "trained" / f"{name}-{model.base_hash[:16]}.safetensors"


def metadata(path: Path) -> dict[str, Any]:
    """Return what is written in a file of trained networks beside them: name, base hash,
    settings, options, the data's sha256, steps, episodes, held-out losses."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        found = opened.metadata() or {}
    return {name: json.loads(text) for name, text in found.items()}


def drawn_at(step: int, count: int, options: TrainingOptions) -> list[list[list[int]]]:
    """Return which of ``count`` episodes an optimiser's step sees: accumulate × groups ×
    together. Every pass over the episodes is a new shuffle; no group holds one twice, unless
    there are fewer episodes than it holds."""
    made: list[int] = []
    need, at = options.per_step, step * options.per_step
    while len(made) < need:
        turn, begin = divmod(at + len(made), count)
        order = list(range(count))
        random.Random(f"{options.seed} {turn}").shuffle(order)
        made += order[begin : begin + need - len(made)]
    size = options.together
    groups = [made[i : i + size] for i in range(0, need, size)]
    return [groups[i : i + options.groups] for i in range(0, len(groups), options.groups)]


def _slices(
    episodes: Sequence[Episode], options: TrainingOptions
) -> tuple[Sequence[Episode], Sequence[Episode]]:
    held = options.held
    if held < 1 or len(episodes) - held < options.together:
        raise EditorError(
            f"{len(episodes)} episodes are too few to train on: {options.held} are held out, and "
            f"{options.together} are edited together"
        )
    return episodes[-held:], episodes[:-held]


def _step(
    method: Trainable,
    upper: Upper,
    networks: nn.Module,
    optimiser: torch.optim.Optimizer,
    episodes: Sequence[Episode],
    options: TrainingOptions,
    number: int,
) -> dict[str, float]:
    """Do one optimiser's step; return its mean losses."""
    networks.train()
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    for part in drawn_at(number, len(episodes), options):
        losses = method.losses(upper, networks, [[episodes[i] for i in group] for group in part])
        (losses[TOTAL] / options.accumulate).backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / options.accumulate
    if not math.isfinite(sums[TOTAL]):
        raise EditorError(
            f"training {method.name} diverged at step {number + 1}; lower its learning rates"
        )
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(trained, options.clip)
    optimiser.step()
    method.stepped(networks, sums, held=False)
    return sums


@torch.no_grad()
def _measured(
    method: Trainable,
    upper: Upper,
    networks: nn.Module,
    held: Sequence[Episode],
    options: TrainingOptions,
) -> dict[str, float]:
    """Return the mean losses of the held-out slice."""
    networks.eval()
    size = options.together
    groups = [held[at : at + size] for at in range(0, len(held), size)]
    sums: dict[str, float] = {}
    for at in range(0, len(groups), options.groups):
        part = groups[at : at + options.groups]
        share = sum(map(len, part)) / len(held)
        for name, value in method.losses(upper, networks, part).items():
            sums[name] = sums.get(name, 0.0) + share * float(value)
    return sums


def _signature(
    method: Trainable,
    model: ChatModel,
    options: TrainingOptions,
    episodes: Sequence[Episode],
    data: str,
) -> dict[str, Any]:
    """Return what must be equal for a training to go on: everything but its length."""
    held: Any = method
    fixed = asdict(options)
    for free in ("episodes", "patience"):
        fixed.pop(free)
    found = {
        "name": method.name,
        "base_hash": model.base_hash,
        "settings": asdict(held),
        "options": fixed,
        "data": data,
        "exercises": len(episodes),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # tuples become lists, as when read
    return plain


class _Files:
    """The two files of one method and model."""

    def __init__(self, name: str, model: ChatModel, cache: Path, files: Files) -> None:
        self.path = trained_path(name, model, cache)
        self._state = self.path.with_suffix(".state.safetensors")
        self._files = files

    def best(
        self,
        networks: nn.Module,
        signature: Mapping[str, Any],
        so_far: _Progress,
        held: Mapping[str, float],
    ) -> None:
        seen = so_far.steps * _per_step(signature)
        about = {**signature, "steps": so_far.steps, "episodes": seen, "held": held}
        self._write(self.path, _tensors("", networks.state_dict()), about)

    def state(
        self,
        networks: nn.Module,
        optimiser: torch.optim.Optimizer,
        signature: Mapping[str, Any],
        so_far: _Progress,
    ) -> None:
        inner = optimiser.state_dict()
        tensors = _tensors("networks.", networks.state_dict())
        for index, values in inner["state"].items():
            tensors |= _tensors(f"optimiser.{index}.", values)
        about = {"signature": signature, "progress": asdict(so_far)}
        self._write(self._state, tensors, about)

    def resume(
        self,
        networks: nn.Module,
        optimiser: torch.optim.Optimizer,
        signature: Mapping[str, Any],
    ) -> _Progress:
        """Put networks and optimiser where a training of this signature stood, if there is one."""
        from safetensors.torch import load_file

        if not self._state.exists() or not self.path.exists():
            return _Progress()
        about = metadata(self._state)
        if about.get("signature") != signature:
            return _Progress()
        tensors = load_file(self._state)
        mine = {n.removeprefix("networks."): t for n, t in tensors.items() if n[0] == "n"}
        networks.load_state_dict(mine)
        inner = optimiser.state_dict()
        inner["state"] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                index, _, leaf = rest.partition(".")
                inner["state"].setdefault(int(index), {})[leaf] = tensor
        optimiser.load_state_dict(inner)
        return _Progress(**about["progress"])

    def _write(self, path: Path, tensors: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
        from safetensors.torch import save

        texts = {name: json.dumps(value) for name, value in about.items()}
        self._files.replace(path, save(tensors, texts))


def _per_step(signature: Mapping[str, Any]) -> int:
    options = signature["options"]
    return int(options["together"] * options["groups"] * options["accumulate"])


def _tensors(prefix: str, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {
        prefix + name: value.detach().cpu().contiguous()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
