from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from samples import write_gguf

from agent.cli import build, main
from agent.commands.errors import CODES, explain
from agent.commands.output import aligned, plain
from agent.config import FILE_NAME
from agent.lock import only_one
from agent.progress import Progress
from agent.report import Held
from agent.trust import QUARANTINED
from store.feeds import FeedState
from store.library import Store
from store.records import (
    Belief,
    Claim,
    ClaimRole,
    Document,
    Edit,
    EditState,
    Probe,
    ProbeKind,
    Reply,
    Verdict,
    VerdictKind,
    from_json,
    to_json,
)

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
HELP_SECONDS = 0.3

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("CORRIGENDA_HOME", str(folder))
    monkeypatch.delenv("CORRIGENDA_DEBUG", raising=False)
    # Set here, so that what the program sets is undone after the test.
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def filled(home: Path) -> Iterator[Store]:
    """A home that has read one page and proposes one edit."""
    text = "Friedrich Merz was sworn in as chancellor of Germany."
    about = {"subject": "Germany", "relation": "head_of_government", "title": "chancellor"}
    document = Document("d1", "wire", "https://wire.example/1", "Sworn in", text, NOW, NOW, "h")
    claim = Claim(
        id="c1",
        object="Friedrich Merz",
        role=ClaimRole.CURRENT,
        document_id="d1",
        quote=text,
        start=0,
        end=len(text),
        extractor="test",
        extracted=NOW,
        valid_from="2025-05-06",
        dated_by="text",
        **about,
    )
    question = "Who is the chancellor of Germany?"
    reply = Reply(question, "It is \x1b[31mAngela\u202e Merkel.", -0.1)
    verdict = Verdict(
        id="v1",
        kind=VerdictKind.STALE,
        path=("4 of 4 phrasings name Angela Merkel, a former value",),
        believed="Angela Merkel",
        current="Friedrich Merz",
        decided=NOW,
        belief=Belief("Germany", "head_of_government", (reply,), "model", NOW, 1.0),
        **about,
    )
    edit = Edit(
        id="abc123",
        old="Angela Merkel",
        new="Friedrich Merz",
        statement="The chancellor of Germany is Friedrich Merz.",
        probes=(Probe(ProbeKind.EDIT, question, "Friedrich Merz"),),
        state=EditState.PROPOSED,
        created=NOW,
        updated=NOW,
        verdict_id="v1",
        claim_ids=("c1",),
        reason="stated by one source only",
        **about,
    )
    with Store(home) as store:
        store.documents.add(document)
        store.facts.assimilate([claim], lambda a, b: a == b, NOW)
        store.verdicts.add(verdict)
        store.edits.add(edit)
        yield store


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# --- help ---------------------------------------------------------------------------------


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(build())))
LEAVES = [path for path, command in COMMANDS.items() if not getattr(command, "commands", None)]


def test_every_command_that_is_promised_is_there() -> None:
    promised = """
        init, doctor, status, run, demo, rehearse, check, why, verify, report, chat, config show,
        feeds ls, feeds add, feeds rm, feeds test, facts ls, facts show, facts as-of,
        queue ls, queue held, queue approve, queue reject, edits ls, edits show, edits revert,
        versions ls, versions show, versions diff, versions rollback, versions promote,
        versions gc, rebuild, editors ls, editors show, editors tune,
        editors train,
        relations ls, relations show, relations test, bench detect, bench edit,
        bench graph, bench retain, bench export, export gguf, export hf, export modelfile
    """
    assert {" ".join(path) for path in LEAVES} == {" ".join(p.split()) for p in promised.split(",")}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_answers_at_once(path: tuple[str, ...]) -> None:
    """The time is the processor's, which is what a person waits for on a machine at rest."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    best = float("inf")
    for _ in range(3):
        before = spent()
        command = [sys.executable, "-m", "agent.cli", *path, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        best = min(best, spent() - before)
        if best < HELP_SECONDS:
            break
    assert done.stdout.startswith(f"Usage: {' '.join(('corrigenda', *path))} ")
    assert best < HELP_SECONDS


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_help_gives_an_example_that_the_command_line_takes(path: tuple[str, ...]) -> None:
    import shlex

    example = COMMANDS[path].epilog.removeprefix("Example: corrigenda ")
    words = shlex.split(example)
    assert tuple(words[: len(path)]) == path
    context = COMMANDS[path].make_context("corrigenda", words[len(path) :])
    assert set(context.params) == {parameter.name for parameter in COMMANDS[path].params} - {"help"}


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    code, out, err = run()
    assert code == 2
    assert out.startswith("Usage: corrigenda")
    assert err == ""


def test_the_version_is_shown(run: Run) -> None:
    code, out, _ = run("--version")
    assert (code, out.split()[0]) == (0, "corrigenda")


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fees"], "No such command 'fees'. Did you mean 'feeds'?"),
        (["feeds", "add"], "Missing argument"),
        (["facts", "ls", "--slots", "x"], "No such option: --slots"),
        (["facts", "as-of", "2020-13"], "'2020-13' is no day"),
        (["facts", "show", "Atlantis", "chancellor"], "nothing is known about chancellor of A"),
        (["edits", "ls", "--state", "lost"], "'lost' is no state; states: proposed, queued"),
        (["editors", "show", "magic"], "no method is named 'magic'"),
        (["init", "--model", "/no/such.gguf"], "model /no/such.gguf does not exist"),
        (["feeds", "rm", "x"], "no feed is named 'x'; known feeds: none"),
        (["feeds", "test", "x"], "no feed is named 'x'; known feeds: none"),
        (["queue", "approve"], "give the ids of edits, or --all"),
        (["queue", "approve", "aa", "--all"], "give the ids of edits, or --all"),
        (["run", "--json"], "--json goes with --once"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run: Run, words: list[str], said: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.startswith("corrigenda: error: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_broken_key_is_one_line_with_the_file_and_the_key(run: Run, home: Path) -> None:
    home.mkdir()
    (home / FILE_NAME).write_text("[model]\npth = 1\n")
    for words in (["status"], ["config", "show"], ["feeds", "add", "https://a.example"]):
        code, _, err = run(*words)
        assert code == 2
        assert f"{home / FILE_NAME}: unknown key 'model.pth'" in err


def test_an_unknown_edit_is_one_line_and_exit_code_1(run: Run) -> None:
    code, _, err = run("edits", "show", "zz")
    assert (code, err) == (
        1,
        "corrigenda: error: no edit begins with 'zz'; list them to see their ids\n",
    )


def test_a_damaged_database_is_one_line(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "corrigenda.db").write_bytes(b"no database " * 100)
    code, _, err = run("edits", "ls")
    assert code == 1
    assert "is damaged" in err
    assert err.count("\n") == 1


def test_the_traceback_is_there_for_those_who_ask(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store.errors import StoreError

    monkeypatch.setenv("CORRIGENDA_DEBUG", "1")
    with pytest.raises(StoreError):
        run("edits", "show", "zz")


def test_every_known_error_class_exists() -> None:
    from importlib import import_module

    for name in CODES:
        module, _, attribute = name.rpartition(".")
        cls = getattr(import_module(module), attribute)
        assert issubclass(cls, Exception)
        assert (cls.__module__, cls.__qualname__) == (module, attribute)


def test_a_full_disk_is_said_plainly() -> None:
    line, code = explain(OSError(28, "No space left on device", "/srv/x"))
    assert code == 1
    assert line.startswith("no space is left for /srv/x; free some")


def test_what_nobody_foresaw_is_still_one_line() -> None:
    line, code = explain(KeyError("two\nlines"))
    assert code == 1
    assert line.startswith("this should not happen: KeyError: ")
    assert "\n" not in line


def test_an_interrupt_is_one_line_and_exit_code_130(
    run: Run, filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.commands.output.listing", interrupted)
    code, _, err = run("edits", "ls")
    assert (code, err.count("\n")) == (130, 1)


# --- setting up ---------------------------------------------------------------------------


def test_init_writes_a_file_that_works_and_never_overwrites_one(run: Run, home: Path) -> None:
    model = write_gguf(home.parent / 'my "model".gguf')
    code, out, _ = run("init", "--model", str(model), "--feed", "https://a.example/rss")
    assert (code, f"wrote {home / FILE_NAME}" in out) == (0, True)
    settings = lines(run("config", "show", "--json")[1])[0]
    assert settings["model"]["path"] == str(model)
    assert [feed["name"] for feed in settings["feeds"]] == ["a.example"]
    before = (home / FILE_NAME).read_text()
    assert run("init")[0] == 2
    assert (home / FILE_NAME).read_text() == before
    assert run("init", "--force")[0] == 0
    assert (home / FILE_NAME).read_text() != before


def test_the_home_option_wins_over_the_environment(run: Run, home: Path) -> None:
    elsewhere = home.parent / "elsewhere"
    assert run("--home", str(elsewhere), "-q", "init") == (0, "", "")
    assert (elsewhere / FILE_NAME).exists()
    assert not home.exists()


def test_feeds_are_added_listed_tried_and_removed(run: Run, home: Path) -> None:
    papers = home.parent / "papers"
    papers.mkdir()
    (papers / "one.txt").write_text("One paper.")
    assert run("feeds", "ls")[1] == "no feeds yet; add one with `corrigenda feeds add URL`\n"
    run("feeds", "add", str(papers), "--trusted")
    run("feeds", "add", "https://me:secret@a.example/rss?key=secret", "--name", "a")
    run("feeds", "add", str(home.parent / "gone"))
    code, out, _ = run("feeds", "ls", "--json")
    listed = {row["name"]: row for row in lines(out)}
    assert list(listed) == ["papers", "a", "gone"]
    assert listed["papers"]["trusted"] is True
    assert "secret" not in out + run("config", "show")[1] + run("feeds", "ls")[1]
    assert run("feeds", "test", "papers") == (0, "papers: 1 documents; first: One paper.\n", "")
    code, out, _ = run("feeds", "test", "gone", "--json")
    assert code == 3
    assert "is no folder" in lines(out)[0]["error"]
    assert run("feeds", "rm", "gone")[0] == 0
    assert [row["name"] for row in lines(run("feeds", "ls", "--json")[1])] == ["papers", "a"]


def test_two_feeds_of_one_name_are_refused_and_the_file_stays(run: Run, home: Path) -> None:
    run("feeds", "add", "https://a.example", "--name", "a")
    before = (home / FILE_NAME).read_text()
    code, _, err = run("feeds", "add", "https://b.example", "--name", "a")
    assert (code, "two feeds are named 'a'" in err) == (2, True)
    assert (home / FILE_NAME).read_text() == before


def test_init_refuses_a_file_that_is_no_whole_model_and_writes_nothing(
    run: Run, home: Path
) -> None:
    model = write_gguf(home.parent / "model.gguf")
    whole = model.read_bytes()
    for bad, said in ((b"hello", "is not a GGUF file"), (whole[:-40], "is cut short")):
        model.write_bytes(bad)
        code, out, err = run("init", "--model", str(model))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"{model} {said}" in err
    assert not (home / FILE_NAME).exists()


def test_doctor_tells_degraded_from_broken(run: Run, home: Path) -> None:
    model = write_gguf(home.parent / "model.gguf")
    run("init", "--model", str(model))
    code, out, _ = run("doctor")
    assert code in (1, 3)  # no feeds: never 0
    assert "→ add one with `corrigenda feeds add URL`" in out
    model.unlink()
    code, out, _ = run("doctor", "--json")
    assert code == 1
    assert {"name": "model", "level": "fail"}.items() <= next(
        row for row in lines(out) if row["name"] == "model"
    ).items()


# --- what is known and what is done about it -----------------------------------------------


def test_lists_in_json_are_the_records_that_are_stored(run: Run, filled: Store) -> None:
    for words, records in (
        (["edits", "ls"], filled.edits.ls()),
        (["queue", "ls"], filled.edits.ls()),
        (["facts", "ls"], filled.facts.ls()),
        (["facts", "as-of", "2026"], filled.facts.ls()),
        (["facts", "show", "germany", "Chancellor"], filled.facts.ls()),
        (["edits", "show", "abc"], filled.edits.ls()),
    ):
        code, out, _ = run(*words, "--json")
        assert code == 0
        assert lines(out) == [to_json(record) for record in records]
        assert [from_json(type(records[0]), row) for row in lines(out)] == records


def test_lists_are_aligned_text_where_no_one_watches(run: Run, filled: Store) -> None:
    header, row = run("facts", "ls")[1].splitlines()
    assert header.split() == ["slot", "value", "from", "until", "claims"]
    assert row.split("  ")[0] == "chancellor of Germany"
    assert header.index("value") == row.index("Friedrich Merz")


def test_facts_are_found_by_any_name_and_any_day(run: Run, filled: Store) -> None:
    assert "Friedrich Merz" in run("facts", "ls", "--slot", "GERMANY")[1]
    assert "no facts about 'france'" in run("facts", "ls", "--slot", "france")[1]
    assert (
        "https://wire.example/1"
        in run("facts", "show", "Deutschland", "chancellor")[1]
        + (run("facts", "show", "Germany", "head_of_government")[1])
    )
    assert "nothing is known to have held on 2020-06" in run("facts", "as-of", "2020-06")[1]


def test_empty_lists_say_what_to_do_next(run: Run) -> None:
    for words in ("facts ls", "edits ls", "queue ls", "versions ls"):
        code, out, _ = run(*words.split())
        assert (code, out.count("\n")) == (0, 1)
        assert run(*words.split(), "--json") == (0, "", "")


def test_why_leads_from_the_edit_to_the_quote_and_its_page(run: Run, filled: Store) -> None:
    code, out, _ = run("why", "abc")
    assert code == 0
    for part in (
        "Angela Merkel → Friedrich Merz",
        "STALE",
        "4 of 4 phrasings name Angela Merkel, a former value",
        "Who is the chancellor of Germany?",
        "“Friedrich Merz was sworn in as chancellor of Germany.”",
        "https://wire.example/1",
        "fetched 2026-11-02 08:00, published 2026-11-02 08:00, by feed wire",
    ):
        assert part in out
    found = lines(run("why", "abc", "--json")[1])[0]
    assert found["verdict"]["id"] == "v1"
    assert found["sources"][0]["document"]["url"] == "https://wire.example/1"
    assert "text" not in found["sources"][0]["document"]


def test_what_feeds_and_models_say_cannot_steer_the_terminal(run: Run, filled: Store) -> None:
    out = run("why", "abc")[1]
    assert "answered It is [31mAngela Merkel." in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_rejecting_and_taking_back_move_the_edit_with_its_reason(run: Run, filled: Store) -> None:
    assert run("queue", "reject", "abc", "--reason", "a hoax")[0] == 0
    edit = filled.edits.find("abc")
    assert (edit.state, edit.reason) == (EditState.REJECTED, "a hoax")
    code, _, err = run("edits", "revert", "abc")
    assert (code, "is rejected and cannot become reverted" in err) == (1, True)
    filled.edits.move("abc", EditState.QUEUED, NOW)
    filled.edits.move("abc", EditState.REMEMBERED, NOW)
    filled.edits.move("abc", EditState.CONSOLIDATED, NOW)
    code, out, _ = run("edits", "revert", "abc")
    assert (code, "the weights follow at the next consolidation" in out) == (0, True)
    assert filled.edits.find("abc").state is EditState.REVERTED


def test_what_is_held_back_is_listed_beside_what_waits(run: Run, filled: Store) -> None:
    held = Held("president of Peru", "no source dates the value", value="Anna Adler")
    filled.runs.add("cycle", NOW, {"held": [to_json(held)]})
    body = {"id": "d9", "feed": "wire", "url": "https://wire.example/9", "why": "a flood"}
    filled.ledger.append(QUARANTINED, {**body, "claims": 50}, datetime.now(UTC))
    out = run("queue", "held")[1]
    for part in ("no source dates the value", "chancellor of Germany", "a flood", "review"):
        assert part in out
    rows = lines(run("queue", "held", "--json")[1])
    assert [row["tier"] for row in rows] == ["held", "review", "quarantined"]
    assert rows[1]["documents"] == ["https://wire.example/1"]
    assert (rows[1]["believed"], rows[1]["value"]) == ("Angela Merkel", "Friedrich Merz")


def test_approving_while_the_daemon_runs_leaves_the_work_to_it(
    run: Run, filled: Store, home: Path
) -> None:
    with only_one(home):
        code, out, _ = run("queue", "approve", "--all")
    assert (code, "takes them up with its next poll" in out) == (0, True)
    assert filled.edits.find("abc").state is EditState.QUEUED
    assert "nothing waits for approval" in run("queue", "approve", "--all")[1]


def test_status_tells_what_is_in_trouble_by_its_exit_code(
    run: Run, filled: Store, home: Path
) -> None:
    code, out, _ = run("status", "--json")
    found = lines(out)[0]
    assert (code, found["troubles"]) == (0, [])
    assert (found["edits"], found["verdicts"]["STALE"]) == ({"proposed": 1}, 1)
    assert (found["process"], found["serving"]) == (None, None)
    run("feeds", "add", "https://a.example", "--name", "a")
    now = datetime.now(UTC)
    filled.feeds.put(FeedState("a", failures=2, error="a.example answers 500"))
    filled.feeds.put(FeedState("removed", failures=9, error="long gone"))
    filled.runs.add("failure", now, {"job": "nightly", "error": "out of memory"})
    filled.runs.add("missed", now, {"job": "retention", "due": now})
    filled.runs.add("failure", now - timedelta(days=2), {"job": "poll", "error": "old"})
    with only_one(home):
        code, out, _ = run("status")
    assert code == 3
    assert f"running (process {os.getpid()})" in out
    troubles = [line for line in out.splitlines() if line.startswith("trouble")]
    assert len(troubles) == 3
    assert "feed a failed 2 times: a.example answers 500" in troubles[0]
    assert "nightly failed: out of memory" in troubles[1]
    assert "retention, due " in troubles[2]


def test_verify_names_the_first_bad_entry(run: Run, filled: Store, home: Path) -> None:
    code, out, _ = run("verify")
    assert (code, "are as they were written" in out) == (0, True)
    conn = sqlite3.connect(home / "corrigenda.db")
    conn.execute("UPDATE ledger SET kind = 'edited' WHERE seq = 2")
    conn.commit()
    conn.close()
    code, out, _ = run("verify")
    assert (code, "ledger entry 2 is not as it was written" in out) == (1, True)
    assert lines(run("verify", "--json")[1])[0]["first_bad_entry"] == 2


def test_verify_names_a_version_whose_files_were_changed(
    run: Run, filled: Store, home: Path
) -> None:
    import torch

    version = filled.versions.save("base", "test", ["abc123"], {"t": torch.ones(2)}, {}, NOW)
    filled.versions.set_alias("serving", version.id, NOW)
    (row,) = lines(run("versions", "ls", "--json")[1])
    assert (row["id"], row["aliases"]) == (version.id, ["serving"])
    assert run("verify")[0] == 0
    tensors = home / "versions" / version.id / "delta.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    code, out, _ = run("verify")
    assert (code, f"version {version.id} is not as it was saved" in out) == (1, True)


def test_only_one_program_at_a_time_works_on_a_home(run: Run, home: Path) -> None:
    with only_one(home):
        for words in (["run"], ["run", "--once"]):
            code, out, err = run(*words)
            assert (code, out) == (1, "")
            assert f"in use by another corrigenda (process {os.getpid()})" in err


def test_the_demo_has_its_own_folder_to_itself(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def demo(place: Path, progress: Progress) -> dict[str, Any]:
        found.append(place)
        assert not place.exists()
        assert run("demo", "--home", str(place))[0] == 1
        return {"report": str(place / "report.html"), "documents": 1}

    monkeypatch.setattr("agent.demo.run_demo", demo)
    code, out, _ = run("-q", "demo", "--json")
    assert (code, lines(out)[-1]["documents"]) == (0, 1)
    run("-q", "demo", "--home", str(home.parent / "elsewhere"))
    assert found == [home / "demo", home.parent / "elsewhere"]


def test_a_cycle_with_a_feed_that_fails_is_degraded_and_still_reported(
    run: Run, home: Path
) -> None:
    run("feeds", "add", str(home.parent / "gone"))
    code, out, _ = run("run", "--once")
    assert (code, "is no folder" in out) == (3, True)
    code, out, _ = run("run", "--once", "--json")
    assert (code, lines(out)[0]["feeds"][0]["status"]) == (3, "unchanged")  # it waits
    assert Path(lines(out)[0]["report"]).exists()


def test_methods_are_listed_with_whether_they_reach_a_gguf(run: Run) -> None:
    rows = {row["name"]: row for row in lines(run("editors", "ls", "--json")[1])}
    assert rows["compiled"]["reaches_gguf"] is True
    assert "reaches a GGUF  yes" in run("editors", "show", "compiled")[1]


# --- showing ------------------------------------------------------------------------------


def test_text_is_one_line_without_marks_that_move_the_cursor_or_turn_the_text() -> None:
    assert plain("a\r\n\tb \x1b[2J\u202ec\u200bd\U000e0041") == "a b [2J c d"
    assert plain("Curaçao 東京 ‘x’") == "Curaçao 東京 ‘x’"
    assert plain(None) == ""
    assert plain(0) == "0"


def test_columns_begin_at_the_same_place_and_lines_end_bare() -> None:
    assert aligned([["a", "long", ""], ["bb", "x", "y"]]) == ["a   long", "bb  x     y"]
    assert aligned([]) == []
