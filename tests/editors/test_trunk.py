"""The trunk cache against the whole model run from the start."""

from collections.abc import Sequence

import pytest
import torch

from editors.architectures import view
from editors.model import ChatModel
from editors.passages import Passage
from editors.trunk import Sample, Trunk, mlp_inputs, resume, run_trunk, select

RAGGED = [
    Sample((5, 9, 21, 40, 7), (11, 12, 13)),
    Sample((6,), (14, 15)),
    Sample((7, 8, 30), (16, 17, 18, 19, 20)),
    Sample((9, 9, 9, 9), (21,)),
]
LAYERS = (0, 2, 3)


def full(model: ChatModel, sample: Sample) -> torch.Tensor:
    """Logits that predict each answer token, from one plain forward of one sample."""
    ids = torch.tensor([[*sample.prompt, *sample.answer[:-1]]])
    return model.model(ids).logits[0, len(sample.prompt) - 1 :]


def resumed(model: ChatModel, trunk: Trunk, hidden: torch.Tensor) -> torch.Tensor:
    return model.model.lm_head(resume(model, trunk, hidden))


@pytest.mark.parametrize("layer", LAYERS)
def test_resuming_unchanged_gives_the_full_forwards_logits(
    tiny_model: ChatModel, layer: int
) -> None:
    trunk = run_trunk(tiny_model, RAGGED, layer)
    with torch.no_grad():
        logits = resumed(tiny_model, trunk, trunk.hidden)
        for row, sample in enumerate(RAGGED):
            torch.testing.assert_close(
                logits[row, : len(sample.answer)], full(tiny_model, sample), atol=1e-5, rtol=1e-4
            )


def test_targets_are_the_answers_and_nothing_else(tiny_model: ChatModel) -> None:
    targets = run_trunk(tiny_model, RAGGED, 1).targets
    for row, sample in enumerate(RAGGED):
        assert targets[row, : len(sample.answer)].tolist() == list(sample.answer)
        assert (targets[row, len(sample.answer) :] == -100).all()


def loss_of(logits: torch.Tensor, answer: Sequence[int]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum")


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_through_resume_equal_those_through_the_whole_model(
    tiny_model: ChatModel, layer: int
) -> None:
    trunk = run_trunk(tiny_model, RAGGED, layer)
    bumps = 0.1 * torch.randn(trunk.hidden.shape, generator=torch.Generator().manual_seed(0))
    ours = bumps.clone().requires_grad_(True)
    logits = resumed(tiny_model, trunk, trunk.hidden + ours)
    loss = sum(loss_of(logits[r, : len(s.answer)], s.answer) for r, s in enumerate(RAGGED))
    (ours_grad,) = torch.autograd.grad(loss, ours)
    for row, sample in enumerate(RAGGED):
        own, start = bumps[row, : len(sample.answer)].clone(), len(sample.prompt) - 1
        own.requires_grad_(True)

        def bump(_: object, __: object, out: torch.Tensor) -> torch.Tensor:
            return torch.cat([out[:, :start], out[:, start:] + own], dim=1)  # noqa: B023 (used now)

        hook = tiny_model.layers[layer].register_forward_hook(bump)
        try:
            logits_full = full(tiny_model, sample)
        finally:
            hook.remove()
        (grad,) = torch.autograd.grad(loss_of(logits_full, sample.answer), own)
        torch.testing.assert_close(ours_grad[row, : len(sample.answer)], grad, atol=1e-4, rtol=1e-3)
        assert not ours_grad[row, len(sample.answer) :].any()


def test_a_selection_is_what_its_samples_alone_would_give(tiny_model: ChatModel) -> None:
    trunk = run_trunk(tiny_model, RAGGED, 1)
    part = select(trunk, torch.tensor([2, 0]))
    with torch.no_grad():
        logits = resumed(tiny_model, part, part.hidden)
        for row, sample in enumerate((RAGGED[2], RAGGED[0])):
            torch.testing.assert_close(
                logits[row, : len(sample.answer)], full(tiny_model, sample), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("layer", LAYERS)
def test_captured_inputs_are_what_the_layers_mlp_sees(tiny_model: ChatModel, layer: int) -> None:
    sequences = [[5, 6, 7, 8], [9], [], [10, 11]]
    seen: list[torch.Tensor] = []
    hook = tiny_model.layers[layer].mlp.register_forward_pre_hook(
        lambda _, args: seen.append(args[0][0])
    )
    try:
        with torch.no_grad():
            for sequence in filter(None, sequences):
                tiny_model.model(torch.tensor([sequence]))
    finally:
        hook.remove()
    torch.testing.assert_close(
        mlp_inputs(tiny_model, sequences, layer), torch.cat(seen), atol=1e-5, rtol=1e-4
    )
    assert mlp_inputs(tiny_model, [], layer).shape == (0, 32)


def test_the_trunk_holds_the_same_inputs_at_the_answers(tiny_model: ChatModel) -> None:
    trunk = run_trunk(tiny_model, RAGGED, 2)
    for row, sample in enumerate(RAGGED):
        every = mlp_inputs(tiny_model, [[*sample.prompt, *sample.answer[:-1]]], 2)
        torch.testing.assert_close(
            trunk.mlp_inputs[row, : len(sample.answer)],
            every[len(sample.prompt) - 1 :],
            atol=1e-5,
            rtol=1e-4,
        )


def test_no_hook_stays_behind(tiny_model: ChatModel) -> None:
    """Beside those that transformers itself leaves once it was asked for hidden states."""
    modules = [tiny_model.layers[1], tiny_model.layers[1].mlp]
    before = [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules]
    run_trunk(tiny_model, RAGGED, 1)
    mlp_inputs(tiny_model, [[5, 6]], 1)
    assert [(dict(m._forward_hooks), dict(m._forward_pre_hooks)) for m in modules] == before


@pytest.mark.parametrize("first", [0, 1])
def test_a_trunk_goes_on_from_a_passage_as_if_it_had_begun_itself(
    each_model: ChatModel, first: int
) -> None:
    """Two kinds of beginnings, of which each is run once for its group."""
    texts = [(7, 7, 9, 4, 2), (7, 7, 9, 5), (8, 3, 1, 2), (7, 7, 9, 4, 4, 1)]
    samples = [
        Sample(text, (5, 6)[: 1 + i % 2], len(text) - 1 - i % 2) for i, text in enumerate(texts)
    ]
    shown = view(each_model)
    passage = Passage(shown, [s.fed for s in samples], first, [s.begin for s in samples])
    assert [group.shared for group in passage.groups] == [2, 3]
    alone, further = (
        run_trunk(each_model, samples, 1),
        run_trunk(each_model, samples, 1, passage=passage),
    )
    assert further.targets.equal(alone.targets)
    assert further.firsts.equal(alone.firsts)
    real = alone.real
    for name in ("hidden", "keys", "values", "positions"):
        one, other = (getattr(trunk, name)[real] for trunk in (further, alone))
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    bump = torch.randn(alone.hidden.shape, generator=torch.Generator().manual_seed(0))
    ends = [resume(each_model, trunk, trunk.hidden + bump) for trunk in (alone, further)]
    torch.testing.assert_close(ends[1][real], ends[0][real], atol=1e-6, rtol=1e-5)
