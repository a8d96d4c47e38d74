"""Passages against the whole model run from the start."""

from collections.abc import Callable

import pytest
import torch

from editors.architectures import view
from editors.capture import Site, keys_at
from editors.deltas import DenseDelta, applied
from editors.model import ChatModel
from editors.passages import Passage

TEXTS = [(5, 9, 21, 40, 7, 30), (5, 9, 6), (5, 9, 9, 9, 8, 8, 11)]
PLACES = [(2, 5), (2,), (6, 3)]
SITES = [(Site(1, "down"), "input"), (Site(2, "down"), "output"), (Site(2, "layer"), "output")]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("texts", [TEXTS, [(1, *TEXTS[0]), *TEXTS[1:]], [*TEXTS[::-1]][:1] * 3])
def test_what_is_read_is_what_the_whole_model_has_there(
    each_model: ChatModel, first: int, texts: list[tuple[int, ...]]
) -> None:
    passage = Passage(view(each_model), texts, first, lowest=[2, 2, 3])
    for (site, side), found in zip(SITES, passage.read(SITES, PLACES), strict=True):
        whole = keys_at(each_model, texts, [site.layer], PLACES, part=site.part, side=side)[0]
        torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-6)


def test_changes_of_the_window_are_seen_also_where_they_reach_through_the_shared_beginning(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    name = view(model).names(1).down
    change = torch.randn(
        view(model).parameter(name).shape,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float64,
    )
    passage = Passage(view(model), TEXTS, 1, lowest=[2, 2, 3])
    before = passage.read(SITES, PLACES)
    with applied(model, DenseDelta({name: change})):
        after = passage.read(SITES, PLACES)
        whole = keys_at(model, TEXTS, [2], PLACES, part="layer", side="output")[0]
    torch.testing.assert_close(after[2], whole)
    assert (after[2] - before[2]).norm() > 0.1 * before[2].norm()
    torch.testing.assert_close(passage.read(SITES, PLACES), before)
