"""How what must last is put on disk: every step that can fail or be cut short, by name."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


class Files:
    """Writes to the file system that are on disk when they return. All raise OSError."""

    def temporary(self, root: Path, prefix: str) -> Path:
        """Make a folder of our own in ``root``, which is made where it is missing."""
        root.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=root))

    def write(self, path: Path, data: bytes) -> None:
        """Write a file; it is safe only after ``sync``."""
        path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """Wait until a file's content, or a folder's list of names, is on disk."""
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, path: Path, data: bytes) -> None:
        """Put a file's content in place so that a crash leaves the old file or the new one."""
        with self.replacing(path) as temporary:
            self.write(temporary, data)

    @contextlib.contextmanager
    def replacing(self, path: Path) -> Iterator[Path]:
        """Yield a file beside ``path`` to be written; it takes the place of ``path`` when the
        block ends, and is gone where the block fails."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            yield temporary
            self.sync(temporary)
            self.rename(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # The rename itself lasts only once the folder is on disk.
        self.sync(path.parent)

    def rename(self, path: Path, target: Path) -> None:
        """Rename, in one step; it is safe only after ``sync`` of the folder around it."""
        path.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file, or a folder with all that is in it."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
