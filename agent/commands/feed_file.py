"""Feeds in ``corrigenda.toml``, added and removed with all else in the file left as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.config import FILE_NAME, ConfigError, load_config

_HEADER = re.compile(r"\s*\[")
_FEED = re.compile(r"\s*\[\[\s*feeds\s*\]\]")


def add_feed(text: str, feed: dict[str, Any]) -> str:
    """Return a file's text with a block for one more feed at its end."""
    lines = [f"{key} = {toml(value)}" for key, value in feed.items()]
    block = "\n".join(["[[feeds]]", *lines, ""])
    return f"{text.rstrip()}\n\n{block}" if text.strip() else block


def remove_feed(text: str, name: str) -> str:
    """Return a file's text without a feed's block; comments around it stay.

    Raises:
        ConfigError: no feed has that name, or it is not written as a block of its own.
    """
    feeds = tomllib.loads(text).get("feeds", [])
    names = [feed.get("name") for feed in feeds]
    if name not in names:
        known = ", ".join(map(str, names)) or "none"
        raise ConfigError(f"no feed is named {name!r}; known feeds: {known}")
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if _FEED.match(line)]
    index = names.index(name)
    shorter = None
    if index < len(starts):
        start, end = starts[index], _block_end(lines, starts[index])
        shorter = "".join(lines[:start] + lines[end:])
    if shorter is None or not _lacks_only(text, shorter, index):
        raise ConfigError(
            f"feed {name!r} is not written as a plain [[feeds]] block; remove it by hand"
        )
    return shorter


def write_config(home: Path, text: str) -> Path:
    """Put a text in the place of the configuration file, whole or not at all.

    Raises:
        ConfigError: the text is no valid configuration; the file is as before.
        OSError: it cannot be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    path = home / FILE_NAME
    with tempfile.TemporaryDirectory(dir=home, prefix=".config-") as folder:
        draft = Path(folder) / FILE_NAME
        draft.touch(0o600)  # feed addresses may carry passwords
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            load_config(Path(folder), environ={})
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(draft), str(path))) from error
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    return path


def read_config(home: Path) -> str:
    """Return the text of the configuration file, '' where there is none. Raises ConfigError."""
    load_config(home, environ={})  # says what is wrong with it, before we build on it
    path = home / FILE_NAME
    return path.read_text(encoding="utf-8") if path.exists() else ""


def named(url: str, taken: Sequence[str]) -> str:
    """Return a name for a feed: its host, or its folder; numbered where that is taken."""
    parts = urlsplit("//wikidata" if url.startswith("wikidata:") else url)
    name = (parts.hostname or "").removeprefix("www.") or Path(parts.path).name or "feed"
    number = 1
    while (candidate := name if number == 1 else f"{name}-{number}") in taken:
        number += 1
    return candidate


def located(url: str) -> str:
    """Return a feed's address; a path as it is from anywhere."""
    elsewhere = "://" in url or url.startswith("wikidata:")
    return url if elsewhere else str(Path(url).expanduser().absolute())


def toml(value: str | bool | int | Sequence[str]) -> str:
    """Return a value as TOML; its strings are JSON's, but that DEL must be escaped too."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _block_end(lines: Sequence[str], start: int) -> int:
    """Return where a block ends: comments before the next header belong to that one."""
    end = start + 1
    while end < len(lines) and not _HEADER.match(lines[end]):
        end += 1
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip()[0] == "#"):
        end -= 1
    # Of the empty lines on both sides of it, only one side's stay.
    if end < len(lines) and not lines[end].strip() and (start == 0 or not lines[start - 1].strip()):
        end += 1
    return end


def _lacks_only(text: str, shorter: str, index: int) -> bool:
    """Whether a shortened file says the same, but for one feed."""
    expected = tomllib.loads(text)
    del expected["feeds"][index]
    try:
        found = tomllib.loads(shorter)
    except tomllib.TOMLDecodeError:
        return False
    return {"feeds": [], **found} == expected
