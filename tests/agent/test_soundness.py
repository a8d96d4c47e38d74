"""Soundness of a version's tensors, as a table; the seeded kinds are in test_bad_candidates."""

import dataclasses

import pytest
import torch
from samples import NOW, an_edit

from agent.soundness import Ground, faults
from editors.deltas import HeadExpansion, MlpExpansion
from store.records import Version

EDIT = an_edit()
VERSION = Version("v", "ba5e" * 16, "compiled", (EDIT.id,), "", NOW)
GROUND = Ground(VERSION.base_hash, layers=4, hidden=8, least_neurons=3)
GATE, UP, DOWN = (
    f"model.layers.2.mlp.{part}" for part in ("gate_proj.rows", "up_proj.rows", "down_proj.columns")
)


def tensors(neurons: int = 3) -> dict[str, torch.Tensor]:
    return MlpExpansion(
        2, torch.ones(neurons, 8), torch.ones(neurons, 8), torch.ones(8, neurons)
    ).tensors()


def with_value(name: str, value: float) -> dict[str, torch.Tensor]:
    found = tensors()
    found[name][1, 1] = value
    return found


def test_a_sound_version_has_no_faults() -> None:
    assert faults(VERSION, tensors(), [EDIT], GROUND) == ()
    assert faults(VERSION, with_value(GATE, 3e4), [EDIT], GROUND) == ()  # what is read is normed
    half = {name: tensor.half() for name, tensor in tensors().items()}
    assert faults(VERSION, half, [EDIT], GROUND) == ()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (with_value(GATE, float("nan")), "gate_proj.rows holds 1 number that is NaN or infinite"),
        (with_value(DOWN, float("-inf")), "columns holds 1 number that is NaN or infinite"),
        (with_value(DOWN, 3e4), "columns writes 1 number larger than 4094: in half precision"),
        (with_value(UP, 1e6), "up_proj.rows holds 1 number larger than 65504"),
        (tensors(2), "it has 2 neurons; its edits need at least 3: edits are missing"),
        (tensors(0), "it has 0 neurons"),
        ({**tensors(), DOWN: torch.zeros(8, 3)}, "3 of its 3 neurons write nothing"),
        ({**tensors(), UP: torch.full((3, 8), 1e-40)}, "3 of its 3 neurons write nothing"),
        ({**tensors(), DOWN: torch.ones(3, 8)}, "columns has shape (3, 8), not (8, 3)"),
        ({**tensors(), UP: torch.ones(2, 8)}, "rows has shape (2, 8), not (3, 8)"),
        ({**tensors(), GATE: torch.ones(3, 9)}, "rows has shape (3, 9), not (3, 8)"),
        ({**tensors(), GATE: torch.ones(3, 8).int()}, "holds int32, not real numbers"),
        ({**tensors(), "lm_head.weight": torch.ones(1)}, "an unknown tensor: lm_head.weight"),
        ({GATE: tensors()[GATE]}, "not the gate, up and down of one layer"),
        ({}, "not the gate, up and down of one layer"),
        (
            {name.replace("2", "4"): tensor for name, tensor in tensors().items()},
            "it widens layer 4 of a model of 4 layers",
        ),
    ],
)
def test_a_fault_of_the_tensors_is_named(found: dict[str, torch.Tensor], words: str) -> None:
    (fault,) = faults(VERSION, found, [EDIT], GROUND)
    assert words in fault
    assert "\n" not in fault


WITH_HEADS = dataclasses.replace(GROUND, heads=(2, 4))
ATTENTION = "model.layers.3.self_attn"


def with_heads() -> dict[str, torch.Tensor]:
    """Neurons of two layers, and a group of two query heads of 4 in the upper one."""
    lower = tensors()
    upper = {name.replace("layers.2", "layers.3"): one for name, one in tensors().items()}
    heads = HeadExpansion(
        3, torch.ones(8, 8), torch.ones(4, 8), torch.ones(4, 8), torch.ones(8, 8)
    ).tensors()
    return {**lower, **upper, **heads}


def test_neurons_of_two_layers_and_heads_between_them_are_sound() -> None:
    assert faults(VERSION, with_heads(), [EDIT], WITH_HEADS) == ()
    # What is sound for one way of writing is not for another.
    (fault,) = faults(VERSION, with_heads(), [EDIT], GROUND)
    assert "not the gate, up and down of one layer" in fault
    (fault,) = faults(VERSION, tensors(), [EDIT], WITH_HEADS)
    assert "and a group of heads" in fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({f"{ATTENTION}.k_proj.rows": torch.ones(4, 9)}, "k_proj.rows has shape (4, 9)"),
        ({f"{ATTENTION}.q_proj.rows": torch.ones(4, 8)}, "q_proj.rows has shape (4, 8)"),
        ({f"{ATTENTION}.o_proj.columns": torch.zeros(8, 8)}, "heads read or write nothing"),
        ({f"{ATTENTION}.v_proj.rows": torch.full((4, 8), torch.nan)}, "NaN or infinite"),
        ({DOWN: torch.zeros(8, 3)}, "3 of its 6 neurons write nothing"),
    ],
)
def test_a_fault_of_the_heads_is_named(change: dict[str, torch.Tensor], words: str) -> None:
    (fault,) = faults(VERSION, {**with_heads(), **change}, [EDIT], WITH_HEADS)
    assert words in fault


def test_heads_elsewhere_are_no_part_of_it() -> None:
    moved = {name.replace("3.self", "2.self"): one for name, one in with_heads().items()}
    (fault,) = faults(VERSION, moved, [EDIT], WITH_HEADS)
    assert "and a group of heads" in fault


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base_hash": "0123456789abcdef"}, "made for another base model (0123456789ab)"),
        ({"edit_ids": ()}, "it lacks 1 edit of the ledger"),
        ({"edit_ids": (EDIT.id, "other")}, "carries 1 edit that the ledger does not ask for"),
        ({"edit_ids": (EDIT.id, EDIT.id)}, "it names an edit twice"),
    ],
)
def test_a_fault_of_the_version_is_named(change: dict[str, object], words: str) -> None:
    (fault,) = faults(dataclasses.replace(VERSION, **change), tensors(), [EDIT], GROUND)
    assert words in fault


def test_a_few_neurons_that_training_did_not_come_to_are_no_fault() -> None:
    some = tensors(4)
    some[DOWN][:, :2] = 0
    assert faults(VERSION, some, [EDIT], GROUND) == ()


def test_all_faults_are_named_at_once() -> None:
    other = dataclasses.replace(VERSION, base_hash="other", edit_ids=())
    assert len(faults(other, with_value(GATE, float("nan")), [EDIT], GROUND)) == 3
