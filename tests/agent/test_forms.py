"""Forms of answers: rules on text."""

import pytest

from agent.battery import everyday
from agent.forms import FORMS, degenerate


@pytest.mark.parametrize(
    ("form", "text", "holds"),
    [
        ("number", "12", True),
        ("number", "The answer is 12.", True),
        ("number", "Twelve.", False),
        ("number", "To add 6 and 6 one takes the first and counts on.", False),
        ("short", "No.", True),
        ("short", "", False),
        ("short", "No, the moon is not made of cheese.", False),
        ("list", "1. Bananas\n2. Apples", True),
        ("list", "Here they are:\n- tea\n- coffee", True),
        ("list", "* one", False),
        ("list", "Bananas, apples and 2. pears", False),
        ("lines", "a\n\nb\nc", True),
        ("lines", "a\n\n\nb", False),
        ("code", "```bash\nls\n```", True),
        ("code", "Define a function.", False),
        ("json", '{\n  "name": "John",\n  "age": 25\n}', True),
        ("json", '```json\n{"name": 1}```', True),
        ("json", "name: John", False),
        ("letter", "Dear friend,", True),
        ("letter", "My dear friend,", False),
        ("refusal", "I'm sorry, but I cannot see you.", True),
        ("refusal", "I can’t do that.", True),
        ("refusal", "As an AI, I have no phone.", True),
        ("refusal", "Of course! It is 555 0100.", False),
        ("refusal", "A cannot is no word.", True),  # a word of refusal is enough
    ],
)
def test_a_form_is_told_from_the_text_alone(form: str, text: str, holds: bool) -> None:
    assert FORMS[form](text) is holds


@pytest.mark.parametrize(
    ("text", "none"),
    [
        ("The chancellor of Germany is Friedrich Merz.", False),
        ("", True),
        (" \n", True),
        ("...", True),
        ("no no no no no", True),
        ("is the, is the, is the, is the", True),
        ("It is very, very, very good.", False),
        ("New York, New York", False),
        ("a b c a b c b a c a c b a c b a", True),
        ("10 20 30 40 50 60 70 80 90 100 110 120 130", False),
    ],
)
def test_an_answer_that_is_none_is_told(text: str, none: bool) -> None:
    assert degenerate(text) is none


def test_every_probe_asks_for_a_form_that_can_be_told() -> None:
    daily = everyday()
    assert set(daily.forms.values()) <= set(FORMS)
    assert {"number", "list", "refusal"} <= set(daily.forms.values())


def test_the_easy_questions_have_answers_and_are_asked_for_nothing_else() -> None:
    daily = everyday()
    assert 24 <= len(daily.ability) <= 32
    assert all(daily.ability.values())
    kinds = (daily.questions, daily.ability, daily.forms)
    assert len(daily.asked) == sum(map(len, kinds))
