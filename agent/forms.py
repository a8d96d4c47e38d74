"""The form of an answer, whatever it says. Pure: rules on text, no model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

_ITEM = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+\S", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|can not|unable to|not able to|(?:don't|do not) have|sorry|apologi[sz]e"
    r"|as an ai|i'm an ai|i am an ai)\b"
)
_LOOP = re.compile(r"\b(.{1,40}?\w)(?:\W+\1\b){3,}", re.DOTALL)  # the same words four times over
_SHORT = 6  # words of a short answer, at most
_VARIED = 12  # words from which on an answer must vary
_LEAST_VARIED = 0.3  # share of an answer's words that differ, at least

FORMS: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {
        "number": lambda text: bool(re.search(r"\d", text)) and len(text.split()) <= _SHORT,
        "short": lambda text: 0 < len(text.split()) <= _SHORT,
        "list": lambda text: len(_ITEM.findall(text)) >= 2,
        "lines": lambda text: len([line for line in text.splitlines() if line.strip()]) >= 3,
        "code": lambda text: "```" in text or "def " in text,
        "json": lambda text: text.lstrip("`json \n").startswith("{") and '":' in text,
        "letter": lambda text: text.lstrip().startswith("Dear"),
        "refusal": lambda text: bool(_REFUSAL.search(text.lower().replace("’", "'"))),
    }
)
"""By name, whether an answer has a form."""


def degenerate(text: str) -> bool:
    """Return whether an answer is none: no word in it, the same words four times over, or a
    long answer of few different words."""
    words = re.findall(r"\w+", text.casefold())
    if not words:
        return True
    varied = len(Counter(words)) / len(words)
    return bool(_LOOP.search(text)) or (len(words) >= _VARIED and varied < _LEAST_VARIED)
