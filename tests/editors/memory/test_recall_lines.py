"""What is run for an edit of recall heads, on the taught toy."""

from __future__ import annotations

import torch

from editors.architectures import view
from editors.capture import keys_at
from editors.memory import recall_lines
from editors.memory.recall_lines import (
    Line,
    lines_of,
    masked_of,
    ordinary,
    placed,
    read,
    reading_of,
)
from editors.memory.recall_rows import Rows, rows_of
from editors.memory.shared_wordings import Lent
from editors.memory.states import States
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest

REQUEST = EditRequest(
    id="Germany",
    questions=("Who is the chancellor of Germany?",),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
    neighbours=(
        "What is the capital of Germany?",
        "Who was the chancellor of Germany in 2008?",
    ),
    subject="Germany",
)
LENT = Lent(
    alike=(Asked("Tell me who the chancellor of Germany is.", True),),
    beside=(Asked("What language is spoken in Germany?", True),),
    elsewhere=(Asked("Who is the chancellor of Japan?", True),),
)
REPLIES = {
    "Who is the chancellor of Germany?": "The chancellor of Germany is Angela Merkel.",
    "What is the capital of Germany?": "It is Berlin.",
}


def made(model: ChatModel) -> list[Line]:
    return lines_of(
        model, REQUEST, LENT, REPLIES, "West Nigeria", lambda text: masked_of(text, "Japan")
    )


def laid_out(model: ChatModel) -> tuple[list[Line], Rows]:
    lines, states = made(model), States()
    for line in lines:
        states.put(read(view(model), 2, [line]))
    return lines, rows_of([REQUEST], [lines], states)


def test_each_kind_is_there_and_the_edits_own_words_are_marked(taught_model: ChatModel) -> None:
    lines = made(taught_model)
    asked = [line for line in lines if line.kind == "asked"]
    # Its own question at once and after the lead of the model's own answer; the lent one at once.
    assert [(line.own, line.bare) for line in asked] == [(True, True), (True, False), (False, True)]
    assert sum(line.kind == "beside" for line in lines) == 1
    assert sum(line.kind == "elsewhere" for line in lines) == 1
    assert sum(line.kind == "reply" for line in lines) == 1
    assert sum(line.kind == "past" for line in lines) == 1  # the chancellor of 2008
    assert sum(line.kind == "named" for line in lines) == 2 * len(recall_lines.NAMED)
    assert not any(line.kind == "lookalike" for line in lines)  # a name of one word has none


def test_a_subject_of_several_words_has_names_that_end_alike(taught_model: ChatModel) -> None:
    request = EditRequest(
        "x", ("Who is the head of West Germany?",), "A", "A.", subject="West Germany"
    )
    lines = lines_of(taught_model, request, Lent(), {}, "North Kenya", str)
    texts = [taught_model.decode(line.ids) for line in lines if line.kind == "lookalike"]
    assert any("North Germany" in text for text in texts)
    assert not any("West Germany" in text for text in texts)


def test_the_subjects_place_is_its_last_token(taught_model: ChatModel) -> None:
    for line in made(taught_model):
        if line.subject is not None:
            assert taught_model.decode(line.ids[: line.subject + 1]).endswith("Germany")


def test_a_lines_targets_are_what_follows_its_last_places(taught_model: ChatModel) -> None:
    for line in made(taught_model):
        if line.kind == "asked":
            assert line.ids[len(line.ids) - line.count + 1 :] == line.targets[:-1]
            assert taught_model.decode(line.targets).strip() == "Friedrich Merz"


def test_the_same_question_about_another_subject_has_the_same_wording(
    taught_model: ChatModel,
) -> None:
    lines = made(taught_model)
    own = {line.wording for line in lines if line.own}
    assert own == {line.wording for line in lines if line.kind == "elsewhere"}


def test_readings_are_those_of_the_text_alone(taught_model: ChatModel) -> None:
    shown, lines = view(taught_model), made(taught_model)
    chats = [line for line in lines if line.ids[0] == lines[0].ids[0]]
    states = read(shown, 2, chats)
    assert states.keys() == {line.name for line in chats}
    line = chats[0]
    found = reading_of(line, states[line.name])
    places = list(range(len(line.ids) - line.count, len(line.ids)))
    for part, seen in (("mlp", found.inner), ("layer", found.scale)):
        alone = keys_at(shown, [line.ids], [2], [places], part=part)[0]
        expected = alone if part == "mlp" else alone.pow(2).mean(1).sqrt()
        torch.testing.assert_close(seen, expected, atol=1e-4, rtol=1e-4)
    assert found.flag is not None
    assert line.subject is not None
    flag = keys_at(shown, [line.ids], [1], [line.subject], part="mlp")[0, 0]
    torch.testing.assert_close(found.flag, flag, atol=1e-4, rtol=1e-4)
    nowhere = next(line for line in lines if line.subject is None)
    assert reading_of(nowhere, read(shown, 2, [nowhere])[nowhere.name]).flag is None


def test_a_subject_that_begins_a_text_is_not_looked_at(taught_model: ChatModel) -> None:
    """What stands first looks alike whatever it is: its flag would open on every text."""
    first = taught_model.tokenizer.decode(taught_model.encode("Germany")[:1])
    asked = Asked(f"{first} is here.", chat=False)
    assert placed(taught_model, asked, first) == (tuple(taught_model.encode(asked.text)), None)
    later = Asked(f"Here is {first}.", chat=False)
    assert placed(taught_model, later, first)[1]


def test_rows_know_how_far_behind_the_subject_they_are(taught_model: ChatModel) -> None:
    lines, rows = laid_out(taught_model)
    counted = [line for line in lines if line.kind not in ("named", "lookalike")]
    assert len(rows.since) == sum(line.count for line in counted)
    line = counted[0]
    assert line.subject is not None
    begin = len(line.ids) - line.count - line.subject
    assert rows.since[: line.count].tolist() == list(range(begin, begin + line.count))
    nowhere = [line.subject is None for line in counted for _ in range(line.count)]
    assert (rows.since == -1).tolist() == nowhere


def test_rows_of_another_time_are_beside_what_is_asked(taught_model: ChatModel) -> None:
    lines, rows = laid_out(taught_model)
    past = next(line for line in lines if line.kind == "past")
    assert int(rows.past.sum()) == past.count
    assert bool(rows.beside[rows.past].all())
    assert not bool((rows.past & rows.asked).any())


def test_ordinary_text_is_read_whole_with_its_beginnings_marked(taught_model: ChatModel) -> None:
    texts = ["Angela Merkel is named.", "The harbour was quiet in the early morning."]
    sequences = [taught_model.encode(text) for text in texts]
    seen = ordinary(view(taught_model), 2, sequences)
    assert len(seen.query) == sum(map(len, sequences))
    assert int(seen.first.sum()) == 2
