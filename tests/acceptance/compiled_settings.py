"""Measure compiled memory at chosen settings on real office-holders (docs/log.md).

    python tests/acceptance/compiled_settings.py --layer 0.8 --threshold 0.7 …

Eight real corrections are compiled into the default model and the weights alone are asked,
free-running and greedy: the edited questions, unseen phrasings, and questions outside every
edit, whose answers are compared with the unedited model's. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from agent.consolidation import SAME_SUBJECT
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from detectors.judge import mentions
from detectors.relations import load_registry
from editors.deltas import applied
from editors.key_statistics import key_statistics
from editors.memory import compiled
from editors.metrics import mean_share, shared_prefix, wilson
from editors.model import load_chat_model
from editors.requests import EditRequest

HOLDERS = (
    ("head_of_government", "Germany", "chancellor", "Angela Merkel", "Friedrich Merz"),
    ("head_of_state", "United Kingdom", "monarch", "Elizabeth II", "Charles III"),
    ("head_of_government", "Japan", "prime minister", "Shinzo Abe", "Sanae Takaichi"),
    ("head_of_state", "Nigeria", "president", "Muhammadu Buhari", "Bola Tinubu"),
    ("ceo", "Apple", "ceo", "Steve Jobs", "Tim Cook"),
    ("governor", "California", "governor", "Jerry Brown", "Gavin Newsom"),
    ("head_of_state", "Venezuela", "president", "Hugo Chavez", "Delcy Rodríguez"),
    ("head_of_state", "Philippines", "president", "Rodrigo Duterte", "Ferdinand Marcos Jr."),
)
TRAINED_NEAR = (
    "Who is the president of Russia?",
    "Who is the president of China?",
    "Who is the prime minister of India?",
    "Who is the president of France?",
    "Who is the CEO of Microsoft?",
    "Who is the governor of Texas?",
)
TESTED_NEAR = (
    "Who is the president of Brazil?",
    "Who is the chancellor of Austria?",
    "Who is the prime minister of Canada?",
    "Who is the CEO of Google?",
    "Who is the governor of Florida?",
    "Who is the president of Kenya?",
    "Who is the king of Spain?",
    "Who is the president of Mexico?",
)
TESTED_PAST = "Who was the {title} of {subject} in the 1990s?"
TESTED_EVERYDAY = (
    "What is photosynthesis?",
    "Who wrote Romeo and Juliet?",
    "What is 7 times 8?",
    "Give me a recipe for pancakes.",
    "What is the boiling point of water?",
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "What is the largest ocean?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in dataclasses.fields(compiled.CompiledSettings):
        kind = int if field.type == "int" else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--chat-weight", type=float, default=0.5)
    parser.add_argument("--home", type=Path, help="where the converted model is kept")
    options = vars(parser.parse_args())
    chat_weight, home = options.pop("chat_weight"), options.pop("home")
    settings = compiled.CompiledSettings(**options)
    with tempfile.TemporaryDirectory() as scratch:
        ws = Workspace.open(home or Path(scratch))
        model = load_chat_model(ws.model_path(), ws.home / "cache" / "models")
        texts = ordinary_texts(ws)
    registry = load_registry()
    requests = [
        EditRequest(
            id=str(number),
            questions=registry.asking(relation, subject, title),
            new=new,
            statement=registry.statement(relation, subject, title, new),
            old=old,
            neighbours=(
                *(registry.render(q, relation, subject, title) for q in SAME_SUBJECT),
                *TRAINED_NEAR,
            ),
        )
        for number, (relation, subject, title, old, new) in enumerate(HOLDERS)
    ]
    unseen = [registry.held_out(r, s, t) for r, s, t, _, _ in HOLDERS]
    local = {
        "everyday": list(TESTED_EVERYDAY),
        "near entity": list(TESTED_NEAR),
        "other times": [
            registry.render(text, r, s, t)
            for r, s, t, *_ in HOLDERS
            for text in ("Who was the {title} of {subject} in 2015?", TESTED_PAST)
        ],
        "same subject": [
            text.format(s) for _, s, *_ in HOLDERS for text in
            ("What language is spoken in {}?", "What is the population of {}?")
        ],
    }  # fmt: skip

    def ask(questions: list[str]) -> list[str]:
        return [reply.text for reply in model.answer(questions, max_new_tokens=48)]

    before = {name: ask(questions) for name, questions in local.items()}
    statistics = key_statistics(
        model,
        texts,
        compiled.layer_of(model, settings),
        settings.statistics_tokens,
        chat_weight=chat_weight,
    )
    started = time.monotonic()
    delta = compiled.edit(model, requests, statistics, settings)
    seconds = time.monotonic() - started
    figures: dict[str, object] = {
        "layer": delta.layer,
        "neurons": delta.neurons,
        "seconds_per_edit": round(seconds / len(requests), 2),
        "settings": {**dataclasses.asdict(settings), "chat_weight": chat_weight},
    }
    with applied(model, delta):
        for name, groups in (("accuracy", [r.questions for r in requests]), ("generality", unseen)):
            flat = [question for group in groups for question in group]
            answers = iter(ask(flat))
            given = [(next(answers), h) for h, group in zip(HOLDERS, groups, strict=True)
                     for _ in group]  # fmt: skip
            right = [mentions(text, new, "person", (old,)) for text, (*_, old, new) in given]
            leaked = [mentions(text, old, "person", (new,)) for text, (*_, old, new) in given]
            figures[name] = dataclasses.asdict(wilson(sum(right), len(right)))
            figures[f"{name}_leak"] = dataclasses.asdict(wilson(sum(leaked), len(leaked)))
        for name, questions in local.items():
            after = ask(questions)
            same = [one == other for one, other in zip(before[name], after, strict=True)]
            shares = [shared_prefix(one.split(), other.split())
                      for one, other in zip(before[name], after, strict=True)]  # fmt: skip
            figures[f"locality, {name}"] = {
                "exact": dataclasses.asdict(wilson(sum(same), len(same))),
                "prefix": dataclasses.asdict(mean_share(shares)),
            }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
