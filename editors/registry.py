"""Every editing method that is built, as data: what `corrigenda editors ls` lists."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from editors.requests import EditorError

if TYPE_CHECKING:
    from editors.editor import Editor


@dataclass(frozen=True)
class EditorInfo:
    """One method.

    Attributes:
        family: of the survey's taxonomy (arXiv 2310.16218).
        lives_in: where an edit is kept.
        sequential_safe: whether many edits in a row leave earlier ones standing.
        reaches_gguf: whether an edit can travel in an exported weight file.
        settings: dotted name of the settings class, or "" where there are none.
        editor: dotted name of the class that is the method by the protocol of
            ``editors.editor``: a frozen dataclass of its settings. "" where it is no editor.
    """

    name: str
    family: str
    paper: str
    lives_in: str
    sequential_safe: bool
    reaches_gguf: bool
    summary: str
    settings: str = ""
    editor: str = ""


@cache
def editors() -> tuple[EditorInfo, ...]:
    """Return all methods of ``methods.toml``, the daemon's own tiers first."""
    text = files("editors").joinpath("methods.toml").read_text(encoding="utf-8")
    return tuple(EditorInfo(**row) for row in tomllib.loads(text)["editor"])


def build(name: str, overrides: Mapping[str, Any] | None = None) -> Editor:
    """Return a method by its name, with some of its settings changed.

    Imports the method, and with it torch.

    Raises EditorError: an unknown name, a method that is no editor, a setting that it does
    not have or of another type.
    """
    infos = {info.name: info for info in editors() if info.editor}
    if name not in infos:
        raise EditorError(f"no editor is named {name!r}; editors: {', '.join(infos)}")
    module, _, leaf = infos[name].editor.rpartition(".")
    made: Any = getattr(import_module(module), leaf)
    defaults = dataclasses.asdict(made())
    for key, value in (overrides or {}).items():
        if key not in defaults:
            raise EditorError(f"{name} has no setting {key!r}; settings: {', '.join(defaults)}")
        if not _fits(value, defaults[key]):
            kind = type(defaults[key]).__name__
            raise EditorError(f"setting {key} of {name} is a {kind}, not {value!r}")
    editor: Editor = made(**dict(overrides or {}))
    return editor


def _fits(value: object, default: object) -> bool:
    """Whether a value can stand for a default: whole numbers do for floats, and what may be
    None takes anything."""
    if default is None or isinstance(default, (tuple, list)):
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    return isinstance(value, type(default))
