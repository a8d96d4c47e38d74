"""Files of facts to edit: every layout is read alike, and the draw is fair."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.benchmarks.edit_layouts import CLOZE, Prompt, layout_of, read
from agent.benchmarks.edit_records import RecordFile, choose, choose_from, read_records
from agent.benchmarks.edit_statements import BARE, statement_for
from agent.config import ConfigError

DATA = Path(__file__).parents[2].parent / "shared" / "data"
FULL: dict[str, Any] = {
    "case_id": 3,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "subject": "Ada Lamb",
        "relation_id": "P103",
        "target_new": {"str": "English"},
        "target_true": {"str": "French"},
    },
    "paraphrase_prompts": ["It rained. Ada Lamb spoke the language"],
    "neighborhood_prompts": ["The mother tongue of Bo Rand is"],
    "portability": {"New Question": "Where do people speak as Ada Lamb?", "New Answer": "Kent"},
}
FLAT = {
    "prompt": "The mother tongue of Ada Lamb is",
    "subject": "Ada Lamb",
    "target_new": "English",
    "ground_truth": "French",
    "rephrase_prompt": "Ada Lamb spoke the language",
    "locality_prompt": "Bo Rand is a native speaker of",
}
ZSRE = {
    "subject": "Ada Lamb",
    "src": "What is the birthplace of Ada Lamb?",
    "alt": "Rome",
    "answers": ["Paris"],
    "pred": "London",
    "rephrase": "Where was Ada Lamb born?",
    "loc": "nq question: who sings this song",
    "portability": {"New Question": "In which land was Ada Lamb born?", "New Answer": "Italy"},
}
KNOW: dict[str, Any] = {
    "subject": "Ada Lamb",
    "prompt": "The employer of Ada Lamb is",
    "target_new": "Acme",
    "ground_truth": ["Bolt"],
    "locality": {"Relation_Specificity": [{"prompt": "The gender of Ada Lamb is"}]},
    "portability": {
        "Reasoning": [{"prompt": "The boss of Ada Lamb is", "ground_truth": [["Cy", "C. Y."], []]}]
    },
}
TOWN_CLOZE = {"subject": "Bo Rand", "prompt": "The mother tongue of Bo Rand is"}
WIKI = {
    "subject": "Ada Lamb",
    "update": "Who is the employer of Ada Lamb?",
    "ans": "Acme",
    "rephrase": "For whom does Ada Lamb work?",
    "personas": "Tell me, who employs Ada Lamb?",
    "loc": "Who is the employer of Bo Rand?",
    "mhop": "Where does the employer of Ada Lamb sit?",
    "mhop_ans": "Basel",
}
CHANGED: dict[str, Any] = {
    "id": "c1",
    "subject": "Nigeria",
    "relation": "head of state",
    "question": "Who is the head of state of Nigeria?",
    "cloze": "The head of state of Nigeria is",
    "old_value": "Goodluck Jonathan",
    "new_value": "Muhammadu Buhari",
    "new_from": "29 May 2015",
}
OWN: dict[str, Any] = {
    "subject": "Ada Lamb",
    "question": "Who is Ada Lamb's doctor?",
    "new": ["Bo Rand", "B. Rand"],
    "old": "Cy Tell",
    "paraphrases": ["The doctor of Ada Lamb is"],
    "locality": ["Who is Ada Lamb's mother?", {"question": "Who is Cy's doctor?", "group": "near"}],
    "portability": [{"question": "Where is the practice of Ada Lamb's doctor?", "answers": "Ulm"}],
}
ROWS = {
    "counterfact": FULL,
    "counterfact flat": FLAT,
    "zsre": ZSRE,
    "knowedit": KNOW,
    "wikibigedit": WIKI,
    "changed facts": CHANGED,
    "corrigenda": OWN,
}


def record(row: dict[str, Any]) -> Any:
    return read(layout_of(row) or "", row, "line 1")


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ROWS)
def test_a_layout_is_known_by_its_keys_and_read_whole(name: str) -> None:
    row = ROWS[name]
    assert layout_of(row) == name
    found = record(row)
    assert found.subject in found.edit.prompt.text
    assert found.new in found.statement
    assert (found.former != ()) is (name != "wikibigedit")
    assert (found.paraphrases != ()) is (name != "knowedit")
    assert (found.locality != ()) is (name != "changed facts")
    assert all(not probe.answers for probe in found.locality)


def test_questions_are_asked_in_chat_and_other_prompts_continued() -> None:
    full, zsre = record(FULL), record(ZSRE)
    assert full.edit.prompt == Prompt("The mother tongue of Ada Lamb is", False)
    assert (full.statement, full.shape) == ("The mother tongue of Ada Lamb is English.", CLOZE)
    assert full.portability[0].prompt.chat
    assert zsre.edit.prompt.chat
    assert zsre.statement == "The birthplace of Ada Lamb is Rome."


def test_the_prefix_of_unrelated_questions_is_dropped_and_their_mark_added() -> None:
    (probe,) = record(ZSRE).locality
    assert probe.prompt == Prompt("who sings this song?", True)


def test_a_former_value_is_the_worlds_not_another_models_guess() -> None:
    assert record(ZSRE).former == ("Paris",)


def test_any_alias_in_nested_lists_is_accepted() -> None:
    assert record(KNOW).portability[0].answers == ("Cy", "C. Y.")
    assert record(OWN).edit.answers == ("Bo Rand", "B. Rand")


def test_all_earlier_values_are_former_ones_and_the_new_one_never_is() -> None:
    spells = [["A. Adler", "2001"], ["Muhammadu Buhari", "2015"]]
    assert record({**CHANGED, "all_values": spells}).former == ("Goodluck Jonathan", "A. Adler")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({**FLAT, "subject": "Bo Rand"}, "does not spell"),
        ({**FLAT, "target_new": "Ada Lamb"}, "names the new value"),
        ({**FLAT, "target_new": ""}, "no new value"),
        ({**OWN, "statement": "It is someone."}, "does not contain"),
        (
            {**CHANGED, "question": "Who was the head of Nigeria before the current head?"},
            "former value",
        ),
    ],
)
def test_what_cannot_be_scored_is_left_out_with_a_reason(row: dict[str, Any], why: str) -> None:
    assert why in record(row)


def test_probes_that_name_their_own_answer_are_not_asked() -> None:
    row = {**ZSRE, "rephrase": ["Was Ada Lamb born in Rome?", "Ada Lamb was born where?"]}
    assert [p.prompt.text for p in record(row).paraphrases] == ["Ada Lamb was born where?"]


def test_the_newest_value_of_a_slot_is_kept_whatever_the_order(tmp_path: Path) -> None:
    newer = {**CHANGED, "id": "c2", "new_value": "Bola Tinubu", "new_from": "May2023"}
    for rows in ((CHANGED, newer), (newer, CHANGED)):
        file = read_records(written(tmp_path / "facts.jsonl", *rows))
        assert [r.new for r in file.records] == ["Bola Tinubu"]
        assert sum(file.left_out.values()) == 1


def test_an_array_and_json_lines_give_the_same_records(tmp_path: Path) -> None:
    array = tmp_path / "facts.json"
    array.write_text(json.dumps([{**OWN, "id": "a"}], indent=1), encoding="utf-8")
    lines = written(tmp_path / "facts.jsonl", {**OWN, "id": "a"})
    assert read_records(array).records == read_records(lines).records
    assert read_records(array).sha256 != read_records(lines).sha256


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps(OWN) + "\n" + json.dumps(ZSRE), "line 2 has layout zsre"),
        (json.dumps(OWN) + '\n{"question": "?", "value": 1}', "line 2 has none of the layouts"),
        (json.dumps([OWN, 7]), "record 2 has none of the layouts"),
        (json.dumps(OWN) + "\n{", "line 2 is not JSON"),
        ("[1,\n2", "is not JSON"),
        (json.dumps({**FULL, "requested_rewrite": {}}), "line 1 is no record of layout counterf"),
        (json.dumps({**FLAT, "subject": "Bo"}), "no records that can be scored (the prompt does"),
        ("", "holds no records"),
    ],
)
def test_a_wrong_file_gives_one_line_that_names_the_place(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_records(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@functools.cache
def some(count: int) -> RecordFile:
    rows = [
        {
            "subject": f"Town {number:03}",
            "relation": ("mayor", "river")[number % 2],
            "question": f"Who is the mayor of Town {number:03}?",
            "new": f"Person{number}",
        }
        for number in range(count)
    ]
    return RecordFile(
        "corrigenda", "", tuple(read("corrigenda", r, r["subject"]) for r in rows), {}
    )  # type: ignore[misc]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 5))
def test_a_run_is_the_beginning_of_every_longer_one_of_its_seed(
    n: int, more: int, seed: int
) -> None:
    file = some(60)
    short, long = choose(file, n, seed), choose(file, n + more, seed)
    assert [r.id for r in long.records[:n]] == [r.id for r in short.records]
    assert [r.id for r in short.requests] == [r.id for r in short.records]
    assert choose(file, n, seed) == short


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 50), st.integers(0, 5))
def test_nothing_that_is_tested_was_told_to_the_editor_as_a_neighbour(n: int, seed: int) -> None:
    chosen = choose(some(60), n, seed)
    trained = {q for request in chosen.requests for q in request.neighbours}
    asked = {
        p.prompt.text
        for r in chosen.records
        for p in (r.edit, *r.paraphrases, *r.locality, *r.portability)
    }
    assert trained
    assert not trained & asked
    assert chosen.derived == n


def test_near_probes_are_of_the_same_relation_where_there_are_such() -> None:
    chosen = choose(some(60), 5, 1)
    kinds = {r.edit.prompt.text: r.kind for r in some(60).records}
    for found in chosen.records:
        near = [p for p in found.locality if p.group == "neighbour"]
        assert near
        assert {kinds[p.prompt.text] for p in near} == {found.kind}


def test_a_prompt_on_another_edits_subject_is_no_locality_probe(tmp_path: Path) -> None:
    other = {**FLAT, "prompt": "The mother tongue of Bo Rand is", "subject": "Bo Rand"}
    file = read_records(written(tmp_path / "facts.jsonl", FLAT, {**other, "locality_prompt": "A"}))
    alone = {r.subject: r for r in choose(file, 1, 0).records} | {
        r.subject: r for r in choose(file, 1, 3).records
    }
    both = {r.subject: r for r in choose(file, 2, 0).records}
    assert both["Ada Lamb"].locality == ()
    assert alone["Ada Lamb"].locality != ()


def test_more_edits_than_records_are_refused() -> None:
    with pytest.raises(ConfigError, match="has 3 records"):
        choose(some(3), 4, 0)
    with pytest.raises(ConfigError, match="have 3 records"):
        choose_from([some(3), some(2)], 4, 0)


def test_files_take_turns_and_a_short_one_gives_what_it_has(tmp_path: Path) -> None:
    flat = [
        {**FLAT, "subject": f"Ada {n}", "prompt": f"The mother tongue of Ada {n} is"}
        for n in range(30)
    ]
    cloze = read_records(written(tmp_path / "cloze.jsonl", *flat))
    short = read_records(written(tmp_path / "short.jsonl", FLAT, {**FLAT, **TOWN_CLOZE}))
    chosen = choose_from([some(40), short, cloze], 12, 0)
    numbers = [record.id.partition(":")[0] for record in chosen.records]
    assert numbers == ["0", "1", "2", "0", "1", "2", "0", "2", "0", "2", "0", "2"]
    assert [r.id for r in chosen.requests] == [r.id for r in chosen.records]
    assert chosen.records[0].edit == choose(some(40), 5, 0).records[0].edit
    # What a file has of a subject that an earlier one has too is left out.
    again = choose_from([some(40), some(40)], 40, 0)
    assert {record.id[0] for record in again.records} == {"0"}
    assert choose_from([some(40)], 3, 1) == choose(some(40), 3, 1)


def test_a_mixture_draws_from_each_file_what_the_file_alone_would() -> None:
    """What is kept out of training is told by the file's own draw: a shared subject must not
    shuffle it anew."""
    shared, file = some(3), some(60)
    alone = [r.id for r in choose(file, 25, 0).records]
    mixed = [r.id for r in choose_from([shared, file], 23, 0).records if r.id.startswith("1:")]
    own = {record.subject for record in shared.records}
    assert [f"1:{id}" for id in alone if id not in own][: len(mixed)] == mixed


def test_no_locality_probe_names_a_subject_that_another_file_edits(tmp_path: Path) -> None:
    named = {**FLAT, "locality_prompt": "Town 000 lies on the river"}
    first = read_records(written(tmp_path / "a.jsonl", named))
    alone = choose_from([first], 1, 0).records[0]
    assert alone.locality != ()
    both = choose_from([first, some(1)], 2, 0)
    assert both.records[0].locality == ()


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("What is the date of birth for X Y?", "The date of birth for X Y is N."),
        ("Who is currently the chair of X Y?", "The chair of X Y is N."),
        ("The mother of X Y is whom?", "The mother of X Y is N."),
        ("Who was X Y's father?", "X Y's father was N."),
        ("Which state is X Y located?", "X Y is located in N."),
        ("In which state is X Y located?", "X Y is located in N."),
        ("What team is X Y affiliated with?", "X Y is affiliated with N."),
        ("In what war did X Y fight?", "X Y fought in N."),
        ("Which team does X Y play for currently?", "X Y plays for N."),
        ("What company produced X Y?", "X Y was produced by N."),
        ("When was X Y born?", "X Y was born in N."),
        ("What voice type is X Y?", "The voice type of X Y is N."),
        ("What voice type does X Y have?", "The voice type of X Y is N."),
        ("Can you name the current chancellor of X Y?", "The current chancellor of X Y is N."),
        ("What label was responsible for X Y?", "The label that was responsible for X Y is N."),
        ("What disease did X Y contract?", "N."),
        ("Is it true?", "N."),
    ],
)
def test_a_question_becomes_the_sentence_that_answers_it(question: str, said: str) -> None:
    statement, shape = statement_for(question, "X Y", "N")
    assert statement == said
    assert (shape == BARE) is (said == "N.")


def test_a_day_takes_on_where_a_year_takes_in() -> None:
    assert statement_for("When was X born?", "X", "5 May 1911")[0] == "X was born on 5 May 1911."


@given(
    st.sampled_from(["What is the job of {}?", "Who made {}?", "{}?"]),
    st.text("aZ. é%{", min_size=1),
)
def test_a_statement_names_its_object_and_ends_once(question: str, new: str) -> None:
    new = " ".join(new.split()).rstrip(".") or "N"
    said, _ = statement_for(question.format("Ada"), "Ada", new)
    assert new in said
    assert said.endswith(".")
    assert not said.endswith("..")


@pytest.mark.parametrize(
    ("path", "layout", "least"),
    [
        ("zsre/zsre_mend_eval_portability_gpt4.json", "zsre", 700),
        ("counterfact/counterfact_full_1000_reconstructed.json", "counterfact", 950),
        ("knowedit/benchmark_wiki_recent_recent_train.json", "knowedit", 500),
        ("changed_facts_unified/changed_facts.dev.jsonl", "changed facts", 500),
    ],
)
def test_real_files_are_read(path: str, layout: str, least: int) -> None:
    if not (DATA / path).exists():
        pytest.skip("needs the development data")
    file = read_records(DATA / path)
    assert file.layout == layout
    assert len(file.records) >= least
    chosen = choose(file, 100, 1)
    assert len({r.slot for r in chosen.records}) == 100
    assert all(request.new in request.statement for request in chosen.requests)
    assert all(r.locality for r in chosen.records[:20])
    shapes = chosen.shapes()
    assert shapes.get(BARE, 0) <= 30
