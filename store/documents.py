"""The documents that were read."""

from __future__ import annotations

import json
from collections.abc import Collection

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, known_ids
from store.records import Document, dumps, from_json

_documents = sa.table("documents", *map(sa.column, ("seq", "id", "feed", "url", "body")))
_claims = sa.table("claims", *map(sa.column, ("slot", "document_id")))


class Documents:
    """Fetched items, each kept once; a changed page is a new document at the same address."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, document: Document, conn: Connection | None = None) -> bool:
        """Keep a document; return False when it is known already."""
        with self._database.begin(conn) as own:
            if known_ids(own, _documents, [document.id]):
                return False
            own.execute(
                _documents.insert().values(
                    id=document.id, feed=document.feed, url=document.url, body=dumps(document)
                )
            )
        return True

    def get(self, id: str) -> Document | None:
        found = self._select(_documents.c.id == id)
        return found[0] if found else None

    def latest(self, feed: str, url: str) -> Document | None:
        """Return the document that was last added for an address."""
        found = self._select(_documents.c.feed == feed, _documents.c.url == url, limit=1)
        return found[0] if found else None

    def versions(self, feed: str, url: str) -> list[Document]:
        """Return all documents that a feed gave for an address, in the order they were added."""
        return self._select(_documents.c.feed == feed, _documents.c.url == url)[::-1]

    def slots_of_old_versions(self, also: Collection[str] = ()) -> set[str]:
        """Return the keys of the slots that documents claim of whose address there is a newer
        document, or which are among the ids ``also``."""
        newest = sa.func.max(_documents.c.seq).over(
            partition_by=(_documents.c.feed, _documents.c.url)
        )
        rows = sa.select(_documents.c.id, _documents.c.seq, newest.label("newest")).subquery()
        old = sa.select(rows.c.id).where(rows.c.seq < rows.c.newest)
        slots = sa.select(_claims.c.slot).distinct()
        with self._database.read() as conn:
            found = set(conn.scalars(slots.where(_claims.c.document_id.in_(old))))
            for id in also:
                found.update(conn.scalars(slots.where(_claims.c.document_id == id)))
        return found

    def ls(self, limit: int | None = None, feed: str | None = None) -> list[Document]:
        """Return documents, the last added first."""
        return self._select(*([] if feed is None else [_documents.c.feed == feed]), limit=limit)

    def count(self) -> int:
        with self._database.read() as conn:
            return conn.scalar(sa.select(sa.func.count()).select_from(_documents)) or 0

    def _select(
        self, *conditions: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[Document]:
        query = sa.select(_documents.c.body).where(*conditions)
        with self._database.read() as conn:
            bodies = conn.scalars(query.order_by(_documents.c.seq.desc()).limit(limit))
            return [from_json(Document, json.loads(body)) for body in bodies]
