"""Text from outside as a language model may see it: marked, fenced, without control tokens.

Only what is *sent* is changed; every sign of it keeps the place of the sign it stands for, so
that what a model quotes leads back to the exact span of the stored text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from detectors.extractors.spans import Span
from store.records import digest

MARK = "§ "
"""Opens every sentence of the document, so that none can pass for a word of the task."""

# Chat templates and tokenisers write their control tokens in these brackets (<|im_start|>, <s>,
# [INST], <start_of_turn>); without them they are ordinary words. One sign for one sign.
_BRACKETS = str.maketrans({
    "<": "‹", ">": "›", "[": "(", "]": ")", "＜": "‹", "＞": "›", "［": "(", "］": ")",
    "﹤": "‹", "﹥": "›", "⟨": "‹", "⟩": "›", "\u3008": "‹", "\u3009": "›",
    "\u2329": "‹", "\u232a": "›",
})  # fmt: skip
_HIDDEN = frozenset({"Cf", "Cc", "Cs", "Co", "Cn"})  # format, control, half a pair, no character
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # can smuggle bytes past a reader


class Plain(NamedTuple):
    """A text without hidden signs and doubled spaces; ``places[i]`` is where sign i stood."""

    text: str
    places: tuple[int, ...]

    def span(self, words: str) -> tuple[int, int] | None:
        """Return the span of the original text that reads as ``words``, whole words only."""
        wanted = plain(words).text
        if not wanted:
            return None
        start = self.text.find(wanted)
        while start >= 0:
            end = start + len(wanted)
            if _is_border(self.text, start) and _is_border(self.text, end):
                return self.places[start], self.places[end - 1] + 1
            start = self.text.find(wanted, start + 1)
        return None


def plain(text: str) -> Plain:
    """Return a text as a model may see it, with the place of every sign."""
    signs: list[str] = []
    places: list[int] = []
    for place, sign in enumerate(text):
        if sign.isspace():
            if not signs or signs[-1] == " ":
                continue
            sign = " "
        elif is_hidden(sign):
            continue
        signs.append(sign.translate(_BRACKETS))
        places.append(place)
    while signs and signs[-1] == " ":
        signs.pop()
        places.pop()
    return Plain("".join(signs), tuple(places))


def is_hidden(sign: str) -> bool:
    """Whether a sign shows nothing to a reader (zero width, direction, tags), white space aside."""
    if sign.isspace():
        return False
    return unicodedata.category(sign) in _HIDDEN or bool(_SELECTORS.match(sign))


def fenced(sentences: Sequence[Span]) -> str:
    """Return sentences as the one part of a prompt that is data, never a task.

    The name of the fence is a digest of what it holds: no text can contain its own.
    """
    shown = "\n".join(MARK + plain(sentence.text).text for sentence in sentences)
    fence = f"DOCUMENT-{digest(shown)[:12]}"
    return f"BEGIN {fence}\n{shown}\nEND {fence}"


def _is_border(text: str, place: int) -> bool:
    return not (0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum())
