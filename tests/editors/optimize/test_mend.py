"""MEND: one gradient becomes an edit; nothing moves where there is no step."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from toy_model import logits
from training_samples import exercises, request

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Episode, Factors, Upper, contrast
from editors.meta_training import TrainingOptions, load, train
from editors.model import ChatModel
from editors.optimize.factor_editing import FactorState
from editors.optimize.factor_network import flat
from editors.optimize.mend import Mend, MendNetwork
from editors.optimize.upper_edits import (
    as_delta,
    flattened,
    outcome,
    samples_of,
    shapes,
    sites_of,
    summed,
)
from editors.requests import EditorError

METHOD = Mend(layers=2, rank=8, passes=1, reach=1.0, step=0.05)
OPTIONS = TrainingOptions(episodes=120, groups=4, accumulate=1, held=8, every=10)


@pytest.fixture
def episodes(taught_model: ChatModel, taught_answers: dict[str, str]) -> list[Episode]:
    return exercises(taught_model, taught_answers)


def untrained(model: ChatModel, method: Mend = METHOD) -> tuple[Upper, MendNetwork]:
    """A network that has measured its units on one batch and learned nothing."""
    upper = Upper(model, method.lowest(model))
    torch.manual_seed(0)
    networks = method.networks(upper)
    return upper, networks


def test_without_whitening_and_normaliser_the_edit_is_the_gradient_exactly(
    taught_model: ChatModel,
) -> None:
    method = dataclasses.replace(METHOD, ridge=None, answers_only=False)
    upper, networks = untrained(taught_model, method)
    networks.factors.normalise = False
    shown = view(taught_model)
    samples, shares = samples_of(taught_model, [request()])
    # A plain prompt: of a chat, the system message's tokens are no part of the edit.
    plain = dataclasses.replace(
        samples[0], prompt=tuple(taught_model.encode("The president of Kenya is"))
    )
    found = upper.factors([plain], sites_of(upper))
    for name in found:
        networks.unit(name).fill_(1.0)
        networks.get_buffer(f"usual {flat(name)}").fill_(1e9)
        networks.steps[flat(name)].data.fill_(1.0)
    delta = as_delta(shown, method._turned(shown, networks, found, shares))
    out = taught_model.model(torch.tensor([plain.fed])).logits[0, len(plain.prompt) - 1 :]
    loss = torch.nn.functional.cross_entropy(out, torch.tensor(plain.answer))
    wanted = torch.autograd.grad(loss, [shown.parameter(name) for name in found])
    for change, gradient in zip(delta.changes.values(), wanted, strict=True):
        torch.testing.assert_close(change, -gradient, rtol=1e-4, atol=1e-6)


def test_no_step_changes_no_bit_and_the_model_is_as_before(taught_model: ChatModel) -> None:
    upper, networks = untrained(taught_model)
    asked = request().questions
    before = logits(taught_model, asked)
    state = FactorState(upper, networks)
    networks.train()
    METHOD.losses(upper, networks, [[an_episode(taught_model)]])
    networks.eval()
    moved = METHOD.edit(taught_model, state, [request()])
    assert all(change.abs().max() > 0 for change in moved.changes.values())
    with torch.no_grad():
        for step in networks.steps.values():
            step.zero_()
    still = METHOD.edit(taught_model, state, [request()])
    assert still.changes.keys() == moved.changes.keys()
    with applied(taught_model, still):
        assert logits(taught_model, asked).equal(before)
    assert METHOD.edit(taught_model, state, []).changes == {}
    assert METHOD.settled(taught_model, state, [request()]) is state


def test_an_edit_has_no_higher_rank_than_the_answers_tokens(taught_model: ChatModel) -> None:
    method = dataclasses.replace(METHOD, answers_only=True)
    upper, networks = untrained(taught_model, method)
    networks.train()
    method.losses(upper, networks, [[an_episode(taught_model)]])
    delta = method.edit(taught_model, FactorState(upper, networks.eval()), [request()])
    (one,), _ = samples_of(taught_model, [request()])
    for change in delta.changes.values():
        ranks = torch.linalg.svdvals(change.double())
        assert int((ranks > 1e-6 * ranks[0]).sum()) <= len(one.answer)
    assert sorted(delta.changes) == sorted(sites_of(upper))
    assert all(".2." in name or ".3." in name for name in delta.changes)


def test_a_batch_is_the_sum_of_its_edits_whatever_their_order(taught_model: ChatModel) -> None:
    upper, networks = untrained(taught_model)
    networks.train()
    METHOD.losses(upper, networks, [[an_episode(taught_model)]])
    state = FactorState(upper, networks.eval())
    one, other = request(), request(1, "Sanae Cook")
    alone = [METHOD.edit(taught_model, state, [r]).changes for r in (one, other)]
    for batch in ([one, other], [other, one]):
        both = METHOD.edit(taught_model, state, batch).changes
        for name, change in both.items():
            torch.testing.assert_close(
                change, alone[0][name] + alone[1][name], rtol=1e-4, atol=1e-6
            )


def test_passes_go_on_until_the_answer_wins_and_no_further(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    method = dataclasses.replace(METHOD, passes=30, step=0.05, margin=0.2)
    upper, networks = untrained(taught_model, method)
    networks.train()
    method.losses(upper, networks, [[an_episode(taught_model)]])
    state = FactorState(upper, networks.eval())
    samples, _ = samples_of(taught_model, [request()])

    def lacking(model: ChatModel) -> float:
        with torch.no_grad():
            return float(contrast(upper.said(samples), method.margin))

    assert lacking(taught_model) > 0
    delta = method.edit(taught_model, state, [request()])
    with applied(taught_model, delta):
        assert lacking(taught_model) == 0
        (question,) = request().questions
        assert taught_model.answer([question])[0].text == request().statement
    longer = dataclasses.replace(method, passes=60).edit(taught_model, state, [request()])
    for name, change in delta.changes.items():
        assert longer.changes[name].equal(change)
    # What the model says already is no edit: not a bit is changed.
    (question,) = request().questions
    holder = request().old
    said = dataclasses.replace(request(), new=holder, statement=taught_answers[question])
    kept = dataclasses.replace(method, margin=0.0).edit(taught_model, state, [said])
    assert not any(change.any() for change in kept.changes.values())


def test_no_token_of_one_pass_moves_an_output_further_than_its_reach(
    taught_model: ChatModel,
) -> None:
    upper, networks = untrained(taught_model)
    networks.train()
    METHOD.losses(upper, networks, [[an_episode(taught_model)]])
    networks.eval()
    samples, _ = samples_of(taught_model, [request()])
    found = upper.factors(samples, sites_of(upper), answers_only=True)
    for name, one in found.items():
        white = Factors(networks.white(name, one.inputs), one.deltas, one.real)
        made = networks.factors(name, white)
        usual = networks.get_buffer(f"usual {flat(name)}")
        free, short = (networks.bounded(name, white.inputs, made, reach) for reach in (1e9, 0.01))
        lengths = made.inputs.norm(dim=-1) * white.inputs.norm(dim=-1)
        moved = lengths * short.norm(dim=-1)
        assert moved.max() <= 0.01 * usual * 1.0001
        assert (free.norm() > short.norm()) == (moved.max() > 0.0099 * usual)
        # Shortened, not turned.
        torch.testing.assert_close(
            torch.nn.functional.cosine_similarity(free[one.real], short[one.real]),
            torch.ones(int(one.real.sum())),
        )


def test_many_questions_of_one_request_weigh_as_much_as_one(taught_model: ChatModel) -> None:
    one = request()
    twice = dataclasses.replace(one, questions=one.questions * 2)
    upper, networks = untrained(taught_model)
    networks.train()
    METHOD.losses(upper, networks, [[an_episode(taught_model)]])
    state = FactorState(upper, networks.eval())
    a, b = (METHOD.edit(taught_model, state, [r]).changes for r in (one, twice))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-7)


def test_training_makes_edits_that_generalise_and_leave_others_alone(
    taught_model: ChatModel, episodes: list[Episode], tmp_path: Path
) -> None:
    done = train(METHOD, taught_model, episodes, OPTIONS, tmp_path)
    first, last = done.history[0][2], done.held
    assert last["total"] < 0.8 * first["total"]
    assert last["rephrased"] < first["rephrased"]
    assert last["prefix"] > 0.7
    state = METHOD.prepare(taught_model, Resources(cache=tmp_path))
    held = episodes[-8:]
    (edit,) = held[0].edits
    asked = taught_model.decode(edit.prompt).split("user\n")[-1].split("\nassistant")[0]
    told = taught_model.decode(edit.answer)
    new = taught_model.decode(held[0].new)
    wanted = dataclasses.replace(
        request(), questions=(asked.strip(),), statement=told.strip(), new=new, subject=""
    )
    delta = METHOD.edit(taught_model, state, [wanted])
    # What is edited through the protocol is what was trained: the same losses come out.
    loaded = load(METHOD, state.upper, tmp_path, "")
    with torch.no_grad():
        found = METHOD.losses(state.upper, loaded, [[held[0]]])
    with applied(taught_model, delta), torch.no_grad():
        after = outcome(state.upper, [[held[0]]], None, 1.0, 1.0)
    assert float(after["edited"]) == pytest.approx(float(found["edited"]), rel=1e-3)
    assert float(after["rephrased"]) == pytest.approx(float(found["rephrased"]), rel=1e-3)


def test_without_training_the_command_is_named(taught_model: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="corrigenda editors train mend --data"):
        METHOD.prepare(taught_model, Resources(cache=tmp_path))
    with pytest.raises(EditorError, match="4 layers, of which 5"):
        Mend(layers=5).prepare(taught_model, Resources(cache=tmp_path))


def test_groups_see_the_sum_of_their_own_edits(each_model: ChatModel) -> None:
    """Batched changes are what the same factors make of the weights, group by group."""
    upper = Upper(each_model, 1)
    sizes = shapes(upper.view, sites_of(upper))
    generator = torch.Generator().manual_seed(0)
    made = {
        name: Factors(
            torch.randn(3, 2, width, generator=generator, dtype=torch.float64),
            torch.randn(3, 2, out, generator=generator, dtype=torch.float64),
            torch.ones(3, 2, dtype=torch.bool),
        )
        for name, (width, out) in sizes.items()
    }
    change = summed(made, [1, 0, 1], 2)
    for name, (width, _) in sizes.items():
        inputs = torch.randn(2, 4, width, generator=generator, dtype=torch.float64)
        added = change(name, inputs, torch.tensor([0, 1]))
        dense = made[name].dense()
        assert added is not None
        torch.testing.assert_close(added[0], inputs[0] @ dense[1].T)
        torch.testing.assert_close(added[1], inputs[1] @ (dense[0] + dense[2]).T)
    assert change("elsewhere", torch.zeros(1, 1, 1), torch.zeros(1).long()) is None


def an_episode(model: ChatModel) -> Episode:
    (one,), _ = samples_of(model, [request()])
    return Episode((one,), kept=(dataclasses.replace(one, answer=(5, 6)),))


def test_losses_are_of_the_kinds_of_samples_that_there_are(taught_model: ChatModel) -> None:
    upper = Upper(taught_model, 3)
    episode = an_episode(taught_model)
    assert flattened([[episode], [episode]], "edits")[1] == [0, 1]
    with torch.no_grad():
        plain = outcome(upper, [[dataclasses.replace(episode, kept=())]], None, 2.0, 1.0)
        both = outcome(upper, [[episode]], None, 2.0, 1.0)
    assert plain.keys() == {"total", "edited", "right"}
    assert both.keys() == {"total", "edited", "right", "kept", "prefix"}
    assert float(plain["total"]) == pytest.approx(2 * float(plain["edited"]))
    assert float(both["kept"]) == pytest.approx(0, abs=1e-6)
