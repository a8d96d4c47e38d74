"""Measure on the real default model what taking one edit back costs the others, and a rollback.

    PYTHONPATH=.:tests python tests/acceptance/revert.py [--home FOLDER]

Consolidates a few edits, takes one back, consolidates again and asks every other edit's battery of
both versions, weights alone; then rolls back to the first version and asks what is served.
Prints one line of JSON; exit code 1 where a bar is missed. FOLDER keeps the converted model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from samples import an_edit

from agent import queueing
from agent.battery import Reference, Result, locality_questions, run_battery
from agent.config import Config
from agent.consolidation import consolidate
from agent.progress import Silent
from agent.rollback import switch
from agent.served import active_edits, open_served
from agent.workspace import Workspace
from editors.deltas import MlpExpansion, applied
from store.records import Edit, EditState

EDITS = (
    an_edit(),
    an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari"),
    an_edit("Sanae Takaichi", "Japan", "head_of_government", "prime minister", "Shinzo Abe"),
    an_edit("Tim Cook", "Apple", "ceo", "CEO", "Steve Jobs"),
    an_edit("Ferdinand Marcos", "Philippines", "head_of_state", "president", "Rodrigo Duterte"),
    an_edit("Charles III", "United Kingdom", "head_of_state", "monarch", "Elizabeth II"),
    an_edit(
        "Anthony Albanese", "Australia", "head_of_government", "prime minister", "Scott Morrison"
    ),
    an_edit("Mark Carney", "Canada", "head_of_government", "prime minister", "Justin Trudeau"),
    an_edit("Luiz Inácio Lula da Silva", "Brazil", "head_of_state", "president", "Dilma Rousseff"),
    an_edit("Alexander Stubb", "Finland", "head_of_state", "president", "Sauli Niinistö"),
    an_edit("Bart De Wever", "Belgium", "head_of_government", "prime minister", "Charles Michel"),
    an_edit("Prabowo Subianto", "Indonesia", "head_of_state", "president", "Joko Widodo"),
    an_edit("William Ruto", "Kenya", "head_of_state", "president", "Uhuru Kenyatta"),
    an_edit("Satya Nadella", "Microsoft", "ceo", "CEO", "Steve Ballmer"),
    an_edit(
        "Kristrún Frostadóttir",
        "Iceland",
        "head_of_government",
        "prime minister",
        "Katrín Jakobsdóttir",
    ),
    an_edit("John Mahama", "Ghana", "head_of_state", "president", "Nana Akufo-Addo"),
)
SHARE, SECONDS = 0.99, 10.0  # the bars: of passed probes that still pass, and for a rollback


def main(home: Path) -> dict[str, Any]:
    """Measure in ``home`` and return the figures."""
    with Workspace(home, Config()) as ws:
        now = ws.now()
        for edit in EDITS:
            if ws.store.edits.add(edit):
                ws.store.edits.move(edit.id, EditState.REMEMBERED, now)
        first = consolidate(ws, active_edits(ws), now, Silent()).version
        ws.store.versions.set_alias("serving", first.id, now)
        others = [edit for edit in EDITS if edit is not EDITS[1]]
        before = battery(ws, first.id, others)
        queueing.revert(ws.store, [EDITS[1].id], "measured", now)
        second = consolidate(ws, active_edits(ws), now, Silent()).version
        ws.store.versions.set_alias("serving", second.id, now)
        after = battery(ws, second.id, others)
        passed = sum(result.passed for result in before)
        kept = sum(b.passed and a.passed for b, a in zip(before, after, strict=True))
        same = sum(b.passed == a.passed for b, a in zip(before, after, strict=True))
        tensors = ws.store.versions.load(first)
    # As at the keyboard: a new program, up to the model with the other weights in place.
    started = time.monotonic()
    with Workspace(home, Config()) as ws:
        switch(ws.store, ws.store.versions.find("previous"), ws.base_hash, ws.now(), "measured")
        with open_served(ws).weights_only():
            seconds = time.monotonic() - started
        served = ws.store.versions.alias("serving")
        again = ws.store.versions.load(served) if served else {}
    return {
        "probes": len(before),
        "passed_before": passed,
        "passed_after": sum(result.passed for result in after),
        "kept": kept,
        "same": same,
        "share": round(same / len(before), 4),
        "kept_share": round(kept / passed, 4),
        "rollback_seconds": round(seconds, 2),
        "bit_identical": all(again[name].equal(tensor) for name, tensor in tensors.items()),
        "version_bytes": sum(file.stat().st_size for file in Path(first.path).iterdir()),
    }


def battery(ws: Workspace, version: str, edits: list[Edit]) -> list[Result]:
    """Ask the edits' batteries of a version's weights alone."""
    tokens = ws.config.model.max_new_tokens
    known = Reference(ws.model, ws.home / "cache", tokens).answers(locality_questions(edits))
    delta = MlpExpansion.from_tensors(ws.store.versions.load(version))
    with applied(ws.model, delta):
        return run_battery(
            lambda asked: [r.text for r in ws.model.answer(asked, max_new_tokens=tokens)],
            edits,
            known,
            ws.registry,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = main(options.home or Path(scratch))
    print(json.dumps(figures))
    held = figures["kept_share"] >= SHARE and figures["bit_identical"]
    sys.exit(0 if held and figures["rollback_seconds"] < SECONDS else 1)
