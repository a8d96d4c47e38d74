"""Who works on queued edits: a worker's name, its heartbeat, and whether it still runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from store.edits import Edits
from store.errors import StoreError


def own_name() -> str:
    """Return the name under which this process leases edits."""
    return f"{os.uname().nodename}:{os.getpid()}"


def has_stopped(worker: str) -> bool:
    """Whether a worker is known not to run any more.

    One of our own name is an earlier one: in a container every program has the same number.
    Nothing is known of other machines.
    """
    host, _, process = worker.rpartition(":")
    if worker == own_name():
        return True
    if host != os.uname().nodename or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as another user
        return False
    return False


@contextmanager
def beating(
    edits: Edits,
    ids: Sequence[str],
    worker: str,
    now: Callable[[], datetime],
    seconds: float,
) -> Iterator[None]:
    """Renew the leases of edits, three times in ``seconds``, while the context is open.

    It ends with the process that works, so that a killed worker's leases run out.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(seconds / 3):
            try:
                for id in ids:
                    edits.heartbeat(id, worker, now(), seconds)
            except StoreError:
                return  # lost or locked: the work itself will say so

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
