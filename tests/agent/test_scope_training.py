"""Training the memory tier's scope from files of facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from workspaces import toy_home

from agent import scope_training
from agent.benchmarks.edit_records import read_records
from agent.config import ConfigError
from agent.progress import Silent
from agent.scope_training import IDLE, trained, wordings
from agent.workspace import Workspace
from editors.memory.relation_match import load
from editors.model import ChatModel

ASKED = {
    "mayor": ("Who is the mayor of {}?", "Who leads {}?"),
    "river": ("Which river flows through {}?", "On which river does {} lie?"),
}


def facts(path: Path, count: int, relation: bool = True) -> Path:
    rows = []
    for number in range(count):
        kind = ("mayor", "river")[number % 2]
        other = ("river", "mayor")[number % 2]
        town = f"Town {number:03}"
        rows.append(
            {
                "subject": town,
                **({"relation": kind} if relation else {}),
                "question": ASKED[kind][0].format(town),
                "new": f"Person{number}",
                "paraphrases": [ASKED[kind][1].format(town), "Who is it?"],
                "locality": [ASKED[other][0].format(town), "What is two and two?"],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_wordings_are_masked_and_paired_by_what_the_file_says(tmp_path: Path) -> None:
    made = wordings(read_records(facts(tmp_path / "facts.jsonl", 2)).records)
    mayor, leads, river, lies = (text.format("this") for pair in ASKED.values() for text in pair)
    assert set(made.texts) == {mayor, leads, river, lies, *(t.format("this") for t in IDLE)}
    numbers = {text: at for at, text in enumerate(made.texts)}
    assert set(made.same) == {
        (numbers[mayor], numbers[leads]),
        (numbers[river], numbers[lies]),
    }
    assert set(made.other) == {
        (numbers[mayor], numbers[river]),
        (numbers[river], numbers[mayor]),
    }
    assert {frozenset(kind) for kind in made.kinds} == {
        frozenset({numbers[mayor], numbers[leads]}),
        frozenset({numbers[river], numbers[lies]}),
    }
    assert made.loose == ()
    assert len(made.idle) == len(IDLE)


def test_where_no_relation_is_named_pairs_are_loose(tmp_path: Path) -> None:
    made = wordings(read_records(facts(tmp_path / "facts.jsonl", 4, relation=False)).records)
    assert made.same == made.kinds == ()
    assert len(made.loose) == 4


class Bags:
    """Embeddings: each wording a direction of its own, near to no other."""

    def vectors(self, texts: list[str]) -> torch.Tensor:
        known = [text.format("this") for pair in ASKED.values() for text in pair]
        made = torch.zeros(len(texts), 8)
        for row, text in enumerate(texts):
            made[row, known.index(text) if text in known else 7] = 1.0
        return made


def with_bags(ws: Workspace) -> Workspace:
    vars(ws)["embeddings"] = Bags()
    return ws


def test_a_scope_is_trained_kept_and_measured_on_subjects_held_out(
    tmp_path: Path, tiny_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scope_training, "TESTED", 10)
    file = read_records(facts(tmp_path / "facts.jsonl", 120))
    with toy_home(tmp_path, tiny_model) as ws:
        done = trained(with_bags(ws), [file], Silent(), steps=60)
        assert done.path == ws.scope_path()
        head = load(done.path)
    assert done.found.point > 0.9
    assert done.taken.point < 0.1
    assert done.found.n > 3
    vectors = Bags().vectors([text.format("this") for pair in ASKED.values() for text in pair])
    assert head.alike(vectors[0], vectors[[1, 2]]).round().tolist() == [1.0, 0.0]


def test_too_few_facts_are_refused(tmp_path: Path, tiny_model: ChatModel) -> None:
    file = read_records(facts(tmp_path / "facts.jsonl", 30))
    with (
        toy_home(tmp_path, tiny_model) as ws,
        pytest.raises(ConfigError, match="give files with 40 more facts"),
    ):
        trained(with_bags(ws), [file], Silent())
