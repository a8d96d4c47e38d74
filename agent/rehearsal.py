"""A rehearsal: what many days with a feed would have done, in minutes and beside your own state.

The daemon's own steps are run on a clock that is set, with a fetcher that shows stored feeds
as they were at that clock's moment; what is told of a day is what the steps recorded.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from agent.config import Config, FeedEntry
from agent.daemon import Step, triggers
from agent.feeds import Getter
from agent.progress import Progress, Silent
from agent.replay import (
    Day,
    Recording,
    Replay,
    ReplayError,
    dated_items,
    mornings,
    plan,
    stored_polls,
)
from agent.workspace import Workspace
from editors.metrics import Interval
from store.records import EditState, VerdictKind, from_json

MARK = "# Written by `corrigenda rehearse`; look around with `corrigenda --home THIS_FOLDER …`."
_SUFFIXES = frozenset({".xml", ".rss", ".atom"})
_ALL_ITEMS = 1_000_000
_CACHED = ("models", "statistics", "trained")  # what is slow to make and the same for every home


@dataclass(frozen=True)
class Row:
    """What a day and its night came to.

    ``judged`` counts new verdicts, ``verdicts`` the same by kind; ``held`` is what was not acted
    upon at the day's last poll.
    ``proposed``, ``queued``, ``remembered`` and ``consolidated`` count how often an edit came to
    that state. ``night`` is "promoted", "held", "nothing to do", or "" where none was due.
    ``retention`` is the last re-test's share of right answers, None before the first.
    ``troubles`` says why a feed could not be read.
    """

    day: str
    documents: int
    claims: int
    judged: int
    verdicts: Mapping[str, int]
    held: int
    proposed: int
    queued: int
    remembered: int
    consolidated: int
    night: str
    reasons: tuple[str, ...]
    version: str | None
    retention: Interval | None
    seconds: float
    troubles: tuple[str, ...] = ()


class SetClock:
    """A clock that shows the moment it was set to."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment


@dataclass(frozen=True)
class Script:
    """All that a rehearsal will do: feeds that are shown again, and the days."""

    recordings: tuple[Recording, ...]
    mornings: tuple[datetime, ...]
    days: tuple[Day, ...]


class Stage(Workspace):
    """A workspace of its own, whose clock is set and whose feeds are recordings."""

    def __init__(self, home: Path, config: Config, script: Script, trusted: bool = False) -> None:
        self.script = script
        self.clock = SetClock(script.mornings[0])
        self._replay = Replay(script.recordings, script.mornings, self.clock)
        feeds = [
            FeedEntry(name=name, url=url, trusted=trusted, max_items=_ALL_ITEMS)
            for name, url in self._replay.addresses.items()
        ]
        super().__init__(home, config.model_copy(update={"feeds": tuple(feeds)}))

    def now(self) -> datetime:
        return self.clock()

    @cached_property
    def fetcher(self) -> Getter:
        return self._replay


def read_recordings(paths: Sequence[Path], days: int) -> list[Recording]:
    """Read feeds: a file with dated items, or a folder with one stored poll a day.

    Raises ReplayError for what is no feed, or has no dates.
    """
    found: list[Recording] = []
    for path in paths:
        base = name = path.absolute().stem or "feed"
        while any(name == other.name for other in found):
            name = f"{base}-{len(found) + 1}"
        found.append(_read(path, name, days))
    return found


def _read(path: Path, name: str, days: int) -> Recording:
    try:
        if not path.is_dir():
            return dated_items(name, path.read_bytes(), str(path))
        polls = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not polls:
            raise ReplayError(f"{path} holds no stored polls: no .xml, .rss or .atom file")
        return stored_polls(name, [p.read_bytes() for p in polls[:days]], str(polls[0]))
    except OSError as error:
        raise ReplayError(
            f"no feed can be read at {error.filename or path} ({error.strerror}); give a feed's "
            "file, or a folder of stored polls"
        ) from error


def write_script(
    recordings: Sequence[Recording], days: int, start: date | None, config: Config
) -> Script:
    """Decide what happens when. Pure.

    Without a ``start`` the earliest day on which any of the feeds would begin is taken.

    Raises:
        ReplayError: a feed does not say when it begins.
        ConfigError: the configured schedule is no good.
    """
    triggers(config.schedule)  # its time zone is about to be used
    zone = ZoneInfo(config.schedule.timezone)
    start = start or min(recording.first_day(days, zone) for recording in recordings)
    begun = mornings(start, days, zone)
    changes = [at for recording in recordings for at in recording.changes(begun)]
    return Script(tuple(recordings), tuple(begun), tuple(plan(changes, begun, config.schedule)))


def rehearse(
    stage: Stage, days: Sequence[Day], steps: Mapping[str, Step], progress: Progress
) -> Iterator[Row]:
    """Run the days, yielding each one's row as it ends. What a step raises ends it all.

    ``steps`` are the daemon's (``agent.daemon.real_steps``).
    """
    with progress.stage("rehearsing", len(days)) as advance:
        for day in days:
            runs, entries, started = _runs(stage), _entries(stage), time.monotonic()
            for at in day.polls:
                _do(stage, steps["poll"], at)
            if day.night:
                _do(stage, steps["nightly"], day.night)
            yield _row(stage, day, runs, entries, time.monotonic() - started)
            advance()


def _do(stage: Stage, step: Step, at: datetime) -> None:
    stage.clock.moment = at.astimezone(UTC)
    step(stage, stage.now(), Silent())


def _runs(stage: Stage) -> int:
    return max((run.id for run in stage.store.runs.ls(limit=1)), default=0)


def _entries(stage: Stage) -> int:
    head = stage.store.ledger.head()
    return head.seq if head else 0


def _row(stage: Stage, day: Day, runs: int, entries: int, seconds: float) -> Row:
    """Gather what was recorded after some run and some ledger entry."""
    store = stage.store
    made = [run for run in store.runs.ls() if run.id > runs]  # the last first
    cycles = [run.body for run in made if run.kind == "cycle"]
    night: Mapping[str, Any] = next((run.body for run in made if run.kind == "nightly"), {})
    retention = store.runs.latest("retention")
    came = Counter(_states(stage, entries))
    return Row(
        day=day.date.isoformat(),
        documents=sum(cycle["documents"] for cycle in cycles),
        claims=sum(cycle["claims"] for cycle in cycles),
        judged=sum(cycle["slots"] for cycle in cycles),
        verdicts=_verdicts(stage, {run.at for run in made if run.kind == "cycle"}),
        held=len(cycles[0]["held"]) if cycles else 0,
        proposed=came[EditState.PROPOSED],
        queued=came[EditState.QUEUED],
        remembered=came[EditState.REMEMBERED],
        consolidated=came[EditState.CONSOLIDATED],
        night=night.get("status", ""),
        reasons=tuple(night.get("reasons", ())),
        version=night.get("version"),
        retention=from_json(Interval, retention.body["pass_rate"]) if retention else None,
        seconds=round(seconds, 1),
        troubles=tuple(
            dict.fromkeys(
                feed["note"]
                for cycle in reversed(cycles)
                for feed in cycle["feeds"]
                if feed["status"] == "failed"
            )
        ),
    )


def _verdicts(stage: Stage, moments: Collection[datetime]) -> dict[str, int]:
    """Count the verdicts of some cycles by kind, none left out."""
    made = stage.store.verdicts.ls(latest_only=False)
    found = Counter(verdict.kind for verdict in made if verdict.decided in moments)
    return {kind.value: found[kind] for kind in VerdictKind}


def _states(stage: Stage, entries: int) -> Iterator[EditState]:
    """Yield the states that edits came to after a ledger entry."""
    for entry in stage.store.ledger.entries(entries + 1):
        if entry.kind == "edit.added":
            yield EditState(entry.body["edit"]["state"])
        elif entry.kind == "edit.moved" and entry.body["from"] != entry.body["to"]:
            yield EditState(entry.body["to"])


# The home: a folder of its own


@dataclass(frozen=True)
class Place:
    """Where a rehearsal works, and where its report lies in the end."""

    home: Path
    report: Path


@contextmanager
def place(keep: Path | None, own: Path) -> Iterator[Place]:
    """Make a home for a rehearsal: ``keep``, which stays, or one of which only the report does.

    ``own`` is the user's home. What is slow to make and the same for every home is linked
    from its cache; nothing is ever written there.

    Raises ReplayError where ``keep`` is in use already.
    """
    if keep is not None:
        if keep.resolve() == own.resolve() or (keep.exists() and any(keep.iterdir())):
            raise ReplayError(f"{keep} is not empty; give --keep a new folder")
        _link(own / "cache", keep / "cache")
        yield Place(keep, keep / "reports" / "report.html")
        return
    folder = Path(tempfile.mkdtemp(prefix="corrigenda-rehearsal-"))
    home = folder / "home"
    try:
        _link(own / "cache", home / "cache")
        yield Place(home, folder / "report.html")
    finally:
        for report in (home / "reports").glob("report.*"):
            report.replace(folder / report.name)
        shutil.rmtree(home, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _link(cache: Path, to: Path) -> None:
    """Link single entries, not their folders: what is made anew is made in our own."""
    for kind in _CACHED:
        (to / kind).mkdir(parents=True, exist_ok=True)
        for entry in (cache / kind).glob("[!.]*"):
            (to / kind / entry.name).symlink_to(entry)


def own_config(config: Config, home: Path) -> Config:
    """Return a user's configuration as a rehearsal takes it: without what leads to the user's
    state, or to the pages of today. ``home`` is the user's, from which its paths go."""
    model, detect, texts = config.model, config.detect, config.consolidation
    return config.model_copy(
        update={
            "feeds": (),
            "database": "",
            "trust": config.trust.model_copy(update={"recheck_days": 0}),
            "model": model.model_copy(update={"path": _absolute(Path(), model.path)}),
            "detect": detect.model_copy(update={"relations": _absolute(home, detect.relations)}),
            "consolidation": texts.model_copy(
                update={"statistics": _absolute(Path(), texts.statistics)}
            ),
        }
    )


def _absolute(start: Path, path: str) -> str:
    return str((start / Path(path).expanduser()).absolute()) if path else ""


def config_text(config: Config) -> str:
    """Return a configuration as TOML, so that a kept home can be looked at; without secrets."""
    sections = config.model_dump(
        mode="json", exclude={"database": True, "extract": {"llm_api_key"}}
    )
    feeds = sections.pop("feeds")
    blocks = [("[[feeds]]", feed) for feed in feeds]
    tables = [*((f"[{name}]", values) for name, values in sections.items()), *blocks]
    # A JSON value is a TOML one as well, but that DEL must be escaped too.
    texts = [
        "\n".join(
            [
                header,
                *(
                    f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
                    for key, value in values.items()
                ),
            ]
        )
        for header, values in tables
    ]
    return "\n\n".join([MARK, *texts]) + "\n"
