"""The edit queue: every correction, its state, and who works on it.

A correction is worked on under a lease that the worker renews. When a worker dies, the
lease runs out and the edit can be leased again; that counts as a failed attempt, so that
an edit which kills its worker is parked in the end instead of killing workers for ever.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from store.database import Database, known_ids, resolve, stamp
from store.errors import StoreError
from store.failpoints import reach
from store.ledger import Ledger
from store.records import Edit, EditState, Slot, dumps, from_json

S = EditState

TRANSITIONS: Mapping[EditState, frozenset[EditState]] = MappingProxyType(
    {
        S.PROPOSED: frozenset({S.QUEUED, S.REJECTED, S.SUPERSEDED}),
        S.QUEUED: frozenset({S.REMEMBERED, S.REJECTED, S.PARKED, S.SUPERSEDED}),
        # Weights that no longer hold an edit hand it back to the memory tier.
        S.REMEMBERED: frozenset({S.CONSOLIDATED, S.REVERTED, S.SUPERSEDED}),
        S.CONSOLIDATED: frozenset({S.REMEMBERED, S.REVERTED, S.SUPERSEDED}),
        # A person may think again, and a value may come back.
        S.PARKED: frozenset({S.QUEUED, S.REJECTED, S.SUPERSEDED}),
        S.REJECTED: frozenset({S.QUEUED}),
        S.SUPERSEDED: frozenset({S.PROPOSED, S.QUEUED}),
        S.REVERTED: frozenset({S.PROPOSED, S.QUEUED}),
    }
)
"""Which states an edit may be moved to from each state."""

CLOSED_STATES = frozenset({S.REJECTED, S.PARKED, S.SUPERSEDED, S.REVERTED})
"""States in which nothing more happens to an edit by itself."""

_edits = sa.table(
    "edits", *map(sa.column, ("seq", "id", "slot", "state", "worker", "leased_until", "body"))
)


class Edits:
    """Edits by id; an id may be shortened to a unique prefix everywhere."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database = database
        self._ledger = ledger

    def add(self, edit: Edit, conn: Connection | None = None) -> bool:
        """Keep an edit; return False when its id is known, whatever state that one is in."""
        with self._database.begin(conn) as own:
            if known_ids(own, _edits, [edit.id]):
                return False
            own.execute(
                _edits.insert().values(
                    id=edit.id, slot=edit.slot.key, state=edit.state.value, body=dumps(edit)
                )
            )
            self._ledger.append("edit.added", {"edit": edit}, edit.created, own)
        return True

    def get(self, id: str, conn: Connection | None = None) -> Edit | None:
        with self._database.read(conn) as own:
            body = own.scalar(sa.select(_edits.c.body).where(_edits.c.id == id))
        return None if body is None else from_json(Edit, json.loads(body))

    def find(self, prefix: str, conn: Connection | None = None) -> Edit:
        """Return the edit whose id begins so. Raises StoreError for none or several."""
        with self._database.read(conn) as own:
            return _edit(self._row(prefix, own))

    def ls(self, *states: EditState, conn: Connection | None = None) -> list[Edit]:
        """Return the edits in some states (in any, when none is given), oldest first."""
        return [from_json(Edit, json.loads(body)) for body in self.bodies(*states, conn=conn)]

    def bodies(self, *states: EditState, conn: Connection | None = None) -> list[str]:
        """Return what ``ls`` does as the JSON that is stored, many times as fast."""
        query = sa.select(_edits.c.body).order_by(_edits.c.seq)
        if states:
            query = query.where(_edits.c.state.in_([state.value for state in states]))
        with self._database.read(conn) as own:
            return list(own.scalars(query))

    def counts(self) -> dict[str, int]:
        """Return how many edits there are in each state that has any."""
        query = sa.select(_edits.c.state, sa.func.count().label("number"))
        query = query.group_by(_edits.c.state).order_by(_edits.c.state)
        with self._database.read() as conn:
            return {row.state: row.number for row in conn.execute(query)}

    def open_for(self, slot: Slot, conn: Connection | None = None) -> Edit | None:
        """Return the slot's newest edit that waits or is in force."""
        query = sa.select(_edits.c.body).where(
            _edits.c.slot == slot.key,
            _edits.c.state.not_in([state.value for state in CLOSED_STATES]),
        )
        with self._database.read(conn) as own:
            body = own.scalar(query.order_by(_edits.c.seq.desc()).limit(1))
        return None if body is None else from_json(Edit, json.loads(body))

    def of_slot(self, slot: Slot) -> list[Edit]:
        """Return a slot's edits in whatever state, oldest first."""
        query = sa.select(_edits.c.body).where(_edits.c.slot == slot.key).order_by(_edits.c.seq)
        with self._database.read() as conn:
            return [from_json(Edit, json.loads(body)) for body in conn.scalars(query)]

    def move(
        self,
        id: str,
        state: EditState,
        at: datetime,
        reason: str = "",
        conn: Connection | None = None,
    ) -> Edit:
        """Move an edit to another state, end its lease, and return it.

        Coming back to the queue, it starts with no failed attempts. Raises StoreError
        for a transition that is not in ``TRANSITIONS``.
        """
        with self._database.begin(conn) as own:
            edit = _edit(self._row(id, own))
            if state not in TRANSITIONS[edit.state]:
                allowed = ", ".join(sorted(TRANSITIONS[edit.state]))
                raise StoreError(
                    f"edit {edit.id} is {edit.state} and cannot become {state}; "
                    f"it can become {allowed}"
                )
            attempts = 0 if state is S.QUEUED else edit.attempts
            moved = dataclasses.replace(
                edit, state=state, updated=at, reason=reason, attempts=attempts
            )
            self._put(moved, own)
            self._note(edit, moved, own)
            reach("edit.moved")
        return moved

    def lease(
        self,
        worker: str,
        now: datetime,
        seconds: float = 30,
        limit: int = 3,
        conn: Connection | None = None,
    ) -> Edit | None:
        """Give a worker the oldest queued edit that nobody works on, or None.

        An edit whose lease ran out has failed once more; at ``limit`` it is parked.
        """
        moment = stamp(now)
        free = _edits.c.leased_until.is_(None) | (_edits.c.leased_until <= moment)
        query = (
            sa.select(_edits)
            .where(_edits.c.state == S.QUEUED.value, free)
            .order_by(_edits.c.seq)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._database.begin(conn) as own:
            while (row := own.execute(query).first()) is not None:
                edit = _edit(row)
                if row.worker is not None:
                    edit = self._failed(edit, now, f"worker {row.worker} stopped", limit, own)
                if edit.state is S.QUEUED:
                    self._hold(edit.id, worker, now, seconds, own)
                    return edit
        return None

    def end_leases(self, stopped: Callable[[str], bool], now: datetime) -> int:
        """Let the leases of workers that are known to have stopped run out now, instead of
        when they would; return how many."""
        query = sa.select(_edits.c.id, _edits.c.worker).where(
            _edits.c.state == S.QUEUED.value, _edits.c.leased_until > stamp(now)
        )
        with self._database.begin() as conn:
            ended = [row.id for row in conn.execute(query) if stopped(row.worker)]
            for id in ended:
                conn.execute(
                    _edits.update().where(_edits.c.id == id).values(leased_until=stamp(now))
                )
        return len(ended)

    def heartbeat(
        self,
        id: str,
        worker: str,
        now: datetime,
        seconds: float = 30,
        conn: Connection | None = None,
    ) -> None:
        """Renew a lease. Raises StoreError when the worker has lost it."""
        with self._database.begin(conn) as own:
            row = self._held(id, worker, own)
            self._hold(row.id, worker, now, seconds, own)

    def fail(
        self,
        id: str,
        worker: str,
        now: datetime,
        reason: str,
        limit: int = 3,
        conn: Connection | None = None,
    ) -> Edit:
        """Give an edit back after a failed attempt; at ``limit`` attempts it is parked.

        Raises StoreError when the worker has lost its lease.
        """
        with self._database.begin(conn) as own:
            return self._failed(_edit(self._held(id, worker, own)), now, reason, limit, own)

    def release(self, id: str, worker: str, conn: Connection | None = None) -> None:
        """Give an edit back untried. Raises StoreError when the worker has lost its lease."""
        with self._database.begin(conn) as own:
            self._put(_edit(self._held(id, worker, own)), own)

    def _failed(self, edit: Edit, now: datetime, reason: str, limit: int, conn: Connection) -> Edit:
        attempts = edit.attempts + 1
        state = S.PARKED if attempts >= limit else S.QUEUED
        failed = dataclasses.replace(
            edit, state=state, updated=now, reason=reason, attempts=attempts
        )
        self._put(failed, conn)
        self._note(edit, failed, conn)
        return failed

    def _note(self, before: Edit, after: Edit, conn: Connection) -> None:
        body = {
            "id": after.id,
            "from": before.state,
            "to": after.state,
            "reason": after.reason,
            "attempts": after.attempts,
        }
        self._ledger.append("edit.moved", body, after.updated, conn)

    def _put(self, edit: Edit, conn: Connection) -> None:
        """Write an edit, free of any lease."""
        conn.execute(
            _edits.update()
            .where(_edits.c.id == edit.id)
            .values(state=edit.state.value, worker=None, leased_until=None, body=dumps(edit))
        )

    def _hold(self, id: str, worker: str, now: datetime, seconds: float, conn: Connection) -> None:
        until = stamp(now + timedelta(seconds=seconds))
        conn.execute(
            _edits.update().where(_edits.c.id == id).values(worker=worker, leased_until=until)
        )

    def _held(self, id: str, worker: str, conn: Connection) -> Row[Any]:
        row = self._row(id, conn)
        if row.worker != worker:
            raise StoreError(
                f"edit {row.id} is not leased to {worker}; lease it again before working on it"
            )
        return row

    def _row(self, prefix: str, conn: Connection) -> Row[Any]:
        id = resolve(conn, _edits, prefix, "edit")
        return conn.execute(sa.select(_edits).where(_edits.c.id == id)).one()


def _edit(row: Row[Any]) -> Edit:
    return from_json(Edit, json.loads(row.body))
