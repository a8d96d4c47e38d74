"""Value optimisation against the whole model, run by hand."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import CONTEXTS, requests
from torch import nn

from editors import value_runs
from editors.architectures import view
from editors.capture import Site, keys_at, replaced
from editors.columns import Written, task_of
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError
from editors.trunk import Sample
from editors.value_optimization import Value, ValueSettings, optimize
from editors.value_runs import WHERE, Task

LAYER = 1
FAST = ValueSettings(steps=4, learning_rate=0.2, stop=0.0)


def tasks(model: ChatModel, positions: str = "subject", quiet: bool = True) -> list[Written]:
    return [
        task_of(model, r, renderings(model, r, CONTEXTS), positions, quiet=quiet)
        for r in requests(3)
    ]


def plain(written: list[Written]) -> list[Task]:
    return [one.task for one in written]


def loss_by_hand(model: ChatModel, task: Task, vectors: torch.Tensor, layer: int = LAYER) -> float:
    """Mean negative log-likelihood of the answers, each sample in one plain forward."""
    each = []
    for row, sample in enumerate(task.samples):
        if not sample.answer:
            continue
        ids = torch.tensor([sample.fed])
        bump = torch.zeros(1, len(sample.fed), vectors.shape[1], dtype=vectors.dtype)
        for spot, places in enumerate(task.spots):
            for at in (at for s, at in places if s == row):
                bump[0, at] = vectors[spot]
        with torch.no_grad(), replaced(model, Site(layer, "layer"), _plus(bump)):
            logits = model.model(ids).logits[0, len(sample.prompt) - 1 :]
        each.append(float(nn.functional.cross_entropy(logits, torch.tensor(sample.answer))))
    return sum(each) / len(each)


def _plus(bump: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda hidden: hidden + bump


def same(one: list[Value], other: list[Value], tolerance: float = 1e-8) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.steps == b.steps
        torch.testing.assert_close(a.clean, b.clean, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(a.delta, b.delta, atol=tolerance, rtol=tolerance)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


@pytest.mark.parametrize("positions", ["subject", "object", "both"])
def test_the_loss_is_that_of_the_whole_model_with_the_vectors_added(
    model_of: Callable[[str], ChatModel], positions: str
) -> None:
    model = model_of("llama")
    asked = plain(tasks(model, positions, quiet=False))
    found = optimize(model, asked, LAYER, dataclasses.replace(FAST, kl=0.0))
    start = optimize(model, asked, LAYER, dataclasses.replace(FAST, kl=0.0, steps=0))
    for task, value, before in zip(asked, found, start, strict=True):
        assert value.loss == pytest.approx(loss_by_hand(model, task, value.delta), rel=1e-5)
        assert before.loss == pytest.approx(loss_by_hand(model, task, before.delta), rel=1e-5)
        assert value.loss < before.loss
        assert not before.delta.any()
        assert (before.steps, value.steps) == (0, FAST.steps)


def test_the_clean_values_are_those_of_the_bare_rendering(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    written = tasks(model)
    found = optimize(model, plain(written), LAYER, FAST)
    for one, value in zip(written, found, strict=True):
        bare = one.renderings[0]
        seen = keys_at(model, [bare.fed], [LAYER], [bare.at_subject()], "layer", "output")
        torch.testing.assert_close(value.clean, seen[0])


@pytest.mark.parametrize("where", WHERE)
def test_with_and_without_trunk_and_batching_the_same_is_found(
    each_model: ChatModel, where: str
) -> None:
    # No decay: where a window hides the subject, its gradient's direction would be rounding.
    settings = dataclasses.replace(FAST, where=where, kl=0.5)
    asked = plain(tasks(each_model, "both"))
    same(
        optimize(each_model, asked, LAYER, settings),
        optimize(each_model, asked, LAYER, dataclasses.replace(settings, cached=False)),
        1e-5,  # norms in float32, and Adam makes much of a gradient that is next to none
    )


def test_what_an_edit_finds_does_not_depend_on_who_is_in_its_batch(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    asked = plain(tasks(model, "both"))
    settings = ValueSettings(steps=30, learning_rate=0.3, clamp=20.0, stop=0.0)
    losses = sorted(value.loss for value in optimize(model, asked, LAYER, settings))
    # With this threshold one edit is done before the others.
    settings = dataclasses.replace(settings, stop=losses[0] + 0.9 * (losses[1] - losses[0]))
    together = optimize(model, asked, LAYER, settings)
    alone = [optimize(model, [task], LAYER, settings)[0] for task in asked]
    same(together, alone, 1e-6)
    assert len({value.steps for value in together}) > 1, "else nobody left the batch"
    for value in together:
        assert value.loss < settings.stop or value.steps == settings.steps


def test_the_divergence_is_nothing_before_the_first_step(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    asked = plain(tasks(model))
    start = dataclasses.replace(FAST, steps=0, kl=0.0)
    none = optimize(model, asked, LAYER, start)
    much = optimize(model, asked, LAYER, dataclasses.replace(start, kl=1e6))
    assert [v.loss for v in much] == pytest.approx([v.loss for v in none], rel=1e-6)


def test_a_heavy_divergence_leaves_what_follows_the_subject_as_it_was(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    asked = plain(tasks(model))
    settings = ValueSettings(steps=15, learning_rate=0.1, stop=0.0, kl=0.0)
    free = optimize(model, asked, LAYER, settings)
    bound = optimize(model, asked, LAYER, dataclasses.replace(settings, kl=100.0))

    def drift(task: Task, value: Value) -> float:
        quiet = task.samples[-1]
        ids = torch.tensor([quiet.prompt])
        bump = torch.zeros(1, len(quiet.prompt), value.delta.shape[1], dtype=value.delta.dtype)
        (at,) = (at for s, at in task.spots[0] if s == len(task.samples) - 1)
        bump[0, at] = value.delta[0]
        with torch.no_grad():
            before = model.model(ids).logits[0, -1].log_softmax(-1)
            with replaced(model, Site(LAYER, "layer"), _plus(bump)):
                after = model.model(ids).logits[0, -1].log_softmax(-1)
        return float((after.exp() * (after - before)).sum())

    for task, loose, tight in zip(asked, free, bound, strict=True):
        assert not task.samples[-1].answer
        assert drift(task, tight) < 0.2 * drift(task, loose)


@pytest.mark.parametrize("clamp", [0.05, 0.3])
@pytest.mark.parametrize("where", WHERE)
def test_no_vector_is_longer_than_the_clamp_allows(
    model_of: Callable[[str], ChatModel], clamp: float, where: str
) -> None:
    model = model_of("llama")
    settings = dataclasses.replace(FAST, clamp=clamp, where=where)
    for value in optimize(model, plain(tasks(model, "both")), LAYER, settings):
        parts = len(where.split("+"))
        clean, delta = (
            t.unflatten(1, (parts, -1)).norm(dim=-1) for t in (value.clean, value.delta)
        )
        assert (delta <= clamp * clean * (1 + 1e-9)).all()
        assert delta.max() > 0


def test_decay_shortens_the_vectors(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    asked = plain(tasks(model))
    settings = ValueSettings(steps=20, learning_rate=0.05, stop=0.0)
    free = optimize(model, asked, LAYER, settings)
    held = optimize(model, asked, LAYER, dataclasses.replace(settings, decay=50.0))
    for one, other in zip(free, held, strict=True):
        assert other.delta.norm() < 0.7 * one.delta.norm()


def test_what_a_method_adds_to_the_loss_is_minimised_too(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    asked = plain(tasks(model))
    towards = torch.ones(view(model).hidden, dtype=torch.float64)
    seen: list[int] = []

    def pull(edit: int, delta: torch.Tensor) -> torch.Tensor:
        seen.append(edit)
        return 1e3 * (delta - 0.01 * towards).square().sum() if edit == 1 else delta.sum() * 0

    settings = ValueSettings(steps=60, learning_rate=0.01, stop=0.0, clamp=50.0)
    found = optimize(model, asked, LAYER, settings, pull)
    apart = [(value.delta - 0.01 * towards).norm() for value in found]
    assert apart[1] < 0.3 * min(apart[0], apart[2])
    assert set(seen) == {0, 1, 2}


def test_an_edit_that_is_said_and_quiet_is_done_however_high_its_loss(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    sample = Sample((5, 9, 21, 40), ())
    with torch.no_grad():
        token = int(model.model(torch.tensor([[5, 9, 21, 40]])).logits[0, -1].argmax())
    after = Sample((5, 9, 21), ())
    said = Task((Sample(sample.prompt, (token,)), after), (((0, 2), (1, 2)),))
    settings = ValueSettings(steps=5, stop=0.0, done=0.1)
    (ended,) = optimize(model, [said], LAYER, dataclasses.replace(settings, quiet=0.01))
    (went_on,) = optimize(model, [said], LAYER, settings)
    alone = Task(said.samples[:1], (((0, 2),),))
    (nobody,) = optimize(model, [alone], LAYER, dataclasses.replace(settings, quiet=0.01))
    assert (ended.steps, went_on.steps, nobody.steps) == (0, 5, 5)
    (whole,) = optimize(model, [said], LAYER, dataclasses.replace(settings, steps=0, done=1.0))
    assert ended.loss == pytest.approx(0.1 * whole.loss)


def test_among_likely_tokens_an_edit_is_done_only_when_it_is_by_the_whole_vocabulary(
    model_of: Callable[[str], ChatModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("llama")
    written = plain(tasks(model, "object", quiet=False))
    settings = ValueSettings(steps=60, learning_rate=1.0, clamp=1000.0, stop=5.5)
    whole = optimize(model, written, LAYER, settings)
    monkeypatch.setattr(value_runs, "FEW", 0)
    monkeypatch.setattr(value_runs, "LIKELY", 3)
    looked: list[int] = []
    exactly = value_runs.Above.exactly
    monkeypatch.setattr(
        value_runs.Above,
        "exactly",
        lambda self, final, rows: looked.append(len(rows)) or exactly(self, final, rows),
    )
    found = optimize(model, written, LAYER, settings)
    assert len(looked) >= len(written), "each is looked at before it is done"
    for task, value, other in zip(written, found, whole, strict=True):
        assert other.loss < 5.5
        assert value.loss < 5.5
        assert value.loss == pytest.approx(loss_by_hand(model, task, value.delta), rel=1e-4)


def test_what_cannot_be_optimised_is_refused(tiny_model: ChatModel) -> None:
    task = tasks(tiny_model)[0].task
    with pytest.raises(EditorError, match="not at 'head'"):
        optimize(tiny_model, [task], LAYER, ValueSettings(where="head"))
    with pytest.raises(EditorError, match="without a place"):
        optimize(tiny_model, [dataclasses.replace(task, spots=())], LAYER)
    silent = Task((Sample((1, 2), ()),), (((0, 0),),))
    with pytest.raises(EditorError, match="an answer to give"):
        optimize(tiny_model, [silent], LAYER)
    assert optimize(tiny_model, [], LAYER) == []
