"""The benchmark of detection counts what it says it counts."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from samples import NOW, REGISTRY

from agent.benchmarks.answers import measure_answers
from agent.benchmarks.documents import id_of, labelled, measure_documents
from agent.benchmarks.rows import read_rows, relation_asked, relation_named
from agent.benchmarks.scores import Tally, score
from agent.benchmarks.slots import measure_slots
from agent.cli import main
from agent.config import ConfigError

GERMANY: dict[str, Any] = {
    "subject": "Germany",
    "relation": "chancellor of Germany",
    "prompt": "The chancellor of Germany is",
    "current": [["Olaf Scholz", "2021-12-08", ""]],
    "history": [
        ["Angela Merkel", "2005-11-22", "2021-12-08"],
        ["Olaf Scholz", "2021-12-08", ""],
    ],
}
CHANGED: dict[str, Any] = {
    "source": "profiles",
    "subject": "Canada",
    "relation": "head of government",
    "old_value": "Stephen Joseph Harper",
    "new_value": "Justin Trudeau",
    "old_from": "6 February 2006",
    "new_from": "4 November 2015",
    "seen": "2015-11-15",
    "evidence": "Canada, head of government: Prime Minister Justin TRUDEAU (since 4 November 2015)",
}
SENTENCE = "Bola Tinubu is sworn in as president of Nigeria."
TINUBU = {
    "relation": "head_of_state",
    "subject": "Nigeria",
    "object": "Bola Tinubu",
    "role": "current",
}


def answer(text: str, label: str) -> dict[str, Any]:
    return {**GERMANY, "answer": text, "label": label}


def news(text: str = SENTENCE, **more: Any) -> dict[str, Any]:
    return {"date": "2023-05-29", "text": text, **more}


def measured(*rows: dict[str, Any], labels: list[dict[str, Any]] | None = None) -> Any:
    return measure_documents(labelled(rows, labels or [], NOW), REGISTRY, NOW)


def test_precision_recall_and_f1_come_from_the_counts() -> None:
    found = score(right=8, wrong=2, missed=4)
    assert (found.precision.point, round(found.recall.point, 3)) == (0.8, 0.667)
    assert round(found.f1, 4) == round(2 * 0.8 * (8 / 12) / (0.8 + 8 / 12), 4)
    assert found.precision.low < 0.8 < found.precision.high


def test_a_tally_gives_every_group_and_all_of_them_first() -> None:
    tally = Tally()
    tally.add("a", right=1)
    tally.add("b", wrong=2, missed=1)
    scores = tally.scores()
    assert list(scores) == ["all", "b", "a"]
    assert (scores["all"].right, scores["all"].wrong, scores["all"].missed) == (1, 2, 1)


def test_each_answer_is_compared_with_its_label() -> None:
    result = measure_answers(
        [
            answer("Olaf Scholz.", "current"),
            answer("The chancellor of Germany is Angela Merkel.", "outdated"),
            answer("a country in Europe.", "irrelevant"),
            answer("Angela Merkel.", "current"),  # a wrong label
        ],
        REGISTRY,
        NOW,
    )
    assert (result.shares["agreement"].point, result.shares["agreement"].n) == (0.75, 4)
    assert result.confusion["current"] == {"current": 1, "outdated": 1}
    assert (result.scores["outdated"].right, result.scores["outdated"].wrong) == (1, 1)
    (failure,) = result.failures
    assert (failure["label"], failure["verdict"]) == ("current", "outdated")


def test_of_several_current_values_any_will_do() -> None:
    row = answer("Angela Merkel.", "current") | {
        "current": [["Olaf Scholz", "2021", ""], ["Angela Merkel", "2005", ""]]
    }
    assert measure_answers([row], REGISTRY, NOW).shares["agreement"].point == 1


def test_a_changed_slot_is_stale_for_the_old_belief_and_kept_for_the_new() -> None:
    result = measure_slots([CHANGED], REGISTRY, NOW)
    assert result.confusion == {"KEEP": {"KEEP": 1}, "STALE": {"STALE": 1}}
    assert result.shares["new value read from the evidence"].point == 1
    assert result.shares["right among automatic edits"].point == 1
    assert result.shares["false STALE on what holds"].point == 0


def test_evidence_that_says_nothing_finds_nothing() -> None:
    row = CHANGED | {"evidence": "Canada, head of government: see the note"}
    result = measure_slots([row], REGISTRY, NOW)
    assert result.scores["all"].missed == 1
    assert result.shares["new value read from the evidence"].point == 0


def test_evidence_of_another_value_is_a_wrong_automatic_edit() -> None:
    row = CHANGED | {
        "evidence": "Canada, head of government: Prime Minister Pat SMITH (since 4 November 2015)"
    }
    result = measure_slots([row], REGISTRY, NOW)
    assert result.shares["right among automatic edits"].point == 0
    assert result.shares["right among automatic edits"].n >= 1


def test_slots_without_evidence_are_judged_by_their_values() -> None:
    changed = {
        "subject": "Moldova",
        "relation": "P6",
        "old_value": ["Natalia Gavrilița"],
        "new_value": ["Dorin Recean"],
        "old_from": "Dec2021",
        "new_from": "Dec2023",
    }
    kept = {"subject": "Ukraine", "relation": "P35", "value": ["Volodymyr Zelenskyy"]}
    result = measure_slots([changed, kept], REGISTRY, NOW)
    assert result.confusion == {"KEEP": {"KEEP": 2}, "STALE": {"STALE": 1}}


def test_extraction_is_compared_claim_by_claim() -> None:
    result = measured(
        news(claims=[TINUBU]),
        news("Ada Novak is sworn in as president of Kenya.", claims=[]),
        news("Nothing happened in Ghana.", claims=[TINUBU | {"subject": "Ghana"}]),
    )
    scores = result.scores["all"]
    assert (scores.right, scores.wrong, scores.missed) == (1, 1, 1)
    assert {f["kind"] for f in result.failures} == {"wrong", "missed"}


def test_labels_may_lie_apart_by_the_hash_of_the_text() -> None:
    labels = [{"id": id_of(SENTENCE), "claims": [TINUBU]}]
    result = measured(news(), news("Not labelled."), labels=labels)
    assert (result.n, result.scores["all"].right) == (1, 1)


def test_another_role_or_subject_is_a_mistake_unless_the_label_leaves_it_open() -> None:
    future = TINUBU | {"role": "future"}
    assert measured(news(claims=[future])).scores["all"].right == 0
    assert measured(news(claims=[future], role_open=True)).scores["all"].right == 1
    elsewhere = TINUBU | {"subject": "Abuja"}
    assert measured(news(claims=[elsewhere])).scores["all"].right == 0
    opened = measured(news(claims=[elsewhere], subject_open=["Nigeria"]))
    assert opened.scores["all"].right == 1


def test_what_is_told_in_passing_is_neither_hit_nor_mistake() -> None:
    result = measured(news(claims=[], background=[TINUBU]))
    scores = result.scores["all"]
    assert (scores.right, scores.wrong, scores.missed) == (0, 0, 0)
    assert result.shares["told in passing, of all claims"].point == 1


def test_changes_of_fields_are_documents_of_one_line() -> None:
    row = {
        "country": "Canada",
        "field": "head_of_government",
        "new_text": "Prime Minister Justin TRUDEAU (Liberal Party) (since 4 November 2015)",
        "new_name": "Justin Trudeau",
    }
    assert measured(row).scores["all"].right == 1
    assert measured(row, {**row, "new_name": "Pat Smith"}).scores["all"].missed == 1


def test_documents_without_any_label_are_an_error() -> None:
    with pytest.raises(ConfigError, match="--labels"):
        labelled([news()], [], NOW)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("P35", "head_of_state"),
        ("head of government", "head_of_government"),
        ("head_of_state", "head_of_state"),
        ("President of Italy", "head_of_state"),
    ],
)
def test_data_may_name_a_relation_in_four_ways(name: str, id: str) -> None:
    found = relation_named(REGISTRY, name, "Italy")
    assert found is not None
    assert found.id == id


def test_the_longest_title_in_a_question_names_the_relation() -> None:
    found = relation_asked(REGISTRY, "The Prime Minister of Italy is", "Italy")
    assert found is not None
    assert found.id == "head_of_government"
    assert relation_asked(REGISTRY, "The colour of Italy is", "Italy") is None


def test_rows_may_be_compressed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert read_rows(path, ["a"]) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no records"), ("{", "line 1 is not JSON"), ('{"a": 1}\n{}', "line 2 has no 'a'")],
)
def test_a_bad_file_is_named_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        read_rows(path, ["a"])
    assert str(path) in str(error.value)


def test_the_command_prints_figures_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CORRIGENDA_HOME", str(tmp_path / "home"))
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(CHANGED))
    assert main(["bench", "detect", "--facts", str(path)]) == 0
    assert "false STALE on what holds" in capsys.readouterr().out
    assert main(["bench", "detect", "--facts", str(path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["scores"]["all"]["recall"]["point"] == 1
    assert main(["bench", "detect"]) == 2
    assert "--answers" in capsys.readouterr().err
    assert not (tmp_path / "home").exists()
