"""Sentence embeddings as LangChain embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings

from agent.config import ConfigError
from agent.workspace import BUNDLED

if TYPE_CHECKING:
    import torch


class SentenceEmbeddings(Embeddings):
    """Normalised sentence-transformers embeddings of texts.

    ``path`` is a hub id or a folder; empty means the bundled all-MiniLM-L6-v2 (384-d).
    The model is loaded at the first use.

    Raises:
        ConfigError: nothing is configured and the bundled model is not installed.
    """

    def __init__(self, path: str = "", device: str = "cpu") -> None:
        self._path = path or _bundled()
        self._device = device
        self._model: Any = None
        self._loading = Lock()

    def vectors(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the unit embeddings (n, width), float32 on the CPU."""
        made: torch.Tensor = self._loaded().encode(
            list(texts),
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        return made.float().cpu()

    def _loaded(self) -> Any:
        # A retriever asks from several threads, and two loads at once spoil one another.
        with self._loading:
            if self._model is None:
                os.environ.setdefault("HF_HUB_OFFLINE", "1")
                from sentence_transformers import SentenceTransformer

                self._model = SentenceTransformer(
                    self._path, device=self._device, model_kwargs={"dtype": _dtype(self._device)}
                )
            return self._model

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.vectors(texts).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def _dtype(device: str) -> Any:
    """bfloat16 where a CPU computes in it (twice as fast, cosines within 0.002), else float32."""
    import torch

    fast = device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _bundled() -> str:
    spec = find_spec(BUNDLED)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "no embedding model: install corrigenda[demo] or set embedding.path to a folder"
        )
    found = sorted(Path(spec.origin).parent.rglob("modules.json"))
    if not found:
        raise ConfigError(f"the embedding model in {Path(spec.origin).parent} is incomplete")
    return str(found[0].parent)
