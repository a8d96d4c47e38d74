"""Integrated gradients against autograd by hand, and their completeness."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architecture_models import LAYERS

from editors.architectures import view
from editors.capture import Site, captured, replaced
from editors.integrated_gradients import (
    Attribution,
    Neuron,
    attribute,
    joint_logprobs,
    token_by_token,
)
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import Sample

Give = Callable[..., ChatModel]
SAMPLES = [
    Sample((30, 31, 2, 3, 4, 5), (6, 7)),
    Sample((30, 31, 9), (8,)),
    Sample((30, 31, 9, 11, 12, 4, 4), (8, 3, 2)),
]
PLAIN = ("llama", "gpt2", "gpt_neox")


def probability(model: ChatModel, sample: Sample) -> torch.Tensor:
    """P(answer | prompt) by one plain forward of the whole model."""
    logs = model.model(torch.tensor([sample.fed])).logits[0].log_softmax(-1)
    at = torch.arange(len(sample.answer)) + len(sample.prompt) - 1
    return logs[at, list(sample.answer)].sum().exp()


def scaled(share: float, sample: Sample) -> Callable[[torch.Tensor], torch.Tensor]:
    """Scales the key in the columns that predict the answer."""

    def scale(key: torch.Tensor) -> torch.Tensor:
        factor = torch.ones(key.shape[1], 1, dtype=key.dtype)
        factor[len(sample.prompt) - 1 :] = share
        return factor * key

    return scale


def by_hand(model: ChatModel, sample: Sample, layer: int, shares: list[float]) -> torch.Tensor:
    site = Site(layer, "down")
    with torch.no_grad(), captured(model, [site]) as seen:
        probability(model, sample)
    asked = slice(len(sample.prompt) - 1, None)
    key = seen.inputs(site)[0, asked].clone()
    total = torch.zeros_like(key)
    for share in shares:
        leaf = (share * key).requires_grad_(True)

        def put(old: torch.Tensor, leaf: torch.Tensor = leaf) -> torch.Tensor:
            return torch.cat([old[:, : asked.start], leaf[None]], dim=1)

        with replaced(model, site, put, "input"):
            (gradient,) = torch.autograd.grad(probability(model, sample), leaf)
        total = total + gradient
    return (key * total / len(shares)).sum(0)


@pytest.mark.parametrize(("rule", "shares"), [("left", [0, 0.25, 0.5, 0.75]), ("midpoint", [0.5])])
def test_scores_are_those_of_full_forwards_by_hand(
    each_model: ChatModel, rule: str, shares: list[float]
) -> None:
    found = attribute(each_model, SAMPLES, [0, LAYERS - 1], steps=len(shares), rule=rule)
    for layer in (0, LAYERS - 1):
        for row, sample in enumerate(SAMPLES):
            wanted = by_hand(each_model, sample, layer, shares)
            scale = float(wanted.abs().max())
            assert scale > 0
            torch.testing.assert_close(
                found.scores[layer][row], wanted, rtol=1e-5, atol=1e-6 * scale
            )


@pytest.mark.parametrize("name", PLAIN)
def test_scores_of_a_layer_add_up_to_what_its_key_brings(model_of: Give, name: str) -> None:
    # Not Gemma's, which normalises the value: all its change lies at a share of about 0.
    model = model_of(name)
    errors: dict[tuple[str, int], float] = {}
    for rule, steps in (("left", 20), ("left", 80), ("midpoint", 20), ("midpoint", 80)):
        found = attribute(model, SAMPLES, steps=steps, rule=rule)
        worst = 0.0
        for layer in range(LAYERS):
            for row, sample in enumerate(SAMPLES):
                with torch.no_grad():
                    whole = float(probability(model, sample))
                    with replaced(model, Site(layer), scaled(0, sample), "input"):
                        without = float(probability(model, sample))
                made = float(found.scores[layer][row].sum())
                worst = max(worst, abs(made - (whole - without)) / max(whole, without))
        errors[rule, steps] = worst
    assert errors["left", 80] < 0.35 * errors["left", 20]
    assert errors["midpoint", 80] < 0.15 * errors["midpoint", 20]
    assert errors["midpoint", 80] < 0.01


def test_samples_do_not_depend_on_each_other_and_the_activations_are_the_keys(
    model_of: Give,
) -> None:
    model = model_of("qwen3")
    together = attribute(model, SAMPLES, steps=50)  # one sample a batch
    for row, sample in enumerate(SAMPLES):
        alone = attribute(model, [sample], steps=50)
        with torch.no_grad(), captured(model, [Site(1)]) as seen:
            probability(model, sample)
        key = seen.inputs(Site(1))[0, len(sample.prompt) - 1 :].mean(0)
        torch.testing.assert_close(together.keys[1][row], key)
        for layer in range(LAYERS):
            torch.testing.assert_close(together.scores[layer][row], alone.scores[layer][0])


def test_an_answer_token_by_token_has_the_tokens_before_it_in_its_prompt(model_of: Give) -> None:
    model = model_of("llama")
    sample = SAMPLES[2]
    parts = token_by_token(sample.prompt, sample.answer)
    assert [part.fed for part in parts] == [sample.fed[: 7 + at] for at in range(3)]
    with torch.no_grad():
        whole = probability(model, sample).log()
    torch.testing.assert_close(joint_logprobs(model, [sample])[0], whole)
    torch.testing.assert_close(joint_logprobs(model, parts).sum(), whole)


def test_half_precision_gives_nearly_the_same(model_of: Give) -> None:
    exact = attribute(model_of("llama"), SAMPLES[:1], [1], rule="midpoint").scores[1]
    rough = attribute(model_of("llama", torch.bfloat16), SAMPLES[:1], [1], rule="midpoint").scores[
        1
    ]
    assert torch.corrcoef(torch.cat([exact, rough]))[0, 1] > 0.98


def test_the_strongest_are_counted_from_each_samples_best_over_all_layers() -> None:
    found = Attribution(
        {
            3: torch.tensor([[1.0, 0.19, -2.0], [0.0, -1.0, 0.0]]),
            5: torch.tensor([[0.2, 0.3, 0.0], [0.0, 0.0, -3.0]]),
        },
        {3: torch.tensor([[1.0, 2, 3], [3, 4, 5]]), 5: torch.zeros(2, 3)},
    )
    assert found.strongest(0.2) == [{Neuron(3, 0), Neuron(5, 0), Neuron(5, 1)}, frozenset()]
    unusual = found.peaking({3: torch.tensor([1.0, 1.0, 1.5])}, peak=2)
    assert unusual.scores[3].tolist() == [pytest.approx([0.0, 0.19, -2.0]), [0.0, -1.0, 0.0]]
    assert unusual.scores[5].equal(found.scores[5])
    mean = found.mean([0, 1])
    assert mean.keys[3].tolist() == [[2, 3, 4]]
    assert mean.scores[5][0].tolist() == pytest.approx([0.1, 0.15, -1.5])


@pytest.mark.parametrize(
    ("samples", "steps", "rule"),
    [([], 5, "left"), ([Sample((1,), ())], 5, "left"), (SAMPLES, 0, "left"), (SAMPLES, 5, "right")],
)
def test_nothing_to_explain_is_an_error(
    model_of: Give, samples: list[Sample], steps: int, rule: str
) -> None:
    with pytest.raises(EditorError, match="at least one step"):
        attribute(view(model_of("llama")), samples, steps=steps, rule=rule)
