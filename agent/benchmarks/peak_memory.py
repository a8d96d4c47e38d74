"""The most memory that a stretch of work held."""

from __future__ import annotations

import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType

import torch

INTERVAL = 0.02  # seconds between two looks; an edit takes longer


class PeakMemory:
    """Watches memory in a ``with`` block: an accelerator's own count, else the process's
    resident memory.

    The system's own maximum is of the whole process's life, in which the first of several
    editors to be large would hide the others: so the memory is looked at again and again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak = 0
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._watch.is_alive():
            self._watch.join()

    def peak_mib(self) -> float:
        """Return the most that was held so far, in MiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**20
        self._peak = max(self._peak, _resident())
        return self._peak / 2**20

    def _run(self) -> None:
        while not self._over.is_set():
            self._peak = max(self._peak, _resident())
            self._over.wait(INTERVAL)


def _resident() -> int:
    """Return the process's resident memory in bytes, where the system tells it; else its
    maximum so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
