"""Every failure as one line and an exit code.

The error classes are known by name, so that showing help imports none of their modules.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from types import MappingProxyType

from agent.commands.output import plain
from agent.commands.shell import FAILED, USAGE

CODES: Mapping[str, int] = MappingProxyType(
    {
        "agent.check.UnfitQuestion": USAGE,
        "agent.config.ConfigError": USAGE,
        "agent.daemon.DaemonError": FAILED,
        "agent.documents.DocumentError": FAILED,
        "agent.feeds.FeedError": FAILED,
        "agent.fetch.FetchError": FAILED,
        "agent.lock.LockError": FAILED,
        "agent.replay.ReplayError": USAGE,
        "agent.report.ReportError": FAILED,
        "detectors.relations.RegistryError": USAGE,
        "editors.deltas.DeltaError": FAILED,
        "editors.model_files.ModelError": USAGE,
        "editors.requests.EditorError": FAILED,
        "store.errors.StoreError": FAILED,
    }
)
"""The errors that say themselves what is wrong and how to mend it."""

_OUT_OF_MEMORY = frozenset({"builtins.MemoryError", "torch.OutOfMemoryError"})


def explain(error: BaseException) -> tuple[str, int]:
    """Return an error's one line for the user, and the exit code."""
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]
    for name in names:
        if name in CODES:
            return plain(error), CODES[name]
    if not _OUT_OF_MEMORY.isdisjoint(names):
        return "out of memory; lower model.batch_size or choose a smaller model", FAILED
    if isinstance(error, OSError):
        return _of_the_system(error), FAILED
    return (
        f"this should not happen: {type(error).__name__}: {plain(error)}; "
        "run it again with CORRIGENDA_DEBUG=1 to see where, and report it",
        FAILED,
    )


def debugging() -> bool:
    """Whether the user wants to see tracebacks."""
    return os.environ.get("CORRIGENDA_DEBUG", "") not in ("", "0")


def _of_the_system(error: OSError) -> str:
    where = plain(error.filename) if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" for {where}" if where else ""
        return f"no space is left{place}; free some, or choose another folder with --home"
    what = plain(error.strerror or error)
    return f"{where}: {what}; check the path and its rights" if where else what
