"""How records are shown: JSON lines, a table on a terminal, aligned text elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

# Text from feeds and models may hold control sequences and direction marks, with which a
# line on a terminal can be made to say something else.
_UNSAFE = re.compile(
    "[\x00-\x20\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]+"
)


def plain(text: object) -> str:
    """Return a value as one line that is safe to print; None as the empty string."""
    return "" if text is None else _UNSAFE.sub(" ", str(text)).strip()


def moment(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M}"


def brief(id: str) -> str:
    """Return the beginning of an id, which every command takes for the whole."""
    return id[:10]


def asked(title: str, relation: str, subject: str) -> str:
    """Return what a slot asks for, as people say it: "chancellor of Germany"."""
    return f"{title or relation} of {subject}"


def dump(record: Any) -> None:
    """Print one record, or mapping, as a line of JSON."""
    from store.records import to_json

    fields = record if isinstance(record, Mapping) else to_json(record)
    print(json.dumps(fields, ensure_ascii=False, allow_nan=False))


def listing(
    records: Iterable[Any],
    columns: Mapping[str, Callable[[Any], object]],
    as_json: bool,
    empty: str,
) -> None:
    """Print records: one line of JSON each, or a table of ``columns``, or why it is ``empty``."""
    if as_json:
        for record in records:
            dump(record)
        return
    rows = [[plain(cell(record)) for cell in columns.values()] for record in records]
    if rows:
        table(list(columns), rows)
    else:
        print(empty)


def stored(
    bodies: Sequence[str],
    columns: Mapping[str, Callable[[Any], object]],
    as_json: bool,
    empty: str,
) -> None:
    """Print records as :func:`listing` does, from the JSON that is stored of them."""
    if as_json:
        sys.stdout.writelines(f"{body}\n" for body in bodies)
    else:
        listing(map(json.loads, bodies), columns, False, empty)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headers."""
    if sys.stdout.isatty():
        from rich import box, console
        from rich.table import Table
        from rich.text import Text

        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for header in headers:
            shown.add_column(header, overflow="fold")
        for row in rows:
            shown.add_row(*map(Text, row))
        console.Console().print(shown)
        return
    for line in aligned([headers, *rows]):
        print(line)


def details(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; what is empty is left out."""
    shown = [(name, text) for name, value in pairs if (text := plain(value))]
    for line in aligned(shown):
        print(line)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose cells begin at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
