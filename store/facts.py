"""The slots' value histories, bitemporal and append-only.

The rules by which claims become history are pure and live in :mod:`store.timeline`; its
public names are repeated here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from store.claims import Claims
from store.database import Database, chunks, stamp
from store.ledger import Ledger
from store.records import Claim, Day, Fact, Slot, dumps, from_json
from store.timeline import Changes, Same, assimilate, current, day_key, past, timeline

__all__ = [
    "Changes",
    "Facts",
    "Rule",
    "Same",
    "assimilate",
    "current",
    "day_key",
    "past",
    "timeline",
]

_facts = sa.table(
    "facts", *map(sa.column, ("seq", "id", "slot", "recorded_from", "recorded_until", "body"))
)
_OPEN = _facts.c.recorded_until.is_(None)


class Rule(NamedTuple):
    """How claims of a relation become history: what equals what, and whether one value holds at
    a time."""

    same: Same
    single: bool


class Facts:
    """Rows are inserted and closed, never altered otherwise and never deleted."""

    def __init__(self, database: Database, claims: Claims, ledger: Ledger) -> None:
        self._database = database
        self._claims = claims
        self._ledger = ledger

    def assimilate(
        self,
        claims: Iterable[Claim],
        same: Same,
        now: datetime,
        single: bool = True,
        conn: Connection | None = None,
    ) -> list[Fact]:
        """Take claims in: keep them, bring their slots' histories up to date, note it in the
        ledger, all in one transaction. Return the rows inserted.

        ``single`` holds for all the relations among ``claims``. Known claims change nothing.
        """
        return self.take_in(claims, lambda _: Rule(same, single), now, conn)

    def take_in(
        self,
        claims: Iterable[Claim],
        rule: Callable[[str], Rule],
        now: datetime,
        conn: Connection | None = None,
    ) -> list[Fact]:
        """Do as ``assimilate`` with claims of any relations; ``rule`` maps a relation's id.

        A page can make hundreds of claims, so the statements do not grow with their number.
        """
        given = list(claims)
        slots = {claim.slot.key: claim.slot for claim in given}
        with self._database.begin(conn) as own:
            self._claims.add(given, own)
            known = self._claims.of_slots(list(slots), own)
            rows: dict[str, list[Fact]] = {key: [] for key in slots}
            for part in chunks(list(slots)):
                for fact in self._rows(_OPEN, _facts.c.slot.in_(part), conn=own):
                    rows[fact.slot.key].append(fact)
            changes = {}
            for key, slot in slots.items():
                same, single = rule(slot.relation)
                change = assimilate(rows[key], known[key], same, now, single)
                if change.close or change.insert:
                    changes[key] = change
            self._write(changes, rows, now, own)
            entries = [
                ("facts.changed", {"slot": key, "closed": c.close, "inserted": c.insert})
                for key, c in changes.items()
            ]
            self._ledger.append_all(entries, now, own)
        return [fact for change in changes.values() for fact in change.insert]

    def history(self, slot: Slot, known_on: datetime | None = None) -> list[Fact]:
        """Return a slot's history as we know it, or as we knew it at a moment; oldest first."""
        return _chronological(self._rows(_known(known_on), _facts.c.slot == slot.key))

    def histories(self, known_on: datetime | None = None) -> dict[Slot, list[Fact]]:
        """Return every slot's history, by key: as we know it, or as we knew it at a moment."""
        by_slot: dict[str, list[Fact]] = defaultdict(list)
        for fact in self._rows(_known(known_on)):
            by_slot[fact.slot.key].append(fact)
        # The name that was recorded last is the slot's, as in ``slots``.
        return {by_slot[key][-1].slot: _chronological(by_slot[key]) for key in sorted(by_slot)}

    def slots(self) -> list[Slot]:
        """Return every slot with a history, by key."""
        found = {fact.slot.key: fact.slot for fact in self._rows(_OPEN)}
        return [found[key] for key in sorted(found)]

    def ls(self, limit: int | None = None) -> list[Fact]:
        """Return the open rows, by slot and then by time."""
        return _chronological(self._rows(_OPEN))[:limit]

    def as_of(
        self, slot: Slot | None, valid_on: Day, known_on: datetime | None = None
    ) -> list[Fact]:
        """Return what held on a day, of one slot or of all, by what we knew at a moment."""
        conditions = [_known(known_on)]
        if slot is not None:
            conditions.append(_facts.c.slot == slot.key)
        by_slot: dict[str, list[Fact]] = defaultdict(list)
        for fact in _chronological(self._rows(*conditions)):
            by_slot[fact.slot.key].append(fact)
        return [fact for rows in by_slot.values() for fact in current(rows, valid_on)]

    def count(self) -> int:
        """Return the number of open rows."""
        with self._database.read() as conn:
            return conn.scalar(sa.select(sa.func.count()).select_from(_facts).where(_OPEN)) or 0

    def digest(self) -> str:
        """Return a SHA-256 over what the open rows say, whoever says it and since when we know."""
        lines = sorted(
            dumps(
                [
                    fact.slot.key,
                    fact.object,
                    fact.valid_from,
                    fact.valid_until,
                    fact.former,
                    fact.acting,
                    sorted(fact.titles),
                ]
            )
            for fact in self._rows(_OPEN)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _write(
        self,
        changes: Mapping[str, Changes],
        rows: Mapping[str, Sequence[Fact]],
        now: datetime,
        conn: Connection,
    ) -> None:
        """Close and insert rows. A row is closed no earlier than any of its slot was recorded."""
        closing: dict[str, list[str]] = defaultdict(list)
        for key, change in changes.items():
            moment = max([now, *(fact.recorded_from for fact in rows[key])])
            if change.close:
                closing[stamp(moment)] += change.close
        for at, ids in closing.items():
            for part in chunks(ids):
                chosen = _facts.update().where(_facts.c.id.in_(part))
                conn.execute(chosen.values(recorded_until=at))
        new = [
            {
                "id": fact.id,
                "slot": key,
                "recorded_from": stamp(fact.recorded_from),
                "recorded_until": None,
                "body": dumps(fact),
            }
            for key, change in changes.items()
            for fact in change.insert
        ]
        if new:
            conn.execute(_facts.insert(), new)

    def _rows(
        self, *conditions: sa.ColumnElement[bool], conn: Connection | None = None
    ) -> list[Fact]:
        query = sa.select(_facts).where(*conditions).order_by(_facts.c.seq)
        with self._database.read(conn) as own:
            return [_fact(row) for row in own.execute(query)]


def _known(on: datetime | None) -> sa.ColumnElement[bool]:
    if on is None:
        return _OPEN
    moment = stamp(on)
    closed_later = _OPEN | (_facts.c.recorded_until > moment)
    return (_facts.c.recorded_from <= moment) & closed_later


def _fact(row: Row[Any]) -> Fact:
    fact = from_json(Fact, json.loads(row.body))
    if row.recorded_until is None:
        return fact
    return dataclasses.replace(fact, recorded_until=datetime.fromisoformat(row.recorded_until))


def _chronological(facts: Iterable[Fact]) -> list[Fact]:
    def order(fact: Fact) -> tuple[Any, ...]:
        start = day_key(fact.valid_from) if fact.valid_from else (-1, 0, 0)
        end = day_key(fact.valid_until) if fact.valid_until else (10_000, 0, 0)
        return fact.slot.key, start, end, fact.object

    return sorted(facts, key=order)
