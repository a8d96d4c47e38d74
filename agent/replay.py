"""What a feed showed, and when: stored feeds shown again day by day.

A feed's file shows each item from the moment it was published; a folder of stored polls shows
one file a day. Nothing here reads a clock or a file: ``agent.rehearsal`` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise
from typing import Protocol
from urllib.parse import quote
from zoneinfo import ZoneInfo

from agent.config import ScheduleConfig
from agent.daemon import triggers
from agent.documents import decode
from agent.feeds import FeedError, item_dates
from agent.fetch import Fetched, FetchError

DAY = timedelta(days=1)
_MIME = "application/rss+xml; charset=utf-8"
# What is quoted in a CDATA section or a comment is no tag.
_TAG = re.compile(r"<!\[CDATA\[.*?\]\]>|<!--.*?-->|<(/?)(?:\w+:)?(item|entry)(?=[\s>])", re.S)


class ReplayError(Exception):
    """A feed that cannot be shown again; the message names it and the remedy."""


class Recording(Protocol):
    """One feed as it was in the course of time."""

    @property
    def name(self) -> str: ...

    def first_day(self, days: int, zone: ZoneInfo) -> date:
        """Return the day on which a replay of so many days begins when nobody says."""
        ...

    def changes(self, mornings: Sequence[datetime]) -> list[datetime]:
        """Return the moments at which it came to show something new, the first included.

        ``mornings`` are the beginnings of the replayed days.
        """
        ...

    def shown(self, at: datetime, mornings: Sequence[datetime]) -> bytes:
        """Return what a poll at a moment reads."""
        ...


@dataclass(frozen=True)
class DatedItems:
    """A feed's file, of which each item is seen from its publication on.

    ``spans`` are the items' places in the text, ``dates`` their publication, in the same order.
    """

    name: str
    text: str
    spans: tuple[tuple[int, int], ...]
    dates: tuple[datetime, ...]

    def first_day(self, days: int, zone: ZoneInfo) -> date:
        """The days before and with the newest item's; not before the oldest item's."""
        oldest, newest = (chosen(self.dates).astimezone(zone).date() for chosen in (min, max))
        return max(oldest, newest - (days - 1) * DAY)

    def changes(self, mornings: Sequence[datetime]) -> list[datetime]:
        return sorted({mornings[0], *(at for at in self.dates if at > mornings[0])})

    def shown(self, at: datetime, mornings: Sequence[datetime]) -> bytes:
        kept, end = [], 0
        for (start, stop), published in zip(self.spans, self.dates, strict=True):
            if published > at:
                kept.append(self.text[end:start])
                end = stop
        return "".join([*kept, self.text[end:]]).encode("utf-8", "replace")


@dataclass(frozen=True)
class StoredPolls:
    """Whole polls, one a day; after the last one the feed stays as it is.

    ``newest`` is the date of the newest item in the first poll, None where none has a date.
    """

    name: str
    polls: tuple[bytes, ...]
    newest: datetime | None

    def first_day(self, days: int, zone: ZoneInfo) -> date:
        if self.newest is None:
            raise ReplayError(
                f"no item in the first poll of {self.name} has a date; say with --start which "
                "day it is of"
            )
        return self.newest.astimezone(zone).date()

    def changes(self, mornings: Sequence[datetime]) -> list[datetime]:
        return list(mornings[: len(self.polls)])

    def shown(self, at: datetime, mornings: Sequence[datetime]) -> bytes:
        day = sum(morning <= at for morning in mornings)
        return self.polls[max(0, min(day, len(self.polls)) - 1)]


def dated_items(name: str, body: bytes, place: str) -> DatedItems:
    """Read a feed's file. Raises ReplayError, also where an item has no date."""
    dates = _dates(body, place)
    text = decode(body, "")
    spans = item_spans(text)
    if len(spans) != len(dates):
        raise ReplayError(f"the items of {place} cannot be told apart; check that it is valid XML")
    known = tuple(at for at in dates if at is not None)
    if not known:
        raise ReplayError(
            f"{place} has no dated items; give a feed whose items have dates, or a folder of "
            "stored polls"
        )
    if undated := len(dates) - len(known):
        raise ReplayError(
            f"{undated} of {len(dates)} items of {place} have no date, and so no day on which to "
            "be seen first; remove them, or give a folder of stored polls"
        )
    return DatedItems(name, text, spans, known)


def stored_polls(name: str, bodies: Sequence[bytes], place: str) -> StoredPolls:
    """Take polls in the order of their days. Raises ReplayError: the first is no feed."""
    known = [at for at in _dates(bodies[0], place) if at is not None]
    return StoredPolls(name, tuple(bodies), max(known, default=None))


def item_spans(text: str) -> tuple[tuple[int, int], ...]:
    """Return where each outermost item or entry of a feed's text begins and ends."""
    spans, depth, start = [], 0, 0
    for tag in _TAG.finditer(text):
        if tag[2] is None:
            continue
        if not tag[1]:
            start = start if depth else tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                spans.append((start, text.find(">", tag.end()) + 1))
    return tuple(spans)


@dataclass(frozen=True)
class Day:
    """A day of the replay: when the daemon polls, and when its night is held, if one is due."""

    date: date
    polls: tuple[datetime, ...]
    night: datetime | None


def mornings(start: date, days: int, zone: ZoneInfo) -> list[datetime]:
    """Return the beginnings of some days and of the day after them."""
    return [datetime.combine(start + n * DAY, time(), zone) for n in range(days + 1)]


def plan(
    changes: Sequence[datetime], begun: Sequence[datetime], schedule: ScheduleConfig
) -> list[Day]:
    """Return what the daemon does on each day. Pure. Raises ConfigError for a bad schedule.

    ``begun`` are the mornings of the days, and of the day after the last. Of the schedule's
    polls only those are held that are the first after a change, for the others would read what
    the one before them read; the daemon's first poll is at once. A night that is due between a
    noon and the next is held in the last second of the day, and so sees nothing of the
    next.
    """
    due = triggers(schedule)
    times = {begun[0]}
    for change in changes:
        if change > begun[0]:
            times.add(due["poll"].get_next_fire_time(None, change))
    found = []
    for morning, after in pairwise(begun):
        noon, next_noon = (at.replace(hour=12) for at in (morning, after))
        night = due["nightly"].get_next_fire_time(None, noon)
        found.append(
            Day(
                morning.date(),
                tuple(sorted(at for at in times if morning <= at < after)),
                after - timedelta(seconds=1) if night and night < next_noon else None,
            )
        )
    return found


class Replay:
    """A fetcher that knows recordings only; each is at an address of its own."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        mornings: Sequence[datetime],
        now: Callable[[], datetime],
    ) -> None:
        self._recordings: Mapping[str, Recording] = {
            # Hosts of their own, as what one publisher says twice has one source only.
            f"https://feed-{number}.invalid/{quote(recording.name)}": recording
            for number, recording in enumerate(recordings, 1)
        }
        self._mornings = mornings
        self._now = now

    @property
    def addresses(self) -> dict[str, str]:
        """Each recording's name and its address."""
        return {recording.name: url for url, recording in self._recordings.items()}

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        """Return what the feed showed at this moment. Raises FetchError for another address."""
        if url not in self._recordings:
            raise FetchError(url, "is not replayed")
        body = self._recordings[url].shown(self._now(), self._mornings)
        return Fetched(url, url, 200, {"content-type": _MIME}, body, False)


def _dates(body: bytes, place: str) -> list[datetime | None]:
    try:
        return item_dates(body, place)
    except FeedError as error:
        raise ReplayError(str(error)) from error
