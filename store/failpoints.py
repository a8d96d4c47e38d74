"""Named places at which a test can kill the program, as a power cut or the system would."""

from __future__ import annotations

import os
import signal

VARIABLE = "CORRIGENDA_FAILPOINT"
"""The environment variable that names the place."""

FAILPOINTS = (
    "document.added",  # with its claims and facts, the transaction still open
    "document.committed",
    "evidence.added",
    "edit.moved",  # the transaction still open
    "version.written",
    "version.synced",
    "version.renamed",
    "version.published",  # the folder is safe, no row names it
    "version.recorded",  # the transaction still open
    "version.committed",
    "alias.moved",  # the transaction still open
    "nightly.consolidated",
    "nightly.gated",  # the transaction still open
    "nightly.promoted",
    "collect.forgotten",  # the rows are gone, the folders are there
    "collect.renamed",
)
"""Every place, in the order in which a day passes them."""


def reach(name: str) -> None:
    """Kill this process at once where ``CORRIGENDA_FAILPOINT`` names the place."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
