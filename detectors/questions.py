"""From a person's question back to the slot that it asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from detectors.entities import canonical_subject, is_country, normalise
from detectors.relations import Registry, Relation
from store.records import Slot

# A question about another time than now must not be answered from current facts.
_NOT_NOW = re.compile(
    r"\b(?:was|were|used to|been|former(?:ly)?|ex|previous(?:ly)?|first|second|third|last|next|"
    r"future|will|would|before|after|during|until|ago|deputy|vice|\d{4}|\d+(?:st|nd|rd|th))\b",
    re.IGNORECASE,
)
_CONTRACTIONS = ((r"\bwho['’]s\b", "who is"), (r"\bwhat['’]s\b", "what is"))
_LEAD = (
    r"(?:(?:please|hey|so|and)[, ]+)?"
    r"(?:(?:can|could|would) you (?:please )?(?:tell me|name|say) |(?:please )?tell me |"
    r"do you (?:happen to )?know |i want to know |name |give me the name of )?"
)
_ASK = (
    r"(?:(?:who|what|which (?:one|person|company|city)) )?"
    r"(?:(?:is|are|serves as|holds the office of|holds the post of) )?"
    r"(?:the name of )?"
)
_NOW = r"(?:(?:currently|now|today|at the moment|right now|these days|presently) )?"
_END = r"(?: (?:is|currently|now|today|right now|at the moment|these days|is now|is today))*"


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
    text = " ".join(question.split()).strip(" ?!.")
    for pattern, full in _CONTRACTIONS:
        text = re.sub(pattern, full, text, flags=re.IGNORECASE)
    if not text or _NOT_NOW.search(text):
        return None
    for relation, title, subject in _readings(text, registry):
        slot = _slot(relation, subject, aliases)
        if slot is not None:
            return Asked(slot, title)
    return None


def _readings(text: str, registry: Registry) -> list[tuple[Relation, str, str]]:
    """Every way to split the question into a relation, a title and a subject."""
    readings = []
    titles = "|".join(_flexible(title) for title in registry.titles())
    title = rf"(?:the )?(?:current |present |sitting )?(?P<title>{titles})"
    of = rf"{title} (?:of|at|for|in) (?P<subject>.+?)"
    owned = rf"(?P<subject>.+?)['’]s? (?:current |present )?(?P<title>{titles})"
    for pattern in (
        rf"{_LEAD}{_ASK}{_NOW}{_ASK}{_NOW}{of}{_END}",
        rf"{_LEAD}{_ASK}{_NOW}{_ASK}{_NOW}{owned}{_END}",
        rf"is (?P<value>.+?) (?:still |now |currently |really )?{of}{_END}",
        rf"is (?P<value>.+?) (?:still |now |currently |really )?{owned}{_END}",
    ):
        match = re.fullmatch(pattern, text, re.IGNORECASE)
        if match:
            spelling, subject = match["title"], match["subject"]
            for relation in registry:
                if normalise(spelling) in relation.titles:
                    asked = registry.asked_title(relation.id, spelling)
                    readings.append((relation, asked, subject))
    return readings + _by_phrasing(text, registry)


def _by_phrasing(text: str, registry: Registry) -> list[tuple[Relation, str, str]]:
    """Readings by phrasings that name no title ("Who owns …?")."""
    readings = []
    for relation in registry:
        for phrasing in relation.questions:
            if "{title}" in phrasing:
                continue
            before, _, after = phrasing.strip(" ?!.").partition("{subject}")
            pattern = f"{re.escape(before)}(?P<subject>.+?){re.escape(after)}"
            match = re.fullmatch(pattern, text, re.IGNORECASE)
            if match:
                readings.append((relation, relation.default_title.casefold(), match["subject"]))
    return readings


def _flexible(title: str) -> str:
    return re.escape(title).replace(r"\ ", "[ -]")


def _slot(relation: Relation, subject: str, aliases: Mapping[str, str]) -> Slot | None:
    known = aliases.get(normalise(subject))
    name = known or canonical_subject(subject)
    # An unknown subject is taken at its word only when it is written as a name.
    if not known and not is_country(name) and not name[:1].isupper():
        return None
    if re.search(r"['’]s?\s|\b(?:of|and|or)\s+(?:the )?[a-z]", name) and not known:
        return None
    return Slot(name, relation.id) if relation.takes(name) else None
