"""A home that reads feeds from a fake web, for tests of what may become of what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from email.utils import format_datetime
from html import escape
from pathlib import Path
from typing import Any

from samples import NOW
from workspaces import ScriptedModel, workspace

from agent.config import FeedEntry
from agent.cycle import CycleResult, run_once
from agent.fetch import Fetched, FetchError
from agent.progress import Silent
from agent.trust import AUTOMATIC
from store.records import Document, Edit, EditState

LATER = 4  # days after which the feeds of these tests are out of quarantine
APPLE = ("Apple", "ceo", "CEO")
GERMANY = ("Germany", "head_of_government", "chancellor")
FACTORY = ("Acme", "Borealis", "Cobalt", "Dynamo", "Ember", "Fulcrum", "Granite", "Halcyon")
FIRST = ("Anna", "Bela", "Carla", "Dario", "Elena", "Felix", "Greta", "Hugo", "Irma", "Jonas")
LAST = ("Adler", "Brandt", "Castro", "Dupont", "Engel", "Fischer", "Garcia", "Hansen")


def name(number: int) -> str:
    return f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"


def company(number: int) -> str:
    return f"{FACTORY[number % len(FACTORY)]} {chr(65 + number // len(FACTORY))}works"


class Item:
    """One entry of a feed; what a test does not speak of is the default."""

    def __init__(
        self, link: str, title: str, text: str, at: datetime = NOW, guid: str = ""
    ) -> None:
        self.link, self.title, self.text, self.at, self.guid = link, title, text, at, guid or link


def rss(*items: Item) -> bytes:
    """A feed of items."""
    entries = "".join(
        f"<item><title>{escape(i.title)}</title><link>{escape(i.link)}</link>"
        f"<guid>{escape(i.guid)}</guid><pubDate>{format_datetime(i.at)}</pubDate>"
        f"<description>{escape(i.text)}</description></item>"
        for i in items
    )
    body = f'<?xml version="1.0"?><rss version="2.0"><channel>{entries}</channel></rss>'
    return body.encode()


class Web:
    """Serves feeds by address; what is ``gone`` answers 410."""

    def __init__(self) -> None:
        self.feeds: dict[str, list[Item]] = {}
        self.gone: set[str] = set()

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        if url in self.gone:
            raise FetchError(url, "answered 410 Gone", status=410)
        body = rss(*self.feeds.get(url, ()))
        return Fetched(url, url, 200, {"content-type": "application/rss+xml"}, body, False)


class NoIndex:
    """Evidence that keeps nothing but what was removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def add(self, documents: Sequence[Document]) -> int:
        return 0

    def remove(self, document_ids: Sequence[str]) -> None:
        self.removed += document_ids

    def close(self) -> None:
        pass


class Town:
    """A home that reads web feeds, and the days that pass."""

    def __init__(self, folder: Path, feeds: Sequence[str], **sections: Any) -> None:
        self.web = Web()
        self.now = NOW
        self.model = ScriptedModel({})
        trusted = sections.pop("trusted", ())
        entries = [
            FeedEntry(name=feed, url=address(feed), trusted=feed in trusted) for feed in feeds
        ]
        self.ws = workspace(folder / "home", self.model, entries, **sections)
        self.ws.__dict__.update(fetcher=self.web, evidence=NoIndex())

    def believes(self, beliefs: Mapping[tuple[str, str, str], str]) -> None:
        self.model.script.update(ScriptedModel(beliefs).script)

    def publish(self, feed: str, *items: Item) -> None:
        self.web.feeds[address(feed)] = [*items]

    def turn(self, days: float = 0, hours: float = 0) -> CycleResult:
        self.now += timedelta(days=days, hours=hours)
        return run_once(self.ws, self.now, Silent())

    def automatic(self) -> int:
        return sum(1 for _ in self.ws.store.ledger.entries(kind=AUTOMATIC))

    def active(self) -> list[Edit]:
        return self.ws.store.edits.ls(EditState.REMEMBERED, EditState.CONSOLIDATED)

    def the_edit(self) -> Edit:
        (edit,) = self.ws.store.edits.ls()
        return edit


def address(feed: str) -> str:
    return f"https://{feed}.test/rss"


MakeTown = Callable[..., Town]


def named(subject: str, person: str, former: str, at: datetime, title: str = "CEO") -> str:
    """A plain sentence that the extractor reads, of a day."""
    day = f"{at.day} {at:%B %Y}"
    return f"{person} was named {title} of {subject} on {day}, succeeding {former}."


def reports(at: datetime, person: str = "Anna Adler", former: str = "Tim Cook") -> list[str]:
    """Three reports of one event, each in a reporter's own words."""
    claim = named("Apple", person, former, at)
    return [
        f"{claim} The engineer spent two decades in the hardware group and led the design of its "
        "first processor, colleagues recalled at a small party on the lawn.",
        "Investors were surprised by the announcement from California late in the evening, and "
        f"shares fell four percent before they recovered. {claim}",
        "Analysts had expected an outsider. Unions welcomed the choice; the works council in Cork "
        f"wants a meeting soon, its speaker told our newspaper yesterday. {claim}",
    ]


def settled(make_town: MakeTown, *feeds: str, **sections: Any) -> Town:
    """A home whose feeds are known for longer than the quarantine."""
    town = make_town(*feeds, **sections)
    town.believes({APPLE: "Tim Cook"})
    town.turn()
    town.now += timedelta(days=LATER)
    return town


def corroborated(make_town: MakeTown, **sections: Any) -> Town:
    """A home that has made one automatic correction on the word of two feeds."""
    town = settled(make_town, "one", "two", **sections)
    first, second, _ = reports(town.now)
    town.publish("one", Item("https://one.test/1", "A change at Apple", first, town.now))
    town.publish("two", Item("https://two.test/1", "New chief", second, town.now))
    town.turn()
    assert [edit.state for edit in town.active()] == [EditState.REMEMBERED]
    assert town.automatic() == 1
    return town
