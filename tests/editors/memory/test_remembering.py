"""The memory tier within transformers' own generate."""

from __future__ import annotations

import pytest
import torch

from editors.memory.remembering import Remembering
from editors.memory.scope import Fact
from editors.model import ChatModel

QUESTION = "Who is the chancellor of Germany?"
MERZ = Fact(
    "merz",
    ("Germany",),
    (QUESTION,),
    "Friedrich Merz",
    "The chancellor of Germany is Friedrich Merz.",
    ("Angela Merkel",),
)
OTHER = "Who is the president of France?"


def encoded(model: ChatModel, *questions: str) -> dict[str, torch.Tensor]:
    """A left-padded batch of chat prompts."""
    rows = [model.encode(model.render(question)) for question in questions]
    width = max(map(len, rows))
    ids = torch.tensor([[1] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def texts(model: ChatModel, prompts: dict[str, torch.Tensor], out: torch.Tensor) -> list[str]:
    width = prompts["input_ids"].shape[1]
    assert out[:, :width].equal(prompts["input_ids"])
    return [model.decode(row[width:].tolist()).strip() for row in out]


@pytest.fixture
def model(taught_model: ChatModel) -> ChatModel:
    taught_model.model.generation_config.pad_token_id = 1
    return taught_model


def test_a_remembered_fact_is_answered_and_the_rest_is_the_models(model: ChatModel) -> None:
    prompts = encoded(model, QUESTION, OTHER)
    settings = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": list(model.stop_ids)}
    bare = texts(model, prompts, model.model.generate(**prompts, **settings))
    remembering = Remembering(model.model, model.tokenizer)
    remembering.remember(MERZ)
    made = texts(model, prompts, remembering.generate(**prompts, **settings))
    assert "Friedrich Merz" in made[0]
    assert made[1] == bare[1]
    assert remembering.used(**prompts) == [(MERZ,), ()]
    remembering.forget("merz")
    assert texts(model, prompts, remembering.generate(**prompts, **settings)) == bare


def test_sampling_keeps_the_objects_tokens(model: ChatModel) -> None:
    prompts = encoded(model, QUESTION)
    remembering = Remembering(model.model, model.tokenizer)
    remembering.remember(MERZ)
    for seed in range(3):
        torch.manual_seed(seed)
        out = remembering.generate(
            **prompts, max_new_tokens=40, do_sample=True, eos_token_id=list(model.stop_ids)
        )
        (text,) = texts(model, prompts, out)
        assert "Merkel" not in text


def test_out_of_scope_the_very_call_is_passed_on(model: ChatModel) -> None:
    prompts = encoded(model, OTHER)
    remembering = Remembering(model.model, model.tokenizer)
    remembering.remember(MERZ)
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False}
    assert remembering.generate(**prompts, **settings).equal(
        model.model.generate(**prompts, **settings)
    )
    assert remembering.config is model.model.config
