"""The list of methods names what really exists."""

import dataclasses
import importlib
from typing import Any

import pytest

from editors.registry import build, editors
from editors.requests import EditorError


def test_every_method_has_its_own_name_and_says_what_it_is() -> None:
    methods = editors()
    names = [method.name for method in methods]
    assert len(set(names)) == len(names)
    assert names[:3] == ["memory", "recall", "compiled"]
    for method in methods:
        assert all((method.family, method.paper, method.lives_in, method.summary)), method.name


def test_every_settings_class_can_be_imported_and_made_with_its_defaults() -> None:
    named = [method for method in editors() if method.settings]
    assert named
    for method in named:
        module, _, name = method.settings.rpartition(".")
        settings = getattr(importlib.import_module(module), name)
        fields = dataclasses.fields(settings)
        assert fields, method.settings
        assert dataclasses.asdict(settings()).keys() == {field.name for field in fields}


def test_methods_of_a_module_carry_the_modules_name() -> None:
    for method in editors():
        if method.settings:
            module = importlib.import_module(method.settings.rpartition(".")[0])
            assert method.name == module.NAME


def test_every_editor_can_be_built_and_has_the_shape_of_one() -> None:
    named = [method for method in editors() if method.editor]
    assert {"compiled", "ft-m"} <= {method.name for method in named}
    for method in named:
        editor: Any = build(method.name)
        assert isinstance(editor.stacks, bool)
        assert all(callable(getattr(editor, part)) for part in ("prepare", "edit", "settled"))
        assert dataclasses.asdict(editor), "the editor is a dataclass of its settings"
        if method.settings:
            module, _, name = method.settings.rpartition(".")
            defaults = getattr(importlib.import_module(module), name)()
            assert dataclasses.asdict(editor) == dataclasses.asdict(defaults)


def test_settings_replace_defaults_and_the_others_stand() -> None:
    editor: Any = build("ft-m", {"steps": 3, "layer": 1, "norm": 0.5})
    assert (editor.steps, editor.layer, editor.norm) == (3, 1, 0.5)
    assert editor.learning_rate == build("ft-m").learning_rate  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("memit-x", {}, "no editor is named 'memit-x'; editors: memory, recall"),
        ("retrieval", {}, "no editor is named 'retrieval'"),
        ("ft-m", {"speed": 1}, "no setting 'speed'; settings: layer, layers"),
        ("ft-m", {"steps": 2.5}, "setting steps of ft-m is a int, not 2.5"),
        ("ft-m", {"steps": True}, "setting steps of ft-m is a int, not True"),
        ("ft-m", {"layer": "late"}, "setting layer of ft-m is a float, not 'late'"),
    ],
)
def test_what_cannot_be_built_is_said_with_what_can(
    name: str, overrides: dict[str, object], said: str
) -> None:
    with pytest.raises(EditorError) as caught:
        build(name, overrides)
    assert said in str(caught.value)
