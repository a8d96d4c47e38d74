"""Whether two spellings are one value, and whether a text names it: deterministic, no model.

Names are compared in normal form (no case, accents or titles), with middle names, name order,
initials, short forms and transliterations allowed for and regnal numerals held to. The comparisons
are meant for the values of *one* slot: two people of one name in unrelated offices are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detectors.entities import canonical_subject, normalise
from detectors.names import NAME, PARTICLES, display_name

_ROMAN = re.compile(r"(?=[ivx])x{0,2}(?:ix|iv|v?i{0,3})")
_GENERATIONS = frozenset({"jr", "sr"})
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
_SCALE = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_TOLERANCE = 0.01  # of a number, relative

# Short forms under which office holders are known.
_SHORT = {
    "al": "albert", "andy": "andrew", "ben": "benjamin", "bill": "william", "bob": "robert",
    "bongbong": "ferdinand", "chris": "christopher", "chuck": "charles", "dan": "daniel",
    "dave": "david", "dick": "richard", "ed": "edward", "jerry": "edmund", "jim": "james",
    "jimmy": "james", "joe": "joseph", "ken": "kenneth", "larry": "lawrence", "mike": "michael",
    "nick": "nicholas", "ron": "ronald", "sam": "samuel", "steve": "stephen", "steven": "stephen",
    "ted": "edward", "tim": "timothy", "tom": "thomas", "tony": "anthony",
}  # fmt: skip


class _Person(NamedTuple):
    parts: tuple[str, ...]  # in order, without particles
    numeral: str
    generation: str


def same(one: str, other: str, object_type: str = "person") -> bool:
    """Return whether two values of a slot are the same one under different spellings.

    ``object_type`` is the relation's: "person", "place", "org", "number" or "text".
    """
    if normalise(one) == normalise(other):
        return bool(normalise(one))
    if object_type == "person":
        return _same_person(_person(one), _person(other))
    if object_type == "number":
        return _same_number(one, other)
    if object_type in ("place", "org"):
        return _same_name(one, other)
    return False


def mentions(
    text: str, value: str, object_type: str = "person", others: Sequence[str] = ()
) -> bool:
    """Return whether a text names a value at all, in whatever role.

    A surname alone suffices only when no value among ``others`` could be meant by it.
    """
    return next(occurrences(text, value, object_type, others), None) is not None


def occurrences(
    text: str, value: str, object_type: str = "person", others: Sequence[str] = ()
) -> Iterator[tuple[int, int]]:
    """Yield the spans of ``text`` that name ``value``."""
    if object_type == "person":
        yield from _person_occurrences(text, value, others)
    elif object_type == "number":
        for match in re.finditer(rf"{_NUMBER.pattern}(?:\s+\w+)?", text):
            if _same_number(match.group(), value):
                yield match.span()
    else:
        yield from _literal_occurrences(text, value)


def _person_occurrences(text: str, value: str, others: Sequence[str]) -> Iterator[tuple[int, int]]:
    found = False
    for run in re.finditer(NAME, text):
        words = [(m.start(), m.end()) for m in re.finditer(r"\S+", run.group())]
        span = _naming_words(run.group(), words, value, others)
        if span:
            found = True
            yield run.start() + span[0], run.start() + span[1]
    if not found and not re.search(r"[A-Z]", text):
        yield from _literal_occurrences(text, value)  # a model that writes no capitals


def _naming_words(
    run: str, words: list[tuple[int, int]], value: str, others: Sequence[str]
) -> tuple[int, int] | None:
    """The longest words of a capitalised run that name the value, if any do."""
    for size in range(len(words), 0, -1):
        for first in range(len(words) - size + 1):
            start, end = words[first][0], words[first + size - 1][1]
            name = re.sub(r"['’]s?$", "", run[start:end])
            parts = _person(name).parts
            # One word of a longer run is a part of another name.
            if len(parts) < 2 and len(_person(run).parts) > 1 and not _person(name).numeral:
                continue
            if same(name, value) and not (
                len(parts) < 2 and any(same(name, other) for other in others)
            ):
                return start, end
    return None


def _literal_occurrences(text: str, value: str) -> Iterator[tuple[int, int]]:
    words = [(normalise(m.group()), m.start(), m.end()) for m in re.finditer(r"[\w'’.-]+", text)]
    wanted = normalise(value).split()
    plain = [(part, start, end) for word, start, end in words for part in word.split()]
    for first in range(len(plain) - len(wanted) + 1):
        if wanted and [part for part, _, _ in plain[first : first + len(wanted)]] == wanted:
            yield plain[first][1], plain[first + len(wanted) - 1][2]


def _person(name: str) -> _Person:
    bare = re.split(r"\s+of\s+", name, maxsplit=1)[0]  # "Harald V of Norway"
    words = normalise(display_name(bare)).split()
    numeral = words[-1] if len(words) > 1 and _ROMAN.fullmatch(words[-1]) else ""
    generation = next((word for word in words if word in _GENERATIONS), "")
    parts = tuple(
        word for word in words if word not in PARTICLES | _GENERATIONS and word != numeral
    )
    return _Person(parts or tuple(words), numeral, generation)


def _same_person(one: _Person, other: _Person) -> bool:
    if one.numeral and other.numeral and one.numeral != other.numeral:
        return False
    if one.generation and other.generation and one.generation != other.generation:
        return False
    short, long = sorted((one.parts, other.parts), key=len)
    if not short:
        return False
    if len(short) == 1 or len(long) == 1:
        return _bare_name(short[0], long, bool(one.numeral or other.numeral))
    initials = len(short) > 2 and any(len(part) == 1 for part in short)
    if initials and [part[0] for part in short[1:-1]] != [part[0] for part in long[1:-1]]:
        return False  # "George W. Bush" is not "George H. W. Bush"
    left = list(long)
    for part in sorted(short, key=len, reverse=True):
        match = next((known for known in left if _alike(part, known)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _bare_name(bare: str, parts: tuple[str, ...], regnal: bool) -> bool:
    """Whether one name alone ("Merkel", "Elizabeth", "Lula", "Xi") can mean a fuller name."""
    if len(parts) == 1:
        return _alike(bare, parts[0]) and len(bare) > 1
    if regnal or len(bare) <= 3:
        return bare == parts[0] or bare == parts[-1]
    return bare in parts[1:]


def _alike(one: str, other: str) -> bool:
    if one == other or _SHORT.get(one, one) == _SHORT.get(other, other):
        return True
    if len(one) == 1 or len(other) == 1:
        return one[0] == other[0]
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) < 5 or one[0] != other[0] or _skeleton(one) != _skeleton(other):
        return False
    return _distance(one, other) <= (len(longer) + 1) // 3


def _skeleton(word: str) -> str:
    """Return the consonants that survive transliteration ("Mohammed", "Muhammad" -> "mmd")."""
    consonants = re.sub(r"[aeiouyhw]", "", word.replace("c", "k").replace("q", "k"))
    return re.sub(r"(.)\1+", r"\1", consonants)


def _distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (a != b))
    return row[-1]


def _same_number(one: str, other: str) -> bool:
    first, second = _number(one), _number(other)
    if first is None or second is None:
        return False
    return abs(first - second) <= _TOLERANCE * max(abs(first), abs(second))


def _number(text: str) -> float | None:
    match = _NUMBER.search(text)
    if match is None:
        return None
    words = text[match.end() :].split()
    scale = _SCALE.get(words[0].casefold().strip(",.")) if words else None
    return float(match.group().replace(",", "")) * (scale or 1.0)


def _same_name(one: str, other: str) -> bool:
    first, second = canonical_subject(one), canonical_subject(other)
    if normalise(first) == normalise(second):
        return True
    short, long = sorted((_content(first), _content(second)), key=len)
    # "Washington" is Washington, D.C.; "York" is not New York.
    return bool(short) and len("".join(short)) >= 4 and long[: len(short)] == short


def _content(name: str) -> list[str]:
    return [word for word in normalise(name).split() if word not in ("city", "of", "the")]
