"""The same news in another order, under other names, at other times, and twice, change nothing.

CORRIGENDA_SHUFFLES=1000 in the environment is the long form: so many shuffles instead of 15.
"""

import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import NOW, a_document
from workspaces import GERMANY, NIGERIA, ScriptedModel, workspace

from agent.config import FeedEntry
from agent.cycle import detect, remember, take_in
from agent.progress import Silent
from agent.workspace import Workspace
from store.records import Document, digest

TEXTS = (
    "Friedrich Merz is sworn in as chancellor of Germany, succeeding Olaf Scholz.",
    "Friedrich Merz, the chancellor of Germany, met Emmanuel Macron, the president of France.",
    "Olaf Scholz is sworn in as chancellor of Germany, succeeding Angela Merkel.",
    "Bola Tinubu is sworn in as president of Nigeria, succeeding Muhammadu Buhari.",
    "The harbour was quiet. Bola Tinubu is inaugurated as president of Nigeria.",
    "Sanae Takaichi becomes prime minister of Japan.",
)
DATES = (-10, -9, -1500, -20, -19, -5)  # days before NOW on which each was published
SHUFFLES = int(os.environ.get("CORRIGENDA_SHUFFLES", "15"))
CORPUS = [
    a_document(
        text,
        url=f"https://{'abc'[number % 3]}.example/{number}",
        feed=f"feed-{'abc'[number % 3]}",
        title=f"News {number}",
        published=NOW + timedelta(days=DATES[number]),
        guid=f"guid-{number}",
    )
    for number, text in enumerate(TEXTS)
]


def a_home(folder: str) -> Workspace:
    model = ScriptedModel({GERMANY: "Angela Merkel", NIGERIA: "Muhammadu Buhari"})
    feeds = [FeedEntry(name=f"feed-{x}", url=f"https://{x}.example/", trusted=True) for x in "abc"]
    return workspace(Path(folder), model, feeds)


def read(ws: Workspace, documents: Sequence[Document], minutes: int = 0) -> None:
    now = NOW + timedelta(minutes=minutes)
    for document in documents:
        take_in(ws, document, now)
    detect(ws, now, Silent())
    remember(ws, now, Silent())


def result(ws: Workspace) -> tuple[object, ...]:
    return ws.store.facts.digest(), sorted((e.id, e.state.value) for e in ws.store.edits.ls())


def expected() -> tuple[object, ...]:
    with tempfile.TemporaryDirectory() as folder, a_home(folder) as ws:
        read(ws, CORPUS)
        return result(ws)


EXPECTED = expected()


def churned(document: Document, chance: random.Random) -> Document:
    """The item as it comes again: another GUID, fetched later, under another address of its
    feed, hence another document to us."""
    number = chance.randrange(10**9)
    url = f"{document.url}?utm_source={number}"
    return replace(
        document,
        id=digest(document.feed, url, document.content_hash),
        url=url,
        guid=f"guid-{number}",
        fetched=document.fetched + timedelta(seconds=chance.randrange(10**5)),
    )


def test_the_corpus_gives_facts_and_edits() -> None:
    _, edits = EXPECTED
    assert isinstance(edits, list)
    assert len(edits) == 2
    with tempfile.TemporaryDirectory() as folder, a_home(folder) as ws:
        read(ws, CORPUS)
        assert {f.object for f in ws.store.facts.ls()} == {
            "Angela Merkel", "Olaf Scholz", "Friedrich Merz", "Emmanuel Macron",
            "Muhammadu Buhari", "Bola Tinubu", "Sanae Takaichi",
        } - {"Emmanuel Macron"}  # fmt: skip


@given(seed=st.integers(0, 2**32), copies=st.integers(1, 3), parts=st.integers(1, 3))
@settings(max_examples=SHUFFLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_same_news_give_the_same_facts_and_no_further_edit(
    seed: int, copies: int, parts: int
) -> None:
    """``parts``: how many turns it takes to bring all of it, the first bringing each item."""
    chance = random.Random(seed)
    first = [churned(d, chance) if chance.random() < 0.5 else d for d in CORPUS]
    chance.shuffle(first)
    again = [churned(d, chance) for d in CORPUS * (copies - 1)] + CORPUS
    chance.shuffle(again)
    with tempfile.TemporaryDirectory() as folder, a_home(folder) as ws:
        read(ws, first)
        assert result(ws) == EXPECTED
        size = -(-len(again) // parts)
        turns = [again[start : start + size] for start in range(0, len(again), size)]
        for minutes, part in enumerate(turns):
            read(ws, part, minutes)
            assert result(ws) == EXPECTED
        assert ws.store.ledger.verify() is None
