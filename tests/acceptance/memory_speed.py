"""Measure what the memory tier costs: applying an edit, and what it adds to a request.

    python tests/acceptance/memory_speed.py --edits 1000,100000

Facts are made up (towns and their mayors, beside one real one); model and embeddings are the real
ones. "Added to the first token" is the time to an answer's first token with the tier less the time
without, in turn, by kind of question: one that names no known subject, one that names one and asks
something else, one in a fact's own words, one in other words. Prints JSON, milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from agent.config import Config
from agent.workspace import Workspace
from editors.generation import generate
from editors.memory.scope import Fact, Scope
from editors.memory.tier import MemoryTier
from editors.model import ChatModel

QUESTIONS = {
    "no known subject": "What is the best way to cook rice for a family of four?",
    "another question on a subject": "What is Germany known for?",
    "a fact's own words": "Who is the chancellor of Germany?",
    "other words": "Can you tell me who serves as chancellor in Germany?",
}
FIRST = "Ald Bran Cor Dun Els Fir Gar Hol Inver Kel Lang Mar Nor Ost Pem Quar Rath Sel Tor Wen"
LAST = "bach bury dale field ford ham haven holt minster mouth ness port stead stow ton wick worth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edits", default="1000,100000")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--home", type=Path, help="where the model is kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        Workspace(options.home or Path(folder), Config()) as ws,
    ):
        for edits in map(int, options.edits.split(",")):
            found = measure(ws.model, Scope(ws.meaning), edits, options.rounds)
            print(
                json.dumps({"edits": edits, "threads": options.threads, **found}, indent=1),
                flush=True,
            )


def measure(model: ChatModel, scope: Scope, edits: int, rounds: int) -> dict[str, Any]:
    """Return the costs with so many facts remembered."""
    merz = Fact(
        "merz",
        ("Germany",),
        ("Who is the chancellor of Germany?",),
        "Friedrich Merz",
        "The chancellor of Germany is Friedrich Merz.",
        ("Angela Merkel",),
    )
    before = psutil.Process().memory_info().rss
    scope.add([*(town(number) for number in range(edits - 1)), merz])
    size = (psutil.Process().memory_info().rss - before) / edits
    tier = MemoryTier(scope)
    for question in QUESTIONS.values():
        scope.match([question])  # loads what is loaded once
    added = {
        kind: added_to_first_token(model, tier, question, rounds)
        for kind, question in QUESTIONS.items()
    }
    return {
        "bytes_an_edit": round(size),
        "apply_ms": median(lambda: apply(scope, edits), rounds),
        "match_ms": {
            kind: median(lambda q=q: scope.match([q]), rounds) for kind, q in QUESTIONS.items()
        },
        "added_to_the_first_token_ms": added,
    }


def apply(scope: Scope, number: int) -> None:
    """Remember a fact and look for it, which reads its wordings; then forget it."""
    fact = town(number)
    scope.add([fact])
    scope.match([f"Who leads {fact.names[0]}?"])
    scope.remove(fact.id)


def added_to_first_token(model: ChatModel, tier: MemoryTier, question: str, rounds: int) -> float:
    """Return the median difference in milliseconds, measured in turn."""
    ways: dict[bool, list[float]] = {False: [], True: []}
    prompt = model.encode(model.render(question))
    for _ in range(rounds):
        for remembering in ways:
            begun = time.perf_counter()
            asked, guide = prompt, None
            if remembering:
                (match,) = tier.matches(model, [prompt])
                if match is not None:
                    asked, guide = tier.told(model, prompt, match)
            generate(model, [asked], guides=[guide], max_new_tokens=1)
            ways[remembering].append(time.perf_counter() - begun)
    return round(1000 * (statistics.median(ways[True]) - statistics.median(ways[False])), 1)


def median(work: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(taken), 2)


def town(number: int) -> Fact:
    """A made-up town and its mayor."""
    first, last = FIRST.split(), LAST.split()
    name = f"{first[number % len(first)]}{last[number // len(first) % len(last)]} {number}"
    mayor = f"Person {number}"
    return Fact(
        str(number),
        (name,),
        (f"Who is the mayor of {name}?",),
        mayor,
        f"The mayor of {name} is {mayor}.",
    )


if __name__ == "__main__":
    main()
