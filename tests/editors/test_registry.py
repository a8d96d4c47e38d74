"""The list of methods names what really exists."""

import dataclasses
import importlib

from editors.registry import editors


def test_every_method_has_its_own_name_and_says_what_it_is() -> None:
    methods = editors()
    names = [method.name for method in methods]
    assert len(set(names)) == len(names)
    assert names[:2] == ["memory", "compiled"]
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
