"""Second moments of the closed-form editors' keys, and the settings that follow from them.

The keys are what enters the down projection (inner size wide): C_ℓ = E[k kᵀ], uncentred, of
several layers in one pass over ordinary text and everyday chat (methods.md §3.3). A
covariance weight, a damping or a null space copied from another model's configuration does
not fit: 15,000 makes MEMIT do nothing on a model where 100 works (design.md §4).
``calibrate`` derives them from the statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from editors.architectures import ModelView, view
from editors.capture import Site
from editors.editor import Resources
from editors.key_statistics import (
    KeyStatistics,
    everyday_chat,
    everyday_questions,
    measured,
    windows,
)
from editors.linear_solve import NullSpace, Spectrum, factored
from editors.model import ChatModel
from editors.requests import EditorError
from store.files import Files

RIDGE = 1e-3
"""Share of the mean diagonal that is added to a second moment before it is solved with."""
ENOUGH = 10
"""Tokens a width from which on a second moment is worth its inverse (methods.md §3.3)."""
LEAST_LEAK, MOST_LEAK = 0.001, 0.01
"""Shares of ordinary keys' energy between which a null space is chosen (methods.md L6).
A larger ``most_leak`` is a choice of the one who measures: at equal reach a space of 5 %
disturbed ordinary text of the default model a third as much as one of 1 %."""


def second_moments(
    model: ChatModel | ModelView,
    layers: Sequence[int],
    resources: Resources,
    max_tokens: int = 20_000,
    window: int = 256,
    chat_weight: float = 0.5,
) -> dict[int, KeyStatistics]:
    """Return the statistics of some layers' down-projection inputs, measured where not cached.

    One file a layer lies in ``resources.cache``, named by model, corpus and settings; only
    layers without one are measured, in one pass. The cache speaks of the *unedited* model.

    Args:
        model: the unedited model or its view.
        layers: at least one.
        resources: its texts, cache folder and step (called with tokens done and in all).
        max_tokens: of running text; everyday chat comes on top.
        window: tokens that are run together.
        chat_weight: chat's share in the moments; with 0 no chat is measured.

    Raises:
        EditorError: the texts are too short, or there is no such layer.
    """
    shown = view(model)
    paths = {
        layer: _cached_at(shown, layer, resources, (max_tokens, window, chat_weight))
        for layer in layers
    }
    found = {layer: _load(path, layer, shown.inner(layer)) for layer, path in paths.items()}
    missing = [layer for layer in paths if found[layer] is None]
    if missing:
        texts = windows(shown.chat, resources.texts, max_tokens, window)
        chat = everyday_chat(shown.chat, resources.cache) if chat_weight else []
        sites = [Site(layer, "down") for layer in missing]
        step = _counter(resources.step, sum(map(len, (*texts, *chat))))
        made = measured(shown, texts, sites, step)
        if chat:
            talk = measured(shown, chat, sites, step)
            made = [one.mixed(two, chat_weight) for one, two in zip(made, talk, strict=True)]
        for statistics in made:
            found[statistics.layer] = statistics
            path = paths[statistics.layer]
            if path:
                Files().replace(path, save(statistics.tensors()))
    return {layer: kept for layer, kept in found.items() if kept is not None}


@dataclass(frozen=True)
class Calibration:
    """One layer's settings, and the figures that they follow from.

    Attributes:
        layer, tokens: of the statistics.
        width: of a key.
        energy: kᵀC⁻¹k of a typical key (with ``RIDGE``).
        weight: covariance weight λ of MEMIT, PMET (the same number is EMMET's slack).
        disturbance: mean squared change of an ordinary token's value by one typical edit, as a
            share of the squared length of the edit's residual (at most: the ridge is in it).
        leak: share of ordinary keys' energy in the null space, for ``null_space``.
        dimensions: of the null space.
        inside: squared length of a typical key's part in the null space.
        damping: AlphaEdit's α.
        inside_disturbance: as ``disturbance``, of a typical edit in the null space. A wider
            space can disturb *less*: more of the key is in it, so less must be written.
        notes: what to beware of, in sentences; empty where nothing.
    """

    layer: int
    tokens: int
    width: int
    energy: float
    weight: float
    disturbance: float
    leak: float
    dimensions: int
    inside: float
    damping: float
    inside_disturbance: float
    notes: tuple[str, ...] = ()


def calibrate(
    statistics: KeyStatistics,
    spectrum: Spectrum,
    reach: float = 0.94,
    edits: int = 256,
    most_leak: float = MOST_LEAK,
    keys: torch.Tensor | None = None,
) -> Calibration:
    """Choose one layer's covariance weight, damping and null space from its statistics.

    One key's edit reaches the share e / (1 + e) of its residual, where e = kᵀ(λC)⁻¹k for
    MEMIT and kᵀPk / α for AlphaEdit. λ and α are chosen so that a typical key reaches
    ``reach``. A key drawn from C has kᵀC⁻¹k = m on average (its width), whatever the scale
    of the activations: λ = m (1 − reach) / reach. The null space holds 0.1 % of ordinary
    keys' energy, or more where ``edits`` need more dimensions, but never above ``most_leak``.

    Args:
        statistics: a layer's, from ``second_moments``.
        spectrum: that of ``statistics.moment``.
        reach: in (0, 1); nearer to 1 writes harder and disturbs more.
        edits: how many the null space is to hold.
        most_leak: the share of ordinary keys' energy that the null space may hold at most.
        keys: (m, n) keys of real requests (subject's last tokens), if there are some: their
            median then stands for a typical key. Otherwise it is C's mean.

    Raises:
        EditorError: ``reach`` is out of range, or the moment cannot be solved with.
    """
    if not 0 < reach < 1:
        raise EditorError(f"what an edit is to reach of its residual is in (0, 1), not {reach}")
    width = len(spectrum.values)
    total = float(spectrum.values.sum())
    if not total:
        raise EditorError(f"the keys of layer {statistics.layer} are all zero")
    least, most = (spectrum.dimensions(share) for share in (LEAST_LEAK, most_leak))
    dimensions = max(least, min(edits, most))
    leak = spectrum.leak(dimensions)
    if keys is None:
        # E[kᵀ(C + εI)⁻¹k] = tr(C(C + εI)⁻¹), and E‖Pk‖² = tr(PC).
        energy = float((spectrum.values / (spectrum.values + RIDGE * total / width)).sum())
        # An exact null space holds nothing of C's keys; take it to hold what the ridge would add.
        inside = max(leak * total, RIDGE * dimensions * total / width)
        felt = float(spectrum.values[:dimensions].square().sum())
    else:
        factor = factored(statistics.moment, RIDGE)
        space = NullSpace(spectrum.vectors[:, :dimensions], leak)
        energy = float(factor.energies(keys).median())
        squares = space.coordinates(keys).square()
        inside = float(squares.sum(0).median())
        felt = float((spectrum.values[:dimensions] @ squares).median())
    short = (1 - reach) / reach
    weight = energy * short
    return Calibration(
        layer=statistics.layer,
        tokens=statistics.tokens,
        width=width,
        energy=energy,
        weight=weight,
        disturbance=energy / (weight + energy) ** 2,
        leak=leak,
        dimensions=dimensions,
        inside=inside,
        damping=inside * short,
        inside_disturbance=felt / (inside / reach) ** 2 if inside else 0.0,
        notes=tuple(_notes(statistics, width, dimensions, edits, most_leak)),
    )


def _notes(
    statistics: KeyStatistics, width: int, dimensions: int, edits: int, most_leak: float
) -> list[str]:
    notes = []
    if statistics.tokens < ENOUGH * width:
        notes.append(
            f"{statistics.tokens} tokens are few for keys {width} wide; measure {ENOUGH * width}"
        )
    if dimensions < edits:
        notes.append(
            f"only {dimensions} directions hold {most_leak:.1%} of ordinary keys' energy; "
            f"{edits} edits in the null space will share them"
        )
    return notes


def _cached_at(
    shown: ModelView, layer: int, resources: Resources, settings: tuple[object, ...]
) -> Path | None:
    """Where a layer's statistics lie: everything that they depend on is in the name."""
    if resources.cache is None:
        return None
    mark = hashlib.sha256(repr((settings, str(shown.output_weight.dtype))).encode())
    for text in (*resources.texts, *everyday_questions()):
        mark.update(hashlib.sha256(text.encode()).digest())
    name = f"keys-{shown.chat.base_hash[:16]}-{layer}-{mark.hexdigest()[:12]}.safetensors"
    return resources.cache / name


def _load(path: Path | None, layer: int, width: int) -> KeyStatistics | None:
    """Return cached statistics; a file that cannot be read, or fits not, is measured anew."""
    if path is None or not path.exists():
        return None
    try:
        found = KeyStatistics.from_tensors(load_file(path))
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    fits = found.layer == layer and found.moment.shape == (width, width)
    return found if fits and bool(found.moment.isfinite().all()) else None


def _counter(step: Callable[[int, int], None], of: int) -> Callable[[int], None]:
    done = 0

    def count(tokens: int) -> None:
        nonlocal done
        done += tokens
        step(done, of)

    return count
