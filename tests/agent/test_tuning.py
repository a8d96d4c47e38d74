"""Tuning: what is tried, what is kept, and that no benchmark's fact is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from workspaces import toy_home

from agent import training, tuning
from agent.benchmarks import editing
from agent.benchmarks.edit_records import choose, read_records
from agent.benchmarks.edit_run import EditRow
from agent.config import ConfigError
from agent.progress import Silent
from agent.tuning import Trial, Wanted, search, tune
from editors import tuned
from editors.model import ChatModel
from editors.requests import EditorError


def facts(path: Path, count: int) -> Path:
    rows = [
        {
            "id": f"f{at}",
            "subject": f"Country{at}",
            "relation": "capital",
            "question": f"What is the capital of Country{at}?",
            "new": f"Town{at}",
            "statement": f"The capital of Country{at} is Town{at}.",
            "paraphrases": [f"The capital of Country{at} is"],
            "locality": [f"Who leads Land{at}?"],
        }
        for at in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_each_setting_is_tried_upon_the_best_of_those_before_it() -> None:
    asked: list[dict[str, Any]] = []

    def tried(settings: Mapping[str, Any]) -> Trial:
        asked.append(dict(settings))
        good = 0.5 + 0.2 * (settings.get("layer") == 2) + 0.1 * (settings.get("weight") == 7)
        return Trial(settings, good, good, good)

    trials = search({"layer": (1, 2), "weight": (7, 8)}, tried)
    assert asked == [
        {},
        {"layer": 1},
        {"layer": 2},
        {"layer": 2, "weight": 7},
        {"layer": 2, "weight": 8},
    ]
    assert max(trials, key=lambda trial: trial.score).settings == {"layer": 2, "weight": 7}


def test_the_weakest_share_decides_and_a_spoilt_language_loses_to_everything() -> None:
    even, uneven = Trial({}, 0.6, 0.6, 0.6), Trial({}, 1.0, 1.0, 0.2)
    assert even.score == pytest.approx(0.6)
    assert uneven.score < even.score
    spoilt = Trial({}, 1.0, 1.0, 1.0, perplexity=1.04)
    assert spoilt.score <= Trial({}, 0.0, 0.0, 0.0).score
    assert Trial({}, 0.9, 0.9, 0.9, perplexity=1.03).score == pytest.approx(0.9)
    assert Trial({}, error="cannot").score == -1


def test_what_was_tuned_is_what_the_benchmark_then_uses(
    tmp_path: Path, tiny_model: ChatModel
) -> None:
    data = facts(tmp_path / "facts.jsonl", training.TESTED + 6)
    asked = {"steps": (1, 2)}
    with toy_home(tmp_path, tiny_model) as ws:
        found = tune(ws, Wanted("ft-m", data, n=2, batch=2, tried=asked), Silent())
        assert [trial.settings for trial in found.trials] == [{}, {"steps": 1}, {"steps": 2}]
        assert found.best in found.trials
        kept = tuned.load(ws.home / "cache", "ft-m", ws.model.base_hash)
        assert kept == dict(found.best.settings)
        assert tuned.known(ws.home / "cache", "ft-m") == {ws.model.base_hash[:16]: kept}
        assert tuned.known(ws.home / "cache", "ft") == {}
        tuned.save(ws.home / "cache", "ft-m", ws.model.base_hash, {"steps": 3}, None)
        wanted = editing.Wanted(("ft-m",), (data,), 2, 2, retention=1, probes=1)
        row = editing.measure(ws, wanted, Silent()).rows[-1]
        assert row.settings["steps"] == 3
        given = editing.Wanted(
            ("ft-m",), (data,), 2, 2, retention=1, probes=1, settings={"ft-m": {"steps": 1}}
        )
        assert editing.measure(ws, given, Silent()).rows[-1].settings["steps"] == 1


def test_no_fact_that_the_benchmark_draws_is_tuned_on(
    tmp_path: Path, tiny_model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = facts(tmp_path / "facts.jsonl", training.TESTED + 4)
    seen: list[str] = []

    def row(bench: Any, name: str, editor: Any, settings: Any) -> EditRow:
        seen.extend(record.subject for record in bench.chosen.records)
        return EditRow(name, settings)

    monkeypatch.setattr(tuning, "edited_row", row)
    with toy_home(tmp_path, tiny_model) as ws:
        tune(ws, Wanted("ft-m", data, n=4, tried={"steps": (1,)}), Silent())
    tested = choose(read_records(data), training.TESTED, training.TESTED_SEED).records
    assert len(seen) == 8
    assert not set(seen) & {record.subject for record in tested}


def test_bad_input_is_one_line_that_names_the_remedy(tmp_path: Path, tiny_model: ChatModel) -> None:
    data = facts(tmp_path / "facts.jsonl", training.TESTED + 1)
    with toy_home(tmp_path, tiny_model) as ws:
        with pytest.raises(ConfigError, match="1 facts beside those that the benchmark draws"):
            tune(ws, Wanted("ft-m", data, n=4, tried={"steps": (1,)}), Silent())
        with pytest.raises(EditorError, match="has no setting 'stride'"):
            tune(ws, Wanted("ft-m", data, tried={"stride": (1,)}), Silent())
    damaged = tuned.path(tmp_path / "cache", "memit", "0" * 64)
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{", encoding="utf-8")
    with pytest.raises(EditorError, match="remove it, or tune again"):
        tuned.load(tmp_path / "cache", "memit", "0" * 64)
