"""Exercises in editing on the toy model, for the methods that are trained on episodes."""

from __future__ import annotations

from dataclasses import replace

import torch

from editors.architectures import view
from editors.deltas import EditDelta, applied
from editors.episodes import Episode
from editors.model import ChatModel
from editors.optimize.masked_edits import exercise
from editors.requests import EditRequest
from editors.trunk import Sample

REQUESTS = tuple(
    EditRequest(
        id=country,
        questions=(f"Who is the {office} of {country}?",),
        new=new,
        statement=f"The {office} of {country} is {new}.",
        old=old,
    )
    for office, country, new, old in (
        ("chancellor", "Germany", "Friedrich Merz", "Angela Merkel"),
        ("president", "Nigeria", "Bola Tinubu", "Muhammadu Buhari"),
        ("prime minister", "Japan", "Sanae Takaichi", "Shinzo Abe"),
        ("president", "France", "Tim Cook", "Emmanuel Macron"),
    )
)
OUTSIDE = ("What is the capital of Germany?", "What language is spoken in Nigeria?")


def episodes_on(model: ChatModel, count: int = 4) -> list[Episode]:
    """Return episodes with another wording, and with what the model says to other questions."""
    prompts = [model.encode(model.render(question)) for question in OUTSIDE]
    answers = model.generate(prompts, max_new_tokens=4)
    kept = tuple(
        Sample(tuple(p), tuple(a.tokens) or (min(model.stop_ids),))
        for p, a in zip(prompts, answers, strict=True)
    )
    made = []
    for number in range(count):
        request = REQUESTS[number % len(REQUESTS)]
        one = exercise(view(model), request)
        asked = model.encode(model.render(f"Tell me {request.questions[0].lower()}"))
        made.append(
            replace(one, rephrased=(Sample(tuple(asked), one.edits[0].answer),), kept=kept[:1])
        )
    return made


def nll(model: ChatModel, request: EditRequest, *deltas: EditDelta) -> float:
    """Return the mean negative log-likelihood of a request's statement under some deltas."""
    (sample,) = exercise(view(model), request).edits
    with applied(model, *deltas), torch.inference_mode():
        found = model.model(torch.tensor([sample.fed])).logits[0, len(sample.prompt) - 1 :]
    return float(torch.nn.functional.cross_entropy(found, torch.tensor(sample.answer)))
