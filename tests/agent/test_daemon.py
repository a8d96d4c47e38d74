from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.job import Job
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from samples import NOW
from workspaces import CHANCELLORS, LENIENT, holders, toy_settings, workspace

from agent.config import FILE_NAME, ConfigError, FeedEntry, ScheduleConfig
from agent.daemon import (
    JOBS,
    DaemonError,
    Step,
    Stoppable,
    Stopped,
    Worker,
    next_runs,
    nightly_job,
    real_steps,
    scheduling,
    triggers,
)
from agent.lock import LockError, only_one
from agent.progress import Progress, Silent
from agent.workspace import Workspace
from editors.model import ChatModel

ROOT = Path(__file__).parents[2]


class Diary:
    """Steps that only note which job was done, and whether two ever ran at once."""

    def __init__(self, seconds: float = 0) -> None:
        self.done: list[str] = []
        self.overlapped = False
        self._seconds = seconds
        self._busy = threading.Lock()
        self._news = threading.Condition()

    def steps(self) -> dict[str, Step]:
        return {job: self._step(job) for job in JOBS}

    def _step(self, job: str) -> Step:
        def step(ws: Workspace, now: datetime, progress: Progress) -> str:
            free = self._busy.acquire(blocking=False)
            self.overlapped |= not free
            time.sleep(self._seconds)
            if free:
                self._busy.release()
            with self._news:
                self.done.append(job)
                self._news.notify_all()
            return "noted"

        return step

    def wait_for(self, *jobs: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: set(jobs) <= set(self.done), timeout=10), self.done


def configured(home: Path, **schedule: object) -> Path:
    lines = [f"{key} = {value!r}" for key, value in schedule.items()]
    home.mkdir(exist_ok=True)
    (home / FILE_NAME).write_text("\n".join(["[schedule]", *lines, ""]))
    return home


def daily(at: datetime) -> str:
    return f"{at.minute} {at.hour} * * *"


@contextmanager
def running(
    home: Path, diary: Diary, first_poll: bool = False, glance: timedelta = timedelta(minutes=1)
) -> Iterator[Worker]:
    worker = Worker(home, diary.steps())
    try:
        with scheduling(worker, datetime.now(UTC), first_poll, glance):
            yield worker
    finally:
        worker.close()


class Asleep(SQLAlchemyJobStore):
    """A store whose scheduler never finds anything to do."""

    def get_due_jobs(self, now: datetime) -> list[Job]:
        return []


def sleep_since(home: Path, job: str, since: datetime) -> None:
    """Make the schedule look as if nothing had run from a moment on."""
    jobs = Asleep(url=f"sqlite:///{home / 'jobs.db'}")
    scheduler = BackgroundScheduler(jobstores={"default": jobs})
    scheduler.start(paused=True)
    scheduler.modify_job(job, next_run_time=since)
    scheduler.shutdown()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end, "it did not happen within 10 s"
        time.sleep(0.02)


def test_the_first_poll_is_done_at_once_and_the_others_wait_for_their_time(tmp_path: Path) -> None:
    diary = Diary()
    before = datetime.now(UTC)
    with running(configured(tmp_path), diary, first_poll=True):
        diary.wait_for("poll")
    assert diary.done == ["poll"]
    assert set(next_runs(tmp_path)) == {"poll", "retention", "nightly"}
    assert min(next_runs(tmp_path).values()) > before


def test_a_run_missed_while_off_is_caught_up_exactly_once(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    home = configured(tmp_path, nightly=daily(now - timedelta(hours=2)))
    with running(home, Diary()):
        pass
    sleep_since(home, "nightly", now - timedelta(days=3, hours=2))  # three nights
    for expected in (["nightly"], []):
        diary = Diary()
        with running(home, diary, first_poll=True):
            diary.wait_for("poll", *expected)
        assert diary.done.count("nightly") == len(expected)
    assert next_runs(home)["nightly"] > now


def test_a_run_missed_for_too_long_is_noted_and_not_done(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    missed = now - timedelta(hours=2)
    home = configured(tmp_path, nightly=daily(missed), grace_seconds=3600)
    with running(home, Diary()):
        pass
    sleep_since(home, "nightly", missed)
    diary = Diary()
    with running(home, diary) as worker:
        runs = worker.workspace.store.runs
        until(lambda: bool(runs.ls("missed")))
        assert [run.body["job"] for run in runs.ls("missed")] == ["nightly"]
        assert runs.ls("missed")[0].body["due"][:16] == f"{missed:%Y-%m-%dT%H:%M}"
    assert diary.done == []
    assert next_runs(home)["nightly"] > now


def test_a_run_that_came_due_while_the_machine_slept_is_done_soon_after_it_wakes(
    tmp_path: Path,
) -> None:
    now = datetime.now(UTC)
    home = configured(tmp_path, nightly=daily(now - timedelta(hours=2)))
    diary = Diary()
    with running(home, diary, glance=timedelta(seconds=0.1)):
        # The wait under way was meant for the next poll, and knows nothing of this.
        sleep_since(home, "nightly", now - timedelta(hours=2))
        diary.wait_for("nightly")
    assert diary.done == ["nightly"]


def test_the_night_is_one_job_that_polls_first(tmp_path: Path, taught_model: ChatModel) -> None:
    holders(tmp_path / "lists", "Chancellors of Germany", CHANCELLORS)
    feeds = [
        FeedEntry(name="gone", url=str(tmp_path / "gone")),  # fails, and costs no night
        FeedEntry(name="lists", url=str(tmp_path / "lists"), trusted=True),
    ]
    settings = toy_settings(tmp_path, **LENIENT)
    with workspace(tmp_path / "home", taught_model, feeds, consolidation=settings) as ws:
        outcome = real_steps()["nightly"](ws, NOW, Silent())
        assert "1 new documents" in outcome
        assert "; promoted; " in outcome
        kinds = [run.kind for run in reversed(ws.store.runs.ls())]
        assert kinds[0] == "answers"  # of the memory tier
        assert kinds.index("cycle") < kinds.index("gate") < kinds.index("nightly")
        serving = ws.store.versions.alias("serving")
        assert serving is not None
        assert serving.edit_ids == tuple(edit.id for edit in ws.store.edits.ls())
        assert (ws.home / "reports" / "report.html").exists()


def test_a_job_that_no_daemon_of_ours_starts_leaves_a_home_at_work_alone(tmp_path: Path) -> None:
    home = configured(tmp_path)
    with only_one(home), pytest.raises(LockError, match="in use by another corrigenda"):
        nightly_job(str(home))


def test_jobs_of_different_kinds_never_run_at_once(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    due = daily(now - timedelta(hours=1))
    home = configured(tmp_path, nightly=due, retention=due)
    with running(home, Diary()):
        pass
    for job in ("nightly", "retention"):
        sleep_since(home, job, now - timedelta(days=1, hours=1))
    diary = Diary(seconds=0.1)
    with running(home, diary, first_poll=True):
        diary.wait_for(*JOBS)
    assert sorted(diary.done) == sorted(JOBS)
    assert not diary.overlapped


def test_what_an_end_cuts_short_or_leaves_waiting_is_due_at_the_next_start(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    due = daily(now - timedelta(hours=1))
    home = configured(tmp_path, nightly=due, retention=due)
    with running(home, Diary()):
        pass
    for job, hours in (("nightly", 26), ("retention", 25)):
        sleep_since(home, job, now - timedelta(hours=hours))
    stop, entered = threading.Event(), threading.Event()

    def cut_short(ws: Workspace, now: datetime, progress: Progress) -> str:
        entered.set()
        assert stop.wait(10)
        with progress.stage("next"):
            return "done"

    worker = Worker(home, Diary().steps() | {"nightly": cut_short}, stop=stop)
    with scheduling(worker, now, first_poll=False):
        assert entered.wait(10)
    worker.close()
    assert sorted(worker.unfinished) == ["nightly", "retention"]
    diary = Diary()
    with running(home, diary):
        diary.wait_for("nightly", "retention")


def test_a_new_schedule_in_the_file_takes_effect_at_the_next_start(tmp_path: Path) -> None:
    with running(configured(tmp_path, nightly="0 3 * * *"), Diary()):
        pass
    with running(configured(tmp_path, nightly="0 5 * * *"), Diary()):
        pass
    assert next_runs(tmp_path)["nightly"].hour == 5


def test_a_new_schedule_in_the_file_takes_effect_with_the_next_job(tmp_path: Path) -> None:
    diary = Diary()
    with running(configured(tmp_path, nightly="0 3 * * *"), diary) as worker:
        configured(tmp_path, nightly="0 5 * * *")
        worker.do("poll")
        assert next_runs(tmp_path)["nightly"].hour == 5
        configured(tmp_path, nightly="0 25 * * *")  # no such hour
        worker.do("poll")
        assert next_runs(tmp_path)["nightly"].hour == 5
        errors = [run.body["error"] for run in worker.workspace.store.runs.ls("failure")]
    assert diary.done == ["poll", "poll"]
    assert len(errors) == 1
    assert "schedule.nightly" in errors[0]


def test_a_schedule_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database " * 100)
    with (
        pytest.raises(DaemonError, match=r"jobs\.db cannot be used .*move that file away"),
        running(configured(tmp_path), Diary()),
    ):
        pass
    assert next_runs(tmp_path) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll", "every day"),
        ("retention", "61 * * * *"),
        ("nightly", "0 3 * * 8"),
        ("nightly", "0 3 * * 1/0"),
        ("nightly", ""),
        ("timezone", "Mars/Utopia"),
        ("timezone", "../../etc/passwd"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^schedule\.{key}: {re.escape(repr(value))}"):
        triggers(ScheduleConfig.model_validate({key: value}))


@pytest.mark.parametrize(
    ("field", "days"),
    [
        ("0", "Sun"),
        ("7", "Sun"),
        ("1-5", "Mon Tue Wed Thu Fri"),
        ("5-7", "Fri Sat Sun"),
        ("0,3", "Wed Sun"),
        ("*/2", "Tue Thu Sat Sun"),
        ("2/2", "Tue Thu Sat"),
        ("mon-wed", "Mon Tue Wed"),
        ("*", "Mon Tue Wed Thu Fri Sat Sun"),
    ],
)
def test_weekdays_are_counted_as_cron_counts_them(field: str, days: str) -> None:
    trigger = triggers(ScheduleConfig.model_validate({"nightly": f"0 3 * * {field}"}))["nightly"]
    monday = datetime(2026, 11, 2, tzinfo=UTC)
    week = [monday + timedelta(days=day) for day in range(7)]
    runs = [day for day in week if trigger.get_next_fire_time(None, day).date() == day.date()]
    assert " ".join(f"{day:%a}" for day in runs) == days


def test_a_night_falls_in_the_configured_time_zone() -> None:
    schedule = ScheduleConfig.model_validate({"timezone": "America/New_York"})
    noon = datetime(2026, 11, 2, 12, tzinfo=UTC)
    due = triggers(schedule)["nightly"].get_next_fire_time(None, noon)
    assert due.astimezone(UTC) == datetime(2026, 11, 3, 8, tzinfo=UTC)


def failing(ws: Workspace, now: datetime, progress: Progress) -> str:
    raise ValueError("two\nlines")


def test_a_job_that_fails_is_recorded_and_the_next_one_is_done(tmp_path: Path) -> None:
    diary = Diary()
    worker = Worker(configured(tmp_path), diary.steps() | {"poll": failing})
    worker.do("poll")
    worker.do("nightly")
    (run,) = worker.workspace.store.runs.ls("failure")
    assert run.body == {"job": "poll", "error": "two lines"}
    assert diary.done == ["nightly"]
    worker.close()


def test_a_failure_that_cannot_even_be_recorded_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "corrigenda.db").write_bytes(b"no database " * 100)
    diary = Diary()
    worker = Worker(configured(tmp_path), diary.steps() | {"poll": failing})
    worker.do("poll")
    worker.do("nightly")
    assert diary.done == ["nightly"]
    worker.close()


def test_the_workspace_stays_open_until_the_configuration_changes(tmp_path: Path) -> None:
    seen: list[Workspace] = []

    def step(ws: Workspace, now: datetime, progress: Progress) -> str:
        seen.append(ws)
        return "seen"

    worker = Worker(configured(tmp_path), {"poll": step})
    worker.do("poll")
    worker.do("poll")
    configured(tmp_path, timezone="Europe/Berlin")
    worker.do("poll")
    (tmp_path / FILE_NAME).write_text("[nonsense]\n")
    worker.do("poll")
    worker.do("poll")
    assert seen[0] is seen[1]
    assert seen[2] is not seen[1]
    assert seen[2] is seen[3] is seen[4]
    assert seen[4].config.schedule.timezone == "Europe/Berlin"
    (run,) = seen[4].store.runs.ls("failure")
    assert "unknown key 'nonsense'" in run.body["error"]
    worker.close()


def test_work_ends_before_its_next_stage_and_that_is_no_failure(tmp_path: Path) -> None:
    stop = threading.Event()
    stages: list[str] = []

    def step(ws: Workspace, now: datetime, progress: Progress) -> str:
        for name in ("first", "second"):
            with progress.stage(name):
                stages.append(name)
                stop.set()
        return "done"

    worker = Worker(configured(tmp_path), {"poll": step}, stop=stop)
    worker.do("poll")
    worker.do("poll")
    assert stages == ["first"]
    assert worker.workspace.store.runs.ls() == []
    worker.close()


def test_a_stoppable_progress_is_the_progress_it_wraps_until_then() -> None:
    stop = threading.Event()
    progress = Stoppable(Silent(), stop)
    with progress.stage("one", 2) as advance:
        stop.set()
        advance(2)
    with pytest.raises(Stopped, match="two"):
        progress.stage("two")


SERVING = """
import pathlib, sys, time
from agent.daemon import serve
from agent.progress import Silent

home = pathlib.Path(sys.argv[1])

def poll(ws, now, progress):
    with progress.stage("first"):
        (home / "first").touch()
        time.sleep(float(sys.argv[2]))
        (home / "whole").touch()
    with progress.stage("second"):
        (home / "second").touch()
    return "done"

serve(home, Silent(), {"poll": poll, "retention": poll, "nightly": poll})
"""


@contextmanager
def served(home: Path, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", SERVING, str(home), str(seconds)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            until((home / "first").exists)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_stage_finish_and_ends_well(tmp_path: Path, number: int) -> None:
    with served(tmp_path, 0.5) as process:
        os.kill(process.pid, number)
        time.sleep(0.1)
        os.kill(process.pid, number)  # as `timeout` does, which signals the group as well
        assert process.wait(10) == 0
    assert (tmp_path / "whole").exists()
    assert not (tmp_path / "second").exists()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with served(tmp_path, 60) as process:
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.2)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == 130
    assert not (tmp_path / "whole").exists()


def test_importing_the_module_starts_nothing() -> None:
    code = "import sys, threading, agent.daemon as d; print(threading.active_count(), *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    count, *modules = done.stdout.split()
    assert count == "1"
    assert "apscheduler" not in modules
