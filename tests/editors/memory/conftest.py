"""The toy that heeds what it is told, taught once; a test must leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from reading import reading_model
from toy_model import one_thread

from editors.model import ChatModel


@pytest.fixture(scope="session")
def _reader() -> ChatModel:
    with one_thread():
        return reading_model()


@pytest.fixture
def reader(_reader: ChatModel) -> Iterator[ChatModel]:
    """Answers as in ``reading.UNTOLD``, and with a fact's object where it was told the fact."""
    before = {name: (p, p.detach().clone()) for name, p in _reader.model.named_parameters()}
    with one_thread():
        yield _reader
    for name, parameter in _reader.model.named_parameters():
        assert parameter is before[name][0], f"{name} was replaced and not put back"
        assert parameter.equal(before[name][1]), f"{name} was changed"
    assert _reader.memories == []
