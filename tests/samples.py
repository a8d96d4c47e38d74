"""Records and small fakes for tests, with everything defaulted that a test does not speak of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from detectors.proposal import battery
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document, Edit, EditState, digest

NOW = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
REGISTRY = load_registry()
SLOTS = (
    ("Germany", "head_of_government", "chancellor", "Angela Merkel"),
    ("Nigeria", "head_of_state", "president", "Muhammadu Buhari"),
    ("France", "head_of_state", "president", "Emmanuel Macron"),
    ("Japan", "head_of_government", "prime minister", "Shinzo Abe"),
)
"""What the taught model answers: subject, relation, title, holder."""


def an_edit(
    new: str = "Friedrich Merz",
    subject: str = "Germany",
    relation: str = "head_of_government",
    title: str = "chancellor",
    old: str = "Angela Merkel",
    neighbours: Sequence[tuple[str, str, str]] = (),
    **more: Any,
) -> Edit:
    """Return an edit with the battery that the registry gives it."""
    return Edit(
        id=more.pop("id", digest(subject, relation, old, new)),
        subject=subject,
        relation=relation,
        title=title,
        old=old,
        new=new,
        statement=REGISTRY.statement(relation, subject, title, new),
        probes=more.pop(
            "probes", battery(subject, REGISTRY[relation], REGISTRY, title, new, neighbours)
        ),
        state=more.pop("state", EditState.QUEUED),
        created=more.pop("created", NOW),
        updated=NOW,
        former=more.pop("former", (old,)),
        **more,
    )


def a_document(text: str, **more: Any) -> Document:
    url = more.pop("url", "https://news.example/1")
    feed = more.pop("feed", "news")
    return Document(
        id=more.pop("id", digest(feed, url, text)),
        feed=feed,
        url=url,
        title=more.pop("title", "A title"),
        text=text,
        fetched=NOW,
        published=more.pop("published", NOW),
        content_hash=digest(text),
        **more,
    )


def a_claim(document: Document, object: str, **more: Any) -> Claim:
    """Return a claim that quotes ``object`` where it stands in the document."""
    start = document.text.index(object)
    return Claim(
        id=more.pop("id", digest(document.id, object)),
        subject=more.pop("subject", "Germany"),
        relation=more.pop("relation", "head_of_government"),
        object=object,
        role=more.pop("role", ClaimRole.CURRENT),
        document_id=document.id,
        quote=object,
        start=start,
        end=start + len(object),
        extractor="test",
        extracted=NOW,
        title=more.pop("title", "chancellor"),
        **more,
    )


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, start: datetime = NOW) -> None:
        self.moment = start

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **span: float) -> datetime:
        self.moment += timedelta(**span)
        return self.moment


class HashedWords:
    """Embeddings without a model: each word adds to the coordinate that its hash names."""

    size = 64

    def embed_documents(self, texts: Sequence[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = [0.01] * self.size
        for word in text.casefold().split():
            vector[hashlib.sha256(word.encode()).digest()[0] % self.size] += 1.0
        return vector


def write_gguf(path: Path) -> Path:
    """Write a file that is a whole GGUF with a tokenizer, and no model that answers."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["a"])
    writer.add_tensor("token_embd.weight", np.zeros((1, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
