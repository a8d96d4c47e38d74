"""MeLLo: a tentative answer first, one look-up a sub-question, four rounds, no edit no change."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TINUBU, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.mello import (
    MOST_ROUNDS,
    Hop,
    Mello,
    MelloMemory,
    ModelSlots,
    contradicted,
    likelihood,
    scaffold,
    solve,
)
from editors.model import ChatModel
from editors.requests import EditRequest
from editors.runtime import Turns

CHAIN = "What is the spouse of the chancellor of Germany called?"
KNOWN = {
    "Who is the chancellor of Germany?": "Angela Merkel",
    "Who is the spouse of Friedrich Merz?": "Charlotte Merz",
    "Who is the spouse of Angela Merkel?": "Joachim Sauer",
}


@dataclass
class Oracle:
    """Knows the hops and the answers, and writes down what was asked in which order."""

    log: list[tuple[str, str]] = field(default_factory=list)
    endless: bool = False

    def subquestion(self, question: str, hops: Sequence[Hop]) -> str | None:
        if self.endless:
            return f"{question} {len(hops)}"
        if not hops:
            return "Who is the chancellor of Germany?"
        return f"Who is the spouse of {hops[0].answer}?" if len(hops) == 1 else None

    def tentative(self, subquestion: str) -> str:
        self.log.append(("answer", subquestion))
        return KNOWN.get(subquestion, "nobody")

    def contradicts(self, subquestion: str, tentative: str, fact: EditRequest) -> bool:
        return tentative != fact.new

    def looked_up(self, facts: dict[str, EditRequest], subquestion: str) -> EditRequest | None:
        self.log.append(("look up", subquestion))
        return facts.get(subquestion)


def _solved(oracle: Oracle, *facts: EditRequest) -> list[Hop]:
    by_question = {question: fact for fact in facts for question in fact.questions}
    return solve(CHAIN, oracle, lambda asked: oracle.looked_up(by_question, asked))


def test_an_edited_hop_changes_the_next_one() -> None:
    hops = _solved(Oracle(), MERZ)
    assert [hop.answer for hop in hops] == ["Friedrich Merz", "Charlotte Merz"]
    assert [hop.contradicted for hop in hops] == [True, False]


def test_each_subquestion_is_looked_up_once_and_only_after_its_tentative_answer() -> None:
    oracle = Oracle()
    hops = _solved(oracle, MERZ)
    wanted = [(done, hop.subquestion) for hop in hops for done in ("answer", "look up")]
    assert oracle.log == wanted


def test_without_edits_tentative_answers_are_kept() -> None:
    hops = _solved(Oracle())
    assert [hop.answer for hop in hops] == ["Angela Merkel", "Joachim Sauer"]
    assert not any(hop.contradicted for hop in hops)
    agreeing = replace(MERZ, new="Angela Merkel")
    assert [hop.answer for hop in _solved(Oracle(), agreeing)] == [hop.answer for hop in hops]


@given(st.integers(0, 6))
def test_it_stops_after_its_rounds(rounds: int) -> None:
    assert len(solve(CHAIN, Oracle(endless=True), lambda asked: None, rounds)) == rounds
    assert len(_solved(Oracle(endless=True))) == MOST_ROUNDS


def test_a_subquestion_that_comes_again_ends_the_loop() -> None:
    class Stuck(Oracle):
        def subquestion(self, question: str, hops: Sequence[Hop]) -> str | None:
            return question

    assert len(_solved(Stuck())) == 1


def test_the_scaffold_holds_the_hops_and_is_ready_for_a_label() -> None:
    hops = _solved(Oracle(), MERZ)
    written = scaffold(CHAIN, hops).rpartition("\n\n")[2]
    assert written == (
        f"Question: {CHAIN}\n"
        "Subquestion: Who is the chancellor of Germany?\n"
        "Generated answer: Angela Merkel\n"
        f"Retrieved fact: {MERZ.statement}\n"
        "Intermediate answer: Friedrich Merz\n"
        "Subquestion: Who is the spouse of Friedrich Merz?\n"
        "Generated answer: Charlotte Merz\n"
        "Intermediate answer: Charlotte Merz\n"
    )


def test_contradicted_answers_are_told_better_and_the_rest_is_the_models(
    reader: ChatModel,
) -> None:
    before = reader.answer(list(UNTOLD))
    editor = Mello()
    delta = editor.edit(reader, editor.prepare(reader, by_words("Marta Kovac")), FACTS)
    with applied(reader, delta):
        during = reader.answer(list(UNTOLD))
    assert [one.text for one in during[:3]] == [MERZ.new, MERZ.new, TINUBU.new]
    assert during[3:] == before[3:]
    assert reader.answer(list(UNTOLD)) == before


def test_what_the_model_says_already_is_not_contradicted(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    known = replace(MERZ, new="Angela Merkel", statement="It is Angela Merkel, she says.")
    editor = Mello()
    with applied(reader, editor.edit(reader, editor.prepare(reader, by_words()), [known])):
        assert reader.answer(list(UNTOLD)) == before


def test_told_the_fact_the_model_doubts_its_answer(reader: ChatModel) -> None:
    turns, prompt = Turns(reader), reader.encode(reader.render(MERZ.questions[0]))
    own = reader.encode_answer("It is Angela Merkel.")
    assert contradicted(reader, turns, prompt, own, MERZ)
    assert not contradicted(reader, turns, prompt, reader.encode_answer("Friedrich Merz"), MERZ)


def test_the_likelihood_is_the_mean_over_the_answers_tokens(tiny_model: ChatModel) -> None:
    prompt, answer = tiny_model.encode("Who is it?"), tiny_model.encode("It is Merz")
    with torch.inference_mode():
        logits = tiny_model.model(torch.tensor([prompt + answer])).logits[0]
    each = [
        float(logits[len(prompt) - 1 + at].log_softmax(-1)[token])
        for at, token in enumerate(answer)
    ]
    assert likelihood(tiny_model, prompt, answer) == pytest.approx(sum(each) / len(each), abs=1e-4)
    stop = likelihood(tiny_model, prompt, [min(tiny_model.stop_ids)])
    assert likelihood(tiny_model, prompt, []) == stop


def test_a_model_fills_the_slots_of_questions_in_no_scope(reader: ChatModel) -> None:
    """The toy has never seen a scaffold: whatever it writes, the loop ends and nothing breaks."""
    editor = Mello(decompose=True, rounds=2)
    memory = editor.edit(reader, editor.prepare(reader, by_words()), FACTS).memory
    assert isinstance(memory, MelloMemory)
    assert memory.retrieve(MERZ.questions[0]) == MERZ
    assert memory.retrieve("What do boats carry?") is None
    hops = solve(CHAIN, ModelSlots(reader, Turns(reader)), memory.retrieve, 2)
    assert len(hops) <= 2
    assert all("\n" not in hop.tentative for hop in hops)
    before = reader.answer(["Who painted the Mona Lisa?"])
    with applied(reader, editor.edit(reader, editor.prepare(reader, by_words()), [])):
        assert reader.answer(["Who painted the Mona Lisa?"]) == before
