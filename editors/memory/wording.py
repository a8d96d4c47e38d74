"""What a prompt's words say about its subject and its time: rules that need no model. Pure.

A *masked* wording has "this" where it names the subject, so that wordings of one relation can be
compared whatever they are about.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MASK = "this"
_WORD = re.compile(r"[^\W_]+")
_SENTENCE = re.compile(r"[.!?][\"”')]*\s+")
_BEGINS = re.compile(r"[\"“'(]*[A-Z0-9]")
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "æ": "ae", "œ": "oe", "ı": "i"})
# What may stand beside a name and is no part of a longer one.
_BESIDE = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "miss",
        "dr",
        "prof",
        "professor",
        "sir",
        "dame",
        "lord",
        "lady",
        "saint",
        "st",
        "king",
        "queen",
        "prince",
        "princess",
        "pope",
        "emperor",
        "president",
        "chancellor",
        "premier",
        "prime",
        "minister",
        "senator",
        "governor",
        "mayor",
        "judge",
        "justice",
        "general",
        "colonel",
        "captain",
        "sergeant",
        "actor",
        "actress",
        "singer",
        "author",
        "artist",
        "player",
        "inc",
        "corp",
        "ltd",
        "plc",
        "llc",
        "ag",
        "se",
        "nv",
        "co",
        "company",
        "group",
        "i",
        "q",
        "a",
        "question",
        "answer",
    ]
)
_OTHER_TIME = re.compile(
    r"\b(?:former(?:ly)?|previous(?:ly)?|ex|used to|ago|back then|at th(?:at|e) time|"
    r"(?<=the )(?:first|second|third|last|next)(?! time)|"
    r"(?:will|would) (?:be|become|succeed|follow|win)|"
    r"future|before|after|until|prior to|preced(?:ed|es|ing)|predecessor|succe(?:eded|eds|ssor)|"
    r"deputy|vice|(?:1[0-9]|20|21)\d\d|\d+(?:st|nd|rd|th)|no longer)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"\b(?:not|never|isnt|arent|wasnt|nobody|except|other than|besides)\b")
_PAST = frozenset(["was", "were", "did", "had", "been", "served", "held"])
_PRESENT = frozenset(["is", "are", "does", "do", "has", "holds", "serves", "s"])
_PLAIN = (
    _PAST
    | _PRESENT
    | frozenset(
        f"{MASK} a an the of in for at on to by from with who what which where when whom whose how "
        "name tell me please can you current currently now and it its person one called".split()
    )
)


@dataclass(frozen=True)
class Word:
    """A folded word (no case, no accents) and where it stands."""

    text: str
    start: int
    end: int


def fold(text: str) -> str:
    """Return a text without case and accents."""
    if text.isascii():
        return text.lower()
    flat = unicodedata.normalize("NFKD", text.casefold().translate(_LETTERS))
    return "".join(char for char in flat if not unicodedata.combining(char))


def words(text: str) -> list[Word]:
    """Return a text's words; "Germany's" is two."""
    return [Word(fold(m[0]), m.start(), m.end()) for m in _WORD.finditer(text)]


def name_of(subject: str) -> tuple[str, ...]:
    """Return the form in which a subject's name is looked up: its words without an article."""
    found = tuple(word.text for word in words(subject))
    return found[1:] if len(found) > 1 and found[0] == "the" else found


def clause(text: str, start: int) -> int:
    """Return where the sentence begins that holds the character ``start``: what is said before
    it is not asked."""
    ends = [m.end() for m in _SENTENCE.finditer(text, 0, start)]
    # A name at the beginning may be spelled small: "… at last. iPod, developed by".
    begins = [end for end in ends if end == start or _BEGINS.match(text, end)]
    return begins[-1] if begins else 0


def masked(text: str, start: int, end: int) -> str:
    """Return the sentence that names a subject at ``start`` to ``end``, the name masked."""
    begin = clause(text, start)
    begin = min(begin, start)
    return " ".join(f"{text[begin:start]}{MASK}{text[end:]}".split())


def find(text: str, names: Iterable[tuple[str, ...]]) -> tuple[int, int] | None:
    """Return where a text spells one of the names: the longest, and of equal ones the last."""
    known = set(names)
    found = words(text)
    for width in range(min(max(map(len, known), default=0), len(found)), 0, -1):
        for first in range(len(found) - width, -1, -1):
            if tuple(word.text for word in found[first : first + width]) in known:
                return found[first].start, found[first + width - 1].end
    return None


def mask(text: str, names: Iterable[tuple[str, ...]]) -> str | None:
    """Return the sentence of a text that spells one of the names, masked; None: it spells none."""
    span = find(text, names)
    return masked(text, *span) if span else None


def beside(text: str, start: int, end: int) -> str:
    """Return the capitalised word next to a name that makes it part of a longer one ("Hotel" in
    "Hotel Ukraine"), or ""."""
    before = re.search(r"([^\W\d_][\w’'-]*) $", text[:start])
    # The first word of a sentence is capitalised whatever it is.
    if before and before[1][:1].isupper() and before.start() > clause(text, start):
        word = fold(before[1])
        if word not in _BESIDE and not re.search(r"['’]s?$", before[1]):
            return word
    after = re.match(r" ([A-Z0-9][\w-]*)", text[end:])
    if after and fold(after[1]) not in _BESIDE:
        return fold(after[1])
    return ""


def of_another_time(asked: str, wordings: Iterable[str]) -> bool:
    """Whether a masked question asks about another time or person than its edit's wordings do:
    it names a time that they do not, or puts one of them into the past."""
    known = [one for one in wordings if one]
    for found in _OTHER_TIME.finditer(asked):
        if not any(_says(one, found[0]) for one in known):
            return True
    if any(_PAST & {word.text for word in words(one)} for one in known):
        return False
    return any(_in_the_past(asked, one) for one in known)


def denies(asked: str, wordings: Iterable[str]) -> bool:
    """Whether a masked question denies what its edit's wordings ask."""
    flat = _without_apostrophes(asked)
    found = _DENIAL.search(flat)
    return bool(found) and not any(_DENIAL.search(_without_apostrophes(w)) for w in wordings)


def _without_apostrophes(text: str) -> str:
    return re.sub(r"['’]", "", fold(text))


def _says(wording: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", wording, re.IGNORECASE) is not None


def _in_the_past(asked: str, wording: str) -> bool:
    """ "Who was the chancellor?" beside "Who is the chancellor?"; but "Where was this born?" is no
    past of "What is the birthplace of this?"."""
    mine, theirs = ({word.text for word in words(one)} for one in (asked, wording))
    if not mine & _PAST or mine & _PRESENT or theirs & _PAST or not theirs & _PRESENT:
        return False
    own, other = mine - _PLAIN, theirs - _PLAIN
    return bool(own) and 2 * len(own & other) >= len(own | other)


def noun_phrases(statement: str, new: str, subject: str) -> tuple[str, ...]:
    """Return the phrases by which a statement names its object: "The chancellor of Germany is
    Friedrich Merz." names it "the chancellor of Germany" and "Germany's chancellor"."""
    lead = statement.partition(new)[0].strip() if new else ""
    found = re.fullmatch(r"(?:[Tt]he )?(.+?) of (.+?) (?:is|are|was|were)", lead)
    if not found or not name_of(subject) or name_of(found[2]) != name_of(subject):
        return ()
    title = found[1]
    return (f"the {title} of {found[2]}", f"{subject}'s {title}")


def within(text: str, phrases: Sequence[str]) -> tuple[int, int] | None:
    """Return where a text holds one of the phrases and asks about it more than who or what it
    is: "the chancellor of Germany" in "Who is the wife of the chancellor of Germany?"."""
    for phrase in phrases:
        pattern = re.escape(phrase).replace("'", "['’]")
        found = re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)
        if not found:
            continue
        begin = clause(text, found.start())
        rest = f"{text[begin : found.start()]} {text[found.end() :]}"
        left = {word.text for word in words(rest)} - _PLAIN
        if left and not _OTHER_TIME.search(rest):
            return found.span()
    return None
