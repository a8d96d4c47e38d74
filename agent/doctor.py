"""Is everything there that the program needs? One line a check, each with its remedy."""

from __future__ import annotations

import enum
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import FILE_NAME, ConfigError, FeedEntry
from agent.workspace import Workspace

if TYPE_CHECKING:
    from agent.feeds import Poll

OLDEST_PYTHON = (3, 11)
LITTLE_SPACE, NO_SPACE = 2 * 2**30, 200 * 2**20  # bytes free under which we warn, and fail


class Level(enum.StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """What one look found; ``remedy`` is empty where all is well."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


Look = Callable[[Workspace], Check]


def examine(home: Path, poll_feeds: bool = False) -> list[Check]:
    """Look at everything; only ``poll_feeds`` goes to the network.

    Nothing is made or changed. With a broken configuration, what depends on it is left out.
    """
    checks = [python(sys.version_info[:3]), packages(), storage(home)]
    try:
        ws = Workspace.open(home)
    except ConfigError as error:
        return [*checks, Check("configuration", Level.FAIL, str(error), "mend that key")]
    with ws:
        looks: dict[str, Look] = {
            "configuration": configuration,
            "relations": relations,
            "model": model,
            "embedding": embedding,
            "database": database,
        }
        checks += [_guarded(name, look, ws) for name, look in looks.items()]
        checks += feeds(ws, poll_feeds)
    return checks


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level among some checks."""
    return max((check.level for check in checks), key=list(Level).index, default=Level.OK)


def python(version: tuple[int, int, int]) -> Check:
    shown = ".".join(map(str, version))
    if version < OLDEST_PYTHON:
        return Check("python", Level.FAIL, shown, "install Python 3.11 or newer")
    return Check("python", Level.OK, shown)


def packages(
    requires: Callable[[str], list[str] | None] = metadata.requires,
    version: Callable[[str], str] = metadata.version,
) -> Check:
    """Look whether every package that this one depends on is installed."""
    try:
        required = requires("corrigenda") or []
    except metadata.PackageNotFoundError:
        return Check(
            "packages",
            Level.WARN,
            "corrigenda itself is not installed",
            "run `pip install .` in its folder",
        )
    missing = []
    needed = [line for line in required if "extra ==" not in line]
    for line in needed:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        try:
            version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        names = " ".join(missing)
        return Check("packages", Level.FAIL, f"missing: {names}", f"pip install {names}")
    return Check("packages", Level.OK, f"all {len(needed)} are installed")


def storage(home: Path) -> Check:
    """Look whether the home can be written and has space left."""
    there = home
    while not there.exists() and there != there.parent:
        there = there.parent
    remedy = "correct its rights, or choose another with --home"
    if not there.is_dir():
        return Check("home", Level.FAIL, f"{there} is no folder", remedy)
    try:
        if there == home:
            with tempfile.TemporaryFile(dir=home):
                pass
        elif not os.access(there, os.W_OK):
            return Check("home", Level.FAIL, f"{home} cannot be made in {there}", remedy)
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Check("home", Level.FAIL, f"{home}: {error.strerror}", remedy)
    detail = f"{home}{'' if there == home else ' (not made yet)'}, {free / 2**30:.1f} GiB free"
    if free < LITTLE_SPACE:
        level = Level.FAIL if free < NO_SPACE else Level.WARN
        return Check("home", level, detail, "free some space, or choose another with --home")
    return Check("home", Level.OK, detail)


def configuration(ws: Workspace) -> Check:
    """Look whether the schedules can be read, now that every key could."""
    from agent.daemon import triggers

    triggers(ws.config.schedule)
    path = ws.home / FILE_NAME
    if path.exists():
        return Check("configuration", Level.OK, str(path))
    return Check(
        "configuration", Level.OK, f"defaults ({path} is not there; `corrigenda init` writes it)"
    )


def relations(ws: Workspace) -> Check:
    own = ws.config.detect.relations
    detail = f"{len(ws.registry)} in the registry" + (f", with {own}" if own else "")
    return Check("relations", Level.OK, detail)


def model(ws: Workspace) -> Check:
    """Look whether the chat model is there and can be read from end to end."""
    from editors.model import hash_model

    path = ws.model_path()
    if not path.exists():
        return Check(
            "model",
            Level.FAIL,
            f"{path} does not exist",
            "set model.path to a GGUF file or a model folder",
        )
    return Check("model", Level.OK, f"{path}, sha256 {hash_model(path)[:12]}")


def embedding(ws: Workspace) -> Check:
    path = ws.config.embedding.path
    if path and not Path(path).expanduser().exists():
        return Check(
            "embedding",
            Level.WARN,
            f"{path} is no folder here, so it is taken for a hub id",
            "set embedding.path to a folder to work offline",
        )
    _ = ws.embeddings  # finds the bundled one, or says how to install it
    return Check("embedding", Level.OK, path or "bundled all-MiniLM-L6-v2")


def database(ws: Workspace) -> Check:
    """Look whether the database is whole and the ledger unbroken."""
    if not ws.config.database and not (ws.home / "corrigenda.db").exists():
        return Check("database", Level.OK, "not made yet")
    if damage := ws.store.database.check():
        remedy = "restore it from a backup, or move it away to start anew"
        return Check("database", Level.FAIL, f"damaged: {damage}", remedy)
    broken = ws.store.ledger.verify()
    if broken is not None:
        remedy = "restore the database from a backup: `corrigenda verify` says more"
        return Check("database", Level.FAIL, f"ledger entry {broken} was changed", remedy)
    head = ws.store.ledger.head()
    return Check("database", Level.OK, f"whole, {head.seq if head else 0} ledger entries in order")


def feeds(ws: Workspace, poll: bool) -> Iterator[Check]:
    """Look whether there are feeds and, with ``poll``, whether each can be read."""
    entries = ws.config.feeds
    if not entries:
        remedy = "add one with `corrigenda feeds add URL`"
        yield Check("feeds", Level.WARN, "none configured", remedy)
    elif not poll:
        yield Check("feeds", Level.OK, f"{len(entries)} configured; --feeds tries them")
    else:
        for entry in entries:
            yield _guarded(f"feed {entry.name}", partial(feed, entry), ws, Level.WARN)


def feed(entry: FeedEntry, ws: Workspace) -> Check:
    found = try_feed(entry, ws)
    return Check(f"feed {entry.name}", Level.OK, f"{len(found.documents)} documents")


def try_feed(entry: FeedEntry, ws: Workspace) -> Poll:
    """Poll a feed as if for the first time, keeping nothing. Raises FeedError."""
    from agent.feeds import FeedConfig, poll
    from agent.wikidata import properties
    from agent.wikidata_api import SCHEME
    from store.feeds import FeedState

    elsewhere = "://" in entry.url or entry.url.startswith(SCHEME)
    url = entry.url if elsewhere else str(ws.home / Path(entry.url).expanduser())
    config = FeedConfig(
        entry.name,
        url,
        trusted=entry.trusted,
        include=entry.include,
        max_items=entry.max_items,
        endpoint=ws.config.wikidata.endpoint,
        properties=properties(ws.registry),
    )
    return poll(config, ws.fetcher, FeedState(entry.name), ws.now)


def _guarded(name: str, look: Look, ws: Workspace, level: Level = Level.FAIL) -> Check:
    """Take what a look raises for its finding: the messages of the house carry the remedy."""
    try:
        return look(ws)
    except Exception as error:  # one broken part must not hide the others
        message = " ".join(str(error).split()) or type(error).__name__
        detail, _, remedy = message.partition("; ")
        return Check(name, level, detail, remedy)
