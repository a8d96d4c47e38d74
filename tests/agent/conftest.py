"""What tests of the agent share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from towns import MakeTown, Town


@pytest.fixture
def make_town(tmp_path: Path) -> Iterator[MakeTown]:
    towns: list[Town] = []

    def build(*feeds: str, **sections: Any) -> Town:
        towns.append(Town(tmp_path / str(len(towns)), feeds, **sections))
        return towns[-1]

    yield build
    for town in towns:
        town.ws.close()
