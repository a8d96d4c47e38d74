"""A language model reads along within its budget, and a cycle goes on without it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from samples import NOW, REGISTRY, a_document
from scripted_chat import saying
from workspaces import ScriptedModel, news, workspace

import agent.reading
from agent.config import Config, ExtractConfig, FeedEntry
from agent.cycle import poll_feeds
from agent.progress import Silent
from agent.reading import Reader
from detectors.extractors.llm import LlmExtractor, ModelUnavailable
from detectors.relations import Registry
from store.records import Document

# A form that no pattern foresees.
TEXT = "José Antonio Kast is Chile's president now."
SAID = {
    "quote": TEXT,
    "subject": "Chile",
    "relation": "head_of_state",
    "object": "José Antonio Kast",
    "role": "current",
}


def extractor(statement: object = SAID) -> LlmExtractor:
    return LlmExtractor(saying(statement), REGISTRY)


class Unavailable(LlmExtractor):
    """A server that is down; ``asked`` counts how often it was tried."""

    asked = 0

    def extract(self, document: Document, now: object) -> object:  # type: ignore[override]
        self.asked += 1
        raise ModelUnavailable("the extraction model does not answer; start its server")


def documents(count: int) -> list[Document]:
    return [
        a_document(TEXT, url=f"https://news.example/{n}", published=NOW - timedelta(hours=n))
        for n in range(count)
    ]


def test_only_the_newest_documents_are_read_and_the_budget_holds_for_the_cycle() -> None:
    reader = Reader(extractor(), budget=3)
    given = documents(5)
    assert set(reader.read(given[3:], NOW, Silent())) == {given[3].id, given[4].id}
    assert set(reader.read(given[:3], NOW, Silent())) == {given[0].id}
    assert reader.read(given, NOW, Silent()) == {}


def test_a_model_that_does_not_answer_is_asked_once_and_noted() -> None:
    model = Unavailable(saying(), REGISTRY)
    reader = Reader(model, budget=9)
    assert reader.read(documents(3), NOW, Silent()) == {}
    assert reader.read(documents(3), NOW, Silent()) == {}
    assert model.asked == 1
    assert reader.notes() == ["extract.llm: the extraction model does not answer; start its server"]


def test_what_the_document_does_not_bear_out_is_counted() -> None:
    reader = Reader(extractor(SAID | {"object": "Pat Smith"}), budget=9)
    (claims,) = reader.read(documents(1), NOW, Silent()).values()
    assert claims == []
    assert "1 " in reader.notes()[0]


def test_a_missing_package_is_a_note_and_no_failure(tmp_path: Path) -> None:
    settings = ExtractConfig(llm=True, llm_url="ftp://nowhere", llm_model="m")
    ws = workspace(tmp_path, ScriptedModel({}), extract=settings)
    reader = Reader.of(ws)
    assert reader.read(documents(1), NOW, Silent()) == {}
    assert "ftp://nowhere" in reader.notes()[0]


@pytest.mark.parametrize("on", [True, False])
def test_what_the_model_read_becomes_facts_with_its_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    def scripted(config: Config, registry: Registry) -> LlmExtractor | None:
        return extractor() if on else None

    chosen: Callable[[Config, Registry], LlmExtractor | None] = scripted
    monkeypatch.setattr(agent.reading, "extractor_of", chosen)
    feed = news(tmp_path / "feed", ("https://news.example/1", "News", TEXT))
    with workspace(
        tmp_path / "home", ScriptedModel({}), [FeedEntry(name="news", url=str(feed.parent))]
    ) as ws:
        poll_feeds(ws, NOW, Silent())
        claims = [claim for claim in ws.store.claims.ls() if claim.extractor == "llm"]
        assert [claim.object for claim in claims] == ["José Antonio Kast"] * on
        for claim in claims:
            document = ws.store.documents.get(claim.document_id)
            assert document is not None
            assert document.text[claim.start : claim.end] == claim.quote
        assert json.dumps([fact.object for fact in ws.store.facts.ls()]).count("Kast") == on
