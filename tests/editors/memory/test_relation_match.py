"""The head that tells whether two wordings ask for the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from editors.memory.relation_match import HEAD, RelationMatch, Wordings, load, save, train
from editors.requests import EditorError

WIDTH = 12


def a_world() -> tuple[Wordings, torch.Tensor]:
    """Four relations in 12 dimensions: a wording is its relation's direction, a little noise,
    and a lot of what is common to all."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.eye(WIDTH)[:4]
    common = torch.ones(WIDTH) * 0.6
    vectors, kinds = [], []
    for relation in range(4):
        kinds.append(tuple(range(len(vectors), len(vectors) + 6)))
        for _ in range(6):
            noise = 0.2 * torch.randn(WIDTH, generator=generator)
            vectors.append(0.6 * directions[relation] + common + noise)
    texts = tuple(f"wording {n}" for n in range(len(vectors)))
    same = tuple((kind[0], kind[1]) for kind in kinds)
    other = tuple((a[0], b[1]) for a in kinds for b in kinds if a != b)
    made = torch.nn.functional.normalize(torch.stack(vectors), dim=-1)
    return Wordings(texts, same, other, tuple(kinds), same, (23,)), made


def test_training_tells_relations_apart_that_cosines_do_not() -> None:
    wordings, vectors = a_world()
    cosines = vectors @ vectors.T
    assert cosines.min() > 0.5
    head = train(wordings, vectors, steps=150, batch=64)
    fresh = [(kind[4], kind[5]) for kind in wordings.kinds[:3]]
    for one, other in fresh:
        assert head.alike(vectors[one], vectors[[other]])[0] > 0.5
    for a, b in zip(wordings.kinds[:3], wordings.kinds[1:], strict=False):
        assert head.alike(vectors[a[4]], vectors[[b[4]]])[0] < 0.5


def test_the_head_is_symmetric() -> None:
    head, (one, other) = RelationMatch(WIDTH), torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(head(one, other), head(other, one))


def test_training_is_the_same_for_the_same_seed() -> None:
    wordings, vectors = a_world()
    one, other = (train(wordings, vectors, steps=5, batch=16) for _ in range(2))
    for name, value in one.state_dict().items():
        assert value.equal(other.state_dict()[name])


def test_a_head_is_kept_in_half_precision_and_read_again(tmp_path: Path) -> None:
    head = RelationMatch(WIDTH)
    save(head, tmp_path / "head.safetensors")
    again = load(tmp_path / "head.safetensors")
    one, other = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(
        head(one[None], other[None]), again(one[None], other[None]), rtol=0.02, atol=0.02
    )


def test_a_missing_or_foreign_head_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(EditorError, match="corrigenda editors train memory"):
        load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(EditorError, match="is no trained scope"):
        load(path)


def test_pairs_of_one_sort_only_train_nothing() -> None:
    _, vectors = a_world()
    with pytest.raises(EditorError, match="ask for the same and such that do not"):
        train(Wordings(("a", "b"), ((0, 1),), (), (), (), ()), vectors, steps=1)


def test_a_head_is_shipped_for_the_bundled_embeddings() -> None:
    assert load(HEAD).project.in_features == 384
