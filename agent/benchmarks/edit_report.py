"""What ``bench edit`` measured, as a table for people, Markdown, JSON and a picture. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from agent.benchmarks.edit_run import EditRow, Scores
from editors.metrics import Interval
from store.records import to_json

SHARES = (
    ("accuracy", "accuracy"),
    ("generality", "generality"),
    ("locality_exact", "locality, exact"),
    ("locality_prefix", "locality, prefix"),
    ("leak", "old-answer leak"),
    ("portability", "portability"),
)
RENDERINGS = {
    "chat": "Questions in the chat template",
    "plain": "Prompts as plain continuation",
}
LABEL = 108  # pixels that the longest label under a group takes
_COLOURS = ("#2f6f9f", "#c8772e", "#4d8a57", "#8a5a8f", "#7a7a7a", "#b04a4a", "#3f8f8f", "#a58b2a")


@dataclass(frozen=True)
class EditBench:
    """One run: what was given, and a row for each way of carrying the edits.

    Attributes:
        model, base_hash: the model that was edited.
        data, layout, sha256: the files of records, and the hashes of their bytes.
        n, seed, batch: how many records were drawn how, and how many edits were made together.
        alone: each edit was made by itself on the unedited model, not in sequence.
        derived: records whose locality probes were derived, as the file brings none.
        left_out: why rows of the file could not be drawn, counted.
        shapes: how the statements were made, counted.
        texts: what the perplexity was measured on.
        chat_tokens, plain_tokens: caps of the answers.
        retention: measurements of the edits made so far.
        device: where it ran.
        rows: the unedited model and retrieval first.
    """

    model: str
    base_hash: str
    data: str
    layout: str
    sha256: str
    n: int
    seed: int
    batch: int
    derived: int
    left_out: Mapping[str, int]
    shapes: Mapping[str, int]
    texts: str
    chat_tokens: int
    plain_tokens: int
    retention: int
    device: str
    rows: tuple[EditRow, ...]
    alone: bool = False


def as_json(bench: EditBench) -> dict[str, Any]:
    """Return the run as JSON types."""
    return to_json(bench)


def tables(bench: EditBench) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return title, headers and rows of each table: the two renderings apart, then the cost."""
    shown = [row for row in bench.rows if not row.error]
    found = []
    for rendering, title in RENDERINGS.items():
        rows = [(row.name, row.scores[rendering]) for row in shown if rendering in row.scores]
        if rows:
            headers = ["", *(label for _, label in SHARES)]
            cells = [
                [name, *(share_text(of(scores, key)) for key, _ in SHARES)] for name, scores in rows
            ]
            found.append((title, headers, cells))
    headers = ["", "s an edit", "s in all", "growth", "prepare s", "peak MiB", "perplexity"]
    cells = []
    for row in shown:
        spent = row.seconds
        cells.append(
            [
                row.name,
                _number(spent.median if spent else None, 3),
                _number(spent.total if spent else None, 1),
                _number(spent.growth if spent else None, 2),
                _number(spent.prepare if spent else None, 1),
                _number(row.peak_mib, 0),
                _number(row.perplexity_ratio, 3),
            ]
        )
    found.append(("Cost", headers, cells))
    kept = [
        [
            row.name,
            name,
            ", ".join(map(str, matrix.edits)),
            ", ".join(f"{share.point:.2f}" for share in matrix.accuracy),
            f"{matrix.forgetting:.2f}",
        ]
        for row in shown
        for name, matrix in row.retention.items()
        if len(matrix.edits) > 1
    ]
    if kept:
        headers = ["", "rendering", "after edits", "accuracy so far", "forgetting"]
        found.append(("Retention", headers, kept))
    return found


def of(scores: Scores, key: str) -> Interval:
    share = getattr(scores, key)
    assert isinstance(share, Interval)
    return share


def heading(bench: EditBench) -> list[str]:
    """Return the lines that say what was run."""
    ways = ", ".join(f"{count} {shape}" for shape, count in bench.shapes.items())
    hashes = " ".join(one[:12] for one in bench.sha256.split())
    how = "each alone" if bench.alone else f"in batches of {bench.batch}"
    lines = [
        f"{bench.n} edits {how}, seed {bench.seed}, {bench.data} ({bench.layout}, sha256 {hashes})",
        f"{bench.model} ({bench.base_hash[:12]}) on {bench.device}, greedy, at most "
        f"{bench.chat_tokens} tokens in chat and {bench.plain_tokens} in plain continuation",
        f"statements: {ways}",
    ]
    if bench.derived:
        lines.append(f"locality probes derived for {bench.derived} records: the file has none")
    return lines


def markdown(bench: EditBench) -> str:
    """Return the run as a page: settings, tables, what failed."""
    when = "each edit by itself" if bench.alone else "after the last edit"
    parts = [f"# Editing, measured free-running {when}", ""]
    parts += [f"- {line}" for line in heading(bench)]
    parts += [f"- left out: {count} rows ({why})" for why, count in bench.left_out.items()]
    parts += [f"- perplexity on {bench.texts}"] if bench.texts else []
    for title, headers, rows in tables(bench):
        parts += ["", f"## {title}", "", _line(headers), _line(["---"] * len(headers))]
        parts += [_line(row) for row in rows]
    parts += ["", "Shares with their 95 % Wilson intervals.", "", "## Settings", ""]
    for row in bench.rows:
        if row.settings:
            settings = ", ".join(f"{key} = {value}" for key, value in row.settings.items())
            parts.append(f"- {row.name}: {settings}")
        if row.error:
            parts.append(f"- {row.name} failed: {row.error}")
    return "\n".join(parts) + "\n"


def picture(bench: EditBench) -> str:
    """Return a bar chart as SVG: a group for each share, a bar with its interval for each row,
    the renderings one under the other."""
    rows = [row for row in bench.rows if not row.error]
    panels = [name for name in RENDERINGS if any(name in row.scores for row in rows)]
    bar, gap, left, high = 18, 26, 46, 170
    group = max(bar * len(rows) + gap, LABEL)
    width, panel = left + group * len(SHARES) + 10, high + 64
    height = panel * len(panels) + 22 * len(rows) + 16
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(heading(bench)[0])}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, name in enumerate(panels):
        top = number * panel + 34
        out.append(f'<text x="{left}" y="{top - 14}" font-weight="bold">{RENDERINGS[name]}</text>')
        for tick in (0.0, 0.5, 1.0):
            y = top + high * (1 - tick)
            out.append(
                f'<line x1="{left}" y1="{y:g}" x2="{width - 10}" y2="{y:g}" stroke="#dddddd"/>'
                f'<text x="{left - 8}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
            )
        for place, (key, label) in enumerate(SHARES):
            x = left + group * place + (group - bar * len(rows)) / 2
            for index, row in enumerate(rows):
                share = of(row.scores[name], key) if name in row.scores else None
                if share and share.n:
                    out.append(_bar(x + bar * index, top, high, bar, share, row.name, index))
            middle = x + bar * len(rows) / 2
            out.append(
                f'<text x="{middle:g}" y="{top + high + 18}" text-anchor="middle">{label}</text>'
            )
    for index, row in enumerate(rows):
        y = panel * len(panels) + 22 * index + 16
        out.append(
            f'<rect x="{left}" y="{y - 10}" width="12" height="12" fill="{_colour(index)}"/>'
            f'<text x="{left + 20}" y="{y}">{escape(row.name)}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def _bar(x: float, top: int, high: int, wide: int, share: Interval, name: str, index: int) -> str:
    tall, middle = high * share.point, x + (wide - 3) / 2
    low, up = top + high * (1 - share.low), top + high * (1 - share.high)
    return (
        f'<rect x="{x:g}" y="{top + high - tall:.1f}" width="{wide - 3}" height="{tall:.1f}" '
        f'fill="{_colour(index)}"><title>{escape(name)}: {share_text(share)}</title></rect>'
        f'<line x1="{middle:g}" y1="{low:.1f}" x2="{middle:g}" y2="{up:.1f}" stroke="#222222"/>'
    )


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def share_text(share: Interval) -> str:
    """Return a share with its interval, for a table."""
    if not share.n:
        return "-"
    return f"{share.point:.2f} [{share.low:.2f}, {share.high:.2f}] n={share.n}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
