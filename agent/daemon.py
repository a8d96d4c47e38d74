"""The daemon: polls, re-tests and consolidates on schedules, one job at a time.

Schedules live in ``jobs.db`` in the home folder, so that a run missed while the program
or its machine was off is caught up once, if it is not older than ``schedule.grace_seconds``.
All jobs share one worker thread, because they share one model, and whoever works on a home
holds its lock: no job runs twice at once.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

from agent.config import FILE_NAME, Config, ConfigError, ScheduleConfig
from agent.lock import only_one
from agent.progress import Advance, Progress, Silent
from agent.workspace import Workspace

if TYPE_CHECKING:
    from apscheduler.events import JobExecutionEvent
    from apscheduler.job import Job
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.cron import CronTrigger

JOBS_NAME = "jobs.db"
JOBS: Mapping[str, str] = MappingProxyType(
    {name: f"agent.daemon:{name}_job" for name in ("poll", "retention", "nightly")}
)
"""The jobs by name, which is also their key in the schedule section."""

Step = Callable[[Workspace, datetime, Progress], str]
"""What a job does; returns one line that says what came of it."""

_log = logging.getLogger("corrigenda")
_GLANCE = timedelta(minutes=1)
_ECHO = 1.0  # seconds in which a repeated signal is the same one: supervisors may send two
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # as cron counts: 0 and 7


class DaemonError(Exception):
    """The daemon cannot start; the message names the thing and the remedy."""


class Stopped(Exception):
    """The program is asked to end: work ends before its next stage."""


def poll_job(home: str) -> None:
    """Fetch, detect and remember."""
    _work(home, "poll")


def retention_job(home: str) -> None:
    """Re-ask earlier edits."""
    _work(home, "retention")


def nightly_job(home: str) -> None:
    """Poll once more, then consolidate, gate, promote and report."""
    _work(home, "nightly")


# Stored jobs can hold only plain arguments: what they work with comes through the thread.
_worker: ContextVar[Worker] = ContextVar("worker")


def _work(home: str, job: str) -> None:
    if (worker := _worker.get(None)) is not None:
        worker.do(job)
        return
    # Done by a scheduler that is not ours: the daemon may be at work on the same home.
    with only_one(Path(home)):
        own = Worker(Path(home))
        try:
            own.do(job)
        finally:
            own.close()


class Worker:
    """Does the jobs of one home, keeping the workspace and its loaded model between them.

    ``steps`` maps a job's name to what it does. ``reopened`` is told a changed
    configuration before it takes effect and may refuse it with a ConfigError.
    ``unfinished`` are the jobs that ``stop`` kept from being done, or from being done wholly.
    """

    def __init__(
        self,
        home: Path,
        steps: Mapping[str, Step] | None = None,
        progress: Progress | None = None,
        stop: threading.Event | None = None,
        reopened: Callable[[Config], None] = lambda config: None,
        open_workspace: Callable[[Path], Workspace] = Workspace.open,
    ) -> None:
        self.home = home
        self.stop = stop or threading.Event()
        self.unfinished: list[str] = []
        self.reopened = reopened
        self._steps = real_steps() if steps is None else steps
        self._progress = Stoppable(progress or Silent(), self.stop)
        self._open = open_workspace
        self._text = self._read()
        self.workspace = open_workspace(home)

    def do(self, job: str) -> None:
        """Do a job. Whatever fails in it is recorded as a run of kind "failure"."""
        if self.stop.is_set():
            self.unfinished.append(job)
            return
        started = time.monotonic()
        try:
            self._refresh()
            outcome = self._steps[job](self.workspace, self.workspace.now(), self._progress)
        except Stopped:
            self.unfinished.append(job)
            _log.info("%s: stopped before its next stage", job)
        except Exception as error:  # whatever goes wrong in one job, the daemon lives on
            _log.debug("%s failed", job, exc_info=True)
            self.record("failure", {"job": job, "error": _line(error)})
        else:
            _log.info("%s: %s (%.0f s)", job, outcome, time.monotonic() - started)

    def record(self, kind: str, body: Mapping[str, Any]) -> None:
        """Keep what went wrong; where even that fails, the log has it."""
        _log.warning("%s: %s", kind, "; ".join(str(value) for value in body.values()))
        try:
            self.workspace.store.runs.add(kind, self.workspace.now(), body)
        except Exception as error:  # a full disk must not end the daemon
            _log.error("could not be recorded: %s", _line(error))

    def close(self) -> None:
        self.workspace.close()

    def _refresh(self) -> None:
        """Take up a changed configuration; keep the old one where the new one is no good."""
        if (text := self._read()) == self._text:
            return
        self._text = text
        try:
            fresh = self._open(self.home)
            self.reopened(fresh.config)
        except ConfigError as error:
            reason = f"{error}; the earlier configuration stays in force"
            self.record("failure", {"job": "configuration", "error": reason})
            return
        self.workspace.close()
        self.workspace = fresh
        _log.info("configuration read anew")

    def _read(self) -> bytes | None:
        try:
            return (self.home / FILE_NAME).read_bytes()
        except OSError:
            return None


class Stoppable:
    """A progress that ends the work, by raising Stopped, when a stage opens after ``stop``."""

    def __init__(self, progress: Progress, stop: threading.Event) -> None:
        self._progress = progress
        self._stop = stop

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        if self._stop.is_set():
            raise Stopped(name)
        return self._progress.stage(name, total)


def real_steps() -> dict[str, Step]:
    """Return what the jobs do in earnest."""
    return {"poll": _poll, "retention": _retention, "nightly": _nightly}


def _poll(ws: Workspace, now: datetime, progress: Progress) -> str:
    from agent.cycle import run_once

    done = run_once(ws, now, progress)
    return (
        f"{done.documents} new documents, {done.claims} claims, {done.slots} slots asked, "
        f"{done.proposed} edits proposed, {done.remembered} remembered"
    )


def _retention(ws: Workspace, now: datetime, progress: Progress) -> str:
    from agent.retention import check_retention

    found = check_retention(ws, now, progress)
    share = f"{found.run.pass_rate.point:.0%} of the probes still right"
    if not found.triggered:
        return share
    done = _consolidate(ws, now, progress, weakened=True)
    return f"{share}, below the floor; consolidating: {done}"


def _nightly(ws: Workspace, now: datetime, progress: Progress) -> str:
    # Tonight's weights are to hold what came since the last poll, also after a day asleep.
    came = _poll(ws, now, progress)
    return f"{came}; {_consolidate(ws, now, progress)}"


def _consolidate(ws: Workspace, now: datetime, progress: Progress, weakened: bool = False) -> str:
    from agent.nightly import nightly

    done = nightly(ws, now, progress, weakened)
    return "; ".join([done.status, *done.reasons])


def triggers(schedule: ScheduleConfig) -> dict[str, CronTrigger]:
    """Return when each job runs. Raises ConfigError naming the key that is no good."""
    from zoneinfo import ZoneInfo

    from apscheduler.triggers.cron import CronTrigger

    try:
        zone = ZoneInfo(schedule.timezone)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"schedule.timezone: {schedule.timezone!r} is no time zone; "
            "write one like 'Europe/Berlin' or 'UTC'"
        ) from error
    found = {}
    for job in JOBS:
        text: str = getattr(schedule, job)
        try:
            found[job] = CronTrigger.from_crontab(_named_days(text), zone)
        except ValueError as error:
            raise ConfigError(
                f"schedule.{job}: {text!r} is no cron expression ({error}); write five fields: "
                "minute hour day month weekday, as in '0 3 * * *'"
            ) from error
    return found


def _named_days(cron: str) -> str:
    """Return a cron expression with its weekdays named: APScheduler counts them from Monday,
    cron from Sunday."""
    *fields, days = cron.split() or [""]
    named: list[str] = []
    for part in days.split(","):
        span, slash, step = part.partition("/")
        first, _, last = ("0", "-", "6") if span == "*" and slash else span.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            named.append(part)
            continue
        # "5" is one day, "5/2" and "5-6/2" are every second one of a span.
        end = int(last or (6 if slash else first))
        chosen = range(int(first), end + 1, int(step or 1))
        if not chosen or chosen[-1] > 7:
            raise ValueError(f"{part!r} is no weekday, which go from 0 to 7, Sunday to Sunday")
        named += [_DAYS[day] for day in chosen]
    return " ".join([*fields, ",".join(dict.fromkeys(named))])


@contextmanager
def scheduling(
    worker: Worker, now: datetime, first_poll: bool = True, glance: timedelta = _GLANCE
) -> Iterator[None]:
    """Run the worker's jobs on their schedules while the context is open.

    The clock is looked at every ``glance``: a wait does not count the time that the machine
    sleeps, and would end that much too late.

    At the end, what a running job is at is waited for; a job that is cut short, or still waits
    its turn, is due again at the next start. Raises ConfigError for a schedule and
    DaemonError for a ``jobs.db`` that cannot be used.
    """
    from apscheduler.events import EVENT_JOB_MISSED
    from apscheduler.executors.pool import ThreadPoolExecutor
    from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
    from apscheduler.schedulers.background import BackgroundScheduler
    from sqlalchemy.exc import SQLAlchemyError

    config = worker.workspace.config.schedule
    triggers(config)  # before anything starts
    path = worker.home / JOBS_NAME

    class Jobs(SQLAlchemyJobStore):
        def get_due_jobs(self, now: datetime) -> list[Job]:
            # A scheduler that is shutting down still takes due jobs out, and drops them.
            return [] if worker.stop.is_set() else super().get_due_jobs(now)

        def get_next_run_time(self) -> datetime | None:
            due = super().get_next_run_time()
            return due and min(due, datetime.now(UTC) + glance)

    executor = ThreadPoolExecutor(1, {"initializer": _worker.set, "initargs": (worker,)})
    scheduler = BackgroundScheduler(
        jobstores={"default": Jobs(url=f"sqlite:///{path}")},
        executors={"default": executor},
        timezone=config.timezone,
    )

    def missed(event: JobExecutionEvent) -> None:
        due = event.scheduled_run_time.astimezone(UTC)
        worker.record("missed", {"job": event.job_id, "due": due})

    scheduler.add_listener(missed, EVENT_JOB_MISSED)
    worker.reopened = lambda changed: _plan(scheduler, worker.home, changed.schedule)
    try:
        scheduler.start(paused=True)
        _plan(scheduler, worker.home, config)
        if first_poll:
            scheduler.modify_job("poll", next_run_time=now)
    except SQLAlchemyError as error:
        raise DaemonError(
            f"the schedule in {path} cannot be used ({getattr(error, 'orig', error)}); check the "
            "folder's rights and space, or move that file away: it is made anew"
        ) from error
    scheduler.resume()
    try:
        yield
    finally:
        worker.stop.set()
        scheduler.get_jobs()  # returns once no jobs are being handed to the executor
        executor.shutdown(wait=True)
        for job in worker.unfinished:
            scheduler.modify_job(job, next_run_time=worker.workspace.now())
        scheduler.shutdown()


def _plan(scheduler: BackgroundScheduler, home: Path, schedule: ScheduleConfig) -> None:
    for job, trigger in triggers(schedule).items():
        known = scheduler.get_job(job)
        kept = {}
        if known is not None and _when(known.trigger) == _when(trigger):
            # Else a run that came due while the program was off would be forgotten.
            kept["next_run_time"] = known.next_run_time
        scheduler.add_job(
            JOBS[job],
            trigger,
            args=[str(home)],
            id=job,
            replace_existing=True,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=schedule.grace_seconds,
            **kept,
        )


def _when(trigger: CronTrigger) -> tuple[str, str]:
    return str(trigger), str(trigger.timezone)


def next_runs(home: Path) -> dict[str, datetime]:
    """Return when each job is due next, as the schedule on disk has it; {} without one."""
    import sqlite3
    from contextlib import closing

    path = home / JOBS_NAME
    if not path.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as conn:
            rows = conn.execute("SELECT id, next_run_time FROM apscheduler_jobs").fetchall()
    except sqlite3.Error:
        return {}  # being written or damaged: starting the daemon says so
    return {id: datetime.fromtimestamp(due, UTC) for id, due in rows if due is not None}


def serve(home: Path, progress: Progress, steps: Mapping[str, Step] | None = None) -> None:
    """Run the daemon until SIGINT or SIGTERM; what is running ends before its next stage.

    A second signal ends the program at once, which costs no more than the unfinished job.
    Call it from the main thread. Raises ConfigError and DaemonError.
    """
    stop = threading.Event()
    worker = Worker(home, steps, progress, stop)

    patience = 0.0

    def asked(number: int, frame: FrameType | None) -> None:
        nonlocal patience
        if not stop.is_set():
            patience = time.monotonic() + _ECHO
            _log.info("stopping once the current stage is done; ask again to stop at once")
            stop.set()
        elif time.monotonic() > patience:
            os._exit(128 + number)  # an ordinary exit would wait for the worker's thread

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with scheduling(worker, worker.workspace.now()):
            _log.info("running; the first poll is under way")
            stop.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        worker.close()


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
