"""What must not change while matrices are fine-tuned: questions and texts beside the edits.

Fine-tuning changes every answer a little; how much is seen only where one looks. Three kinds
are looked at, each with what the *unedited* model itself says there: a request's neighbours;
its own question or prompt with *another subject* in the place of its own, which is the nearest
question whose answer must stand; and everyday questions and ordinary text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from editors.model import ChatModel
from editors.optimize.stage import Lesson
from editors.question_embeddings import Asked
from editors.requests import EditRequest

NAME = re.compile(r"\b[A-Z][a-zé]{2,}(?: [A-Z][a-zé]{2,}){1,2}\b")
_MOST_NAMES = 500


def names_in(texts: Sequence[str]) -> tuple[str, ...]:
    """Return what looks like names of several words in ordinary texts, each once, in order."""
    found: dict[str, None] = {}
    for text in texts:
        found.update(dict.fromkeys(match[0] for match in NAME.finditer(text)))
        if len(found) >= _MOST_NAMES:
            break
    return tuple(found)[:_MOST_NAMES]


def anchors_of(
    request: EditRequest, names: Sequence[str], siblings: int, avoid: Sequence[str] = ()
) -> list[Asked]:
    """Return what must stand beside one request.

    Args:
        request: its neighbours come first.
        names: other subjects, of which some are drawn, the same for the same request.
        siblings: how many times the request is asked of another subject.
        avoid: subjects that must not be drawn, because an edit is about them.
    """
    found = [Asked(question, True) for question in request.neighbours]
    others = [name for name in names if name not in avoid and name != request.subject]
    drawn = random.Random(f"siblings of {request.id}")
    asked = [
        *(Asked(question, True) for question in request.questions[:1]),
        *(Asked(prompt, False) for prompt in request.prompts[:1]),
    ]
    for one in asked:
        if request.subject and request.subject in one.text:
            found += [
                Asked(one.text.replace(request.subject, name), one.chat)
                for name in drawn.sample(others, min(siblings, len(others)))
            ]
    return list(dict.fromkeys(found))


def anchor_lessons(model: ChatModel, anchors: Sequence[Asked], tokens: int) -> list[Lesson]:
    """Return the anchors with what ``model`` says, as lessons for a teacher.

    The model must be the unedited one now. ``tokens`` of each answer are looked at; the last
    column predicts what comes after them, the end of the turn where the model ends.
    """
    prompts = [model.encode(model.render(a.text) if a.chat else a.text) for a in anchors]
    if not prompts:
        return []
    made = model.generate(prompts, max_new_tokens=tokens)
    return [
        Lesson((*prompt, *one.tokens), tuple(range(len(prompt) - 1, len(prompt) + len(one.tokens))))
        for prompt, one in zip(prompts, made, strict=True)
    ]


def text_lessons(
    model: ChatModel, texts: Sequence[str], count: int, tokens: int = 48
) -> list[Lesson]:
    """Return beginnings of ordinary texts as lessons for a teacher, at every column."""
    found = []
    for text in texts[:count]:
        ids = model.encode(text)[:tokens]
        if len(ids) > 1:
            found.append(Lesson(tuple(ids), tuple(range(len(ids)))))
    return found
