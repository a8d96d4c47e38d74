"""Numbers and versions as texts write them: "84,012,284", "1.4 billion", "5.95 %", "v3.14.1"."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|"
    r"Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_DATE = re.compile(
    rf"\b(?:\d{{4}}-\d\d(?:-\d\d)?|\d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}\b\.?(?:,?\s\d{{4}})?|"
    rf"{_MONTH}\.?\s(?:\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s\d{{4}})?|\d{{4}}))"
)
_SCALES = {
    "thousand": 1e3, "k": 1e3, "lakh": 1e5, "million": 1e6, "mn": 1e6, "m": 1e6, "crore": 1e7,
    "billion": 1e9, "bn": 1e9, "trillion": 1e12, "tn": 1e12,
}  # fmt: skip
_GAP = "\u00a0\u202f\u2009'’"  # what stands between thousands beside the comma
_DIGITS = (
    rf"\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d{{1,3}}(?:[{_GAP}]\d{{3}})+(?:[.,]\d+)?|"
    r"\d{1,3}(?:[. ]\d{3}){2,}(?:,\d+)?|\d+(?:[.,]\d+)?"
)
_NUMBER = re.compile(
    rf"(?<![\w.,])(?P<minus>[-−–](?=[$€£¥\d]))?(?P<money>(?:US)?[$€£¥]\s?)?(?P<digits>{_DIGITS})"
    r"(?P<scale>\s?(?:thousand|million|billion|trillion|lakh|crore|mn|bn|tn)\b|[mk]\b)?"
    r"(?P<percent>\s?(?:%|per\s?cent\b))?(?!\w)",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s?[-–—]\s?|\s(?:to|or|and)\s")
_DATING = re.compile(
    r"(?:\b(?:in|since|of|by|during|from|until|to|for|before|after|early|late|mid|year|fy|"
    r"between|and|end)[\s-]|\()$",
    re.IGNORECASE,
)
_DATED = re.compile(
    r"\s?(?:est\b|census|estimate|figures|data|\)|population|season)", re.IGNORECASE
)


class Number(NamedTuple):
    """A number of a text: its value (percent as written, 5.95 for "5.95 %") and its span."""

    value: float
    start: int
    end: int
    bare: bool  # four digits that could be a year


def numbers(text: str) -> list[Number]:
    """Return the quantities of a text, in order: dates, years, ordinals and ranges are none.

    A year-like number counts only where nothing else does and nothing says that it is a year
    ("1998" as a headcount, but not "in 1998").
    """
    blanked = _DATE.sub(lambda match: " " * len(match.group()), text)
    found = [_number(match) for match in _NUMBER.finditer(blanked)]
    ends = {
        index + side
        for index, (one, other) in enumerate(itertools.pairwise(found))
        if _RANGE.fullmatch(blanked, one.end, other.start)
        for side in (0, 1)
    }
    stated = [
        number
        for index, number in enumerate(found)
        if not (number.bare and _is_year(blanked, number)) and (index not in ends or number.bare)
    ]
    return [number for number in stated if not number.bare] or stated


def quantity(text: str) -> float | None:
    """Return the first quantity that a text states, or None."""
    found = numbers(text)
    return found[0].value if found else None


def same_number(one: str, other: str, tolerance: float) -> bool:
    """Return whether two texts state the same number; ``tolerance`` is relative to the larger."""
    first, second = quantity(one), quantity(other)
    if first is None or second is None:
        return False
    return abs(first - second) <= tolerance * max(abs(first), abs(second))


def _number(match: re.Match[str]) -> Number:
    digits = match["digits"]
    value = float(_plain(digits)) * (-1 if match["minus"] else 1)
    scale = (match["scale"] or "").strip().casefold()
    bare = (
        len(digits) == 4
        and digits.isdigit()
        and digits[:2] in ("16", "17", "18", "19", "20", "21")
        and not (scale or match["percent"] or match["money"] or match["minus"])
    )
    return Number(value * _SCALES.get(scale, 1.0), match.start(), match.end(), bare)


def _plain(digits: str) -> str:
    """Digits as Python reads them: "83,2" -> "83.2", "83.200.000" -> "83200000"."""
    digits = re.sub(rf"[{_GAP} ]", "", digits)
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits) and not digits.startswith("0,"):
        return digits.replace(",", "")
    if re.fullmatch(r"\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?", digits):
        digits = digits.replace(".", "")
    return digits.replace(",", ".")


def _is_year(text: str, number: Number) -> bool:
    before, after = text[max(0, number.start - 12) : number.start], text[number.end :]
    return bool(_DATING.search(before) or _DATED.match(after))


_TAIL = r"(?:[-_. ]?(?:alpha|beta|rc|preview|pre|dev|post|a|b|p)[-_.]?\d+|[-. ](?:alpha|beta|rc)\b)"
_VERSION = re.compile(
    rf"(?<![\w.])(?P<v>v\.?\s?)?(?P<core>\d+(?:\.\d+)*)(?P<tail>{_TAIL}|[a-z]|h[12])?"
    r"(?!\w|\.\d|\.x\b|,\d{3})",
    re.IGNORECASE,
)
_SAYS_VERSION = re.compile(r"\b(?:version|release)\s$", re.IGNORECASE)


class Version(NamedTuple):
    """A version number of a text: what it is compared by, and its span."""

    key: tuple[tuple[int, ...], str]
    start: int
    end: int


def versions(text: str) -> Iterator[Version]:
    """Yield the version numbers of a text, in order; dates are none."""
    blanked = _DATE.sub(lambda match: " " * len(match.group()), text)
    for match in _VERSION.finditer(blanked):
        parts = [int(part[:9]) for part in match["core"].split(".")]
        while len(parts) > 1 and parts[-1] == 0:
            parts.pop()  # 3.14 is 3.14.0
        tail = re.sub(r"[-_. ]", "", (match["tail"] or "").casefold())
        tail = re.sub(r"^alpha", "a", re.sub(r"^beta", "b", tail))
        start = match.start("core")
        yield Version((tuple(parts), tail), start, match.end())


def version(text: str) -> Version | None:
    """Return the version number that a text means: "Python 3.14.1", "Windows 11 version 24H2"."""
    found = list(versions(text))
    said = [one for one in found if _SAYS_VERSION.search(text[: one.start])]
    dotted = [one for one in found if len(one.key[0]) > 1]
    undated = [one for one in found if not 1900 <= one.key[0][0] <= 2199]
    return next(iter(said or dotted or undated or found), None)


def same_version(one: str, other: str) -> bool:
    """Return whether two texts mean the same version; a name before the number counts nothing."""
    first, second = version(one), version(other)
    return first is not None and second is not None and first.key == second.key
