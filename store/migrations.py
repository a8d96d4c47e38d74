"""The schema's history: an ordered list of functions, each one step forward.

A released migration is never edited; a change of the schema is a new function at the
end of ``MIGRATIONS``. Table definitions are local to each function, so that later
changes cannot rewrite what an earlier step made. Moments are UTC ISO texts, which sort
by time; ``body`` columns hold a record as canonical JSON, beside the columns that are
searched.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import Connection


def _first(conn: Connection) -> None:
    schema = sa.MetaData()

    def table(name: str, *columns: sa.Column[str] | sa.Column[int] | sa.Index) -> None:
        sa.Table(name, schema, *columns)

    def seq() -> sa.Column[int]:
        return sa.Column("seq", sa.Integer, primary_key=True)

    def text(name: str, nullable: bool = False, unique: bool = False) -> sa.Column[str]:
        return sa.Column(name, sa.Text, nullable=nullable, unique=unique)

    table(
        "documents",
        seq(),
        text("id", unique=True),
        text("feed"),
        text("url"),
        text("body"),
        sa.Index("documents_by_address", "feed", "url"),
    )
    table(
        "claims",
        seq(),
        text("id", unique=True),
        text("slot"),
        text("document_id"),
        text("body"),
        sa.Index("claims_by_slot", "slot"),
        sa.Index("claims_by_document", "document_id"),
    )
    table(
        "facts",
        seq(),
        text("id", unique=True),
        text("slot"),
        text("recorded_from"),
        text("recorded_until", nullable=True),
        text("body"),
        sa.Index("facts_by_slot", "slot", "recorded_until"),
    )
    table(
        "verdicts",
        seq(),
        text("id", unique=True),
        text("slot"),
        text("kind"),
        text("body"),
        sa.Index("verdicts_by_slot", "slot"),
    )
    table(
        "edits",
        seq(),
        text("id", unique=True),
        text("slot"),
        text("state"),
        text("worker", nullable=True),
        text("leased_until", nullable=True),
        text("body"),
        sa.Index("edits_by_state", "state"),
        sa.Index("edits_by_slot", "slot"),
    )
    table(
        "ledger",
        seq(),
        text("at"),
        text("kind"),
        text("body"),
        text("previous"),
        text("digest"),
    )
    table(
        "ledger_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entries", sa.Integer, nullable=False),
        text("digest"),
    )
    table("versions", seq(), text("id", unique=True), text("body"))
    table("aliases", text("name", unique=True), text("version_id"), text("set_at"))
    table("feeds", text("name", unique=True), text("body"))
    table("runs", seq(), text("kind"), text("at"), text("body"), sa.Index("runs_by_kind", "kind"))
    schema.create_all(conn)
    head = schema.tables["ledger_head"]
    conn.execute(head.insert().values(id=1, entries=0, digest="0" * 64))


def _second(conn: Connection) -> None:
    """Replies are kept; the ledger is read by kind in every cycle."""
    sa.Table(
        "replies",
        sa.MetaData(),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("asked_at", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Index("replies_by_model", "model"),
    ).create(conn)
    conn.execute(sa.text("CREATE INDEX ledger_by_kind ON ledger (kind)"))


MIGRATIONS: list[Callable[[Connection], None]] = [_first, _second]
