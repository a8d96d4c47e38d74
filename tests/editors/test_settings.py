"""What is read of the settings from the source, against the classes themselves."""

import ast
import dataclasses
import sys
from importlib import import_module

import pytest

from editors.registry import editors
from editors.requests import EditorError
from editors.settings import settings

WITH_SETTINGS = [info.editor or info.settings for info in editors() if info.settings]


@pytest.mark.parametrize("dotted", WITH_SETTINGS)
def test_the_source_says_what_the_class_has(dotted: str) -> None:
    module, _, name = dotted.rpartition(".")
    made = getattr(import_module(module), name)()
    real = dataclasses.asdict(made)
    assert {one.name: ast.literal_eval(one.default) for one in settings(dotted)} == real


@pytest.mark.parametrize("dotted", WITH_SETTINGS)
def test_every_setting_says_what_it_is(dotted: str) -> None:
    assert not [one.name for one in settings(dotted) if len(one.note) < 10]


def test_what_a_method_inherits_it_may_change_and_what_it_fixes_is_no_setting() -> None:
    shown = {one.name: one for one in settings("editors.local.rome.Rome")}
    assert shown["layer"].default == "0.3"
    assert "GPT2-XL" in shown["layer"].note
    assert shown["steps"].default == "25", "of the base class"
    assert "where" not in shown
    assert "stacks" not in shown


def test_a_class_that_is_not_there_is_named() -> None:
    with pytest.raises(EditorError, match=r"no class Nobody in editors\.local\.memit"):
        settings("editors.local.memit.Nobody")
    with pytest.raises(EditorError, match=r"no module editors\.local\.nothing"):
        settings("editors.local.nothing.Nobody")


def test_reading_settings_imports_no_torch() -> None:
    import subprocess

    code = (
        "import sys; from editors.settings import settings;"
        "settings('editors.local.memit.Memit'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
