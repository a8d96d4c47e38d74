"""The short form of ``crash.py``: forty kills, at every named place and at random moments."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from store.failpoints import FAILPOINTS

ROOT = Path(__file__).parents[2]


def test_forty_kills_lose_nothing_and_leave_nothing_behind() -> None:
    script = Path(__file__).with_name("crash.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "40"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["violations"] == [], done.stderr
    assert found["failpoints"] == sorted(FAILPOINTS)
    assert found["kills"] >= 36  # a turn can be over before its moment comes


def test_every_place_that_is_listed_is_in_the_code_once_and_no_other() -> None:
    found = [
        name
        for room in ("agent", "store")
        for path in (ROOT / room).rglob("*.py")
        for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(FAILPOINTS)
