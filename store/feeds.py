"""What has to be remembered of each feed between polls."""

from __future__ import annotations

import dataclasses
import json
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database
from store.records import dumps, from_json

_feeds = sa.table("feeds", *map(sa.column, ("name", "body")))


@dataclasses.dataclass(frozen=True)
class FeedState:
    """``etag`` and ``last_modified`` as the server gave them; ``digest`` of the body last
    read; ``failures`` in a row and the last ``error``; no poll is due before ``not_before``;
    ``since`` the first poll that succeeded."""

    name: str
    etag: str = ""
    last_modified: str = ""
    digest: str = ""
    polled: datetime | None = None
    failures: int = 0
    error: str = ""
    not_before: datetime | None = None
    since: datetime | None = None


class Feeds:
    """One state a feed, replaced at each poll."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> FeedState | None:
        with self._database.read() as conn:
            body = conn.scalar(sa.select(_feeds.c.body).where(_feeds.c.name == name))
        return None if body is None else from_json(FeedState, json.loads(body))

    def put(self, state: FeedState, conn: Connection | None = None) -> None:
        with self._database.begin(conn) as own:
            own.execute(_feeds.delete().where(_feeds.c.name == state.name))
            own.execute(_feeds.insert().values(name=state.name, body=dumps(state)))

    def ls(self) -> list[FeedState]:
        """Return all states, by name."""
        with self._database.read() as conn:
            bodies = conn.scalars(sa.select(_feeds.c.body).order_by(_feeds.c.name))
            return [from_json(FeedState, json.loads(body)) for body in bodies]
