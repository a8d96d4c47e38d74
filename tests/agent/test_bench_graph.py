"""bench graph: triples read from files, drawn by rank, edited, and the model put back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent.benchmarks import graph
from agent.benchmarks.graph import Wanted, choose, exercises, measure
from agent.benchmarks.graph_files import read_graph
from agent.config import ConfigError
from agent.progress import Silent
from editors.knowledge_graph import Ranker, Triple
from editors.model import ChatModel

HEADS = ("Germany", "Nigeria", "Kenya", "Japan", "France", "Berlin", "Merkel", "Cook")
TAILS = ("Berlin", "Angela Merkel", "Tim Cook", "Friedrich Merz", "Bola Tinubu", "Shinzo Abe")
SMALL = {"layers": 2, "rank": 8, "hidden": 6, "condition": 8, "inner": 6, "start": 2.0}


@pytest.fixture
def triples(tmp_path: Path) -> Path:
    path = tmp_path / "triples.tsv"
    rows = [
        f"the {word} {head}\tofficer\t{TAILS[(i + j) % len(TAILS)]}"
        for i, head in enumerate(HEADS)
        for j, word in enumerate(("first", "next", "last", "old", "new", "other", "same", "own"))
    ]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_triples_are_read_from_every_layout(tmp_path: Path) -> None:
    expected = {Triple("Brazil", "capital", "Brasília"), Triple("Peru", "capital", "Lima")}
    relation = {
        "name": "capital",
        "prompt_templates": ["The capital of {} is"],
        "samples": [
            {"subject": "Brazil", "object": "Bras\\u00edlia"},
            {"subject": "Peru", "object": "Lima"},
        ],
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "capital.json").write_text(json.dumps(relation))
    rows = [{"head": t.head, "relation": t.relation, "tail": t.tail} for t in sorted(expected)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.tsv").write_text("Brazil\tcapital\tBrasília\nPeru\tcapital\tLima\n")
    for name in ("folder", "folder/capital.json", "a.jsonl", "a.tsv"):
        found, digest = read_graph(tmp_path / name)
        assert set(found.triples) == expected, name
        assert found.prompts(Triple("Peru", "capital", "Lima"))[0] == "The capital of Peru is"
        assert len(digest) == 64


@pytest.mark.parametrize("text", ["", "one\ttwo", '{"head": "x"}', '{"name": "x", "samples": [1]}'])
def test_a_file_that_holds_no_triples_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.tsv"):
        read_graph(path)


def test_what_is_edited_added_watched_and_trained_on_shares_no_head(
    tiny_model: ChatModel, triples: Path
) -> None:
    found, _ = read_graph(triples)
    chosen = choose(tiny_model, found, 3, 0, Silent())
    ranker = Ranker(tiny_model, 0)
    heads: list[str] = []
    for some in (chosen.edits, chosen.adds, chosen.stable):
        for triple, was in some:
            heads.append(triple.head)
            assert ranker.rank([found.query(triple, graph.CANDIDATES)]) == [was]
    assert len(chosen.edits) == len(chosen.adds) == 3
    assert len(heads) == len(set(heads))
    assert not {t.head for t in chosen.training} & set(heads)
    assert all(was.rank > 1 for _, was in chosen.edits)
    assert all(was.rank > graph.TOP for _, was in chosen.adds)
    assert all(was.rank <= graph.TOP for _, was in chosen.stable)
    assert chosen == choose(tiny_model, found, 3, 0, Silent())
    assert chosen != choose(tiny_model, found, 3, 1, Silent())


def test_too_few_triples_are_said(tiny_model: ChatModel, triples: Path) -> None:
    found, _ = read_graph(triples)
    with pytest.raises(ConfigError, match="lower --n from 60"):
        choose(tiny_model, found, 60, 0, Silent())


def test_exercises_write_right_and_wrong_tails_and_keep_other_triples(
    tiny_model: ChatModel, triples: Path
) -> None:
    found, _ = read_graph(triples)
    made = exercises(tiny_model, found, found.triples[:10], 0)
    for number, (episode, triple) in enumerate(zip(made, found.triples, strict=False)):
        tail = tuple(tiny_model.encode_answer(f" {triple.tail}"))
        assert (episode.edits[0].answer == tail) is (number % 2 == 0)
        assert bool(episode.old) is (number % 2 == 1)
        assert len(episode.kept) == 2
        assert all(s.prompt != episode.edits[0].prompt for s in episode.kept)


def test_editing_raises_edited_triples_and_puts_the_model_back(
    tiny_model: ChatModel, triples: Path, tmp_path: Path
) -> None:
    wanted = Wanted(triples, n=3, episodes=4, settings=SMALL)
    before = [p.detach().clone() for p in tiny_model.model.parameters()]
    result = measure(tiny_model, tmp_path, wanted, Silent())
    after = list(tiny_model.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert set(result.tasks) == {"edit", "add"}
    for made in result.tasks.values():
        assert set(made) == {"alone", "together"}
        assert made["alone"].n == made["together"].n == 3
        assert made["alone"].mean_after < made["alone"].mean_before
        assert made["alone"].er_roc > 0
    assert result.trained_on > 0
    kept = list((tmp_path / "trained").glob("kgeditor-graph-*.safetensors"))
    assert kept


def test_a_method_that_needs_no_training_is_not_trained(
    tiny_model: ChatModel, triples: Path, tmp_path: Path
) -> None:
    wanted = Wanted(triples, n=2, editor="ft-m")
    result = measure(tiny_model, tmp_path, replace(wanted, settings={"steps": 2}), Silent())
    assert result.trained_on == 0
    assert not (tmp_path / "trained").exists()
    idle = measure(tiny_model, tmp_path, replace(wanted, settings={"steps": 0}), Silent())
    for made in idle.tasks.values():
        for figures in made.values():
            assert figures.er_roc == figures.rk_roc == 0
            assert figures.rk_3 == 1
