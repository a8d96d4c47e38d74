"""The battery: how single answers are judged, and what is asked of whom."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from samples import REGISTRY, an_edit
from workspaces import GERMANY, ScriptedModel

from agent.battery import (
    IN_SCOPE,
    LOCALITY,
    REACH,
    Reference,
    everyday,
    judged,
    leaks,
    locality_questions,
    probes_of,
    run_battery,
    share,
)
from editors.metrics import wilson
from store.records import Probe, ProbeKind

MERZ = an_edit(former=("Angela Merkel", "Olaf Scholz"))
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
QUESTION = Probe(ProbeKind.EDIT, "Who is the chancellor of Germany?", "Friedrich Merz")
CAPITAL = Probe(ProbeKind.SAME_SUBJECT, "What is the capital of Germany?")


@pytest.mark.parametrize(
    ("answer", "right", "leaked"),
    [
        ("The chancellor of Germany is Friedrich Merz.", True, False),
        ("Merz.", True, False),
        ("friedrich merz", True, False),
        ("The chancellor of Germany is Angela Merkel.", False, True),
        ("Olaf Scholz", False, True),
        ("Friedrich Merz, who followed Olaf Scholz.", True, True),
        ("Friedrich Merzel", False, False),
        ("I do not know.", False, False),
        ("", False, False),
    ],
)
def test_an_answer_in_scope_must_name_the_new_value_and_leaks_with_a_former_one(
    answer: str, right: bool, leaked: bool
) -> None:
    result = judged(MERZ, QUESTION, answer, {}, REGISTRY)
    assert (result.passed, result.leaked, result.prefix) == (right, leaked, 1.0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("No, Friedrich Merz is.", True),
        ("No.", True),
        ("The chancellor of Germany is Friedrich Merz.", True),
        ("Angela Merkel is no longer the chancellor.", True),
        ("Angela Merkel isn't the chancellor of Germany.", True),
        ("Yes, Angela Merkel is the chancellor of Germany.", False),
        ("Yes. It is not unusual.", False),
        ("Angela Merkel is the chancellor of Germany. She is not alone.", False),
        ("", False),
    ],
)
def test_a_former_value_must_be_denied_and_naming_it_is_no_leak(answer: str, right: bool) -> None:
    asked = Probe(ProbeKind.NEGATION, "Is it still true that …?", "Friedrich Merz")
    result = judged(MERZ, asked, answer, {}, REGISTRY)
    assert (result.passed, result.leaked) == (right, False)


def test_what_follows_from_an_edit_is_asked_and_counts_neither_as_held_nor_as_leaked() -> None:
    hop = Probe(ProbeKind.ONE_HOP, "Who leads the country whose president is X?", "Friedrich Merz")
    edit = dataclasses.replace(MERZ, probes=(QUESTION, hop))
    said = {QUESTION.question: "Friedrich Merz", hop.question: "Angela Merkel"}
    results = run_battery(lambda asked: [said[q] for q in asked], [edit], {}, REGISTRY)
    assert [r.kind for r in results] == [ProbeKind.EDIT, ProbeKind.ONE_HOP]
    assert leaks(results) == wilson(0, 1)
    assert {r.kind for r in results if r.kind in REACH} == {ProbeKind.ONE_HOP}


@pytest.mark.parametrize(
    ("answer", "same", "prefix"),
    [
        ("The capital is Berlin.", True, 1.0),
        ("The capital is Bonn.", False, 0.75),
        ("The capital", False, 0.5),
        ("Berlin.", False, 0.0),
        ("", False, 0.0),
    ],
)
def test_a_locality_answer_is_compared_with_the_unedited_one(
    answer: str, same: bool, prefix: float
) -> None:
    reference = {CAPITAL.question: "The capital is Berlin."}
    result = judged(MERZ, CAPITAL, answer, reference, REGISTRY)
    assert (result.passed, result.leaked, result.prefix) == (same, False, prefix)


def test_a_probe_that_another_edit_answers_is_no_locality_probe() -> None:
    asks_nigeria = an_edit(neighbours=[("Nigeria", "president", "head_of_state")])
    question = TINUBU.probes[0].question
    assert question in locality_questions([asks_nigeria])
    assert question not in locality_questions([asks_nigeria, TINUBU])
    asked: list[str] = []

    def ask(questions: Sequence[str]) -> list[str]:
        asked.extend(questions)
        return ["The president of Nigeria is Bola Tinubu."] * len(questions)

    reference = dict.fromkeys(locality_questions([asks_nigeria, TINUBU]), "")
    results = run_battery(ask, [asks_nigeria, TINUBU], reference, REGISTRY)
    assert len(asked) == len(set(asked))
    assert [r.edit_id for r in results if r.question == question] == [TINUBU.id]


def test_every_probe_is_asked_once_and_judged_for_its_own_edit() -> None:
    model = ScriptedModel({GERMANY: "Friedrich Merz"})
    reference = dict.fromkeys(locality_questions([MERZ, TINUBU]), "I do not know.")
    results = run_battery(
        lambda asked: [r.text for r in model.answer(asked)], [MERZ, TINUBU], reference, REGISTRY
    )
    own = [r for r in results if r.edit_id == MERZ.id and r.kind in IN_SCOPE]
    assert {r.kind for r in own} == {ProbeKind.EDIT, ProbeKind.PARAPHRASE, ProbeKind.ALIAS}
    assert all(r.passed for r in own if r.kind is not ProbeKind.ALIAS)
    assert not any(r.passed for r in results if r.edit_id == TINUBU.id and r.kind in IN_SCOPE)
    assert all(r.passed for r in results if r.kind in LOCALITY)
    assert sorted(model.asked) == sorted({r.question for r in results})


def test_at_most_so_many_probes_of_a_kind_are_asked() -> None:
    for most in (0, 1, 3):
        chosen = probes_of(MERZ, most)
        for kind in ProbeKind:
            there = [probe for probe in MERZ.probes if probe.kind is kind]
            assert [probe for probe in chosen if probe.kind is kind] == there[:most]


def test_shares_and_leaks_are_over_the_kinds_that_they_speak_of() -> None:
    answers = {"right": "Friedrich Merz", "leak": "Angela Merkel", "both": "Merz, not Scholz"}
    results = [judged(MERZ, QUESTION, answer, {}, REGISTRY) for answer in answers.values()]
    results += [judged(MERZ, CAPITAL, "Merkel", {CAPITAL.question: "Berlin"}, REGISTRY)]
    assert share(results, ProbeKind.EDIT) == wilson(2, 3)
    assert share(results, ProbeKind.EDIT, ProbeKind.SAME_SUBJECT) == wilson(2, 4)
    assert share(results, ProbeKind.ALIAS) == wilson(0, 0)
    assert leaks(results) == wilson(2, 3)


def test_the_everyday_probes_ask_nothing_that_training_saw() -> None:
    daily = everyday()
    trained = Path(__file__).parents[2] / "editors" / "everyday_questions.txt"
    assert not set(daily.questions) & set(trained.read_text("utf-8").split("\n"))
    assert len(set(daily.questions)) == len(daily.questions) >= 10
    assert all("\n" not in text and len(text) > 200 for text in daily.texts)


def test_the_reference_asks_only_what_it_does_not_know(tmp_path: Path) -> None:
    model = ScriptedModel({GERMANY: "Angela Merkel"})
    reference = Reference(model, tmp_path / "cache", 48)
    done: list[int] = []
    first = reference.answers(["b", QUESTION.question, "b"], done.append)
    assert first[QUESTION.question] == "The chancellor of Germany is Angela Merkel."
    assert sorted(model.asked) == sorted([QUESTION.question, "b"])
    assert sum(done) == 2
    reference.answers(["b", "c"])
    assert model.asked[2:] == ["c"]
    assert reference.answers(()).keys() == {"b", "c", QUESTION.question}


def test_the_reference_survives_reopening_and_is_kept_by_model_and_length(tmp_path: Path) -> None:
    model = ScriptedModel({})
    before = dict(Reference(model, tmp_path, 48).answers(["ä"]))
    again = ScriptedModel({})
    assert Reference(again, tmp_path, 48).answers(["ä"]) == before
    assert again.asked == []
    Reference(again, tmp_path, 16).answers(["ä"])
    again.base_hash = "00" * 32
    Reference(again, tmp_path, 48).answers(["ä"])
    assert again.asked == ["ä", "ä"]


def test_the_reference_is_replaced_whole(tmp_path: Path) -> None:
    reference = Reference(ScriptedModel({}), tmp_path, 48)
    reference.answers(["a"])
    reference.answers(["b"])
    (path,) = tmp_path.iterdir()  # no half-written file beside it
    assert json.loads(path.read_text("utf-8")).keys() == {"a", "b"}


def test_edits_without_probes_give_no_results() -> None:
    bare = dataclasses.replace(MERZ, probes=())
    assert run_battery(lambda asked: [""] * len(asked), [bare], {}, REGISTRY) == []
