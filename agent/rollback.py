"""A person's choice of the version that is served: rollback and promotion."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from store.errors import StoreError
from store.library import Store
from store.records import ACTIVE_STATES, Edit, EditState, Version


@dataclass(frozen=True)
class Switched:
    """What a switch came to.

    Attributes:
        before, version: what was served and what is served now; None is the base model.
        to_memory: edits that these weights do not hold: the memory tier alone answers them.
        to_weights: edits that these weights hold as well.
        returned: edits that were taken back, and that these weights still answer.
    """

    before: Version | None
    version: Version | None
    to_memory: tuple[Edit, ...] = ()
    to_weights: tuple[Edit, ...] = ()
    returned: tuple[Edit, ...] = ()


def switch(
    store: Store, version: Version | None, base_hash: str, now: datetime, reason: str
) -> Switched:
    """Serve another version, once every byte of it is verified, and let the edits' states follow.

    Every active edit goes on being answered: by the memory tier where the weights do not hold
    it. Serving what is served changes nothing. Raises StoreError, with nothing changed, for a
    version that is not as it was saved or was made for another base model.
    """
    if version is not None:
        if version.base_hash != base_hash:
            raise StoreError(
                f"version {version.id} was made for another base model; "
                "set model.path back, or choose a version of this one"
            )
        store.versions.load(version)
    with store.begin() as conn:
        before = store.versions.alias("serving", conn)
        if version == before:
            return Switched(before, version)
        store.versions.set_alias("serving", version.id if version else None, now, conn)
        body = {"from": before.id if before else None, "to": version.id if version else None}
        store.runs.add("switch", now, body | {"reason": reason}, conn)
        return _settle(store, before, version, now, conn)


def left_for(store: Store, version: Version) -> str | None:
    """Return the reason for which a person left a version, or None where none did.

    Choosing it again takes that back. Without this the next night, which computes the same
    version from the same ledger, would undo what a person decided.
    """
    for run in store.runs.ls("switch"):  # the last first
        if run.body["to"] == version.id:
            return None
        if run.body["from"] == version.id:
            return str(run.body["reason"])
    return None


def _settle(
    store: Store, before: Version | None, version: Version | None, now: datetime, conn: Connection
) -> Switched:
    carried = set(version.edit_ids) if version else set()
    held = _held(store, version, conn)
    to_memory, to_weights = [], []
    for edit in store.edits.ls(EditState.CONSOLIDATED, conn=conn):
        if edit.id not in carried or not held.get(edit.id, True):
            why = "the version now served does not hold it; it stays in memory"
            to_memory.append(store.edits.move(edit.id, EditState.REMEMBERED, now, why, conn))
    for edit in store.edits.ls(EditState.REMEMBERED, conn=conn):
        if edit.id in carried and held.get(edit.id, False):
            to_weights.append(store.edits.move(edit.id, EditState.CONSOLIDATED, now, "", conn))
    edits = [found for id in sorted(carried) if (found := store.edits.get(id, conn))]
    # Where another edit of the slot is in force, memory answers that one.
    returned = [
        taken_back
        for taken_back in edits
        if taken_back.state not in ACTIVE_STATES and not _answered(store, taken_back, conn)
    ]
    return Switched(before, version, tuple(to_memory), tuple(to_weights), tuple(returned))


def _answered(store: Store, edit: Edit, conn: Connection) -> bool:
    standing = store.edits.open_for(edit.slot, conn)
    return standing is not None and standing.state in ACTIVE_STATES


def _held(store: Store, version: Version | None, conn: Connection) -> dict[str, bool]:
    """Return by edit whether a version's weights answered it when they were tested."""
    for run in store.runs.ls("answers", conn=conn) if version else ():
        if version and run.body.get("version") == version.id:
            return {id: answer["right"] for id, answer in run.body["answers"].items()}
    return {}
