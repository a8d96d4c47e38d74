"""Measure what an edit costs with and without trunk cache and batching (docs/editors.md).

    python tests/acceptance/editing_speed.py --data facts.jsonl --editors memit,alphaedit --edits 10

The same edits are made by the same method in the same process, in turn: once in one batch as the
shared pieces do it, once with ``cached = false``, one after the other: every step of the value
optimisation is then a forward and a backward pass of the whole model on all tokens, with logits
everywhere. Making an edit and settling it are both counted, reading the file and measuring key
statistics are not. Both are told as processor seconds and as wall-clock seconds an edit. The two
changes are compared: the same edit must come out. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from agent.benchmarks.edit_records import choose, read_records
from agent.config import Config
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from editors.closed_form import ClosedForm
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.registry import build
from editors.requests import EditRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--editors", default="memit,alphaedit")
    parser.add_argument("--edits", type=int, default=10, help="edits of the one batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--home", type=Path, help="where model and key statistics are kept")
    parser.add_argument("--fast-only", action="store_true", help="leave out what is slow")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    requests = choose(read_records(options.data), options.edits * options.rounds, 7).requests
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        with Workspace(home, Config()) as ws:
            resources = Resources(ordinary_texts(ws), home / "cache")
            for name in options.editors.split(","):
                found = measure(ws.model, name, resources, requests, options)
                print(json.dumps({"editor": name, **found}, indent=1), flush=True)


def measure(
    model: ChatModel,
    name: str,
    resources: Resources,
    requests: tuple[EditRequest, ...],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return the costs of both ways, medians over rounds of other edits each."""
    fast = build(name)
    if not isinstance(fast, ClosedForm):
        raise SystemExit(f"{name} has no setting `cached`")
    state = fast.prepare(model, resources)
    ways = {"fast": fast} | ({} if options.fast_only else {"slow": replace(fast, cached=False)})
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    apart = []
    for at in range(0, len(requests), options.edits):
        deltas = {}
        for way, editor in ways.items():
            begun = time.process_time(), time.perf_counter()
            deltas[way] = editor.edit(model, state, requests[at : at + options.edits])
            with applied(model, deltas[way]):
                editor.settled(model, state, requests[at : at + options.edits])
            ended = time.process_time(), time.perf_counter()
            seconds[way].append(
                ((ended[0] - begun[0]) / options.edits, (ended[1] - begun[1]) / options.edits)
            )
        if len(deltas) == 2:
            apart.append(difference(deltas["fast"], deltas["slow"]))
    cost = {way: statistics.median(cpu for cpu, _ in each) for way, each in seconds.items()}
    wall = {way: statistics.median(wall for _, wall in each) for way, each in seconds.items()}
    found: dict[str, Any] = {
        "edits": options.edits,
        "rounds": options.rounds,
        "threads": options.threads,
        "processor_seconds_an_edit": {way: round(one, 3) for way, one in cost.items()},
        "wall_seconds_an_edit": {way: round(one, 3) for way, one in wall.items()},
    }
    if "slow" in cost:
        found["times_as_fast"] = round(cost["slow"] / cost["fast"], 2)
        found["relative_difference"] = max(apart)
    return found


def difference(one: DenseDelta, other: DenseDelta) -> float:
    """Return the largest ‖Δ − Δ'‖ / ‖Δ'‖ over the changed matrices."""
    return max(
        float((one.changes[name] - change).norm() / change.norm())
        for name, change in other.changes.items()
    )


if __name__ == "__main__":
    main()
