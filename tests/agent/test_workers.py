"""A worker that was killed is noticed at once; one that lives keeps its leases."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from samples import NOW, FakeClock, an_edit
from workspaces import ScriptedModel, workspace

from agent.cycle import remember
from agent.progress import Silent
from agent.workers import beating, has_stopped, own_name
from store.errors import StoreError
from store.library import Store
from store.records import EditState, Reply

HOST = os.uname().nodename
WORKER = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from agent.workers import beating, own_name
from store.library import Store

now = lambda: datetime.now(UTC)
store = Store(Path(sys.argv[1]))
edit = store.edits.lease(own_name(), now(), 1.0)
with beating(store.edits, [edit.id], own_name(), now, 1.0):
    print(own_name(), flush=True)
    time.sleep(60)
"""


def test_a_worker_is_known_to_have_stopped_only_on_this_machine() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert has_stopped(f"{HOST}:{gone.pid}")
    assert has_stopped(own_name())  # an earlier one, with the number that is ours now
    assert not has_stopped(f"{HOST}:{os.getppid()}")
    assert not has_stopped(f"{HOST}:1")
    assert not has_stopped(f"elsewhere:{gone.pid}")
    assert not has_stopped("somebody")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def test_a_killed_worker_s_edit_is_taken_up_while_a_living_one_keeps_its_own(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)

    def now() -> datetime:
        return datetime.now(UTC)

    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(store.home)], stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            assert worker.stdout is not None
            name = worker.stdout.readline().strip()
            # Leases last a second here: without its heartbeat it would have run out by now.
            until = time.monotonic() + 2.5
            while time.monotonic() < until:
                assert store.edits.end_leases(has_stopped, now()) == 0
                assert store.edits.lease("another", now()) is None
                time.sleep(0.1)
        finally:
            worker.send_signal(signal.SIGKILL)
    assert name == f"{HOST}:{worker.pid}"
    assert store.edits.end_leases(has_stopped, now()) == 1
    taken = store.edits.lease("another", now())
    assert taken is not None
    assert (taken.id, taken.attempts, taken.reason) == (edit.id, 1, f"worker {name} stopped")
    store.close()


def test_a_worker_of_another_machine_is_given_its_thirty_seconds(store: Store) -> None:
    clock = FakeClock()
    store.edits.add(an_edit())
    store.edits.lease("elsewhere:7", clock(), seconds=30)
    assert store.edits.end_leases(has_stopped, clock()) == 0
    assert store.edits.lease("here", clock.advance(seconds=29)) is None
    assert store.edits.lease("here", clock.advance(seconds=1)) is not None
    store.close()


def test_a_heartbeat_stops_with_the_work_and_with_a_lost_lease(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    store.edits.lease("here", NOW, seconds=30)
    with beating(store.edits, [edit.id], "here", lambda: NOW, seconds=0.06):
        time.sleep(0.1)
        store.edits.move(edit.id, EditState.REMEMBERED, NOW)  # which ends the lease
        time.sleep(0.1)
    with pytest.raises(StoreError, match="not leased"):
        store.edits.heartbeat(edit.id, "here", NOW)
    store.close()


def test_an_edit_that_kills_its_workers_takes_no_other_along(tmp_path: Path) -> None:
    """Five edits of which one kills every worker; each worker is followed by the next."""
    poison = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president")
    others = {
        "France": "Ada Novak",
        "Kenya": "Hugo Rossi",
        "Peru": "Irina Petrov",
        "Chile": "Jo Doe",
    }
    edits = [an_edit(new, name, "head_of_state", "president") for name, new in others.items()]
    edits.insert(2, poison)

    class Killed(BaseException):
        """Stands for SIGKILL: nothing of the worker's own tidying up is done."""

    class Deadly(ScriptedModel):
        def answer(self, questions: Sequence[str], **more: Any) -> list[Reply]:
            if any("Nigeria" in question for question in questions):
                raise Killed
            return super().answer(questions, **more)

    deaths = 0
    with workspace(tmp_path / "home", Deadly({})) as ws:
        for edit in edits:
            ws.store.edits.add(edit)
        for _ in range(5):
            try:
                remember(ws, NOW, Silent())
            except Killed:
                deaths += 1
        states = {edit.subject: edit.state for edit in ws.store.edits.ls()}
    assert deaths == 3
    assert states.pop("Nigeria") is EditState.PARKED
    assert set(states.values()) == {EditState.REMEMBERED}
