"""What the fine-tuning methods share: the shield, what must stand, what is replayed."""

from dataclasses import replace

import pytest
from toy_model import CORPUS

from editors.architectures import view
from editors.capture import keys_at
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.anchors import anchor_lessons, anchors_of, names_in, text_lessons
from editors.optimize.finetune import FineTuning
from editors.optimize.tuning import TuningSettings, matrices
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest

REQUEST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?",),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    subject="Germany",
    neighbours=("What is the capital of Germany?",),
)
TEXTS = [" ".join(CORPUS)] * 6


def test_a_shield_keeps_the_change_off_ordinary_keys(tiny_model: ChatModel) -> None:
    """Measured on texts' own keys, beside the size of the change."""
    felt = {}
    texts = [tiny_model.encode(text) for text in CORPUS[:6]]
    for shield in (0.0, 0.05):
        editor = FineTuning(learning_rate=1e-2, steps=5, shield=shield, sure=1.1)
        state = editor.prepare(tiny_model, Resources(TEXTS))
        assert bool(state.shields) is bool(shield)
        ((name, change),) = editor.edit(tiny_model, state, [REQUEST]).changes.items()
        assert name == view(tiny_model).names(2).down
        ordinary = keys_at(tiny_model, texts, [2])[0]
        felt[shield] = float((ordinary @ change.T).norm() / change.norm())
    assert 0 < felt[0.05] < 0.5 * felt[0.0]


def test_without_ordinary_text_there_is_no_shield(tiny_model: ChatModel) -> None:
    assert not FineTuning().prepare(tiny_model, Resources()).shields


def test_the_parts_are_those_of_the_architecture(each_model: ChatModel) -> None:
    shown = view(each_model)
    for part in ("down", "up", "attention"):
        (name,) = matrices(shown, TuningSettings(layer=0.4, part=part))
        assert name == getattr(shown.names(1), part)
    assert len(matrices(shown, TuningSettings(layer=0.4, layers=9))) == 2
    with pytest.raises(EditorError, match="part is one of"):
        matrices(shown, TuningSettings(part="head"))
    if not shown.gated:
        with pytest.raises(EditorError, match="no gate"):
            matrices(shown, TuningSettings(part="gate"))


def test_names_are_found_in_texts_each_once() -> None:
    found = names_in([*CORPUS, "Then Angela Merkel met the King of Norway."])
    assert {"Angela Merkel", "Friedrich Merz"} <= set(found)
    assert len(found) == len(set(found))
    assert "The harbour" not in found


def test_what_must_stand_is_asked_of_other_subjects() -> None:
    names = ("Norway Isles", "Germany", "Peru Lima", "Chile South")
    made = anchors_of(REQUEST, names, siblings=2, avoid=("Peru Lima",))
    assert made[0] == Asked(REQUEST.neighbours[0], True)
    others = [one.text for one in made[1:]]
    assert sorted(others) == [
        "Who is the chancellor of Chile South?",
        "Who is the chancellor of Norway Isles?",
    ]
    assert anchors_of(REQUEST, names, 2, ("Peru Lima",)) == made
    plain = replace(REQUEST, questions=(), prompts=("The capital of Germany is",), neighbours=())
    assert all(not one.chat for one in anchors_of(plain, names, 1))
    assert not anchors_of(replace(plain, subject=""), names, 3)


def test_an_anchor_looks_at_what_the_model_says_up_to_its_end(taught_model: ChatModel) -> None:
    asked = [Asked("Who is the chancellor of Germany?", True), Asked("The harbour was", False)]
    chat, plain = anchor_lessons(taught_model, asked, 30)
    prompt = taught_model.encode(taught_model.render(asked[0].text))
    answer = taught_model.encode_answer("The chancellor of Germany is Angela Merkel.")
    assert list(chat.fed) == prompt + answer
    assert len(chat.columns) == len(answer) + 1, "the end of the turn is looked at too"
    assert chat.columns[0] == len(prompt) - 1
    assert plain.columns[0] == len(taught_model.encode(asked[1].text)) - 1
    (text,) = text_lessons(taught_model, CORPUS, 1, tokens=5)
    assert text.columns == (0, 1, 2, 3, 4)


def test_a_later_request_takes_the_place_of_the_earlier_one(tiny_model: ChatModel) -> None:
    editor = FineTuning(steps=1)
    state = editor.prepare(tiny_model, Resources())
    again = replace(
        REQUEST, id="cook", new="Tim Cook", statement="The chancellor of Germany is Tim Cook."
    )
    for request in (REQUEST, again):
        editor.edit(tiny_model, state, [request])
        state = editor.settled(tiny_model, state, [request])
    ((row,),) = state.lessons.values()
    assert "Tim Cook" in tiny_model.decode(row.tokens.tolist())
    assert not editor.settled(tiny_model, state, [again]).pending


def test_a_batch_that_was_not_settled_is_not_replayed(tiny_model: ChatModel) -> None:
    editor = FineTuning(steps=1)
    state = editor.prepare(tiny_model, Resources())
    editor.edit(tiny_model, state, [REQUEST])
    assert not state.lessons
    assert not editor.settled(tiny_model, state, [replace(REQUEST, id="another")]).lessons
