"""Measure what asking for beliefs costs beside the model's plain forward passes (docs/log.md).

    python tests/acceptance/belief_speed.py --slots 16 --rounds 5

The default model is asked for its beliefs on real slots, through everything that the running
system uses: four phrasings of each, three drawn answers to the first, the answers kept in a new
database. In between, in the same process, the same prompts go through plain forward passes in
full batches: the prompts, then one token a row and step with keys and values cached, logits of
the last position only, nothing else. Each ratio is the time that the plain passes would take for
the tokens of the beliefs, over the time that the beliefs took. ``counted`` counts every prompt in
full, once a question; ``computed`` only those tokens that were run, without the prefix that all
prompts share: it shows the cost of all that is not a forward pass. ``one_pass`` compares with
a single pass over prompts and answers together, where no token waits for another.
Processor time is the measure, so that other programs on the machine disturb little. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from agent.config import Config
from agent.served import Served, ServedAsker
from agent.workspace import Workspace
from detectors.beliefs import ask_beliefs
from detectors.relations import ASKED
from editors.generation import shared_prefix
from editors.memory.scope import Scope
from editors.memory.tier import MemoryTier
from editors.model import ChatModel
from store.records import Slot

COUNTRIES = (
    *("Germany", "Nigeria", "France", "Japan", "Kenya", "Brazil", "Canada", "Italy", "Peru"),
    *("Chile", "India", "Ghana", "Spain", "Norway", "Poland", "Mexico", "Austria", "Egypt"),
    *("Turkey", "Greece", "Portugal", "Argentina", "Vietnam", "Indonesia"),
)
SAMPLES = 3
TOKENS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="rows of a batch")
    parser.add_argument("--home", type=Path, help="where the converted model is kept")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        home = options.home or Path(folder)
        slots = [(Slot(name, "head_of_state"), "president") for name in COUNTRIES[: options.slots]]
        print(json.dumps(measure(home, Path(folder), slots, options), indent=1))


def measure(
    home: Path, folder: Path, slots: Sequence[tuple[Slot, str]], options: argparse.Namespace
) -> dict[str, Any]:
    """Return the ratios of several rounds and what they were made from."""
    with Workspace(home, Config()) as first:
        model = first.model
    model.batch_size = options.batch
    prompts = [
        model.encode(model.render(question))
        for slot, title in slots
        for question in first.registry.questions(slot.relation, slot.subject, title)[:ASKED]
    ]
    prompts.sort(key=len)
    fed = sum(map(len, prompts))
    shared = shared_prefix(prompts)
    ratios: dict[str, list[float]] = {"counted": [], "computed": [], "one_pass": []}
    speeds: dict[str, list[float]] = {"beliefs": [], "prompts": [], "steps": [], "one_pass": []}
    made = 0
    for number in range(options.rounds + 1):
        seconds, again, made = believe(folder / f"home {number}", model, slots)
        prefill, step = plain(model, prompts, TOKENS * 3 // 4)
        whole = one_pass(model, prompts, made // len(prompts) // 2)
        if not number:  # the first round warms up
            continue
        ratios["counted"].append((fed * prefill + made * step) / seconds)
        computed = fed - shared * (len(prompts) - 1)
        ratios["computed"].append((computed * prefill + made * step) / seconds)
        ratios["one_pass"].append((fed + made) * whole / seconds)
        speeds["beliefs"].append((fed + made) / seconds)
        for name, cost in (("prompts", prefill), ("steps", step), ("one_pass", whole)):
            speeds[name].append(1 / cost)
    return {
        "model": model.name,
        "threads": torch.get_num_threads(),
        "batch_size": model.batch_size,
        "slots": len(slots),
        "questions": len(prompts),
        "drawn_answers": SAMPLES * len(slots),
        "prompt_tokens": fed,
        "new_tokens": made,
        "ratio": {name: spread(values) for name, values in ratios.items()},
        "tokens_per_second": {name: spread(values) for name, values in speeds.items()},
        "asked_again_share_of_time": again / seconds,
    }


def believe(
    home: Path, model: ChatModel, slots: Sequence[tuple[Slot, str]]
) -> tuple[float, float, int]:
    """Ask in a new home, twice: seconds of both times and the tokens that were generated."""
    with Workspace(home, Config()) as ws:
        ws.__dict__["model"] = model
        served = Served(ws, MemoryTier(Scope()), None)
        ws.store.replies.models()  # opens the database
        served.identity(slots[0][0])  # hashes the model's file
        now = ws.now()

        def ask() -> list[Any]:
            asker = ServedAsker(served, TOKENS)
            return ask_beliefs(asker, slots, ws.registry, now, ASKED, SAMPLES)

        seconds, beliefs = timed(ask)
        again, same = timed(ask)
        assert same == beliefs, "kept answers differ from the asked ones"
    replies = [reply for belief in beliefs for reply in belief.replies]
    drawn = sum(len(model.encode_answer(text)) for reply in replies for text in reply.samples)
    ended = len(replies) + SAMPLES * len(slots)  # the end token of each answer, if any
    capped = sum(reply.tokens == TOKENS for reply in replies)
    return seconds, again, sum(reply.tokens for reply in replies) + drawn + ended - capped


@torch.inference_mode()
def plain(model: ChatModel, prompts: Sequence[list[int]], steps: int) -> tuple[float, float]:
    """Return the seconds of a prompt's token and of a new token in full batches."""
    from transformers import DynamicCache

    prefill = step = 0.0
    rows = 0
    for batch in batches(model, prompts):
        width = max(map(len, batch))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=model.model.config)
        rows += len(batch)

        def forward(
            ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any = cache
        ) -> None:
            model.model(
                ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )

        prefill += timed(lambda: forward(ids, mask, positions))[0]  # noqa: B023
        started = time.process_time()
        ids, positions = ids[:, -1:], positions[:, -1:]
        for _ in range(steps):
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], 1)
            positions = positions + 1
            forward(ids, mask, positions)
        step += time.process_time() - started
    return prefill / sum(map(len, prompts)), step / (rows * steps)


@torch.inference_mode()
def one_pass(model: ChatModel, prompts: Sequence[list[int]], answer: int) -> float:
    """Return the seconds of a token where prompt and answer go through in one pass."""
    seconds, tokens = 0.0, 0
    for batch in batches(model, prompts):
        width = min(map(len, batch)) + answer
        ids = torch.tensor([(p * 3)[:width] for p in batch])
        seconds += timed(lambda: model.model(ids, use_cache=False, logits_to_keep=1))[0]  # noqa: B023
        tokens += ids.numel()
    return seconds / tokens


def batches(model: ChatModel, prompts: Sequence[list[int]]) -> list[Sequence[list[int]]]:
    size = model.batch_size
    return [prompts[start : start + size] for start in range(0, len(prompts), size)]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of some work, and its result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
