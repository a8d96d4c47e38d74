"""Days that are replayed: who sees what when, what the daemon's steps make of it, and where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from towns import Item, rss
from workspaces import CHANCELLORS, GERMANY, LENIENT, ScriptedModel, toy_settings, use

from agent.cli import main
from agent.config import FILE_NAME, Config, ScheduleConfig, load_config
from agent.daemon import Step, real_steps
from agent.fetch import FetchError
from agent.progress import Progress, Silent
from agent.rehearsal import (
    Row,
    Stage,
    config_text,
    own_config,
    place,
    read_recordings,
    rehearse,
    write_script,
)
from agent.replay import Day, Replay, ReplayError, dated_items, item_spans, mornings, plan
from agent.workspace import Workspace
from editors.model import ChatModel
from store.records import EditState

MERZ = Item(
    "https://wire.test/merz",
    "Merz sworn in",
    "Friedrich Merz was sworn in as chancellor of Germany on 6 May 2025, succeeding Angela Merkel.",
    datetime(2025, 5, 6, 16, tzinfo=UTC),
)
QUIET = Item(
    "https://wire.test/harbour",
    "The harbour",
    "The harbour was quiet.",
    datetime(2025, 5, 4, 9, 10, tzinfo=UTC),
)
DAILY = ScheduleConfig()


def at(day: int, hour: int = 0, minute: int = 0) -> datetime:
    return datetime(2025, 5, day, hour, minute, tzinfo=UTC)


def days_of(*changes: datetime, schedule: ScheduleConfig = DAILY, days: int = 3) -> list[Day]:
    zone = ZoneInfo(schedule.timezone)
    return plan(changes, mornings(date(2025, 5, 4), days, zone), schedule)


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    path = tmp_path / "wire.xml"
    path.write_bytes(rss(MERZ, QUIET))
    return path


def stage_of(home: Path, model: object, feed: Path, days: int = 3, **sections: object) -> Stage:
    config = Config.model_validate(sections)
    script = write_script(read_recordings([feed], days), days, date(2025, 5, 4), config)
    stage = Stage(home, config, script, trusted=True)
    use(stage, model)
    return stage


def run(stage: Stage, steps: dict[str, Step] | None = None) -> list[Row]:
    return list(rehearse(stage, stage.script.days, steps or real_steps(), Silent()))


# What is seen when


def test_an_item_is_seen_from_its_publication_on_and_not_a_second_earlier(feed: Path) -> None:
    (items,) = read_recordings([feed], 3)
    begun = mornings(date(2025, 5, 4), 3, ZoneInfo("UTC"))
    for item in (MERZ, QUIET):
        assert item.link.encode() not in items.shown(item.at - timedelta(seconds=1), begun)
        assert item.link.encode() in items.shown(item.at, begun)
    assert items.shown(MERZ.at, begun) == feed.read_bytes()


def test_what_only_looks_like_an_item_is_none() -> None:
    text = "<a><items/><!-- <item> --><item><d><![CDATA[</item>]]></d></item ><x:entry>y</x:entry>"
    assert [text[a:b] for a, b in item_spans(text)] == [
        "<item><d><![CDATA[</item>]]></d></item >",
        "<x:entry>y</x:entry>",
    ]


def test_items_in_any_encoding_are_cut_out_where_they_are() -> None:
    body = rss(MERZ, QUIET).decode().replace('"1.0"?', '"1.0" encoding="koi8-r"?')
    body = body.replace("The harbour was quiet.", "Гавань была тихой.")
    items = dated_items("wire", body.encode("koi8-r"), "wire.xml")
    begun = mornings(date(2025, 5, 4), 3, ZoneInfo("UTC"))
    replay = Replay([items], begun, lambda: at(5))
    (url,) = replay.addresses.values()
    got = replay.get(url)
    assert "Гавань была тихой." in got.body.decode()
    assert "Merz" not in got.body.decode()
    assert "charset=utf-8" in got.headers["content-type"]
    with pytest.raises(FetchError, match="is not replayed"):
        replay.get("https://elsewhere.test/")


def test_stored_polls_are_shown_one_a_day_in_the_order_of_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "polls"
    folder.mkdir()
    for name, item in (("2.rss", MERZ), ("1.rss", QUIET)):
        (folder / name).write_bytes(rss(item))
    (folder / "notes.txt").write_text("no poll")
    (polls,) = read_recordings([folder], 9)
    assert polls.first_day(9, ZoneInfo("UTC")) == QUIET.at.date()
    begun = mornings(QUIET.at.date(), 4, ZoneInfo("UTC"))
    seen = [polls.shown(morning, begun) for morning in begun]
    assert seen == [rss(QUIET), rss(MERZ), rss(MERZ), rss(MERZ), rss(MERZ)]
    assert polls.changes(begun) == begun[:2]


@pytest.mark.parametrize(("days", "first"), [(1, 6), (2, 5), (3, 4), (30, 4)])
def test_without_a_start_the_days_end_with_the_newest_item(
    feed: Path, days: int, first: int
) -> None:
    script = write_script(read_recordings([feed], days), days, None, Config())
    assert script.days[0].date == date(2025, 5, first)
    assert len(script.days) == days


# When what is done


def test_the_daemon_polls_at_once_and_then_at_the_first_time_after_a_change() -> None:
    first, second, third = days_of(at(1), QUIET.at, at(4, 9, 20), MERZ.at)
    assert first.polls == (at(4), at(4, 9, 30))
    assert second.polls == ()
    assert third.polls == (at(6, 16),)


def test_each_night_is_held_in_the_last_second_of_its_day() -> None:
    assert [day.night for day in days_of()] == [
        at(day, 23, 59) + timedelta(seconds=59) for day in (4, 5, 6)
    ]


def test_a_night_is_held_only_where_the_schedule_has_one() -> None:
    weekly = ScheduleConfig(nightly="0 3 * * 2")  # Tuesday morning: 6 May 2025
    assert [bool(day.night) for day in days_of(schedule=weekly)] == [False, True, False]


def test_days_are_those_of_the_configured_time_zone() -> None:
    there = ScheduleConfig(timezone="America/New_York")
    first, *_ = days_of(schedule=there)
    assert first.polls == (at(4, 4),)
    assert first.night == at(5, 3, 59) + timedelta(seconds=59)


def test_the_steps_are_the_daemons_on_a_clock_that_is_set(tmp_path: Path, feed: Path) -> None:
    done: list[tuple[str, datetime]] = []

    def noting(job: str) -> Step:
        def step(ws: Workspace, now: datetime, progress: Progress) -> str:
            assert ws.now() == now
            done.append((job, now))
            return ""

        return step

    with stage_of(tmp_path / "home", ScriptedModel({}), feed) as stage:
        rows = run(stage, {job: noting(job) for job in real_steps()})
        assert [row.day for row in rows] == ["2025-05-04", "2025-05-05", "2025-05-06"]
    assert [job for job, _ in done] == ["poll", "poll", "nightly", "nightly", "poll", "nightly"]
    assert [when for _, when in done] == sorted(when for _, when in done)


# What comes of it


def test_a_correction_is_told_on_the_day_of_its_news_and_promoted_that_night(
    tmp_path: Path, feed: Path, taught_model: ChatModel
) -> None:
    settings = toy_settings(tmp_path, **LENIENT).model_dump()
    with stage_of(tmp_path / "home", taught_model, feed, consolidation=settings) as stage:
        quiet, quieter, news = run(stage)
        assert (quiet.documents, quiet.claims, quiet.night) == (1, 0, "nothing to do")
        assert (quieter.documents, quieter.night, quieter.retention) == (0, "nothing to do", None)
        assert (news.documents, news.queued, news.remembered) == (1, 1, 1)
        # Once before the correction, and once more at night.
        assert (news.judged, news.verdicts["STALE"], news.verdicts["KEEP"]) == (2, 1, 1)
        assert (news.night, news.version) == ("promoted", stage.store.versions.aliases()["serving"])
        assert news.consolidated == 1
        assert news.retention is not None
        assert news.retention.n > 0
        (edit,) = stage.store.edits.ls()
        assert edit.created.date() == date(2025, 5, 6)
        (document,) = (d for d in stage.store.documents.ls() if d.url == MERZ.link)
        assert document.fetched == MERZ.at


def test_weights_that_stay_the_same_are_tested_again_only_once(
    tmp_path: Path, feed: Path, taught_model: ChatModel
) -> None:
    settings = toy_settings(tmp_path, **LENIENT).model_dump()
    with stage_of(tmp_path / "home", taught_model, feed, 5, consolidation=settings) as stage:
        *_, news, after, later = run(stage)
        assert len(stage.store.runs.ls("retention")) == 1
        assert news.retention == after.retention == later.retention


def test_days_without_news_load_no_model(tmp_path: Path, feed: Path) -> None:
    class NoModel(ScriptedModel):
        def answer(self, *words: object, **more: object) -> list[object]:  # type: ignore[override]
            raise AssertionError("a quiet day asks nothing")

        believe = answer  # type: ignore[assignment]

    feed.write_bytes(rss(QUIET))
    with stage_of(tmp_path / "home", NoModel({}), feed) as stage:
        del stage.__dict__["model"]
        assert [row.night for row in run(stage)] == ["nothing to do"] * 3
        assert "model" not in stage.__dict__


def test_one_feed_that_is_not_trusted_changes_nothing_without_a_person(
    tmp_path: Path, feed: Path
) -> None:
    config = Config()
    script = write_script(read_recordings([feed], 3), 3, date(2025, 5, 4), config)
    with Stage(tmp_path / "home", config, script) as stage:
        use(stage, ScriptedModel({GERMANY: CHANCELLORS[0][0]}))
        news = run(stage)[-1]
        assert (news.verdicts["STALE"], news.queued, news.remembered) == (1, 0, 0)
        assert news.proposed + news.held == 1
        assert news.night == "nothing to do"
        assert not stage.store.edits.ls(EditState.REMEMBERED)


def test_a_poll_that_cannot_be_read_is_trouble_of_its_day_alone(tmp_path: Path) -> None:
    folder = tmp_path / "polls"
    folder.mkdir()
    for day, body in enumerate((rss(QUIET), b"no feed at all", rss(QUIET, MERZ))):
        (folder / f"{day}.rss").write_bytes(body)
    with stage_of(tmp_path / "home", ScriptedModel({}), folder) as stage:
        first, second, third = run(stage)
    assert (first.documents, first.troubles) == (1, ())
    assert "is no RSS or Atom feed" in second.troubles[0]
    assert (third.documents, third.troubles) == (1, ())


# Whose home it is


def test_nothing_of_the_users_own_state_is_used(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / FILE_NAME).write_text(
        'database = "sqlite:////nowhere/own.db"\n[model]\npath = "m.gguf"\n[detect]\n'
        'relations = "mine.toml"\n[trust]\nrecheck_days = 3\nedits_per_night = 5\n'
        '[extract]\nllm_api_key = "secret"\n[[feeds]]\nname = "a"\nurl = "https://a.test/"\n'
    )
    config = own_config(load_config(own, environ={}), own)
    assert (config.database, config.feeds, config.trust.recheck_days) == ("", (), 0)
    assert config.trust.edits_per_night == 5
    assert config.detect.relations == str(own / "mine.toml")
    assert config.model.path == str(Path("m.gguf").absolute())
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / FILE_NAME).write_text(config_text(config))
    again = load_config(kept, environ={})
    assert again.extract.llm_api_key == ""
    assert again.trust == config.trust
    assert again.model == config.model


def test_what_is_slow_to_make_is_linked_and_never_written_where_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "cache" / "models" / "abc").mkdir(parents=True)
    with place(None, own) as where:
        models = where.home / "cache" / "models"
        assert (models / "abc").resolve() == own / "cache" / "models" / "abc"
        (models / "new").mkdir()
    assert not where.home.exists()
    assert [entry.name for entry in (own / "cache" / "models").iterdir()] == ["abc"]


@pytest.mark.parametrize("keep", ["own", "full"])
def test_a_home_that_is_in_use_is_not_rehearsed_in(tmp_path: Path, keep: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with (
        pytest.raises(ReplayError, match="is not empty; give --keep a new folder"),
        place(tmp_path / keep, tmp_path / "own"),
    ):
        pass


# At the keyboard


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    monkeypatch.setenv("CORRIGENDA_HOME", str(tmp_path / "own"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")

    def command(*words: str) -> tuple[int, str, str]:
        code = main(["rehearse", *words])
        out, err = capsys.readouterr()
        return code, out, err

    yield command
    assert not (tmp_path / "own").exists()


Call = Callable[..., tuple[int, str, str]]


def test_a_table_has_a_row_a_day_and_ends_with_the_report(call: Call, feed: Path) -> None:
    # Days before the first item: nothing is read, and the table is the same.
    code, out, err = call("--days", "2", "--feed", str(feed), "--start", "2025-04-01")
    header, first, second, legend, report = out.splitlines()
    assert (code, err) == (0, "")
    assert header.split()[:3] == ["day", "read", "stale"]
    assert first.split()[:2] == ["2025-04-01", "0/0"]
    assert "nothing" in second
    assert legend.startswith("read: documents/claims")
    assert max(map(len, (header, first, second))) <= 80
    path = Path(report.removeprefix("report").strip())
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]


def test_json_is_a_line_a_day_and_one_for_the_report_of_a_home_that_is_kept(
    call: Call, feed: Path, tmp_path: Path
) -> None:
    keep = tmp_path / "kept"
    words = ("--days", "2", "--feed", str(feed), "--start", "2025-04-01", "--json")
    code, out, err = call(*words, "--keep", str(keep))
    *rows, last = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert [row["day"] for row in rows] == ["2025-04-01", "2025-04-02"]
    assert rows[0].keys() == Row.__dataclass_fields__.keys()
    assert last == {"report": str(keep / "reports" / "report.html")}
    (entry,) = load_config(keep, environ={}).feeds
    assert entry.name == "wire"
    again = call(*words, "--keep", str(keep))
    assert again == (
        2,
        "",
        f"corrigenda: error: {keep} is not empty; give --keep a new folder\n",
    )


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ("", "has no dated items; give a feed whose items have dates"),
        ("<item><title>a</title></item>", "has no dated items"),
        (
            "<item><title>a</title></item><item><title>b</title>"
            "<pubDate>Tue, 06 May 2025 16:00:00 GMT</pubDate></item>",
            "1 of 2 items of",
        ),
    ],
)
def test_a_feed_without_dates_is_refused_with_what_it_lacks(
    call: Call, tmp_path: Path, items: str, said: str
) -> None:
    path = tmp_path / "odd.xml"
    path.write_text(f'<rss version="2.0"><channel><title>t</title>{items}</channel></rss>')
    code, out, err = call("--feed", str(path))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--feed", "gone.xml"], "no feed can be read at gone.xml (No such file or directory)"),
        (["--feed", "."], "holds no stored polls"),
        (["--feed", "letter.txt"], "is no RSS or Atom feed"),
        (["--feed", "wire.xml", "--days", "0"], "Invalid value for '--days'"),
        (["--feed", "wire.xml", "--start", "May"], "'May' is no day"),
        ([], "Missing option '--feed'"),
    ],
)
def test_bad_input_is_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    (place / "letter.txt").write_text("Dear all")
    if "." not in words:
        (place / "wire.xml").write_bytes(rss(MERZ))
    monkeypatch.chdir(place)
    code, out, err = call(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
