"""Edits lend one another their wordings, with a head that knows what asks the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from editors.memory.shared_wordings import Lent, lent
from editors.question_embeddings import Asked
from editors.requests import EditRequest

KINDS = {"spouse": 0, "capital": 1}


class ByWord:
    """A head by which wordings are alike that name the same of some words."""

    def alike(self, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return (asked == known).all(-1).float()


def embed(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor(
        [[float("spouse" in t or "wife" in t), float("capital" in t)] for t in texts]
    )


def request(id: str, subject: str, *questions: str, prompts: tuple[str, ...] = ()) -> EditRequest:
    return EditRequest(id, questions, "X", f"It is X of {subject}.", "", (), subject, prompts)


REQUESTS = [
    request("1", "Ann Lee", "Who is the spouse of Ann Lee?"),
    request("2", "Bo Ek", "Who is Bo Ek's wife?"),
    request("3", "Peru", "What is the capital of Peru?"),
    request("4", "Cy Fox", prompts=("The spouse of Cy Fox is",)),
    request("5", "", "Who knows?"),
]


def found(alike: int = 9, beside: int = 9, elsewhere: int = 9) -> list[Lent]:
    head = ByWord()
    return lent(REQUESTS, embed, head, alike=alike, beside=beside, elsewhere=elsewhere)


def test_what_asks_the_same_is_lent_with_the_subject_in_place() -> None:
    first, second, *_ = found()
    assert first.alike == (Asked("Who is Ann Lee's wife?", True),)
    assert second.alike == (Asked("Who is the spouse of Bo Ek?", True),)


def test_what_asks_something_else_is_a_question_beside() -> None:
    first, _, peru, *_ = found()
    assert first.beside == (Asked("What is the capital of Ann Lee?", True),)
    assert {asked.text for asked in peru.beside} == {
        "Who is the spouse of Peru?",
        "Who is Peru's wife?",
    }


def test_the_same_is_asked_elsewhere_only_where_it_is_not_edited() -> None:
    first, _, peru, *_ = found()
    assert [asked.text.split()[-1] for asked in first.elsewhere] in (["Peru?"], ["wife?"])
    assert all("Peru" in asked.text for asked in first.elsewhere)
    assert {
        name
        for asked in peru.elsewhere
        for name in ("Ann Lee", "Bo Ek", "Cy Fox")
        if name in asked.text
    } == {
        "Ann Lee",
        "Bo Ek",
        "Cy Fox",
    }


def test_questions_are_lent_to_questions_and_plain_texts_to_plain_texts() -> None:
    plain = found()[3]
    assert plain.alike == ()
    assert plain.beside == ()
    assert all(not asked.chat for asked in plain.elsewhere)


def test_a_request_that_names_no_subject_borrows_nothing() -> None:
    assert found()[4] == Lent()
    assert lent(REQUESTS[4:], embed, ByWord(), alike=1, beside=1, elsewhere=1) == [Lent()]


def test_no_more_is_lent_than_asked_for_and_always_the_same() -> None:
    some = found(alike=0, beside=1, elsewhere=2)
    assert max(len(one.alike) for one in some) == 0
    assert max(len(one.beside) for one in some) == 1
    assert max(len(one.elsewhere) for one in some) == 2
    assert some == found(alike=0, beside=1, elsewhere=2)


def many(count: int) -> list[EditRequest]:
    asks = ("Who is the spouse of N{}?", "Who is N{}'s wife?", "What is the capital of N{}?")
    forms = ("{}", "Say: {}", "Tell me. {}", "{} Please.")
    return [
        request(str(at), f"N{at}", forms[at // 3 % 4].format(asks[at % 3].format(at)))
        for at in range(count)
    ]


def test_what_an_edit_was_lent_stays_as_others_come() -> None:
    wanted = {"alike": 2, "beside": 2, "elsewhere": 2}
    before = lent(many(300), embed, ByWord(), **wanted)
    after = lent(many(340), embed, ByWord(), **wanted)
    assert before == after[:300]


def test_a_subject_is_asked_elsewhere_no_more_once_the_same_is_edited_of_it() -> None:
    """However late that comes."""
    some = many(300)

    def elsewhere(requests: list[EditRequest]) -> str:
        wanted = {"alike": 0, "beside": 0, "elsewhere": 9}
        found = lent(requests, embed, ByWord(), **wanted)[299]
        return " ".join(asked.text for asked in found.elsewhere)

    before = elsewhere(some)
    name = next(one.subject for one in some if re.search(rf"{one.subject}\b", before))
    late = request("late", name, some[299].questions[0].replace("N299", name))
    assert not re.search(rf"{name}\b", elsewhere([*some, late]))


class Alike:
    """A head to which everything is the same."""

    def alike(self, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(known))


def test_wordings_of_relations_that_are_known_to_differ_are_not_lent_but_left_alone() -> None:
    """However alike they are to the head; of a relation that nobody knows the head decides."""

    def asked(relation: str) -> list[Lent]:
        peru = request("1", "Peru", "Who is the president of Peru?")
        kenya = request("2", "Kenya", "Who is the king of Kenya?")
        some = [replace(peru, relation="head of state"), replace(kenya, relation=relation)]
        return lent(some, embed, Alike(), alike=9, beside=9, elsewhere=9)

    king = (Asked("Who is the king of Peru?", True),)
    for same in ("", "head of state"):
        assert (asked(same)[0].alike, asked(same)[0].beside) == (king, ())
    assert (asked("king")[0].alike, asked("king")[0].beside) == ((), king)
    assert asked("king")[0].elsewhere == (Asked("Who is the president of Kenya?", True),)
    assert asked("head of state")[0].elsewhere == ()


def test_what_another_edit_says_of_the_subject_is_not_left_alone() -> None:
    peru = replace(request("1", "Peru", "Who is the president of Peru?"), relation="head of state")
    king = replace(request("2", "Kenya", "Who is the king of Kenya?"), relation="king")
    both = replace(request("3", "Peru", "Who is the king of Peru?"), relation="king")
    wanted = {"alike": 0, "beside": 9, "elsewhere": 0}
    alone, _ = lent([peru, king], embed, Alike(), **wanted)
    assert alone.beside == (Asked("Who is the king of Peru?", True),)
    assert lent([peru, king, both], embed, Alike(), **wanted)[0].beside == ()


def test_what_is_answered_differently_of_the_same_subjects_does_not_ask_the_same() -> None:
    """However alike it is to the head: a country has a head of state and one of government."""
    asked = ("Who is the spouse of {}?", "Who is {}'s wife?")
    ledger = [
        replace(request(f"{name}{at}", name, text.format(name)), new=f"{name} {at}")
        for name in ("Ann", "Bo")
        for at, text in enumerate(asked)
    ]
    third = request("3", "Cy", asked[0].format("Cy"))
    *_, last = lent([*ledger, third], embed, ByWord(), alike=9, beside=9, elsewhere=0)
    assert last.alike == ()
    assert last.beside == (Asked("Who is Cy's wife?", True),)


def test_what_is_answered_alike_more_often_than_differently_asks_the_same() -> None:
    asked = ("Who is the spouse of {}?", "Who is {}'s wife?")
    told = [("Ann", "X", "X"), ("Bo", "Y", "Y"), ("Cy", "Z", "Other")]
    ledger = [
        replace(request(f"{name}{at}", name, text.format(name)), new=(one, other)[at])
        for name, one, other in told
        for at, text in enumerate(asked)
    ]
    last = lent(
        [*ledger, request("d", "Di", asked[0].format("Di"))],
        embed,
        ByWord(),
        alike=9,
        beside=9,
        elsewhere=0,
    )[-1]
    assert last.alike == (Asked("Who is Di's wife?", True),)
