from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.lock import LockError, holder, only_one


def test_a_second_program_is_refused_and_told_which_process_is_first(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(LockError, match=f"process {os.getpid()}"),
        only_one(tmp_path),
    ):
        pass


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    with only_one(tmp_path / "new"):
        assert holder(tmp_path / "new") == os.getpid()
    assert holder(tmp_path / "new") is None
    with only_one(tmp_path / "new"):
        pass


def test_a_killed_program_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from agent.lock import only_one\n"
        "with only_one(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2]
    )
    assert done.returncode == -9
    assert (tmp_path / "corrigenda.lock").read_text()
    assert holder(tmp_path) is None
    with only_one(tmp_path):
        pass
