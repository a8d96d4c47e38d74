"""What ``bench retain`` measured, as tables for people, Markdown, JSON and a picture. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from agent.benchmarks.edit_report import RENDERINGS, SHARES, of
from agent.benchmarks.retain_run import FIRST, Retained
from editors.metrics import Interval
from store.records import to_json

Table = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True)
class RetainBench:
    """One run: what was given, and what it came to.

    Attributes:
        model, base_hash: the model that was edited.
        data, sha256: the files of records, and the hashes of their bytes.
        seed, per_night, sample: how the records were drawn, edited and asked again.
        texts: what the perplexity was measured on.
        chat_tokens, plain_tokens: caps of the answers.
        device: where it ran.
    """

    model: str
    base_hash: str
    data: str
    sha256: str
    seed: int
    per_night: int
    sample: int
    texts: str
    chat_tokens: int
    plain_tokens: int
    device: str
    made: Retained


def as_json(bench: RetainBench) -> dict[str, Any]:
    """Return the run as JSON types, with what follows from it."""
    made = bench.made
    ages = {str(age): to_json(share) for age, share in made.by_age().items()}
    body: dict[str, Any] = to_json(bench)
    return body | {"growth": made.growth, "added_per_100": made.added, "retention_by_age": ages}


def heading(bench: RetainBench) -> list[str]:
    """Return the lines that say what was run."""
    hashes = " ".join(one[:12] for one in bench.sha256.split())
    return [
        f"{bench.made.editor}, {bench.per_night} edits a night, seed {bench.seed}, {bench.data} "
        f"(sha256 {hashes})",
        f"{bench.model} ({bench.base_hash[:12]}) on {bench.device}, greedy, at most "
        f"{bench.chat_tokens} tokens in chat and {bench.plain_tokens} in plain continuation",
        f"each night all its own edits are asked and at most {bench.sample} of those before",
    ]


def tables(bench: RetainBench) -> list[Table]:
    """Return title, headers and rows of each table."""
    made = bench.made
    found: list[Table] = []
    for rendering, title in RENDERINGS.items():
        rows = [
            [one.name, *(_share(of(one.scores[rendering], key)) for key, _ in SHARES)]
            for one in made.carried
            if rendering in one.scores
        ]
        if rows:
            found.append((f"At the end: {title[0].lower()}{title[1:]}", _headers(), rows))
    cells = [
        [
            one.name,
            _share(one.first),
            _share(one.ability),
            "-" if (r := one.perplexity_ratio) is None else f"{r:.4f}",
        ]
        for one in made.carried
    ]
    found.append(
        ("All edits", ["", f"accuracy of the first {FIRST}", "ability", "perplexity"], cells)
    )
    if made.nights:
        found.append(("Nights, the weights alone", *_nights(made)))
        ages = [[str(age), _share(share)] for age, share in made.by_age().items()]
        found.append(("Retention by age", ["nights old", "still right"], ages))
    growth = "-" if made.growth is None else f"{made.growth:.2f}"
    added = "-" if made.added is None else f"{made.added:.2%}"
    cost = [[growth, added]]
    found.append(("Cost", ["last night by the second", "parameters added for 100 edits"], cost))
    return found


def markdown(bench: RetainBench) -> str:
    """Return the run as a page."""
    parts = ["# Retention, measured free-running night after night", ""]
    parts += [f"- {line}" for line in heading(bench)]
    parts += [f"- perplexity on {bench.texts}"] if bench.texts else []
    if bench.made.error:
        parts.append(f"- stopped: {bench.made.error}")
    for title, headers, rows in tables(bench):
        parts += ["", f"## {title}", "", _line(headers), _line(["---"] * len(headers))]
        parts += map(_line, rows)
    settings = ", ".join(f"{key} = {value}" for key, value in bench.made.settings.items())
    parts += ["", "Shares with their 95 % Wilson intervals.", "", f"Settings: {settings}"]
    return "\n".join(parts) + "\n"


def picture(bench: RetainBench) -> str:
    """Return retention by age as SVG: the share still right over the nights since, with its
    interval as a band."""
    ages = bench.made.by_age()
    left, top, wide, high = 52, 40, 560, 260
    last = max(ages, default=0) or 1
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 20}" '
        f'height="{top + high + 56}" viewBox="0 0 {left + wide + 20} {top + high + 56}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(heading(bench)[0])}</title>",
        f'<rect width="{left + wide + 20}" height="{top + high + 56}" fill="#ffffff"/>',
        f'<text x="{left}" y="20" font-weight="bold">Still right, by age: '
        f"{escape(bench.made.editor)}, the weights alone</text>",
    ]

    def place(age: int, share: float) -> str:
        return f"{left + wide * age / last:.1f},{top + high * (1 - share):.1f}"

    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + high * (1 - tick)
        out.append(
            f'<line x1="{left}" y1="{y:g}" x2="{left + wide}" y2="{y:g}" stroke="#dddddd"/>'
            f'<text x="{left - 8}" y="{y + 4:g}" text-anchor="end">{tick:g}</text>'
        )
    step = max(last // 10, 1)
    for age in range(0, last + 1, step):
        x = left + wide * age / last
        out.append(f'<text x="{x:g}" y="{top + high + 18}" text-anchor="middle">{age}</text>')
    out.append(
        f'<text x="{left + wide / 2:g}" y="{top + high + 40}" text-anchor="middle">'
        "nights since the edit</text>"
    )
    if ages:
        band = [place(age, s.high) for age, s in ages.items()]
        band += [place(age, s.low) for age, s in reversed(ages.items())]
        line = " ".join(place(age, s.point) for age, s in ages.items())
        out.append(f'<polygon points="{" ".join(band)}" fill="#2f6f9f" fill-opacity="0.18"/>')
        out.append(f'<polyline points="{line}" fill="none" stroke="#2f6f9f" stroke-width="2"/>')
    return "\n".join([*out, "</svg>"]) + "\n"


def _nights(made: Retained) -> tuple[list[str], list[list[str]]]:
    headers = ["night", "edits", "its own", "all sampled", "the oldest", "s", "s testing", "added"]
    rows = []
    for number, night in enumerate(made.nights, 1):
        n = sum(share.n for share in night.cohorts)
        every = sum(share.point * share.n for share in night.cohorts) / n
        rows.append(
            [
                str(number),
                str(night.edits),
                f"{night.cohorts[-1].point:.2f}",
                f"{every:.2f}",
                f"{night.cohorts[0].point:.2f}",
                f"{night.seconds:.1f}",
                f"{night.testing:.1f}",
                f"{night.parameters:,}",
            ]
        )
    return headers, rows


def _headers() -> list[str]:
    return ["", *(label for _, label in SHARES)]


def _share(share: Interval) -> str:
    if not share.n:
        return "-"
    return f"{share.point:.3f} [{share.low:.3f}, {share.high:.3f}] n={share.n}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
