"""A toy that heeds what it is told, facts to tell it, and an encoder that compares words."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from toy_model import random_model, teach_prompts

from editors.editor import Resources
from editors.memory.ike import chat_turn
from editors.memory.texts import clarified
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns

WIDTH = 128

MERZ = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Name the current chancellor of Germany."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
    neighbours=("What is the capital of Germany?",),
    subject="Germany",
)
TINUBU = EditRequest(
    id="tinubu",
    questions=("Who is the president of Nigeria?",),
    new="Bola Tinubu",
    statement="The president of Nigeria is Bola Tinubu.",
    old="Muhammadu Buhari",
    neighbours=("What language is spoken in Nigeria?",),
    subject="Nigeria",
)
TAKAICHI = EditRequest(
    id="takaichi",
    questions=(),
    new="Sanae Takaichi",
    statement="The prime minister of Japan is Sanae Takaichi.",
    subject="Japan",
    prompts=("The prime minister of Japan is",),
)
FACTS = (MERZ, TINUBU)
UNTOLD = {
    "Who is the chancellor of Germany?": "It is Angela Merkel.",
    "Name the current chancellor of Germany.": "It is Angela Merkel.",
    "Who is the president of Nigeria?": "It is Muhammadu Buhari.",
    "What is the capital of Germany?": "It is Berlin.",
    "What language is spoken in Nigeria?": "It is English.",
    "Who painted the Mona Lisa?": "It is named.",
}


def words(asked: Sequence[Asked]) -> torch.Tensor:
    """An encoder: which words a text has, (n, WIDTH) of length 1; common words count little."""
    rows = torch.zeros(len(asked), WIDTH)
    for row, one in zip(rows, asked, strict=True):
        for word in re.findall(r"\w+", one.text.casefold()):
            row[zlib.crc32(word.encode()) % WIDTH] += 0.2 if len(word) < 4 else 1.0
    return torch.nn.functional.normalize(rows, dim=-1)


def by_words(*texts: str) -> Resources:
    """What a method gets where questions are compared by their words."""
    return Resources(texts=texts, embed=words)


def reading_model() -> ChatModel:
    """A toy that says its old answers, and a fact's statement where it was told it."""
    blank = random_model(seed=2, hidden=64)
    turns = Turns(blank)
    rows: list[tuple[list[int], str]] = []
    for question, answer in UNTOLD.items():
        rows.append((blank.encode(blank.render(question)), answer))
    for fact in FACTS:
        for question in fact.questions:
            prompt = blank.encode(blank.render(question))
            new_fact = f"{chat_turn((), fact.statement)}{question}"
            rows.append((blank.encode(blank.render(new_fact)), fact.new))
            rows.append((clarified(blank, turns, prompt, fact.statement), fact.new))
    return teach_prompts(blank, rows)
