"""Show that the gate refuses bad candidates on the default model, and passes a good one again.

    PYTHONPATH=.:tests python tests/acceptance/gate_kinds.py --edits 3 --seeds 1

Real corrections are written into the default model at default settings and examined at the
default floors; then each kind of ``tests/bad_candidates.py`` is made of it, with each
seed, and examined. Prints a line of JSON for each candidate, and one that sums up; exit code 1
if a bad one passed or the good one did not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bad_candidates import Bad, Good, good_candidate, stored
from harmful_candidates import HARMFUL
from head_candidates import OF_HEADS
from samples import NOW, an_edit
from unsound_candidates import UNSOUND

from agent.config import Config, ConsolidationConfig
from agent.consolidation import consolidate
from agent.examination import Unfit, examine_candidate
from agent.gate import GateDecision, decide, refuse
from agent.progress import Silent
from agent.workspace import Workspace
from store.records import Edit, EditState, to_json

NEAR = (
    ("France", "president", "head_of_state"),
    ("Canada", "prime minister", "head_of_government"),
)
EDITS = tuple(
    an_edit(new, subject, relation, title, old, neighbours=NEAR)
    for new, subject, relation, title, old in (
        ("Friedrich Merz", "Germany", "head_of_government", "chancellor", "Angela Merkel"),
        ("Tim Cook", "Apple", "ceo", "CEO", "Steve Jobs"),
        ("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari"),
        ("Sanae Takaichi", "Japan", "head_of_government", "prime minister", "Shinzo Abe"),
        ("Charles III", "United Kingdom", "head_of_state", "monarch", "Elizabeth II"),
        ("Gavin Newsom", "California", "governor", "governor", "Jerry Brown"),
        ("Delcy Rodríguez", "Venezuela", "head_of_state", "president", "Hugo Chavez"),
    )
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", type=int, default=3, help="how many corrections (1 to 7)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--kind", action="append", help="only these kinds")
    ways = ("auto", "recall", "compiled", "lookup")
    parser.add_argument("--editor", choices=ways, default="auto")
    parser.add_argument("--home", type=Path, help="where the converted model is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch)
        config = Config(consolidation=ConsolidationConfig(editor=options.editor))
        with Workspace(home, config) as ws:
            failures = run(ws, EDITS[: options.edits], options.seeds, options.kind)
    return 1 if failures else 0


def run(ws: Workspace, edits: tuple[Edit, ...], seeds: int, kinds: list[str] | None) -> list[str]:
    """Examine the good candidate, itself again, and the bad ones; return what went wrong."""
    delta = consolidate(ws, edits, NOW, Silent()).delta
    good = good_candidate(ws, edits, delta)
    failures, count = [], 0
    for name, one, bad, wanted in candidates(good, seeds, kinds):
        started = time.monotonic()
        decision, measured = examined(one, bad)
        if decision.promote is not wanted:
            failures.append(name)
        count += 1
        say(
            candidate=name,
            promoted=decision.promote,
            reasons=decision.reasons,
            measured=measured,
            seconds=round(time.monotonic() - started, 1),
        )
    say(examined=count, failures=failures)
    return failures


def candidates(
    good: Good, seeds: int, kinds: list[str] | None
) -> Iterator[tuple[str, Good, Bad, bool]]:
    """Yield a name, what the ledger holds, a candidate, and whether it should pass."""
    same = Bad(good.delta.tensors())
    yield "good", good, same, True
    held = tuple(dataclasses.replace(e, state=EditState.CONSOLIDATED) for e in good.edits)
    yield "what serves, again", dataclasses.replace(good, edits=held), same, True
    made = UNSOUND | HARMFUL | (OF_HEADS if good.others else {})
    for kind, make in made.items():
        for seed in range(seeds if kinds is None or kind in kinds else 0):
            yield f"{kind}, seed {seed}", good, make(good, random.Random(seed)), False


def examined(good: Good, bad: Bad) -> tuple[GateDecision, dict[str, Any] | None]:
    """Examine a candidate as the night does."""
    try:
        found = examine_candidate(good.ws, stored(good, bad), good.edits, Silent())
    except Unfit as unfit:
        return refuse(unfit.reasons), None
    decision = decide(found.measured, good.ws.config.consolidation)
    return decision, {k: brief(v) for k, v in to_json(found.measured).items()}


def brief(figure: Any) -> Any:
    """Return a share as (point, low, high, n), any other figure as it is."""
    if not isinstance(figure, dict):
        return round(figure, 4)
    return [round(figure[key], 3) for key in ("point", "low", "high", "n")]


def say(**line: Any) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
