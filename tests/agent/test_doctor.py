from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from agent.config import FILE_NAME
from agent.doctor import Check, Level, examine, packages, python, storage, worst
from store.library import Store


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CORRIGENDA_MODEL__PATH", "CORRIGENDA_HOME"):
        monkeypatch.delenv(name, raising=False)


def home_with(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text(text)
    return folder


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def a_model(folder: Path) -> str:
    path = folder / "model.gguf"
    path.write_bytes(b"GGUF")
    return f"[model]\npath = {str(path)!r}\n"


def test_looking_at_a_home_that_is_not_there_makes_none(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    checks = named(examine(home))
    assert "not made yet" in checks["home"].detail
    assert checks["database"] == Check("database", Level.OK, "not made yet")
    assert checks["feeds"].level is Level.WARN
    assert not home.parent.exists()


def test_a_healthy_home_is_found_healthy(tmp_path: Path) -> None:
    home = home_with(tmp_path, a_model(tmp_path))
    with Store(home) as store:
        store.ledger.append("test", {}, datetime.now(UTC))
    checks = named(examine(home))
    for name in ("python", "home", "configuration", "relations", "model", "database"):
        assert checks[name].level is Level.OK, checks[name]
    assert "1 ledger entries" in checks["database"].detail


def test_a_broken_configuration_is_named_and_hides_only_what_rests_on_it(tmp_path: Path) -> None:
    checks = named(examine(home_with(tmp_path, "[model]\npth = 1\n")))
    assert checks["configuration"].level is Level.FAIL
    assert "model.pth" in checks["configuration"].detail
    assert set(checks) == {"python", "packages", "home", "configuration"}


def test_a_schedule_that_makes_no_sense_is_named(tmp_path: Path) -> None:
    home = home_with(tmp_path, a_model(tmp_path) + "[schedule]\npoll = 'often'\n")
    check = named(examine(home))["configuration"]
    assert (check.level, "schedule.poll" in check.detail) == (Level.FAIL, True)
    assert "write five fields" in check.remedy


def test_a_missing_model_is_named_with_the_key_to_set(tmp_path: Path) -> None:
    check = named(examine(home_with(tmp_path, "[model]\npath = '/no/such.gguf'\n")))["model"]
    assert check.level is Level.FAIL
    assert "/no/such.gguf" in check.detail
    assert "model.path" in check.remedy


def test_a_broken_relation_file_does_not_hide_the_other_findings(tmp_path: Path) -> None:
    home = home_with(tmp_path, a_model(tmp_path) + "[detect]\nrelations = '/no/such.toml'\n")
    checks = named(examine(home))
    assert checks["relations"].level is Level.FAIL
    assert "/no/such.toml" in checks["relations"].detail
    assert checks["model"].level is Level.OK


def test_a_changed_ledger_entry_is_named(tmp_path: Path) -> None:
    home = home_with(tmp_path, a_model(tmp_path))
    with Store(home) as store:
        for number in range(3):
            store.ledger.append("test", {"number": number}, datetime.now(UTC))
    conn = sqlite3.connect(home / "corrigenda.db")
    conn.execute("""UPDATE ledger SET body = '{"number":9}' WHERE seq = 2""")
    conn.commit()
    conn.close()
    check = named(examine(home))["database"]
    assert (check.level, check.detail) == (Level.FAIL, "ledger entry 2 was changed")


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    home = home_with(tmp_path, a_model(tmp_path))
    (home / "corrigenda.db").write_bytes(b"no database " * 100)
    check = named(examine(home))["database"]
    assert check.level is Level.FAIL
    assert "is damaged" in check.detail
    assert check.remedy


def test_feeds_are_tried_only_when_asked_for(tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "one.txt").write_text("One paper.")
    feeds = "".join(
        f"[[feeds]]\nname = {name!r}\nurl = {url!r}\n"
        for name, url in (("papers", str(papers)), ("gone", str(tmp_path / "gone")))
    )
    home = home_with(tmp_path / "home", a_model(tmp_path) + feeds)
    assert named(examine(home))["feeds"].detail.startswith("2 configured")
    checks = named(examine(home, poll_feeds=True))
    assert checks["feed papers"] == Check("feed papers", Level.OK, "1 documents")
    assert checks["feed gone"].level is Level.WARN
    assert "gone is no folder" in checks["feed gone"].detail
    assert not (home / "corrigenda.db").exists()


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return "1"

    required = ["rich>=14", "torch>=2.6", "pytest>=8; extra == 'dev'"]
    check = packages(lambda name: required, version)
    assert check == Check("packages", Level.FAIL, "missing: torch", "pip install torch")
    assert packages(lambda name: required, lambda name: "1").detail == "all 2 are installed"


def test_an_old_python_is_refused() -> None:
    assert python((3, 10, 9)).level is Level.FAIL
    assert python((3, 11, 0)).level is Level.OK


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    assert storage(tmp_path / "home").level is Level.FAIL
    assert storage(tmp_path / "home" / "below").level is Level.FAIL


def test_the_worst_finding_counts() -> None:
    ok, warn, fail = (Check("x", level, "") for level in Level)
    assert worst([]) is Level.OK
    assert worst([ok, warn, ok]) is Level.WARN
    assert worst([fail, warn, ok]) is Level.FAIL
