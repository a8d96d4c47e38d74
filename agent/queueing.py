"""A person's decisions on edits: approve, reject, take back. Each is all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from store.library import Store
from store.records import Edit, EditState


def approve(store: Store, ids: Sequence[str], now: datetime) -> list[Edit]:
    """Queue edits for the memory tier and return them.

    Raises StoreError, with nothing changed, when one of the ids is unknown or ambiguous, or
    names an edit that cannot be queued.
    """
    return _move_all(store, ids, EditState.QUEUED, now, "approved")


def reject(store: Store, ids: Sequence[str], reason: str, now: datetime) -> list[Edit]:
    """Refuse edits and return them. Raises StoreError as :func:`approve` does."""
    return _move_all(store, ids, EditState.REJECTED, now, reason or "rejected")


def revert(store: Store, ids: Sequence[str], reason: str, now: datetime) -> list[Edit]:
    """Take back edits that are in force and return them as they are now.

    The memory tier stops answering them at once; what the weights hold goes with the next
    consolidation, which starts from the base model. Raises StoreError as :func:`approve` does.
    """
    return _move_all(store, ids, EditState.REVERTED, now, reason or "reverted")


def _move_all(
    store: Store, ids: Sequence[str], state: EditState, now: datetime, reason: str
) -> list[Edit]:
    with store.begin() as conn:
        # Two prefixes may name the same edit, which can be moved only once.
        found = {store.edits.find(id, conn).id: None for id in ids}
        return [store.edits.move(id, state, now, reason, conn) for id in found]
