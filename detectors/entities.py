"""Subjects and their names: one form for comparing, one for filing, one for showing."""

from __future__ import annotations

import functools
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

_LETTERS = str.maketrans(
    {"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"}
)
_APOSTROPHES = re.compile(r"['’‘ʻʼ`´.]")
_BREAKS = re.compile(r"[^\w]+|_")


@functools.lru_cache(maxsize=1 << 16)  # the same names come again and again
def normalise(text: str) -> str:
    """Return the form in which names are compared: no case, accents, punctuation or article."""
    plain = text.lower() if text.isascii() else _without_accents(text)
    plain = _APOSTROPHES.sub("", plain.replace("&", " and "))
    words = _BREAKS.sub(" ", plain).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] == "the" else words)


def _without_accents(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text).casefold().translate(_LETTERS)
    folded = unicodedata.normalize("NFKD", folded)  # case folding may compose again
    return "".join(char for char in folded if not unicodedata.combining(char))


@dataclass(frozen=True)
class _Entry:
    name: str
    article: bool
    adjectives: tuple[str, ...]
    also: tuple[str, ...]


@dataclass(frozen=True)
class _Subjects:
    entries: Mapping[str, _Entry]  # by canonical name
    names: Mapping[str, str]  # normal form of any name -> canonical name
    adjectives: Mapping[str, str]  # normal form of a demonym -> canonical country
    countries: frozenset[str]
    article_first: frozenset[str]
    article_last: frozenset[str]
    company_endings: frozenset[str]
    shared: frozenset[str]
    institutions: Mapping[str, str]  # normal form of a parliament, palace or party -> country
    institution: re.Pattern[str]  # any of them, in normal form


@functools.cache
def _subjects() -> _Subjects:
    table = tomllib.loads(resources.files("detectors").joinpath("subjects.toml").read_text("utf-8"))
    entries = {
        name: _Entry(
            name,
            bool(row.get("the", False)),
            tuple(row.get("adjectives", ())),
            tuple(row.get("also", ())),
        )
        for section in ("countries", "others")
        for name, row in table[section].items()
    }
    institutions = {
        normalise(name): country
        for country, names in table["institutions"].items()
        for name in names
    }
    spelt = "|".join(sorted(map(re.escape, institutions), key=len, reverse=True))
    return _Subjects(
        entries=entries,
        names={normalise(n): e.name for e in entries.values() for n in (*e.also, e.name)},
        adjectives={normalise(a): e.name for e in entries.values() for a in e.adjectives},
        countries=frozenset(table["countries"]),
        article_first=frozenset(table["article_first"]),
        article_last=frozenset(table["article_last"]),
        company_endings=frozenset(table["company_endings"]),
        shared=frozenset(map(normalise, table["shared"])),
        institutions=institutions,
        institution=re.compile(rf"\b(?:{spelt})\b"),
    )


def canonical_subject(name: str) -> str:
    """Return the one name under which a subject is filed ("Burma" -> "Myanmar")."""
    subjects = _subjects()
    known = subjects.names.get(normalise(name))
    if known:
        return known
    words = re.sub(r"^the\s+", "", " ".join(name.split()), flags=re.IGNORECASE).split()
    while len(words) > 1 and normalise(words[-1]) in subjects.company_endings:
        words = words[:-1]
    bare = " ".join(words).rstrip(",")
    return subjects.names.get(normalise(bare), bare)


def is_country(name: str) -> bool:
    """Whether a name is one of a listed country or territory."""
    subjects = _subjects()
    return subjects.names.get(normalise(name)) in subjects.countries


def is_listed(name: str) -> bool:
    """Whether a name is one of a listed country or body: then it is no person's."""
    return normalise(name) in _subjects().names


def is_shared_name(name: str) -> bool:
    """Whether a name is borne by bodies of many countries ("Supreme Court", "Labour Party").

    Filed under it, the facts of one would become those of another.
    """
    return normalise(name) in _subjects().shared


def country_of(adjective: str) -> str | None:
    """Return the country that a demonym means ("Dutch" -> "Netherlands"), or None."""
    return _subjects().adjectives.get(normalise(adjective))


def country_of_institution(text: str) -> str | None:
    """Return the country of the one parliament, palace or party that exists once and is named.

    None where a text names none, or those of two countries.
    """
    subjects = _subjects()
    found = {
        subjects.institutions[match.group()]
        for match in subjects.institution.finditer(normalise(text))
    }
    return found.pop() if len(found) == 1 else None


def subject_aliases(name: str) -> tuple[str, ...]:
    """Return the other names of a subject, the most usual first."""
    entry = _subjects().entries.get(canonical_subject(name))
    return entry.also if entry else ()


def with_article(name: str) -> str:
    """Return a subject as it stands inside a sentence ("the United Kingdom", "Germany")."""
    subjects = _subjects()
    if re.match(r"the\s", name, re.IGNORECASE):
        return "the " + name[4:]
    known = subjects.names.get(normalise(name))
    # Abbreviations take the article of the full name ("the UK"), other aliases that of their
    # own words ("the Netherlands", but "Holland").
    if known and (normalise(known) == normalise(name) or name.isupper()):
        return f"the {name}" if subjects.entries[known].article else name
    words = normalise(name).split() or [""]
    formal = known in subjects.countries and " of " in name  # "Federal Republic of Germany"
    usual = words[0] in subjects.article_first or words[-1] in subjects.article_last
    return f"the {name}" if formal or usual else name


def possessive(name: str) -> str:
    """Return the possessive of a subject inside a sentence ("the Philippines'")."""
    shown = with_article(name)
    return shown + ("'" if shown.endswith("s") else "'s")
