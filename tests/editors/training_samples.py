"""Exercises in editing for the taught toy model: every office given to people who hold none."""

from __future__ import annotations

import random
from collections.abc import Mapping

from samples import REGISTRY, SLOTS

from editors.episodes import Episode
from editors.model import ChatModel
from editors.requests import EditRequest
from editors.trunk import Sample

FIRST = ("Angela", "Friedrich", "Emmanuel", "Shinzo", "William", "Bola", "Tim", "Sanae")
LAST = ("Merkel", "Merz", "Macron", "Abe", "Ruto", "Tinubu", "Cook")


def sample(model: ChatModel, question: str, answer: str) -> Sample:
    return Sample(
        tuple(model.encode(model.render(question))),
        (*model.encode_answer(answer), min(model.stop_ids)),
    )


def exercises(model: ChatModel, answers: Mapping[str, str], seed: int = 0) -> list[Episode]:
    """Return shuffled episodes: one question edited, another rephrased, another subject kept."""
    made = []
    for index, (subject, relation, title, holder) in enumerate(SLOTS):
        asked = REGISTRY.questions(relation, subject, title)
        other = SLOTS[(index + 1) % len(SLOTS)]
        elsewhere = REGISTRY.questions(other[1], other[0], other[2])
        for number, name in enumerate(f"{a} {b}" for a in FIRST for b in LAST):
            if name == holder:
                continue
            told = REGISTRY.statement(relation, subject, title, name)
            near = elsewhere[number % len(elsewhere)]
            made.append(
                Episode(
                    edits=(sample(model, asked[0], told),),
                    rephrased=(sample(model, asked[1 + number % 2], told),),
                    kept=(sample(model, near, answers[near]),),
                    question=tuple(model.encode(asked[0])),
                    old=tuple(model.encode_answer(holder)),
                    new=tuple(model.encode_answer(name)),
                )
            )
    random.Random(seed).shuffle(made)
    return made


def request(slot: int = 0, new: str = "Tim Merz") -> EditRequest:
    """Return one of the offices' edits."""
    subject, relation, title, holder = SLOTS[slot]
    return EditRequest(
        id=subject,
        questions=REGISTRY.questions(relation, subject, title)[:1],
        new=new,
        statement=REGISTRY.statement(relation, subject, title, new),
        old=holder,
        subject=subject,
    )
