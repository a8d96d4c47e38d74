"""The trunk cache for every architecture, with blocks that begin anywhere in the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import accelerate
import pytest
import torch
from architecture_models import HIDDEN, INNER, LAYERS, architecture_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editors.architectures import view
from editors.capture import Site, captured, frozen, replaced
from editors.forward import embed
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import (
    Sample,
    Trunk,
    label_logits,
    resume,
    run_trunk,
    select,
    with_values,
)

Give = Callable[..., ChatModel]
HEAD = (30, 31, 32)
RAGGED = [
    Sample((*HEAD, 5, 9, 21, 40, 7), (11, 12, 13), start=4),
    Sample((*HEAD, 6), (14, 15)),
    Sample((*HEAD, 7, 8, 30), (16, 17, 18, 19, 20), start=3),
    Sample((*HEAD, 9, 9, 9, 9), ()),
    Sample((*HEAD, 9, 3, 3, 9), (5,), start=5),
]
LAYERS_AND_EMBEDDING = range(-1, LAYERS)


def full(model: ChatModel, sample: Sample) -> torch.Tensor:
    """Logits of the block's columns, from one plain forward of one sample."""
    return model.model(torch.tensor([sample.fed])).logits[0, sample.begin :]


def assert_resumes(model: ChatModel, trunk: Trunk, samples: Sequence[Sample]) -> None:
    with torch.no_grad():
        logits = view(model).logits(resume(model, trunk, trunk.hidden))
        for row, sample in enumerate(samples):
            wanted = full(model, sample)
            assert trunk.real[row].sum() == len(wanted)
            torch.testing.assert_close(logits[row, : len(wanted)], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS_AND_EMBEDDING)
def test_resuming_unchanged_gives_the_full_forwards_logits(
    each_model: ChatModel, layer: int
) -> None:
    assert_resumes(each_model, run_trunk(each_model, RAGGED, layer), RAGGED)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the model is only read
)
@given(data=st.data(), name=st.sampled_from(["llama", "gemma3_text", "gpt2"]))
def test_it_does_so_wherever_blocks_begin_and_whatever_samples_share(
    model_of: Give, data: st.DataObject, name: str
) -> None:
    tokens = st.lists(st.integers(0, 500), max_size=6)
    head = data.draw(tokens)
    samples = []
    for _ in range(data.draw(st.integers(1, 4))):
        prompt = (*head, *data.draw(tokens), data.draw(st.integers(0, 500)))
        start = data.draw(st.none() | st.integers(0, len(prompt) - 1))
        samples.append(Sample(prompt, tuple(data.draw(tokens)), start))
    layer = data.draw(st.sampled_from(LAYERS_AND_EMBEDDING))
    model = model_of(name)
    trunk = run_trunk(model, samples, layer, batch=2)
    assert_resumes(model, trunk, samples)
    rows = data.draw(st.lists(st.sampled_from(range(len(samples))), min_size=1, max_size=4))
    part = select(trunk, torch.tensor(rows), trim=True)
    chosen = [samples[row] for row in rows]
    assert len(part) == len(rows)
    assert part.real.shape[1] == max(len(s.fed) - s.begin for s in chosen)
    assert_resumes(model, part, chosen)


def test_the_block_says_what_is_predicted_where(model_of: Give) -> None:
    trunk = run_trunk(model_of("llama"), RAGGED, 1)
    for row, sample in enumerate(RAGGED):
        first = int(trunk.firsts[row])
        assert first == len(sample.prompt) - 1 - sample.begin
        wanted = [-100] * first + list(sample.answer)
        wanted += [-100] * (trunk.targets.shape[1] - len(wanted))
        assert trunk.targets[row].tolist() == wanted
        at = trunk.positions[row][trunk.real[row]]
        assert at.tolist() == list(range(sample.begin, len(sample.fed)))


def test_what_all_samples_begin_with_is_run_and_kept_once(model_of: Give) -> None:
    model, seen = model_of("llama"), []
    hook = model.layers[0].register_forward_hook(lambda _, __, out: seen.append(out.shape[:2]))
    try:
        trunk = run_trunk(model, RAGGED, 1)
    finally:
        hook.remove()
    assert seen[0] == (1, 3)
    assert [tuple(size) for size in seen[1:]] == [(3, 5), (2, 8)]  # three rows a batch
    assert {k.shape[2] for k, _ in trunk.prefix} == {3}
    assert {(k.shape[0], k.shape[2]) for k, _ in trunk.past} == {(5, 3)}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_batches_change_nothing(model_of: Give, batch: int) -> None:
    model = model_of("gemma3_text")
    once, parts = (run_trunk(model, RAGGED, 1, batch=size) for size in (5, batch))
    real = once.real
    for name in ("mlp_inputs", "keys", "values", "hidden"):
        torch.testing.assert_close(
            getattr(parts, name)[real], getattr(once, name)[real], rtol=1e-6, atol=1e-7
        )
    assert_resumes(model, parts, RAGGED)


def test_keys_and_values_are_those_of_the_full_forward(each_model: ChatModel) -> None:
    trunk, mlp, down = run_trunk(each_model, RAGGED, 1), Site(1, "mlp"), Site(1, "down")
    for row, sample in enumerate(RAGGED):
        with torch.no_grad(), captured(each_model, [mlp, down]) as seen:
            each_model.model(torch.tensor([sample.fed]))
        for kept, whole in (
            (trunk.mlp_inputs, seen.inputs(mlp)),
            (trunk.keys, seen.inputs(down)),
            (trunk.values, seen.outputs(down)),
        ):
            own = whole[0, sample.begin :]
            torch.testing.assert_close(kept[row, : len(own)], own, rtol=1e-5, atol=1e-5)
    assert (trunk.keys.shape[2], trunk.values.shape[2]) == (INNER, HIDDEN)
    assert run_trunk(each_model, RAGGED, -1).keys.shape == (*trunk.keys.shape[:2], 0)


def bumps(trunk: Trunk) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(trunk.values.shape, generator=generator, dtype=torch.float64)


def test_changed_values_act_as_if_the_mlp_had_given_them(each_model: ChatModel) -> None:
    trunk = run_trunk(each_model, RAGGED, 1)
    bump = bumps(trunk)
    hidden = with_values(each_model, trunk, trunk.values + bump)
    with torch.no_grad():
        logits = view(each_model).logits(resume(each_model, trunk, hidden))
        for row, sample in enumerate(RAGGED):
            own, begin = bump[row, : len(sample.fed) - sample.begin], sample.begin

            def add(value: torch.Tensor) -> torch.Tensor:
                return torch.cat([value[:, :begin], value[:, begin:] + own], dim=1)  # noqa: B023

            with replaced(each_model, Site(1, "down"), add):
                wanted = full(each_model, sample)
            torch.testing.assert_close(logits[row, : len(own)], wanted, rtol=1e-5, atol=1e-5)
    assert with_values(each_model, trunk, trunk.values).equal(trunk.hidden)


def test_anything_in_the_layer_can_be_replaced_above_the_trunk_below_it(
    each_model: ChatModel,
) -> None:
    below, site = run_trunk(each_model, RAGGED, 0), Site(1, "attention")
    vector = bumps(below)[0, 0]
    with torch.no_grad():
        with replaced(each_model, site, lambda value: _first_column_plus(value, vector)):
            logits = view(each_model).logits(resume(each_model, below, below.hidden))
        for row, sample in enumerate(RAGGED):
            with replaced(
                each_model,
                site,
                lambda v, at=sample.begin: _first_column_plus(v, vector, at),  # type: ignore[misc]
            ):
                wanted = full(each_model, sample)
            torch.testing.assert_close(logits[row, : len(wanted)], wanted, rtol=1e-5, atol=1e-5)


def _first_column_plus(value: torch.Tensor, vector: torch.Tensor, at: int = 0) -> torch.Tensor:
    return torch.cat([value[:, :at], value[:, at : at + 1] + vector, value[:, at + 1 :]], dim=1)


def test_gradients_are_those_of_the_whole_model(each_model: ChatModel) -> None:
    trunk, vector = run_trunk(each_model, RAGGED, 1), torch.zeros(HIDDEN, dtype=torch.float64)
    vector.requires_grad_(True)
    with frozen(each_model):
        hidden = with_values(each_model, trunk, _first_column_plus(trunk.values, vector))
        logits, tokens, _ = label_logits(
            each_model, resume(each_model, trunk, hidden), trunk.targets
        )
        loss = torch.nn.functional.cross_entropy(logits, tokens, reduction="sum")
        (ours,) = torch.autograd.grad(loss, vector)
    theirs = torch.zeros_like(ours)
    for sample in RAGGED:
        with (
            frozen(each_model),
            replaced(
                each_model,
                Site(1, "down"),
                lambda v, at=sample.begin: _first_column_plus(v, vector, at),  # type: ignore[misc]
            ),
        ):
            logits = full(each_model, sample)[len(sample.prompt) - 1 - sample.begin :]
            answer = torch.tensor(sample.answer, dtype=torch.long)
            loss = torch.nn.functional.cross_entropy(logits[: len(answer)], answer, reduction="sum")
            theirs += torch.autograd.grad(loss, vector)[0]
    assert theirs.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_label_logits_are_those_of_the_labels_and_say_whose(model_of: Give) -> None:
    model = model_of("gemma2")  # its logits are capped
    trunk = run_trunk(model, RAGGED, 1)
    with torch.no_grad():
        final = resume(model, trunk, trunk.hidden)
        logits, tokens, owners = label_logits(model, final, trunk.targets)
        every = view(model).logits(final)
    assert tokens.tolist() == [token for sample in RAGGED for token in sample.answer]
    assert owners.tolist() == [row for row, sample in enumerate(RAGGED) for _ in sample.answer]
    torch.testing.assert_close(logits, every[trunk.targets >= 0])


def test_a_selection_drops_columns_that_it_does_not_need(model_of: Give) -> None:
    model = model_of("mistral")
    trunk = run_trunk(model, RAGGED, 1)
    part = select(trunk, torch.tensor([2, 1]))
    assert {k.shape[2] for k, _ in part.past} == {0}  # both begin right after the prefix
    assert part.hidden.shape == (2, *trunk.hidden.shape[1:])
    assert_resumes(model, part, [RAGGED[2], RAGGED[1]])


def test_padding_needs_no_position_that_the_model_does_not_have(model_of: Give) -> None:
    samples = [Sample(tuple(range(2, 129)), (5, 6)), Sample((7, 8), tuple(range(10, 30)))]
    model = model_of("gpt2")  # has 128 positions, all taken by the first sample
    assert_resumes(model, run_trunk(model, samples, 1), samples)


def test_a_trunk_that_cannot_be_is_refused(model_of: Give) -> None:
    model = model_of("llama")
    for samples, layer in (([], 1), (RAGGED, LAYERS), (RAGGED, -2)):
        with pytest.raises(EditorError, match=f"no trunk of {len(samples)} samples at layer"):
            run_trunk(model, samples, layer)
    for start in (3, -1):
        with pytest.raises(EditorError, match="begin within its prompt"):
            run_trunk(model, [Sample((5, 6, 7), (8,), start=start)], 1)


def test_embedding_is_what_enters_the_first_layer(each_model: ChatModel) -> None:
    ids, entry = torch.tensor([[5, 9, 21], [6, 14, 15]]), Site(0, "layer")
    with torch.no_grad(), captured(each_model, [entry]) as seen:
        each_model.model(ids)
    with torch.no_grad():
        made = embed(view(each_model), ids, torch.arange(3).expand(2, -1))
    assert made.equal(seen.inputs(entry))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_other_number_formats_resume_as_exactly_as_they_are(
    model_of: Give, name: str, dtype: torch.dtype, close: float
) -> None:
    model = model_of(name, dtype)
    trunk = run_trunk(model, RAGGED, 1)
    assert trunk.hidden.dtype == trunk.keys.dtype == dtype
    with torch.no_grad():
        logits = view(model).logits(resume(model, trunk, trunk.hidden))
        for row, sample in enumerate(RAGGED):
            wanted = full(model, sample)
            difference = (logits[row, : len(wanted)] - wanted).abs().max() / wanted.abs().max()
            assert logits.dtype == dtype
            assert float(difference) < close


def test_layers_that_a_device_map_keeps_elsewhere_run_as_well(
    model_of: Give, tmp_path: Path
) -> None:
    whole, spread = model_of("llama"), architecture_model("llama")
    here = ("embed_tokens", "norm", "rotary_emb", "layers.0")
    places = {f"model.{name}": "cpu" for name in here}
    places |= {"lm_head": "cpu", "model.layers.1": "disk", "model.layers.2": "disk"}
    accelerate.dispatch_model(
        spread.model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True
    )
    ours, theirs = run_trunk(spread, RAGGED, 1), run_trunk(whole, RAGGED, 1)
    torch.testing.assert_close(ours.keys, theirs.keys)
    with torch.no_grad():
        torch.testing.assert_close(
            resume(spread, ours, ours.hidden), resume(whole, theirs, theirs.hidden)
        )
