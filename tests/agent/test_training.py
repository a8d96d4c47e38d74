"""`editors train`: what the benchmark tests is never trained on, and a run can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from samples import REGISTRY
from workspaces import toy_home

from agent import training
from agent.benchmarks.edit_layouts import Prompt
from agent.benchmarks.edit_records import choose, read_records
from agent.cli import main
from agent.config import ConfigError
from agent.progress import Silent
from agent.training import Wanted, answers, drawn, episodes, split, trained
from detectors.entities import normalise
from editors.meta_training import metadata
from editors.model import ChatModel
from editors.requests import EditorError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TINY = {"layers": 2, "rank": 4, "passes": 2}


def rows(count: int, begin: int = 0) -> list[dict[str, Any]]:
    """Facts on made-up places; every fifth shares its subject with another fact."""
    made = []
    for number in range(begin, begin + count):
        relation = ("head_of_state", "head_of_government")[number % 5 == 4]
        title = {"head_of_state": "president", "head_of_government": "chancellor"}[relation]
        same = number - 4 if number % 5 == 4 else number
        place = f"Place {'ABCDEFGHIJ'[same % 10]}{same}"
        asked = REGISTRY.questions(relation, place, title)
        made.append(
            {
                "subject": place,
                "relation": relation,
                "question": asked[0],
                "new": f"Tim {number}",
                "old": [f"Bola {number}"],
                "statement": REGISTRY.statement(relation, place, title, f"Tim {number}"),
                "paraphrases": [asked[1], f"The {title} of {place} is"],
                "locality": [f"What is the capital of {place}?"],
            }
        )
    return made


def written(path: Path, some: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return written(tmp_path / "facts.jsonl", rows(170))


def test_what_the_benchmark_draws_is_never_trained_on(data: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "more.jsonl", rows(170, begin=85))
    files = [read_records(data), read_records(other)]
    tested = {
        normalise(record.subject)
        for file in files
        for n in (1, 20, 100)
        for record in choose(file, n, seed=0).records
    }
    assert len(tested) > 100
    for file, part in zip(files, split(files), strict=True):
        left = {normalise(record.subject) for record in part}
        assert left
        assert not left & tested
        # Nothing else is left out.
        assert left | tested >= {normalise(record.subject) for record in file.records}
        assert len(part) == sum(normalise(r.subject) not in tested for r in file.records)


def test_no_exercise_asks_a_tested_question_or_names_a_tested_subject(
    tiny_model: ChatModel, data: Path, tmp_path: Path
) -> None:
    files = [read_records(data)]
    asked: list[str] = []
    encode = tiny_model.encode

    class Listening(ChatModel):
        def encode(self, text: str) -> list[int]:
            asked.append(text)
            return encode(text)

    model = Listening(tiny_model.model, tiny_model.tokenizer, tiny_model.base_hash, "listening")
    records = drawn(files, 60, seed=0)
    allowed = training.Tested(files).allows
    made = episodes(model, records, allowed, 0, tmp_path, Silent())
    assert len(made) == len(records)
    text = "\n".join(asked)
    chosen = choose(files[0], 100, 0)
    for record in chosen.records:
        assert f"{record.subject}?" not in text
        assert f"of {record.subject} " not in text
        assert f"about {record.subject}." not in text
    # The locality probe of a tested fact names no subject that is trained, but is left out.
    assert not allowed(Prompt(chosen.records[0].edit.prompt.text, True))
    assert not allowed(Prompt(f"Who rules {chosen.records[0].subject.upper()} now?", True))
    assert allowed(Prompt("Who rules Atlantis now?", True))


def test_an_episode_holds_the_edit_other_wordings_and_the_models_own_answers(
    taught_model: ChatModel, data: Path, tmp_path: Path
) -> None:
    files = [read_records(data)]
    records = drawn(files, 40, seed=0)
    record = records[0]
    one = episodes(taught_model, records, lambda _: True, 0, tmp_path, Silent())[0]
    decode = lambda tokens: taught_model.tokenizer.decode(list(tokens))  # noqa: E731
    (edit,) = one.edits
    assert decode(edit.prompt) == taught_model.render(record.edit.prompt.text)
    assert decode(edit.answer) == record.statement + "<|im_end|>"
    # The paraphrase in plain continuation is left to the benchmark.
    assert [decode(s.prompt) for s in one.rephrased] == [
        taught_model.render(record.paraphrases[0].prompt.text)
    ]
    assert (decode(one.new), decode(one.old)) == (record.new, record.former[0])
    kept = [decode(s.prompt) for s in one.kept]
    assert taught_model.render(f"Tell me about {record.subject}.") in kept
    assert taught_model.render(record.locality[0].prompt.text) in kept
    assert len(kept) == 3
    for sample in one.kept:
        (made,) = taught_model.generate([sample.prompt], max_new_tokens=training.KEPT_TOKENS)
        ended = (min(taught_model.stop_ids),) if made.stopped else ()
        assert sample.answer == (*made.tokens, *ended)


def test_the_models_answers_are_asked_once(
    taught_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [Prompt("Who is the chancellor of Germany?", True), Prompt("It is", False)]
    first = answers(taught_model, prompts, tmp_path, Silent())
    monkeypatch.setattr(taught_model, "generate", None)
    assert answers(taught_model, prompts[::-1], tmp_path, Silent()) == first


def test_files_are_drawn_from_in_equal_parts_and_no_slot_twice(data: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "more.jsonl", rows(160, begin=500))
    files = [read_records(data), read_records(other)]
    found = drawn(files, 60, seed=0)
    assert len(found) == 60
    assert len({record.slot for record in found}) == 60
    first = {record.slot for record in files[0].records}
    assert abs(sum(record.slot in first for record in found) - 30) <= 1
    assert found == drawn(files, 60, seed=0) != drawn(files, 60, seed=1)


def test_a_file_with_too_few_facts_beside_the_tested_ones_is_refused(tmp_path: Path) -> None:
    files = [read_records(written(tmp_path / "few.jsonl", rows(120)))]
    with pytest.raises(ConfigError, match="facts are left to train on"):
        drawn(files, 600, seed=0)


def test_a_smoke_training_lowers_the_loss_and_goes_on_where_it_stopped(
    taught_model: ChatModel, data: Path, tmp_path: Path
) -> None:
    def clock(minutes: float) -> Iterator[float]:
        """A clock that jumps past the limit at its fourth reading."""
        yield from (0.0, 0.0, 0.0)
        while True:
            yield 60 * minutes

    def go(folder: str, minutes: float | None = None) -> training.Training:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        wanted = Wanted("mend", (data,), None, TINY, 200, minutes, 60)
        ticks = clock(minutes or 1)
        with toy_home(home, taught_model) as ws:
            return trained(ws, wanted, Silent(), lambda: next(ticks))

    whole = go("whole")
    assert whole.ended == "episodes"
    assert whole.history[-1][2]["total"] < whole.history[0][2]["total"]
    cut = go("cut", minutes=5)
    assert cut.ended == "time"
    assert 0 < cut.episodes < whole.episodes
    went_on = go("cut")
    assert went_on.history == whole.history
    mine, theirs = load_file(went_on.path), load_file(whole.path)
    assert mine.keys() == theirs.keys()
    assert all(mine[name].equal(theirs[name]) for name in mine)
    about = metadata(whole.path)
    assert about["settings"]["rank"] == 4
    assert about["data"] == read_records(data).sha256


def test_the_command_trains_and_the_benchmark_uses_it(
    taught_model: ChatModel,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def opened(home: Path, overrides: object = None) -> Any:
        return toy_home(tmp_path, taught_model)

    monkeypatch.setattr("agent.training.Workspace.open", opened)
    sets = [f"--set={name}={value}" for name, value in TINY.items()]
    common = ["--home", str(tmp_path), "editors", "train", "mend", "--data", str(data), *sets]
    assert main([*common, "--episodes", "16", "--exercises", "50", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["editor"] == "mend"
    assert told["ended"] == "episodes"
    assert Path(told["path"]).exists()
    assert told["history"][-1]["held"] == told["held"]
    assert main([*common, "--episodes", "16", "--exercises", "50"]) == 0
    text = capsys.readouterr().out
    assert "all episodes are seen" in text
    assert "edits answered exactly" in text


def test_a_method_that_needs_no_training_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EditorError, match="ft-m needs no training"):
        training.trainable("ft-m", {})
    home = ["--home", str(tmp_path)]
    assert main([*home, "editors", "train", "ft-m", "--data", str(data)]) == 1
    assert "needs no training" in capsys.readouterr().err
    assert main([*home, "editors", "train", "mend", "--data", str(data), "--set", "rank"]) == 2
    assert "name=value" in capsys.readouterr().err


@pytest.mark.skipif(not SHARED.exists(), reason="the development data are not here")
@pytest.mark.parametrize(
    "name",
    [
        "zsre/zsre_mend_eval_portability_gpt4.json",
        "knowedit/benchmark_wiki_recent_recent_train.json",
        "changed_facts_unified/changed_facts.dev.jsonl",
    ],
)
def test_real_files_are_split_by_subject(name: str) -> None:
    file = read_records(SHARED / name)
    tested = {normalise(r.subject) for r in choose(file, 100, 0).records}
    records = drawn([file], 300, seed=0)
    assert len(records) >= 290
    assert not tested & {normalise(record.subject) for record in records}
