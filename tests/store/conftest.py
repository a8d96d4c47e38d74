from collections.abc import Iterator
from pathlib import Path

import pytest

from store.library import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home") as opened:
        yield opened
