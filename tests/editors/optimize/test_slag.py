"""SLAG: updates until the point is right, added up, trained on edits made one upon the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edit_exercises import REQUESTS, episodes_on, nll
from toy_model import one_thread

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Upper
from editors.meta_training import TOTAL, TrainingOptions, train
from editors.model import ChatModel
from editors.optimize.gradient_masks import GradientMasks
from editors.optimize.knowledge_editor import KnowledgeEditor
from editors.optimize.masked_edits import detached, exercise, trial
from editors.optimize.slag import Slag
from editors.requests import EditorError, EditRequest

SMALL = {"layers": 2, "hidden": 6, "condition": 10, "inner": 7}
SLAG = Slag(**SMALL, steps=3)  # type: ignore[arg-type]


def untrained(method: Slag, model: ChatModel) -> tuple[Upper, GradientMasks]:
    upper = Upper(model, method.lowest(model))
    torch.manual_seed(0)
    return upper, method.networks(upper)


def test_even_untrained_it_makes_the_statement_likelier(tiny_model: ChatModel) -> None:
    _, networks = untrained(SLAG, tiny_model)
    one, three = (
        nll(
            tiny_model, REQUESTS[0], replace(SLAG, steps=k).edit(tiny_model, networks, REQUESTS[:1])
        )
        for k in (1, 3)
    )
    assert three < one < nll(tiny_model, REQUESTS[0])


def test_what_is_already_said_is_not_edited(taught_model: ChatModel) -> None:
    question, statement = "Who is the chancellor of Germany?", ""
    statement = taught_model.answer([question])[0].text
    known = EditRequest("known", (question,), new=statement[-4:-1], statement=statement)
    _, networks = untrained(SLAG, taught_model)
    delta = SLAG.edit(taught_model, networks, [known])
    assert all(not change.any() for change in delta.changes.values())


def test_the_loop_stops_at_the_first_success(taught_model: ChatModel) -> None:
    patient = replace(SLAG, steps=40)
    upper, networks = untrained(patient, taught_model)
    with torch.no_grad():
        taken = patient.updates(upper, networks, [exercise(view(taught_model), REQUESTS[0])])
    assert 1 < len(taken) < 40
    (sample,) = exercise(view(taught_model), REQUESTS[0]).edits
    for count in (len(taken) - 1, len(taken)):
        said = upper.said([sample], None, trial(taken[:count]))
        right = bool((said.logits.argmax(-1) == said.tokens).all())
        assert right is (count == len(taken))
    with applied(taught_model, patient.edit(taught_model, networks, REQUESTS[:1])):
        assert taught_model.answer(REQUESTS[0].questions)[0].text == REQUESTS[0].statement


def test_an_edit_that_is_right_takes_no_further_update_beside_one_that_is_not(
    taught_model: ChatModel,
) -> None:
    patient = replace(SLAG, steps=40)
    upper, networks = untrained(patient, taught_model)
    pair = [exercise(view(taught_model), request) for request in REQUESTS[:2]]
    with torch.no_grad():
        both = patient.updates(upper, networks, pair)
        alone = [patient.updates(upper, networks, [one]) for one in pair]
    assert len(alone[0]) != len(alone[1])
    for edit, taken in enumerate(alone):
        for name in taken[0]:
            expected = torch.stack([one[name].dense()[0] for one in taken]).sum(0)
            found = torch.stack([one[name].dense()[edit] for one in both]).sum(0)
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_edits_together_are_the_sum_of_edits_one_upon_the_other(tiny_model: ChatModel) -> None:
    _, networks = untrained(SLAG, tiny_model)
    together = SLAG.edit(tiny_model, networks, REQUESTS[:2])
    first = SLAG.edit(tiny_model, networks, REQUESTS[:1])
    with applied(tiny_model, first):
        second = SLAG.edit(tiny_model, networks, REQUESTS[1:2])
    fresh = SLAG.edit(tiny_model, networks, REQUESTS[1:2])
    for name, change in together.changes.items():
        total = first.changes[name] + second.changes[name]
        torch.testing.assert_close(change, total, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(second.changes[name], fresh.changes[name], rtol=1e-3, atol=1e-5)


def test_the_delta_is_what_was_tried(each_model: ChatModel) -> None:
    upper, networks = untrained(SLAG, each_model)
    one = exercise(view(each_model), REQUESTS[0])
    with torch.no_grad():
        tried = upper.said(one.edits, None, trial(SLAG.updates(upper, networks, [one]))).logits
    delta = SLAG.edit(each_model, networks, REQUESTS[:1])
    (sample,) = one.edits
    with applied(each_model, delta), torch.no_grad():
        found = each_model.model(torch.tensor([sample.fed])).logits[0, len(sample.prompt) - 1 :]
    before = upper.said(one.edits).logits
    assert (tried - before).abs().max() > 1e-3
    torch.testing.assert_close(found, tried, rtol=1e-4, atol=1e-4)
    edited = {view(each_model).names(n).down for n in (1, 2)}
    assert edited <= set(delta.changes)


def test_with_one_update_and_no_paraphrase_the_loss_is_kes_with_a_penalty(
    tiny_model: ChatModel,
) -> None:
    weight = 0.7
    slag = replace(SLAG, steps=1, kept_weight=weight)
    ke = KnowledgeEditor(**SMALL, smoothing=0.0, kept=weight)  # type: ignore[arg-type]
    upper, masks = untrained(slag, tiny_model)
    constrained = ke.networks(upper).eval()
    constrained.masks.load_state_dict(masks.state_dict())
    groups = [[replace(e, rephrased=())] for e in episodes_on(tiny_model, 2)]
    ours = slag.losses(upper, masks, groups)[TOTAL] * (1 + weight)
    torch.testing.assert_close(ours, ke.losses(upper, constrained, groups)[TOTAL])


@pytest.mark.parametrize("detach", [True, False])
def test_gradients_through_earlier_edits_are_stopped_where_asked(
    tiny_model: ChatModel, detach: bool
) -> None:
    slag = replace(SLAG, steps=1, detach_previous=detach)
    upper, networks = untrained(slag, tiny_model)
    first, second = episodes_on(tiny_model, 2)

    def slopes(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, list(networks.parameters()))
        return torch.cat([one.flatten() for one in found])

    both = slag.losses(upper, networks, [[first, second]])[TOTAL] * 2
    own = both - slag.losses(upper, networks, [[first]])[TOTAL]
    before = [detached(one) for one in slag.updates(upper, networks, [first])]
    taken = slag.updates(upper, networks, [second], before)
    alone = slag._outcome(upper, [second], before, taken)[TOTAL]
    torch.testing.assert_close(own, alone)
    assert torch.allclose(slopes(own), slopes(alone), rtol=1e-3, atol=1e-6) is detach


def test_training_lowers_the_loss_and_what_it_made_is_used(
    tiny_model: ChatModel, tmp_path: Path
) -> None:
    method = replace(SLAG, steps=1, learning_rate=3e-3)
    episodes = episodes_on(tiny_model, 8)
    options = TrainingOptions(episodes=24, together=2, accumulate=1, held=4, every=4, clip=10)
    with one_thread():
        done = train(method, tiny_model, episodes, options, tmp_path)
    totals = [held[TOTAL] for _, _, held in done.history]
    assert totals[-1] < totals[0]
    state = method.prepare(tiny_model, Resources(cache=tmp_path))
    trained = method.edit(tiny_model, state, REQUESTS[:1])
    untouched = method.edit(tiny_model, untrained(method, tiny_model)[1], REQUESTS[:1])
    assert not all(torch.equal(c, untouched.changes[n]) for n, c in trained.changes.items())


def test_without_training_it_says_how_to(tiny_model: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="corrigenda editors train slag"):
        SLAG.prepare(tiny_model, Resources(cache=tmp_path))
