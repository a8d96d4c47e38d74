"""SERAC: beta in [0, 1], the model untouched out of scope, the newest edit of a scope."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TINUBU, UNTOLD, by_words, words

from editors.deltas import applied
from editors.memory.scope_head import (
    NOBODY,
    HeadSettings,
    RadialHead,
    lessons,
    surrounded,
    train_head,
)
from editors.memory.serac import Scopes, Serac, SeracMemory, scopes
from editors.memory.similarity import Cached
from editors.memory.texts import TextState, everyday, wordings
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest


def _state() -> TextState:
    return TextState(Cached(words), ("Marta Kovac", "Arlen Torvik", "Peru Lima"))


def _made(*requests: EditRequest) -> Scopes:
    return scopes(_state(), requests, HeadSettings(), 2)


@given(st.integers(0, 99), st.floats(0.1, 5))
def test_beta_is_a_share_that_is_one_at_home_and_falls_with_the_distance(
    seed: int, scale: float
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    a, b = torch.randn(6, 2, generator=drawn), torch.randn(2, 6, generator=drawn)
    head = RadialHead(scale, a, b)
    rows = torch.nn.functional.normalize(torch.randn(5, 6, generator=drawn), dim=-1)
    betas = head.beta(rows, rows)
    assert bool((betas >= 0).all())
    assert bool((betas <= 1).all())
    assert bool((betas.diag() == 1).all())
    moved = head.moved(rows)
    order = (moved[0] - moved).norm(dim=1).argsort()
    falling = betas[0][order]
    assert bool((falling[1:] <= falling[:-1] + 1e-6).all())


def test_the_trained_head_finds_held_out_wordings_and_leaves_held_out_neighbours() -> None:
    made = _made(*FACTS)
    inside = ["And who is chancellor in Germany?", "Nigeria: who is president?"]
    beyond = ["What is the highest mountain of Germany?", "What money is used in Nigeria?"]
    found = [made.of([Asked(q, True)])[0] for q in (*inside, *beyond)]
    assert [one[0].statement for one in found[:2] if one] == [f.statement for f in FACTS]
    betas = [one[1] for one in found if one]
    assert min(betas[:2]) >= 0.5 > max(betas[2:])


def test_training_pulls_own_wordings_in_and_pushes_strangers_out() -> None:
    learned = lessons(FACTS, everyday())
    found = words(learned.texts)
    before, after = (train_head(found, learned, HeadSettings(steps=steps), 0) for steps in (0, 120))

    def loss(head: RadialHead) -> float:
        owners = torch.tensor(learned.owners)
        betas = head.beta(found[: learned.wordings], found).clamp(1e-6, 1 - 1e-6)
        own = owners[: learned.wordings, None] == owners[None]
        return float(-betas[own].log().mean() - (1 - betas[~own]).log().mean())

    assert loss(after) < 0.8 * loss(before)


def test_requests_that_share_a_question_are_one_scope_and_strangers_are_nobodys() -> None:
    older = replace(MERZ, id="scholz", new="Olaf Scholz", statement="It is Olaf Scholz.")
    learned = lessons([older, *FACTS], [Asked("Who are you?", True), wordings(MERZ)[0]])
    owner = dict(zip(learned.texts, learned.owners, strict=True))
    assert owner[Asked("Who are you?", True)] == NOBODY
    assert owner[wordings(MERZ)[0]] == owner[surrounded(wordings(MERZ)[1])[0]] >= 0
    assert owner[wordings(MERZ)[0]] != owner[wordings(TINUBU)[0]]
    assert learned.texts[: learned.wordings] == (*wordings(MERZ), *wordings(TINUBU))
    assert lessons([*FACTS, older], []) == lessons([older, *FACTS], [])


def test_told_facts_come_out_and_the_rest_is_the_models_to_the_bit(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = Serac()
    delta = editor.edit(reader, editor.prepare(reader, by_words("Marta Kovac")), FACTS)
    with applied(reader, delta):
        during = reader.answer(list(UNTOLD))
    assert [one.text for one in during[:3]] == [MERZ.new, MERZ.new, TINUBU.new]
    assert during[3:] == before[3:]
    assert reader.answer(list(UNTOLD)) == before


@pytest.mark.parametrize("facts", [(), FACTS])
def test_an_empty_cache_or_a_small_beta_changes_nothing(
    reader: ChatModel, facts: tuple[EditRequest, ...]
) -> None:
    others = [q for q in UNTOLD if not any(q in fact.questions for fact in FACTS)]
    before = reader.answer(others)
    editor = Serac()
    delta = editor.edit(reader, editor.prepare(reader, by_words()), facts)
    with applied(reader, delta):
        assert reader.answer(others) == before


def test_deleting_an_edit_restores_the_models_answer(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = Serac()
    state = editor.prepare(reader, by_words())
    with applied(reader, editor.edit(reader, state, [TINUBU])):
        during = reader.answer(list(UNTOLD))
    assert during[:2] == before[:2]
    assert during[2].text == TINUBU.new


def test_the_order_of_the_cache_changes_nothing(reader: ChatModel) -> None:
    made = _made(*FACTS)
    turned = Scopes(made.embed, made.head, made.records[::-1])
    with applied(
        reader,
    ):
        prompts = [reader.encode(reader.render(q)) for q in UNTOLD]
        one, other = (SeracMemory(s, 0.5).answer(reader, prompts, 12, None) for s in (made, turned))
    assert one == other


def test_of_one_scope_the_newest_edit_answers() -> None:
    older = replace(MERZ, id="a", new="Olaf Scholz", statement="It is Olaf Scholz.")
    newer = replace(MERZ, id="z")
    for requests in ((older, newer), (replace(older, id="z"), replace(newer, id="a"))):
        found = _made(*requests, TINUBU).of(wordings(MERZ))
        assert [one[0].statement for one in found if one] == [MERZ.statement] * 2
