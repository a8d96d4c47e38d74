"""Second moments of several layers in one pass, their cache, and the settings from them."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from architecture_models import architecture_model
from toy_model import one_thread

from editors import key_statistics, second_moments
from editors.capture import Site, keys_at, streamed
from editors.editor import Resources
from editors.key_statistics import KeyStatistics, measured, windows
from editors.linear_solve import Spectrum, factored, null_space, projected, ridge, spectrum
from editors.model import ChatModel
from editors.requests import EditorError
from editors.second_moments import RIDGE, calibrate

TEXTS = ("The harbour was quiet in the early morning. " * 40, "Who is there? " * 60)


def statistics_of(
    model: ChatModel, layers: list[int], cache: Path | None = None, **settings: float
) -> dict[int, KeyStatistics]:
    given = {"max_tokens": 600, "window": 50, "chat_weight": 0.0, **settings}
    return second_moments.second_moments(model, layers, Resources(TEXTS, cache), **given)


def short_chat(model: ChatModel, cache: Path | None = None) -> list[list[int]]:
    """Stands in for what the model says to all the everyday questions, which takes seconds."""
    return [model.encode(model.render(q) + "It is so.") for q in ("Who?", "Who is there?")]


def keys_of(model: ChatModel, layer: int) -> torch.Tensor:
    return keys_at(model, windows(model, TEXTS, 600, 50), [layer])[0].double()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_each_layers_moment_is_that_of_what_enters_its_down_projection(
    model_of: Callable[[str], ChatModel], name: str
) -> None:
    model = model_of(name)
    found = statistics_of(model, [0, 2])
    assert found.keys() == {0, 2}
    for layer, statistics in found.items():
        keys = keys_of(model, layer)
        assert (statistics.layer, statistics.tokens, len(keys)) == (layer, 600, 600)
        torch.testing.assert_close(statistics.moment, keys.T @ keys / len(keys))
        torch.testing.assert_close(statistics.mean, keys.mean(0))


def test_low_precision_keys_are_summed_up_in_float64() -> None:
    model = architecture_model("llama", torch.bfloat16)
    with one_thread():
        statistics = statistics_of(model, [1])[1]
        keys = keys_of(model, 1)
    assert statistics.moment.dtype == torch.float64
    torch.testing.assert_close(statistics.moment, keys.T @ keys / len(keys))


def test_chat_gets_the_share_that_is_asked(
    tiny_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_moments, "everyday_chat", short_chat)
    text = statistics_of(tiny_model, [1])[1]
    chat = measured(tiny_model, short_chat(tiny_model), [Site(1, "down")])[0]
    both = statistics_of(tiny_model, [1], chat_weight=0.25)[1]
    torch.testing.assert_close(both.moment, 0.75 * text.moment + 0.25 * chat.moment)
    torch.testing.assert_close(both.mean, 0.75 * text.mean + 0.25 * chat.mean)
    assert both.tokens == text.tokens + chat.tokens


def test_only_a_few_keys_are_in_memory_and_each_token_counts_once(
    tiny_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = statistics_of(tiny_model, [1])[1]
    monkeypatch.setattr(key_statistics, "AT_ONCE", 64)
    widest = 0

    def counted(*given: object) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        nonlocal widest
        for index, found in streamed(*given):
            widest = max(widest, sum(keys.shape[1] for keys in found))
            yield index, found

    monkeypatch.setattr(key_statistics, "streamed", counted)
    cut = statistics_of(tiny_model, [1])[1]
    assert 0 < widest < 64 + 50
    torch.testing.assert_close(cut.moment, whole.moment, rtol=1e-5, atol=1e-7)
    assert cut.tokens == whole.tokens == 600


def test_progress_counts_all_tokens_of_text_and_chat(
    tiny_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_moments, "everyday_chat", short_chat)
    seen: list[tuple[int, int]] = []
    resources = Resources(TEXTS, step=lambda done, of: seen.append((done, of)))
    found = second_moments.second_moments(tiny_model, [0, 1], resources, 600, 50)
    assert seen == sorted(seen)
    assert {of for _, of in seen} == {found[0].tokens}
    assert seen[-1][0] == found[0].tokens > 600


def refuse(*_: object, **__: object) -> list[KeyStatistics]:
    raise AssertionError("measured although it was cached")


def test_a_cached_layer_is_not_measured_again_and_a_new_one_alone_is(
    tiny_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = statistics_of(tiny_model, [0, 1], tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    asked: list[list[int]] = []

    def noted(*given: object) -> list[KeyStatistics]:
        asked.append([site.layer for site in given[2]])
        return measured(*given)

    monkeypatch.setattr(second_moments, "measured", noted)
    second = statistics_of(tiny_model, [0, 2, 1], tmp_path)
    assert asked == [[2]]
    assert list(second) == [0, 2, 1]
    assert second[0].moment.equal(first[0].moment)
    monkeypatch.setattr(second_moments, "measured", refuse)
    third = statistics_of(tiny_model, [2, 1], tmp_path)
    assert third[2].moment.equal(second[2].moment)
    assert third[2].tokens == 600


@pytest.mark.parametrize("changed", ["model", "text", "tokens", "window", "chat"])
def test_what_the_statistics_depend_on_is_part_of_the_caches_name(
    tiny_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(second_moments, "everyday_chat", short_chat)
    statistics_of(tiny_model, [1], tmp_path)
    model, texts = tiny_model, TEXTS
    settings = {"max_tokens": 600, "window": 50, "chat_weight": 0.0}
    if changed == "model":
        model = dataclasses.replace(tiny_model, base_hash="5e" * 32)
    elif changed == "text":
        texts = (TEXTS[1], TEXTS[0])
    else:
        settings |= {
            "tokens": {"max_tokens": 550},
            "window": {"window": 60},
            "chat": {"chat_weight": 0.1},
        }[changed]
    second_moments.second_moments(model, [1], Resources(texts, tmp_path), **settings)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"nonsense", "another", "not finite"])
def test_a_cached_file_that_is_damaged_is_measured_anew(
    tiny_model: ChatModel, tmp_path: Path, damage: bytes | str
) -> None:
    first = statistics_of(tiny_model, [1], tmp_path)[1]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if isinstance(damage, bytes):
        path.write_bytes(damage or whole[:-100])
    else:
        bad = dataclasses.replace(first, layer=3)
        if damage == "not finite":
            bad = dataclasses.replace(first, moment=first.moment * math.inf)
        path.write_bytes(second_moments.save(bad.tensors()))
    assert statistics_of(tiny_model, [1], tmp_path)[1].moment.equal(first.moment)
    assert path.read_bytes() == whole


def test_no_layers_no_text_and_no_such_layer(tiny_model: ChatModel) -> None:
    assert statistics_of(tiny_model, []) == {}
    with pytest.raises(EditorError, match="at least 500 tokens"):
        second_moments.second_moments(tiny_model, [1], Resources(("Short.",)))
    with pytest.raises(EditorError, match="layers 0 to 3, not 4"):
        statistics_of(tiny_model, [4])


def ordinary(
    width: int = 40, tokens: int = 4000, scale: float = 1.0, seed: int = 0
) -> torch.Tensor:
    """Keys (40, tokens) whose directions are of very different use."""
    made = torch.Generator().manual_seed(0)
    size = scale * torch.logspace(0, -3, 40, dtype=torch.float64)[:, None]
    return size * torch.randn(40, tokens, generator=made, dtype=torch.float64)


def of_keys(keys: torch.Tensor) -> tuple[KeyStatistics, Spectrum]:
    moment = keys @ keys.T / keys.shape[1]
    return KeyStatistics(3, moment, keys.mean(1), keys.shape[1]), spectrum(moment)


@pytest.mark.parametrize("reach", [0.5, 0.94])
@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_a_typical_key_reaches_what_was_asked_of_its_residual_at_any_scale(
    reach: float, scale: float
) -> None:
    keys = ordinary(scale=scale)
    found = calibrate(*of_keys(keys), reach=reach, edits=10)
    statistics, seen = of_keys(keys)
    factor, space = factored(statistics.moment, RIDGE), null_space(seen, found.leak)
    assert space.dimensions == found.dimensions
    # Energies' means are what the rule speaks of; each single key lies around them.
    assert float(factor.energies(keys).mean()) == pytest.approx(found.energy, rel=1e-6)
    inside = space.coordinates(keys).square().sum(0).mean()
    assert float(inside) == pytest.approx(found.inside, rel=1e-6)
    one, residual = keys[:, :1], torch.ones(1, 1, dtype=torch.float64)
    for update, energy, price in (
        (ridge(residual, one, factor, found.weight), factor.energies(one), found.weight),
        (
            projected(residual, one, space, space.preserving(found.damping)),
            space.coordinates(one).square().sum(0),
            found.damping,
        ),
    ):
        reached = float(update.dense() @ one)
        assert reached == pytest.approx(float(energy / (energy + price)), rel=1e-6)
    assert found.energy / (found.energy + found.weight) == pytest.approx(reach)
    assert found.inside / (found.inside + found.damping) == pytest.approx(reach)


def test_keys_of_real_requests_take_the_place_of_the_average_one() -> None:
    statistics, seen = of_keys(ordinary())
    keys = torch.eye(40, dtype=torch.float64)[:, [0, 20, 39]] * torch.tensor([1.0, 0.1, 10.0])
    found = calibrate(statistics, seen, reach=0.8, edits=10, keys=keys)
    factor = factored(statistics.moment, RIDGE)
    reached = [
        float(ridge(torch.ones(1, 1), keys[:, at : at + 1], factor, found.weight).dense() @ key)
        for at, key in enumerate(keys.T)
    ]
    assert sorted(reached)[1] == pytest.approx(0.8, abs=1e-6)
    assert reached[0] < 0.8 < reached[2]


def test_the_disturbance_is_what_ordinary_text_feels_of_a_typical_edit() -> None:
    keys = ordinary()
    statistics, seen = of_keys(keys)
    found = calibrate(statistics, seen)
    factor = factored(statistics.moment, RIDGE)
    key = keys[:, :1] * (found.energy / factor.energies(keys[:, :1])).sqrt()  # made typical
    change = ridge(torch.ones(1, 1), key, factor, found.weight).dense()
    felt = float((change @ keys).square().mean())
    # The ridge stands for text that was not seen, so less is felt of what was.
    assert 0.9 * found.disturbance < felt < found.disturbance


@pytest.mark.parametrize("most", [0.01, 0.3])
def test_the_disturbance_of_an_edit_in_the_null_space_is_told_as_well(most: float) -> None:
    keys = ordinary()
    statistics, seen = of_keys(keys)
    found = calibrate(statistics, seen, edits=40, most_leak=most, keys=keys[:, :1])
    assert 0.001 < found.leak <= most
    space = null_space(seen, found.leak)
    kept = space.preserving(found.damping)
    change = projected(torch.ones(1, 1), keys[:, :1], space, kept).dense()
    assert float(change @ keys[:, 0]) == pytest.approx(0.94)
    felt = float((change @ keys).square().mean())
    assert felt == pytest.approx(found.inside_disturbance, rel=1e-6)
    # Without a key, that of one whose part in each direction is the average one.
    average = (seen.vectors * seen.values.sqrt()).sum(1, keepdim=True)
    by_key = calibrate(statistics, seen, edits=40, most_leak=most, keys=average)
    by_moment = calibrate(statistics, seen, edits=40, most_leak=most)
    assert by_moment.inside_disturbance == pytest.approx(by_key.inside_disturbance, rel=1e-6)
    assert by_moment.damping == pytest.approx(by_key.damping, rel=1e-6)


def test_the_null_space_grows_with_the_edits_it_is_to_hold_up_to_a_hundredth() -> None:
    statistics, seen = of_keys(ordinary())
    few, some, many = (calibrate(statistics, seen, edits=n) for n in (1, 24, 40))
    assert few.leak <= 0.001 < some.leak <= many.leak <= 0.01
    assert few.dimensions < some.dimensions == 24 < many.dimensions < 40
    assert few.dimensions == seen.dimensions(0.001)
    assert many.dimensions == seen.dimensions(0.01)
    assert few.notes == some.notes == ()
    assert "will share" in many.notes[0]


def test_few_tokens_are_noted_and_still_calibrated() -> None:
    statistics, seen = of_keys(ordinary(tokens=20))
    found = calibrate(statistics, seen, edits=10)
    assert "20 tokens are few" in found.notes[0]
    assert found.energy < 20 + 1e-6
    assert found.damping > 0


def test_nonsense_is_refused() -> None:
    statistics, seen = of_keys(ordinary())
    for reach in (0.0, 1.0, float("nan")):
        with pytest.raises(EditorError, match=r"in \(0, 1\)"):
            calibrate(statistics, seen, reach=reach)
    with pytest.raises(EditorError, match="layer 3 are all zero"):
        calibrate(*of_keys(torch.zeros(4, 4, dtype=torch.float64)))
