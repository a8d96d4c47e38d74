"""From a person's question back to the slot that it asks for."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from detectors.entities import canonical_subject, is_country, normalise
from detectors.names import person
from detectors.relations import Registry, Relation
from store.records import Slot

# A question about another time or office than now's must not be answered from current facts.
# Titles are exempt: a "first minister" and a "vice president" are offices of their own.
_NOT_NOW = re.compile(
    r"\b(?:was|were|used to|been|former(?:ly)?|ex|previous(?:ly)?|first|second|third|last|next|"
    r"future|will|would|before|after|during|until|ago|deputy|vice|assistant|"
    r"(?:1[6-9]|20|21)\d\d|\d+(?:st|nd|rd|th))\b",
    re.IGNORECASE,
)
_CONTRACTIONS = ((r"\bwho['’]s\b", "who is"), (r"\bwhat['’]s\b", "what is"))
_LEAD = (
    r"(?:(?:please|hey|so|and)[, ]+)?"
    r"(?:(?:can|could|would) you (?:please )?(?:tell me|name|say) |(?:please )?tell me |"
    r"do you (?:happen to )?know |i want to know |name |give me (?:the name of )?)?"
)
_ASK = (
    r"(?:(?:who|what|which (?:one|person|company|city)) )?"
    r"(?:(?:is|are|serves as|holds the office of|holds the post of) )?"
    r"(?:the name of )?"
)
_NOW = r"(?:(?:currently|now|today|at the moment|right now|these days|presently) )?"
_OPENING = re.compile(rf"{_LEAD}{_ASK}{_NOW}{_ASK}{_NOW}", re.IGNORECASE)
_END = re.compile(
    r"(?: (?:is|currently|now|today|right now|at the moment|these days|is now|is today))+$",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"is (?=.)", re.IGNORECASE)
_OF = re.compile(r" (?:of|at|for|in) ", re.IGNORECASE)
_OWNER = re.compile(r"['’]s? ")
_OWNING = re.compile(r"['’]s?$")
_PRESENT = re.compile(r"(?:the )?(?:current|present|sitting) ", re.IGNORECASE)
_LONGEST_TITLE = 8  # words
_LONGEST = 300  # characters: no question about one slot is longer
_SPLITS = 6  # places where a title may end: no question about one slot has more


@dataclass(frozen=True)
class Asked:
    """What a question asks for: a slot, and the title by which it asks (small letters)."""

    slot: Slot
    title: str


def parse_question(question: str, registry: Registry, aliases: Mapping[str, str]) -> Asked | None:
    """Return the slot that a question asks for, or None when it fits no relation.

    ``aliases`` maps normal forms (``entities.normalise``) of known subject names to the names
    under which they are filed. Questions about the past or the future, and about anything but
    the office itself ("the wife of the president of …"), are None.
    """
    if len(question) > _LONGEST:
        return None
    text = " ".join(question.split()).strip(" ?!.")
    for pattern, full in _CONTRACTIONS:
        text = re.sub(pattern, full, text, flags=re.IGNORECASE)
    for reading in _readings(text, registry):
        if _NOT_NOW.search(reading.rest):
            continue
        slot = _slot(reading, aliases)
        if slot is not None:
            return Asked(slot, registry.asked_title(reading.relation.id, reading.title))
    return None


class _Reading(NamedTuple):
    """One way to split a question."""

    relation: Relation
    title: str  # as the question spells it
    subject: str
    rest: str  # what must not speak of another time


def _readings(text: str, registry: Registry) -> Iterator[_Reading]:
    """Every way to split a question, the registry's own phrasings first."""
    bare = _END.sub("", text)
    if len(_OF.findall(text)) + len(_OWNER.findall(text)) > _SPLITS:
        return
    for reading in _by_phrasing(text, registry):
        if not _END.search(reading.subject):  # "Germany right now"
            yield reading
    yield from _titled(bare, registry)
    if bare != text:
        yield from _by_phrasing(bare, registry)


def _titled(text: str, registry: Registry) -> Iterator[_Reading]:
    """Readings of free wording that names a title: "Name the chancellor of Germany"."""
    opening = _OPENING.match(text)
    asked = text[opening.end() :] if opening else text
    head = text[: len(text) - len(asked)]
    for split in reversed(list(_OF.finditer(asked))):
        subject = asked[split.end() :]
        for relation, title in _named(asked[: split.start()], registry):
            yield _Reading(relation, title, subject, f"{head} | {subject}")
    for split in _OWNER.finditer(asked):
        subject = asked[: split.start()]
        for relation, title in _named(asked[split.end() :], registry):
            yield _Reading(relation, title, subject, f"{head} | {subject}")
    if _YES_OR_NO.match(text):
        yield from _confirming(text[3:], registry)


def _confirming(text: str, registry: Registry) -> Iterator[_Reading]:
    """Readings of "(Is) Angela Merkel still the chancellor of Germany"."""
    for split in reversed(list(_OF.finditer(text))):
        before, subject = text[: split.start()].split(), text[split.end() :]
        # The longest title first: the deputy chancellor is not the chancellor.
        for first in range(max(1, len(before) - _LONGEST_TITLE), len(before)):
            value = " ".join(before[:first])
            for relation, title in _named(" ".join(before[first:]), registry):
                yield _Reading(relation, title, subject, f"{value} | {subject}")
    for split in _OWNER.finditer(text):
        before = text[: split.start()].split()
        for relation, title in _named(text[split.end() :], registry):
            for last in range(1, len(before)):
                value, subject = " ".join(before[:last]), " ".join(before[last:])
                subject = re.sub(r"^(?:(?:still|now|currently|really) )", "", subject)
                yield _Reading(relation, title, subject, f"{value} | {subject}")


def _named(words: str, registry: Registry) -> Iterator[tuple[Relation, str]]:
    """The relations that words mean as a title, with and without "current" before it."""
    for title in dict.fromkeys((words, _PRESENT.sub("", words, count=1))):
        for relation in registry.with_title(title):
            yield relation, title


class _Template(NamedTuple):
    """A phrasing cut at its placeholders, in small letters; the relations that use it."""

    literals: tuple[str, ...]
    names: tuple[str, ...]
    relations: tuple[Relation, ...]


@functools.lru_cache(maxsize=4)
def _templates(registry: Registry) -> tuple[_Template, ...]:
    users: dict[str, list[Relation]] = {}
    for relation in registry:
        for phrasing in relation.questions:
            users.setdefault(phrasing.strip(" ?!.").lower(), []).append(relation)
    templates = []
    for phrasing, relations in users.items():
        pieces = re.split(r"\{(\w+)\}", phrasing)
        templates.append(_Template(tuple(pieces[::2]), tuple(pieces[1::2]), tuple(relations)))
    return tuple(templates)


def _by_phrasing(text: str, registry: Registry) -> Iterator[_Reading]:
    """Readings by the registry's own phrasings ("Who owns …?", "How many people live in …?")."""
    small = text.lower()
    if len(small) != len(text):
        return  # a letter whose small form is two: offsets would not agree
    for template in _templates(registry):
        opening, closing = template.literals[0], template.literals[-1]
        if small.startswith(opening) and small.endswith(closing):
            inner = text[len(opening) : len(text) - len(closing)]
            yield from _filled(inner, template)


def _filled(inner: str, template: _Template) -> Iterator[_Reading]:
    """What a template's placeholders stand for in the text between its ends."""
    if len(template.names) == 1:
        subject = _subject(inner, template.names[0])
        for relation in template.relations if subject else ():
            yield _Reading(relation, relation.default_title, subject, subject)
        return
    between, small = template.literals[1], inner.lower()
    at = small.find(between)
    while at >= 0:
        pair = dict(zip(template.names, (inner[:at], inner[at + len(between) :]), strict=True))
        title = pair.pop("title")
        name, words = pair.popitem()
        subject = _subject(words, name)
        for relation in template.relations if subject else ():
            if normalise(title) in relation.titles:
                yield _Reading(relation, title, subject, subject)
        at = small.find(between, at + 1)


def _subject(words: str, placeholder: str) -> str:
    if placeholder == "owner":
        return _OWNING.sub("", words) if _OWNING.search(words) else ""
    return words


def _slot(reading: _Reading, aliases: Mapping[str, str]) -> Slot | None:
    relation, subject = reading.relation, reading.subject
    known = aliases.get(normalise(subject))
    name = known or canonical_subject(subject)
    # An unknown subject is taken at its word only when it is written as a name.
    if not known and not is_country(name) and not (name[:1].isupper() or name[:1].isdigit()):
        return None
    if re.search(r"['’]s?\s|\b(?:of|and|or)\s+(?:the )?[a-z]", name) and not known:
        return None
    if relation.subjects == "person" and not known:
        name = person(name) or name  # "President Emmanuel Macron"
    return Slot(name, relation.id) if relation.takes(name, reading.title) else None
