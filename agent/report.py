"""The drift report: what the model believed wrongly, what was done, and whether it held.

Pure rendering. ``ReportData`` is everything the report says, as plain values;
``write_report`` lays it down as ``report.html`` (one file, no script, no network) and
``report.json`` (the same data), and ``summary`` says it in a dozen lines for a terminal.
Everything that came from a feed or a model is hostile text here: the page escapes it,
only http(s) addresses become links, and credentials in addresses are struck out.
"""

from __future__ import annotations

import enum
import json
import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2

from agent.charts import retention_chart, survival_chart
from agent.retested import RetentionRun, Survived
from editors.metrics import Interval
from store.files import Files
from store.records import EditState, VerdictKind, from_json, to_json

SCHEMA = "corrigenda.report/1"
MATRIX_ROWS = 100
"""Corrections whose answers the page shows run by run; the JSON file has all."""


class ReportError(Exception):
    """A report cannot be written or read; the message names it and the remedy."""


class Status(enum.StrEnum):
    """What became of the night's candidate."""

    PROMOTED = "promoted"
    HELD = "held"
    REMEMBERED = "remembered only"
    NOTHING = "nothing to do"


class FeedStatus(enum.StrEnum):
    OK = "ok"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True)
class FeedInput:
    name: str
    url: str
    status: FeedStatus
    new_documents: int = 0
    note: str = ""


@dataclass(frozen=True)
class Held:
    """Something read that was not acted upon, and why.

    ``tier``: "held" (no edit was proposed), "review" (an edit waits for a person), "flagged" (an
    approved edit lost its sources) or "quarantined" (a document of which nothing is believed).
    ``documents`` are addresses.
    """

    what: str
    why: str
    tier: str = "held"
    subject: str = ""
    relation: str = ""
    believed: str = ""
    value: str = ""
    documents: tuple[str, ...] = ()
    edit_id: str = ""


@dataclass(frozen=True)
class VerdictRow:
    subject: str
    relation: str
    title: str
    believed: str
    current: str | None
    kind: VerdictKind
    path: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where a correction comes from: ``date`` as the source gives it, ``quote`` verbatim."""

    name: str
    url: str
    date: str
    quote: str


@dataclass(frozen=True)
class Answer:
    """A model's whole reply; ``right`` is None where nothing could judge it."""

    text: str
    right: bool | None


@dataclass(frozen=True)
class Correction:
    """One edit with the replies around it; None where that tier was not asked."""

    edit_id: str
    subject: str
    title: str
    question: str
    old: str
    new: str
    state: EditState
    before: Answer
    after_memory: Answer | None
    after_weights: Answer | None
    sources: tuple[Source, ...]
    path: tuple[str, ...]


@dataclass(frozen=True)
class QueueRow:
    """An edit that a person must decide on, or has refused."""

    edit_id: str
    subject: str
    title: str
    old: str
    new: str
    why: str


@dataclass(frozen=True)
class SideEffects:
    """What else changed, against the unedited model.

    ``ppl_ratio`` is perplexity after over before on generic text (1 is no change), None
    where it was not measured; an infinite one is kept as the largest float.
    """

    locality_exact: Interval | None
    locality_prefix: Interval | None
    ppl_ratio: float | None
    tensors_added: int = 0
    parameters_added: int = 0


@dataclass(frozen=True)
class Baseline:
    """One way to answer the corrected questions; None where a figure has no meaning."""

    label: str
    accuracy: Interval | None
    generality: Interval | None
    leak: Interval | None
    locality: Interval | None
    n: int


@dataclass(frozen=True)
class ReportData:
    """Everything one report says. ``timings`` are seconds by stage, in order."""

    title: str
    created: datetime
    model: str
    model_hash: str
    base: str
    serving: str
    candidate: str | None
    status: Status
    reasons: tuple[str, ...] = ()
    feeds: tuple[FeedInput, ...] = ()
    documents: int = 0
    claims: int = 0
    slots: int = 0
    held: tuple[Held, ...] = ()
    verdict_counts: Mapping[str, int] = field(default_factory=dict)
    verdicts: tuple[VerdictRow, ...] = ()
    corrections: tuple[Correction, ...] = ()
    pending: tuple[QueueRow, ...] = ()
    rejected: tuple[QueueRow, ...] = ()
    retention: tuple[RetentionRun, ...] = ()
    survival: tuple[Survived, ...] = ()
    side_effects: SideEffects | None = None
    baselines: tuple[Baseline, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportPaths:
    html: Path
    json: Path


def write_report(data: ReportData, folder: Path) -> ReportPaths:
    """Write ``report.html`` and ``report.json`` into a folder, each whole or not at all.

    Raises:
        ReportError: if the folder cannot be written to.
    """
    paths = ReportPaths(folder / "report.html", folder / "report.json")
    # Text from feeds may hold lone surrogates, which UTF-8 cannot carry: each format has
    # an escape of its own for them.
    page = render_html(data).encode("utf-8", "xmlcharrefreplace")
    record = render_json(data).encode("utf-8", "backslashreplace")
    try:
        files = Files()
        files.replace(paths.json, record)
        files.replace(paths.html, page)
    except OSError as error:
        raise ReportError(
            f"cannot write the report to {folder}: {error.strerror or error}; "
            "free space there or choose a writable folder"
        ) from error
    return paths


def load_report(path: Path) -> ReportData:
    """Read a report back from ``report.json`` or from the folder that holds it.

    Raises:
        ReportError: if there is none, or it is not one that this version reads.
    """
    file = path / "report.json" if path.is_dir() else path
    remedy = "write a new one with `corrigenda run --once`"
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ReportError(f"no report at {file}: {error.strerror or error}; {remedy}") from error
    except ValueError as error:
        raise ReportError(f"{file} is not valid JSON ({error}); {remedy}") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ReportError(f"{file} has schema {schema!r}, this version reads {SCHEMA!r}; {remedy}")
    try:
        return from_json(ReportData, found)
    except (TypeError, ValueError, KeyError) as error:
        raise ReportError(f"{file} lacks or garbles a field ({error}); {remedy}") from error


def render_json(data: ReportData) -> str:
    """Return the report as JSON text."""
    record = {"schema": SCHEMA} | _storable(to_json(data))
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def render_html(data: ReportData) -> str:
    """Return the report as one self-contained page."""
    shown = from_json(ReportData, _storable(to_json(data)))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agent"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "link": link,
        "marked": marked,
        "percent": percent,
        "ratio": ratio,
        "when": when,
    }
    edit_rows = _weakest_first(
        _rows(shown.retention, lambda run: {e.edit_id: (e.label, e) for e in run.edits})
    )
    return environment.get_template("report.html.j2").render(
        r=shown,
        schema=SCHEMA,
        chart=retention_chart(shown.retention),
        curve=survival_chart(shown.survival),
        edit_rows=edit_rows[:MATRIX_ROWS],
        edit_rows_left=max(len(edit_rows) - MATRIX_ROWS, 0),
        kind_rows=_rows(
            shown.retention, lambda run: {k.kind: (k.kind, k.share) for k in run.kinds}
        ),
        kinds=tuple(VerdictKind),
    )


def summary(data: ReportData) -> str:
    """Return the report in about a dozen plain lines, safe to print on a terminal."""
    return "\n".join(_one_line(line) for line in _summary_lines(data))


def _summary_lines(data: ReportData) -> Iterator[str]:
    yield f"{data.title} · {when(data.created)}"
    yield data.status.upper()
    for reason in data.reasons:
        yield f"            {reason}"
    yield f"model       {data.model}, serving {data.serving}"
    failed = sum(feed.status == FeedStatus.FAILED for feed in data.feeds)
    feeds = count(len(data.feeds), "feed") + (f" ({failed} failed)" if failed else "")
    read = f"{count(data.documents, 'document')} from {feeds}, {count(data.claims, 'claim')}"
    yield f"read        {read} about {count(data.slots, 'slot')}"
    if data.verdict_counts:
        shown = (f"{kind} {n}" for kind, n in data.verdict_counts.items() if n)
        yield f"verdicts    {' · '.join(shown)}"
    if data.corrections:
        memory = sum(_is_right(edit.after_memory) for edit in data.corrections)
        weights = sum(_is_right(edit.after_weights) for edit in data.corrections)
        total = len(data.corrections)
        yield f"corrected   {total}: {memory} right from memory, {weights} from the weights alone"
    for edit in data.corrections[:3]:
        yield f"            {edit.subject}, {edit.title}: {edit.old or '?'} → {edit.new}"
    if len(data.corrections) > 3:
        yield f"            and {len(data.corrections) - 3} more"
    if data.pending:
        yield f"waiting     {count(len(data.pending), 'edit')} for your approval"
    if data.retention:
        runs = (
            f"{run.label} {percent(run.pass_rate.point)}{' (BELOW ITS FLOOR)' * run.triggered}"
            for run in data.retention[-3:]
        )
        yield f"retention   {' · '.join(runs)}"
    if data.side_effects:
        exact = data.side_effects.locality_exact
        locality = f"{percent(exact.point)} of other answers as before" if exact else "not measured"
        yield f"beside it   {locality}, perplexity {ratio(data.side_effects.ppl_ratio)}"
    for note in data.notes:
        yield f"note        {note}"


# --- rows of the tables -----------------------------------------------------------------


def _rows(
    runs: Sequence[RetentionRun], cells: Callable[[RetentionRun], Mapping[str, tuple[str, Any]]]
) -> list[tuple[str, list[Any]]]:
    """Turn each run's column of labelled cells into rows; None where a run has no cell."""
    columns = [cells(run) for run in runs]
    labels = {key: label for column in columns for key, (label, _) in column.items()}
    return [
        (label, [column[key][1] if key in column else None for column in columns])
        for key, label in labels.items()
    ]


def _weakest_first(rows: list[tuple[str, list[Any]]]) -> list[tuple[str, list[Any]]]:
    """Put corrections first that failed most lately; those that always passed keep their order."""

    def strength(row: tuple[str, list[Any]]) -> list[float]:
        asked = [cell.passed / cell.asked for cell in reversed(row[1]) if cell and cell.asked]
        return [*asked, 1.0] if any(share < 1 for share in asked) else [2.0]

    return sorted(rows, key=strength)


# --- words and figures -------------------------------------------------------------------


def count(n: int, noun: str) -> str:
    """Return ``1 feed``, ``2 feeds``, ``1,234 feeds``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def percent(share: float) -> str:
    """Return a share as whole percent, keeping 0 and 100 for none and all."""
    rounded = round(100 * share)
    if 0 < share < 1:
        rounded = min(99, max(1, rounded))
    return f"{rounded}\u202f%"


def ratio(value: float | None) -> str:
    """Return a perplexity ratio as text."""
    if value is None:
        return "not measured"
    return f"× {value:.3f}" if value < 1000 else "× over 1,000"


def when(at: datetime) -> str:
    """Return a moment as a person writes it, in UTC."""
    at = at.astimezone(UTC)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def link(url: str) -> str:
    """Return a URL that may be followed, or the empty string: only http(s) with a host."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and host else ""


def marked(text: str, old: str, new: str) -> list[tuple[str, str]]:
    """Split a reply into (part, mark) with mark ``"old"``, ``"new"`` or ``""``."""
    marks = {value.casefold(): mark for value, mark in ((old, "old"), (new, "new")) if value}
    if not marks:
        return [(text, "")]
    # Longest first, so that a name within the other name does not cut it short.
    names = "|".join(re.escape(value) for value in sorted((old, new), key=len)[::-1] if value)
    parts = re.split(f"({names})", text, flags=re.IGNORECASE)
    return [(part, marks.get(part.casefold(), "")) for part in parts if part]


# --- keeping it safe ---------------------------------------------------------------------

_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_SECRET_PARAMETER = re.compile(
    r"([?&][\w.-]*(?:key|token|secret|signature|password|auth)=)[^&\s#]+", re.IGNORECASE
)


def _storable(value: Any) -> Any:
    """Strike credentials out of addresses and make every number one that JSON can hold."""
    if isinstance(value, str):
        return _SECRET_PARAMETER.sub(r"\1…", _USERINFO.sub("", value))
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else math.copysign(sys.float_info.max, value)
    if isinstance(value, dict):
        return {key: _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def _one_line(text: str, width: int = 160) -> str:
    """Make text safe for a terminal: no control or direction characters, one short line."""
    clean = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def _is_right(answer: Answer | None) -> bool:
    return answer is not None and answer.right is True
