"""Home folders for tests: real store and evidence, local feeds, a scripted or a toy model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from samples import NOW, REGISTRY, HashedWords

from agent.config import Config, ConsolidationConfig, FeedEntry
from agent.workspace import Workspace
from store.records import Edit, EditState, Reply

GERMANY = ("Germany", "head_of_government", "chancellor")
NIGERIA = ("Nigeria", "head_of_state", "president")
APPLE = ("Apple", "ceo", "CEO")
LENIENT = {
    "accuracy_floor": 0.0,
    "retention_floor": 0.0,
    "leak_ceiling": 1.0,
    "broken_ceiling": 1.0,
    "locality_floor": 0.0,
    "same_subject_floor": 0.0,
    "ability_floor": 0.0,
    "form_floor": 0.0,
    "length_floor": 0.0,
    "length_ceiling": 1e6,
    "ppl_ceiling": 1e9,
}
"""What any sound candidate passes: what a toy forgets is no matter in most tests."""

CHANCELLORS = (
    ("Angela Merkel", "22 November 2005", "8 December 2021"),
    ("Olaf Scholz", "8 December 2021", "6 May 2025"),
    ("Friedrich Merz", "6 May 2025", "present"),
)
PRESIDENTS = (
    ("Muhammadu Buhari", "29 May 2015", "29 May 2023"),
    ("Bola Tinubu", "29 May 2023", "present"),
)


class ScriptedModel:
    """Answers from a script; a fact that it is told in the system message it repeats, unless
    it is ``deaf``. ``asked`` keeps every question in order."""

    batch_size = 8
    stop_ids = frozenset({0})
    base_hash = "5c" * 32
    name = "scripted"

    def __init__(self, beliefs: Mapping[tuple[str, str, str], str], deaf: bool = False) -> None:
        self.script = {
            question: REGISTRY.statement(relation, subject, title, holder)
            for (subject, relation, title), holder in beliefs.items()
            for question in REGISTRY.questions(relation, subject, title)
        }
        self.deaf = deaf
        self.asked: list[str] = []

    def encode_answer(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def default_system(self) -> str:
        return "Be brief."

    def answer(
        self,
        questions: Sequence[str],
        *,
        systems: Sequence[str | None] | None = None,
        guides: Sequence[object] | None = None,
        starts: Sequence[str] | None = None,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Reply]:
        self.asked += questions
        if progress:
            progress(len(questions))
        return [
            Reply(question, self._say(question, system), -0.1)
            for question, system in zip(questions, systems or [None] * len(questions), strict=True)
        ]

    def believe(
        self, questions: Sequence[str], *, samples: Sequence[int], **more: Any
    ) -> list[Reply]:
        replies = self.answer(questions, progress=more.get("progress"))
        return [
            replace(reply, tokens=4, samples=(reply.text,) * count)
            for reply, count in zip(replies, samples, strict=True)
        ]

    def _say(self, question: str, system: str | None) -> str:
        _, told, fact = (system or "").partition("This is up to date: ")
        return fact if told and not self.deaf else self.script.get(question, "I do not know.")


def workspace(
    home: Path, model: Any, feeds: Sequence[FeedEntry] = (), **sections: Any
) -> Workspace:
    """Return a home folder whose model and embeddings are given."""
    opened = Workspace(home, Config(feeds=tuple(feeds), **sections))
    use(opened, model)
    return opened


def use(opened: Workspace, model: Any) -> None:
    """Give a home its model and embeddings."""
    opened.__dict__.update(
        model=model,
        base_hash=model.base_hash,
        embeddings=HashedWords(),
        meaning=None,
        model_path=lambda: Path("/models/toy.gguf"),
    )


def toy_home(folder: Path, model: Any, **settings: Any) -> Workspace:
    """Return a home without feeds, whose model can be consolidated: it has ordinary text."""
    return workspace(folder / "home", model, consolidation=toy_settings(folder, **settings))


def toy_settings(folder: Path, **settings: Any) -> ConsolidationConfig:
    """Return settings by which a toy model can be consolidated, and write its ordinary text."""
    texts = folder / "ordinary.txt"
    asked = REGISTRY.questions("head_of_state", "Peru", "president")
    told = REGISTRY.statement("head_of_state", "Peru", "president", "A B")
    texts.write_text("\n".join(f"{question} {told}" for question in asked * 3), encoding="utf-8")
    return ConsolidationConfig(statistics=str(texts), **settings)


def remembered(ws: Workspace, *edits: Edit) -> None:
    """Keep edits as ones that the memory tier answers."""
    for edit in edits:
        ws.store.edits.add(edit)
        ws.store.edits.move(edit.id, EditState.REMEMBERED, NOW)


def holders(folder: Path, heading: str, spells: Sequence[tuple[str, str, str]]) -> Path:
    """Write a dated list of office holders as a page of a folder feed."""
    lines = "".join(f"<li>{name} ({start} – {end})</li>" for name, start, end in spells)
    return _write(
        folder / f"{heading.casefold().replace(' ', '-')}.html",
        f'<html><head><meta name="date" content="2026-02-01"><title>{heading}</title></head>'
        f"<body><h1>{heading}</h1><p>As of February 2026.</p><ul>{lines}</ul></body></html>",
    )


def news(folder: Path, *items: tuple[str, str, str]) -> Path:
    """Write a feed of (link, title, text) items, all published on the day of the tests."""
    entries = "".join(
        f"<item><title>{title}</title><link>{link}</link><guid>{link}</guid>"
        f"<pubDate>{format_datetime(NOW)}</pubDate><description>{text}</description></item>"
        for link, title, text in items
    )
    return _write(
        folder / "feed.xml",
        f'<?xml version="1.0"?><rss version="2.0"><channel><title>News</title>{entries}'
        "</channel></rss>",
    )


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    return path
