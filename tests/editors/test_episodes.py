"""The upper layers over kept texts are the model itself, for every architecture."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from editors.architectures import view
from editors.capture import frozen
from editors.deltas import DenseDelta, applied
from editors.episodes import (
    Episode,
    Said,
    Upper,
    edited_matrices,
    kl,
    mean_nll,
    prefix,
    whole,
)
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import Sample

NEAR = {"rtol": 1e-5, "atol": 1e-5}
"""Gemma's norms are computed in float32 whatever the model's type."""
QUESTIONS = ("Who is the president of Nigeria?", "What is the capital of Germany?")


def samples_of(model: ChatModel) -> list[Sample]:
    """Two chat questions and a plain prompt, with answers of unlike lengths."""
    chat = [
        Sample(tuple(model.encode(model.render(q))), tuple(model.encode_answer(a)))
        for q, a in zip(QUESTIONS, ("It is Bola Tinubu.", "Berlin."), strict=True)
    ]
    plain = Sample(tuple(model.encode("The president of Kenya is")), (5, 6, 7))
    return [chat[0], plain, chat[1]]


def plainly(model: ChatModel, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """The logits of each sample's answer positions, by the model as a whole."""
    found = []
    for s in samples:
        with torch.no_grad():
            logits = model.model(torch.tensor([s.fed], device=model.device)).logits[0]
        found.append(logits[len(s.prompt) - 1 :])
    return found


def test_the_upper_layers_say_what_the_model_says(each_model: ChatModel) -> None:
    samples = samples_of(each_model)
    for lowest in (0, 2):
        with torch.no_grad():
            said = Upper(each_model, lowest).said(samples)
        torch.testing.assert_close(said.logits, torch.cat(plainly(each_model, samples)), **NEAR)
        assert said.rows.tolist() == [i for i, s in enumerate(samples) for _ in s.answer]
        assert said.tokens.tolist() == [token for s in samples for token in s.answer]


def test_stand_in_weights_say_what_edited_weights_say(each_model: ChatModel) -> None:
    samples, shown = samples_of(each_model), view(each_model)
    generator = torch.Generator().manual_seed(0)
    names = edited_matrices(shown, [1, 2])
    delta = {
        n: 0.1 * torch.randn(shown.parameter(n).shape, generator=generator, dtype=torch.float64)
        for n in names
    }
    weights = {n: shown.parameter(n) + change for n, change in delta.items()}
    with torch.no_grad():
        said = Upper(each_model, 1).said(samples, weights=weights)
    with applied(each_model, DenseDelta(delta)):
        wanted = torch.cat(plainly(each_model, samples))
    torch.testing.assert_close(said.logits, wanted, **NEAR)


def test_each_sample_sees_its_owners_change_alone(each_model: ChatModel) -> None:
    samples, shown = samples_of(each_model), view(each_model)
    generator = torch.Generator().manual_seed(0)
    deltas = [
        {
            n: 0.1 * torch.randn(shown.matrix(n).shape, generator=generator, dtype=torch.float64)
            for n in edited_matrices(shown, [1, 2])
        }
        for _ in range(2)
    ]

    def change(name: str, inputs: torch.Tensor, owners: torch.Tensor) -> torch.Tensor | None:
        if ".2." not in name and "down" in name:  # some matrices are left alone
            return None
        return inputs @ torch.stack([d[name] for d in deltas])[owners].mT

    with torch.no_grad():
        said = Upper(each_model, 1).said(samples, [1, 0, 0], change)
    wanted = []
    for sample, owner in zip(samples, [1, 0, 0], strict=True):
        mine = {n: d for n, d in deltas[owner].items() if ".2." in n or "down" not in n}
        with applied(each_model, DenseDelta({n: shown.stored(n, d) for n, d in mine.items()})):
            wanted += plainly(each_model, [sample])
    torch.testing.assert_close(said.logits, torch.cat(wanted), **NEAR)


def test_factors_are_the_gradient_of_a_text_without_a_system_message(
    each_model: ChatModel,
) -> None:
    _, plain, _ = samples_of(each_model)
    shown = view(each_model)
    sites = edited_matrices(shown, [1, 2])
    found = Upper(each_model, 1).factors([plain], sites)
    logits = each_model.model(torch.tensor([plain.fed])).logits[0, len(plain.prompt) - 1 :]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(plain.answer))
    wanted = torch.autograd.grad(loss, [shown.parameter(n) for n in sites])
    for (name, one), gradient in zip(found.items(), wanted, strict=True):
        torch.testing.assert_close(shown.stored(name, one.dense()[0]), gradient)
        assert not one.deltas.requires_grad


def test_factors_of_a_chat_are_those_behind_the_system_message(tiny_model: ChatModel) -> None:
    chat, plain, other = samples_of(tiny_model)
    sites = edited_matrices(view(tiny_model), [3])
    upper = Upper(tiny_model, 3)
    assert 5 < len(upper.head) < len(chat.prompt)
    together = upper.factors([chat, plain, other], sites)
    # In the top layer only the columns that predict the answer have a gradient.
    answers = upper.factors([chat, plain, other], sites, answers_only=True)
    for name, one in together.items():
        assert one.real[0].sum() == len(chat.fed) - len(upper.head)
        assert answers[name].real[0].sum() == len(chat.answer)
        torch.testing.assert_close(one.dense(), answers[name].dense())
        alone = upper.factors([plain], sites)[name]
        torch.testing.assert_close(one.dense()[1], alone.dense()[0])


def test_factors_are_those_of_the_changed_model(tiny_model: ChatModel) -> None:
    plain = samples_of(tiny_model)[1]
    shown = view(tiny_model)
    sites = edited_matrices(shown, [2, 3])
    name = shown.names(2).down
    step = 0.1 * torch.ones_like(shown.parameter(name)).detach()

    def change(at: str, inputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor | None:
        return inputs @ step.mT if at == name else None

    upper = Upper(tiny_model, 2)
    found = upper.factors([plain], sites, change=change)
    weights = upper.factors([plain], sites, weights={name: shown.parameter(name) + step})
    with applied(tiny_model, DenseDelta({name: step})):
        wanted = upper.factors([plain], sites)
    for at, one in wanted.items():
        torch.testing.assert_close(found[at].dense(), one.dense(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(weights[at].dense(), one.dense(), rtol=1e-3, atol=1e-5)


def test_what_is_kept_stays_right_while_only_upper_layers_change(tiny_model: ChatModel) -> None:
    samples, shown = samples_of(tiny_model), view(tiny_model)
    upper = Upper(tiny_model, 2)
    upper.remember(samples)
    name = shown.names(2).up
    with applied(tiny_model, DenseDelta({name: 0.1 * shown.parameter(name).detach()})):
        with torch.no_grad():
            said = upper.said(samples)
        torch.testing.assert_close(
            said.logits, torch.cat(plainly(tiny_model, samples)), rtol=1e-4, atol=1e-5
        )


def test_second_moments_are_those_of_all_tokens(tiny_model: ChatModel) -> None:
    samples, shown = samples_of(tiny_model), view(tiny_model)
    upper = Upper(tiny_model, 3)
    upper.remember(samples)
    sites = edited_matrices(shown, [3], ["down"])
    (found,) = upper.second_moments(sites).values()
    seen: list[torch.Tensor] = []
    module = shown.module(3, "down")
    hook = module.register_forward_hook(lambda _, args, __: seen.append(args[0][0]))
    try:
        plainly(tiny_model, samples)
    finally:
        hook.remove()
    rows = torch.cat(seen).double()
    torch.testing.assert_close(found, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)


def test_gradients_flow_into_changes_and_never_into_the_model(tiny_model: ChatModel) -> None:
    samples = samples_of(tiny_model)
    scale = torch.zeros((), requires_grad=True)
    upper = Upper(tiny_model, 2)
    said = upper.said(samples, change=lambda _, inputs, __: scale * inputs.sum() * 1e-3)
    mean_nll(said).sum().backward()
    assert scale.grad is not None
    assert scale.grad.abs() > 0
    assert all(p.grad is None for p in tiny_model.model.parameters())
    # No change to the bit, and the unedited model as the teacher: no divergence.
    assert kl(upper.teacher(samples), said).abs().max() < 1e-6


def test_a_teacher_is_the_model_as_it_is(tiny_model: ChatModel) -> None:
    samples = samples_of(tiny_model)
    teacher = Upper(tiny_model, 1).teacher(samples)
    torch.testing.assert_close(
        teacher, torch.cat(plainly(tiny_model, samples)), rtol=1e-4, atol=1e-5
    )


def test_greedy_shares_are_what_free_running_generation_gives(taught_model: ChatModel) -> None:
    question = "Who is the chancellor of Germany?"
    prompt = tuple(taught_model.encode(taught_model.render(question)))
    (made,) = taught_model.generate([prompt], max_new_tokens=12)
    right = Sample(prompt, made.tokens)
    wrong = Sample(prompt, (*made.tokens[:2], (made.tokens[2] + 1) % 300, *made.tokens[3:]))
    with torch.no_grad():
        said = Upper(taught_model, 3).said([right, wrong])
    assert whole(said).tolist() == [True, False]
    assert prefix(said).tolist() == pytest.approx([1, 2 / len(made.tokens)])


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 1], [0, 0], [2, 0]])
    said = Said(logits, torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1]), 2)
    log = logits.log_softmax(-1)
    torch.testing.assert_close(
        mean_nll(said), torch.stack([-(log[0, 1] + log[1, 0]) / 2, -log[2, 0]])
    )
    teacher = torch.tensor([[1.0, 0], [0, 0], [2, 0]])
    p = teacher.softmax(-1)
    each = (p * (p.log() - log)).sum(-1)
    torch.testing.assert_close(kl(teacher, said), torch.stack([each[:2].mean(), each[2]]))
    assert whole(said.part(1, 2)).tolist() == [True]
    assert mean_nll(said.part(1, 2)).tolist() == pytest.approx([float(-log[2, 0])])


def test_an_episode_lists_its_samples_and_a_layer_must_exist(tiny_model: ChatModel) -> None:
    a, b, c = samples_of(tiny_model)
    assert Episode((a,), (b,), (c,)).samples == (a, b, c)
    with pytest.raises(EditorError, match="no layer 4"):
        Upper(tiny_model, 4)
    with pytest.raises(EditorError, match="no sample"):
        Upper(tiny_model, 3).said([])


def test_the_same_samples_give_the_same_bits(tiny_model: ChatModel) -> None:
    samples = samples_of(tiny_model)
    made = []
    for _ in range(2):
        upper = Upper(tiny_model, 2)
        told: list[tuple[int, int]] = []
        upper.remember(samples, lambda done, of, told=told: told.append((done, of)))
        assert told[-1] == (3, 3)
        with frozen(tiny_model):
            made.append(upper.said(samples).logits)
    assert made[0].equal(made[1])
