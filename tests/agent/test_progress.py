from __future__ import annotations

import io

import pytest
from rich.console import Console

from agent.progress import Bars, Silent, rich_progress


def bars() -> tuple[Bars, io.StringIO]:
    out = io.StringIO()
    return Bars(Console(file=out, force_terminal=True, width=100, color_system=None)), out


def test_stages_can_be_nested_and_each_leaves_a_line() -> None:
    shown, out = bars()
    with shown.stage("outer", 2) as advance, shown.stage("inner") as inner:
        advance()
        inner(3)
    with shown.stage("after", 1) as advance:
        advance(1)
    lines = [line for line in out.getvalue().splitlines() if line.rstrip().endswith(" s")]
    assert [next(w for w in ("inner", "outer", "after") if w in line) for line in lines] == [
        "inner",
        "outer",
        "after",
    ]


def test_a_stage_that_fails_lets_go_of_the_terminal() -> None:
    shown, out = bars()
    with pytest.raises(ValueError, match="broken"), shown.stage("stage"):
        raise ValueError("broken")
    assert out.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in out.getvalue()  # the cursor


def test_away_from_a_terminal_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = rich_progress()
    assert isinstance(progress, Silent)
    with progress.stage("stage", 3) as advance:
        advance()
    assert capsys.readouterr() == ("", "")
