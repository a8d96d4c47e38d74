"""Every kind of bad candidate is refused, with every seed; what serves passes again.

``CORRIGENDA_SEEDS`` sets how many seeds of each kind are tried (2).
"""

import dataclasses
import os
import random
from collections.abc import Iterator

import pytest
import torch
from bad_candidates import Bad, Good, good_candidate, stored
from harmful_candidates import HARMFUL
from samples import NOW, an_edit
from toy_model import one_thread
from unsound_candidates import UNSOUND
from workspaces import remembered, toy_home

from agent.battery import Everyday
from agent.config import ModelConfig
from agent.consolidation import consolidate
from agent.examination import Examined, Unfit, examine_candidate
from agent.gate import GateDecision, decide, refuse
from agent.progress import Silent
from editors.model import ChatModel
from store.records import EditState

EDITS = (
    an_edit(neighbours=[("France", "president", "head_of_state")]),
    an_edit(
        "Bola Tinubu",
        "Nigeria",
        "head_of_state",
        "president",
        "Muhammadu Buhari",
        neighbours=[("Japan", "prime minister", "head_of_government")],
    ),
)
SEEDS = range(int(os.environ.get("CORRIGENDA_SEEDS", "2")))
# The toy's perplexity is in the hundreds at best, and moves with anything.
FLOORS = {"ppl_ceiling": 1.1}


@pytest.fixture(scope="module")
def good(_taught_model: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Good]:
    with one_thread(), toy_home(tmp_path_factory.mktemp("gate"), _taught_model, **FLOORS) as ws:
        ws.config = ws.config.model_copy(update={"model": ModelConfig(max_new_tokens=24)})
        remembered(ws, *EDITS)
        delta = consolidate(ws, ws.store.edits.ls(), NOW, Silent()).delta
        yield good_candidate(ws, ws.store.edits.ls(), delta)


@pytest.fixture(scope="module")
def daily(taught_answers: dict[str, str], _taught_model: ChatModel) -> Everyday:
    """What the toy knows of the countries that no edit is about."""
    others = {q: a for q, a in taught_answers.items() if "France" in q or "Japan" in q}
    told = {q: a for q, a in others.items() if a.startswith("It is")}
    held = {q: ("Macron", "Abe") for q in others if q not in told}
    numbered = {q: (a.removeprefix("It is ").removesuffix("."),) for q, a in told.items()}
    texts = tuple(_taught_model.render(q) + a for q, a in others.items())
    return Everyday(tuple(others), texts, held | numbered, dict.fromkeys(told, "short"))


def decided(good: Good, bad: Bad, daily: Everyday) -> tuple[GateDecision, Examined | None]:
    before = {n: (p, p.detach().clone()) for n, p in good.ws.model.model.named_parameters()}
    try:
        found = examine_candidate(good.ws, stored(good, bad), good.edits, Silent(), daily)
    except Unfit as unfit:
        return refuse(unfit.reasons), None
    finally:
        after = dict(good.ws.model.model.named_parameters())
        assert after.keys() == before.keys()
        assert all(after[n] is p and torch.equal(p, copy) for n, (p, copy) in before.items())
    return decide(found.measured, good.ws.config.consolidation), found


def assert_refused(decision: GateDecision) -> None:
    assert not decision.promote
    assert decision.reasons
    assert all(r.startswith("failed: ") and "\n" not in r for r in decision.reasons)


@pytest.mark.parametrize("kind", UNSOUND)
def test_what_is_not_sound_is_refused_before_it_touches_the_model(
    kind: str, good: Good, daily: Everyday
) -> None:
    for seed in SEEDS:
        decision, found = decided(good, UNSOUND[kind](good, random.Random(seed)), daily)
        assert_refused(decision)
        assert found is None


@pytest.mark.parametrize("kind", HARMFUL)
def test_what_answers_badly_is_refused(kind: str, good: Good, daily: Everyday) -> None:
    for seed in SEEDS:
        decision, found = decided(good, HARMFUL[kind](good, random.Random(seed)), daily)
        assert_refused(decision)
        assert found is not None, decision.reasons  # refused by its answers, not by its shape


def test_a_good_candidate_passes_and_so_does_what_serves_again(good: Good, daily: Everyday) -> None:
    decision, first = decided(good, Bad(good.delta.tensors()), daily)
    assert decision.promote, decision.reasons
    assert first is not None
    assert first.measured.retention.n == 0  # nothing was in the weights until now
    held = [
        dataclasses.replace(edit, state=EditState.CONSOLIDATED)
        for edit in good.edits
        if edit.new in first.answers[edit.probes[0].question]
    ]
    again, second = decided(
        dataclasses.replace(good, edits=tuple(held)), Bad(good.delta.tensors()), daily
    )
    assert again.promote, again.reasons
    assert second is not None
    assert (second.measured.retention.point, second.measured.retention.n) == (1.0, len(EDITS))
    assert (
        dataclasses.replace(second.measured, retention=first.measured.retention) == first.measured
    )


def test_there_are_many_kinds() -> None:
    assert len({*UNSOUND, *HARMFUL}) >= 30
