"""What must last is put in place whole, or not at all."""

from pathlib import Path

import pytest

from store.files import Files


def test_a_replaced_file_holds_the_new_content_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "answers.json"
    Files().replace(path, b"one")
    Files().replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


class Failing(Files):
    """Fails at one step."""

    def __init__(self, step: str) -> None:
        self._step = step

    def write(self, path: Path, data: bytes) -> None:
        super().write(path, data[: len(data) // 2])
        self._at("write")
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._at("sync")
        super().sync(path)

    def rename(self, path: Path, target: Path) -> None:
        self._at("rename")
        super().rename(path, target)

    def _at(self, step: str) -> None:
        if step == self._step:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path: Path, step: str) -> None:
    path = tmp_path / "answers.json"
    Files().replace(path, b"the old content")
    with pytest.raises(OSError, match="No space left"):
        Failing(step).replace(path, b"the new content")
    assert path.read_bytes() == b"the old content"
    assert list(tmp_path.iterdir()) == [path]
