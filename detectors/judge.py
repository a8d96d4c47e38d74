"""Whether two spellings are one value, and whether a text names it: deterministic, no model.

Names are compared in normal form (no case, accents or titles), with middle names, name order,
initials, short forms and transliterations allowed for and regnal numerals held to. The comparisons
are meant for the values of *one* slot: two people of one name in unrelated offices are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from detectors.entities import canonical_subject, country_of, is_country, normalise
from detectors.names import NAME, PARTICLES, display_name, words
from detectors.quantities import numbers, same_number, same_version, versions

_ROMAN = re.compile(r"(?=[ivx])x{0,2}(?:ix|iv|v?i{0,3})")
_GENERATIONS = frozenset({"jr", "sr"})
TOLERANCE = 0.01
"""By how much two numbers may differ and still be the same, relative to the larger."""

# Short forms under which office holders are known.
_SHORT = {
    "al": "albert", "andy": "andrew", "ben": "benjamin", "bill": "william", "bob": "robert",
    "bongbong": "ferdinand", "chris": "christopher", "chuck": "charles", "dan": "daniel",
    "dave": "david", "dick": "richard", "ed": "edward", "jerry": "edmund", "jim": "james",
    "jimmy": "james", "joe": "joseph", "ken": "kenneth", "larry": "lawrence", "mike": "michael",
    "nick": "nicholas", "ron": "ronald", "sam": "samuel", "steve": "stephen", "steven": "stephen",
    "ted": "edward", "tim": "timothy", "tom": "thomas", "tony": "anthony",
}  # fmt: skip


# Words that bodies share: none of them is a name by itself ("Real", "United", "Bank").
_BODY = words(
    """
    ac afc athletic bank cf city club college company corporation county dynamo fc fk group
    holdings inc inter lokomotiv national olympique party racing real rovers sc spartak sporting
    town union united university women
    """
)
_CLUB = words("ac afc cf f1 fc fk sc scuderia sk ssc")  # written or left out: "FC Barcelona"
_FIRST = words("bayern borussia atletico")  # of a body's name, whose last word is a town


class _Person(NamedTuple):
    parts: tuple[str, ...]  # in order, without particles
    numeral: str
    generation: str


def same(
    one: str, other: str, object_type: str = "person", *, tolerance: float = TOLERANCE
) -> bool:
    """Return whether two values of a slot are the same one under different spellings.

    ``object_type`` is the relation's: "person", "place", "org", "name" (a person or a body),
    "number", "version" or "text". ``tolerance`` is for numbers, relative to the larger one.
    """
    if normalise(one) == normalise(other):
        return bool(normalise(one))
    if object_type == "person":
        return _same_person(_person(one), _person(other))
    if object_type == "number":
        return same_number(one, other, tolerance)
    if object_type == "version":
        return same_version(one, other)
    if object_type == "place":
        return _same_place(one, other)
    if object_type == "org":
        return _same_body(one, other)
    if object_type == "name":
        return _same_body(one, other) or (
            not _is_body(one) and not _is_body(other) and _same_person(_person(one), _person(other))
        )
    return _same_text(one, other)


def mentions(
    text: str,
    value: str,
    object_type: str = "person",
    others: Sequence[str] = (),
    *,
    tolerance: float = TOLERANCE,
) -> bool:
    """Return whether a text names a value at all, in whatever role.

    A surname alone suffices only when no value among ``others`` could be meant by it.
    """
    found = occurrences(text, value, object_type, others, tolerance=tolerance)
    return next(found, None) is not None


def occurrences(
    text: str,
    value: str,
    object_type: str = "person",
    others: Sequence[str] = (),
    *,
    tolerance: float = TOLERANCE,
) -> Iterator[tuple[int, int]]:
    """Yield the spans of ``text`` that name ``value``."""
    if object_type == "person":
        yield from _person_occurrences(text, value, others)
    elif object_type == "number":
        for number in numbers(text):
            if same_number(text[number.start : number.end], value, tolerance):
                yield number.start, number.end
    elif object_type == "version":
        for found in versions(text):
            if same_version(text[found.start : found.end], value):
                yield found.start, found.end
    else:
        spans = list(_literal_occurrences(text, value))
        if not spans and object_type == "name" and not _is_body(value):
            spans = list(_person_occurrences(text, value, others))
        yield from spans


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


def _same_place(one: str, other: str) -> bool:
    return _begins(one, other, words("city of the"))


def _same_body(one: str, other: str) -> bool:
    return _begins(one, other, _CLUB | words("of the"), _BODY)


def _begins(
    one: str, other: str, dropped: frozenset[str], alone: frozenset[str] = frozenset()
) -> bool:
    """Whether one name is the other's beginning: "Washington" is Washington, D.C.

    "York" is not New York, and one of the words in ``alone`` is no name yet.
    """
    first, second = normalise(canonical_subject(one)), normalise(canonical_subject(other))
    if first == second:
        return True
    parts = [[part for part in name.split() if part not in dropped] for name in (first, second)]
    short, long = sorted(parts, key=len)
    if len("".join(short)) < 4 or alone.issuperset(short):
        return False
    return long[: len(short)] == short


def _is_body(name: str) -> bool:
    return not (_BODY | _FIRST).isdisjoint(normalise(name).split())


def _same_text(one: str, other: str) -> bool:
    """Whether two texts differ only by a note, the plural, or a country before one of them."""
    first, second = (_singular(re.sub(r"\([^)]*\)", " ", text)) for text in (one, other))
    if not first or not second:
        return False
    # "Croatian kuna" is the kuna; the Zimbabwean and the US dollar are two.
    return first == second or _unplaced(first) == second or first == _unplaced(second)


def _singular(text: str) -> str:
    # "euros", but a name keeps its s.
    return re.sub(r"(?<=[^s])s$", "", normalise(text)) if text.islower() else normalise(text)


def _unplaced(text: str) -> str:
    parts = text.split()
    for size in range(min(3, len(parts) - 1), 0, -1):
        place = " ".join(parts[:size])
        if country_of(place) or is_country(place):
            return " ".join(parts[size:])
    return text
