"""Embeddings are loaded once, whoever asks first."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agent.embedding import SentenceEmbeddings


def test_threads_that_ask_at_once_wait_for_one_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded: list[str] = []

    class Slow:
        def __init__(self, path: str, **settings: Any) -> None:
            loaded.append(path)
            time.sleep(0.05)

        def encode(self, texts: list[str], **settings: Any) -> torch.Tensor:
            return torch.ones(len(texts), 2)

    fake = SimpleNamespace(SentenceTransformer=Slow)
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    embeddings = SentenceEmbeddings(str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(embeddings.embed_query, "abcd"))
    assert loaded == [str(tmp_path)]
    assert found == [[1.0, 1.0]] * 4
