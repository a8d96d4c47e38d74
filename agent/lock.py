"""One program at a time works on a home folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK_NAME = "corrigenda.lock"


class LockError(Exception):
    """Another program works on the home; the message names its process."""


@contextmanager
def only_one(home: Path, beside: bool = False) -> Iterator[None]:
    """Hold a home folder's lock; the system frees it however the program ends.

    The lock's file is in the folder, or ``beside`` one that is to be found as it is.

    Raises:
        LockError: another program holds it.
        OSError: the folder cannot be made or written.
    """
    path = home.with_name(f"{home.name}.lock") if beside else home / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="ascii") as file:
        # Looking who holds the lock takes it for an instant: that is no reason to give up.
        if not any(_taken(file, wait) for wait in (0, 0.05, 0.2)):
            raise LockError(
                f"{home} is in use by another corrigenda (process {_owner(file) or 'unknown'}); "
                "stop that one, or choose another folder with --home"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(home: Path) -> int | None:
    """Return the process that works on a home folder, or None where none does."""
    try:
        with (home / LOCK_NAME).open("r+", encoding="ascii") as file:
            return None if _taken(file) else _owner(file)
    except FileNotFoundError:
        return None


def _taken(file: IO[str], wait: float = 0) -> bool:
    """Try, after ``wait`` seconds, to take the lock, which lasts until the file is closed."""
    time.sleep(wait)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner(file: IO[str]) -> int | None:
    file.seek(0)
    text = file.read().strip()
    return int(text) if text.isdecimal() else None
