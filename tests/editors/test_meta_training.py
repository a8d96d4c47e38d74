"""The episode trainer: what is trained, watched, kept, and gone on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from training_samples import exercises

from editors.episodes import Episode, Upper, mean_nll
from editors.meta_training import (
    TOTAL,
    Groups,
    Training,
    TrainingOptions,
    drawn_at,
    load,
    metadata,
    train,
    trained_path,
)
from editors.model import ChatModel
from editors.requests import EditorError
from store.files import Files

OPTIONS = TrainingOptions(episodes=24, groups=2, accumulate=2, held=4, every=2, patience=9)


@dataclass(frozen=True)
class Bias:
    """The smallest method: one vector added to what the last layer's MLP says."""

    name: str = "bias"
    rate: float = 0.05
    wide: int = 1

    def lowest(self, model: ChatModel) -> int:
        return len(model.layers) - 1

    def networks(self, upper: Upper) -> nn.Module:
        made = nn.Module()
        made.vector = nn.Parameter(0.01 * torch.randn(self.wide, upper.view.hidden))
        made.register_buffer("looks", torch.zeros(()))
        return made

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(networks.parameters(), lr=self.rate)

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        def change(name: str, inputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor | None:
            return networks.vector.sum(0) if "down" in name else None

        edits = [sample for group in groups for one in group for sample in one.edits]
        loss = mean_nll(upper.said(edits, change=change)).mean()
        return {TOTAL: loss, "edited": loss}

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        assert losses[TOTAL] > 0
        if held:
            networks.looks += 1


class Broken(Bias):
    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        return {TOTAL: networks.vector.sum() * torch.nan}


@pytest.fixture
def episodes(taught_model: ChatModel, taught_answers: dict[str, str]) -> list[Episode]:
    return exercises(taught_model, taught_answers)[:16]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def same(a: Path, b: Path) -> bool:
    mine, theirs = tensors(a), tensors(b)
    return mine.keys() == theirs.keys() and all(mine[n].equal(theirs[n]) for n in mine)


def test_the_loss_falls_and_the_best_networks_are_kept_with_what_made_them(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    done = train(
        Bias(),
        taught_model,
        episodes,
        OPTIONS,
        tmp_path,
        data="5e",
        step=lambda *at: told.append(at),
    )
    assert done.ended == "episodes"
    assert told == [(at, 24) for at in range(4, 25, 4)]
    first, last = done.history[0], done.history[-1]
    assert (first[0], last[0]) == (2, 6)
    assert last[1][TOTAL] < first[1][TOTAL]
    assert done.held[TOTAL] == min(look[2][TOTAL] for look in done.history)
    assert done.path == trained_path("bias", taught_model, tmp_path)
    about = metadata(done.path)
    assert about["settings"] == {"name": "bias", "rate": 0.05, "wide": 1}
    assert about["base_hash"] == taught_model.base_hash
    assert (about["data"], about["episodes"], about["exercises"]) == ("5e", 24, 16)
    assert about["held"] == done.held
    upper = Upper(taught_model, 3)
    loaded = load(Bias(), upper, tmp_path, "a minute")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.no_grad():
        found = Bias().losses(upper, loaded, [episodes[-4:]])
    assert float(found[TOTAL]) == pytest.approx(done.held[TOTAL], rel=1e-5)


def test_an_interrupted_training_goes_on_to_the_same_bits(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    whole = train(Bias(), taught_model, episodes, OPTIONS, tmp_path / "whole")
    for stops in (1, 2, 3):  # between two looks, at one, before the end
        folder = tmp_path / f"cut {stops}"
        left = [False] * (stops - 1) + [True]
        cut = train(
            Bias(), taught_model, episodes, OPTIONS, folder, expired=lambda left=left: left.pop(0)
        )
        assert (cut.ended, cut.steps) == ("time", stops)
        assert cut.path.exists()
        went_on = train(Bias(), taught_model, episodes, OPTIONS, folder)
        assert went_on.history == whole.history
        assert went_on.ended == "episodes"
        assert same(went_on.path, whole.path)
        state = ".state.safetensors"
        assert same(went_on.path.with_suffix(state), whole.path.with_suffix(state))


def test_a_training_that_broke_off_goes_on_from_the_last_look(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    whole = train(Bias(), taught_model, episodes, OPTIONS, tmp_path / "whole")

    def interrupted(done: int, _: int) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Bias(), taught_model, episodes, OPTIONS, tmp_path / "cut", step=interrupted)
    seen: list[int] = []
    went_on = train(
        Bias(),
        taught_model,
        episodes,
        OPTIONS,
        tmp_path / "cut",
        step=lambda done, _: seen.append(done),
    )
    assert seen == [12, 16, 20, 24]
    assert went_on.history == whole.history
    assert same(went_on.path, whole.path)


def test_a_crash_while_writing_leaves_the_file_that_was_there(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    class Full(Files):
        def rename(self, path: Path, target: Path) -> None:
            raise OSError("no space")

    done = train(Bias(), taught_model, episodes, replace(OPTIONS, episodes=8), tmp_path)
    before = done.path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        train(Bias(), taught_model, episodes, OPTIONS, tmp_path, files=Full())
    assert done.path.read_bytes() == before
    assert len(list(done.path.parent.iterdir())) == 2


def test_other_settings_data_or_seed_begin_anew_and_more_episodes_go_on(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    def steps(method: Bias, options: TrainingOptions, data: str = "") -> int:
        """How many steps a training took in this call."""
        seen: list[int] = []
        step = lambda done, _: seen.append(done)  # noqa: E731
        train(method, taught_model, episodes, options, tmp_path, data=data, step=step)
        return len(seen)

    assert steps(Bias(), OPTIONS) == 6
    assert steps(Bias(), OPTIONS) == 0
    assert steps(Bias(), replace(OPTIONS, episodes=32)) == 2
    assert steps(Bias(rate=0.04), OPTIONS) == 6
    assert steps(Bias(rate=0.04), OPTIONS, data="other") == 6
    assert steps(Bias(rate=0.04), replace(OPTIONS, seed=1), data="other") == 6


def test_training_ends_when_the_held_out_slice_gets_no_better(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    options = replace(OPTIONS, episodes=400, patience=2)
    done = train(Bias(rate=2.0), taught_model, episodes, options, tmp_path)
    assert done.ended == "patience"
    looks = [look[2][TOTAL] for look in done.history]
    assert len(looks) >= 3
    assert min(looks[-2:]) >= min(looks[:-2]) == done.held[TOTAL]


def test_nothing_of_the_caller_is_changed_by_training(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    train(Bias(), taught_model, episodes, replace(OPTIONS, episodes=4), tmp_path)
    assert torch.rand(2).equal(wanted)
    assert all(p.grad is None and p.requires_grad for p in taught_model.model.parameters())


def test_a_method_that_is_not_trained_says_which_command_trains_it(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    upper = Upper(taught_model, 3)
    for cache in (tmp_path, None):
        with pytest.raises(EditorError, match=r"editors train bias --data FILE.*a minute") as said:
            load(Bias(), upper, cache, "about a minute")
        assert "\n" not in str(said.value)
    train(Bias(), taught_model, episodes, replace(OPTIONS, episodes=4), tmp_path)
    with pytest.raises(EditorError, match="other settings"):
        load(Bias(wide=3), upper, tmp_path, "about a minute")


def test_too_few_episodes_and_losses_that_are_no_number_are_refused(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    with pytest.raises(EditorError, match="4 episodes are too few"):
        train(Bias(), taught_model, episodes[:4], OPTIONS, tmp_path)
    with pytest.raises(EditorError, match="diverged at step 1"):
        train(Broken(), taught_model, episodes, OPTIONS, tmp_path)
    assert not (tmp_path / "trained").exists()


@given(
    count=st.integers(1, 40),
    together=st.integers(1, 5),
    groups=st.integers(1, 3),
    accumulate=st.integers(1, 3),
)
def test_a_pass_draws_every_episode_once(
    count: int, together: int, groups: int, accumulate: int
) -> None:
    options = TrainingOptions(together=together, groups=groups, accumulate=accumulate)
    order = []
    for step in range(count):
        drawn = drawn_at(step, count, options)
        assert [len(part) for part in drawn] == [groups] * accumulate
        assert all(len(group) == together for part in drawn for group in part)
        assert drawn == drawn_at(step, count, options)
        order += [i for part in drawn for group in part for i in group]
    passes = [order[at : at + count] for at in range(0, len(order), count)]
    assert all(sorted(one) == list(range(count)) for one in passes if len(one) == count)


def test_the_metadata_is_plain_json(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    done: Training = train(
        Bias(), taught_model, episodes, replace(OPTIONS, episodes=4), tmp_path, data="ab"
    )
    assert json.loads(json.dumps(metadata(done.path)))["options"]["groups"] == 2
