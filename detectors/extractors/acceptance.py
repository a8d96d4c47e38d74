"""What a sentence must say before a model's reading of it becomes a claim: deterministic rules.

The model only *points*: every value of the finding is a span of the document or a word of our own
tables. Where the sentence says less than the model, the sentence wins, and in doubt nothing is
claimed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from detectors.dates import DatedSpan, begins, day_of, ends, find_days, parse_day
from detectors.entities import (
    canonical_subject,
    country_of,
    is_country,
    normalise,
    subject_aliases,
)
from detectors.extractors import ties
from detectors.extractors.plain_news import FRESH, LONGEST, TODAY, hedged, in_quotes
from detectors.extractors.shapes import AFTER_HEDGE, PARLIAMENT
from detectors.extractors.spans import ACTING, Dates, Finding, Span
from detectors.extractors.untrusted import is_hidden
from detectors.judge import occurrences
from detectors.names import NAME, OPENERS, UPPER, WORD, person, words
from detectors.relations import Registry, Relation
from store.records import ClaimRole

_LONGEST_VALUE = 80  # characters of a subject or object

# Beyond what a known form of sentence needs: a model reads every form.
_DOUBT = re.compile(
    r"\b(?:can|cannot|no[rt]|neither|none|without|despite|instead|almost|nearly|alleg\w+|claims?"
    r"|think\w*|suggest\w*|fals\w+|hoax\w*|drama|series|histor\w+|wish\w*|consider\w*|vow\w*"
    r"|temporar\w+|reach\w*|qualif\w+|(?:semi|quarter)-?final\w*|promis\w+|announc\w+|threat\w+|bid|campaign\w*|favou?rite|candidate\w*|self-\w+|opposition|mock\w*"
    r"|jok\w+|disput\w+|contest\w*|recogni[sz]\w+|accus\w+|charg(?:e|es|ed)|opinion\w*|poll\w*)\b",
    re.IGNORECASE,
)
_DOUBT_ANYWHERE = re.compile(
    r"n['’]t\b|\?|\baccording\sto\b|\bunconfirmed\b|\b(?:fake|hoax|rumou?r|satire|false)\b",
    re.IGNORECASE,
)
# Sentences that speak to the reader's model instead of about the world.
_ORDERS = re.compile(
    r"\b(?:ignor|disregard|overrid|forget)\w*\b.{0,60}\b(?:instruct|prompt|rule|above|previous)"
    r"|\b(?:system|developer)\s(?:prompt|message|mode)\b|\bjailbr|\b(?:assistant|user|system)\s*:"
    r"|\bas an? (?:ai|language model)\b|\b(?:json|schema|api.key)\b"
    r"|\b(?:output|answer|respond|reply|record|report|extract|insert|return|write)\s"
    r"(?:only|exactly|that|this|the following|with)\b"
    r"|\byou (?:are|must|should|will|have to) |\b[\w-]+\s*\(\)|\{\s*[\"“']",
    re.IGNORECASE | re.DOTALL,
)
_CONTROL = re.compile(
    r"<[|/!]?\s*[\w|｜▁-]+[^<>]{0,60}>|＜|<<|\[/?[A-Z_]{2,}\]|&lt;|###|```|\bjavascript:", re.I
)
_FUTURE = re.compile(
    r"\b(?:will|shall|next|incoming|upcoming|designate|nominat\w+|nominees?|(?:is|are|was)\s(?:set|due"
    r"|scheduled|about|slated|tipped)\sto|to\s(?:become|be\s(?:sworn|appointed|named|the)))\b"
    r"|[- ]elect\b",
    re.IGNORECASE,
)
_ELECTED = re.compile(r"\b(?:elect(?:s|ed)?|wins?|won|chosen|selected|victory)\b", re.IGNORECASE)
_PAST = re.compile(
    r"\b(?:was|were|became|took|assumed|served|held|led|ran|won|defeated|succeeded|replaced)\b",
    re.IGNORECASE,
)
_HEADLINE = re.compile(r"\s(?:is\s)?(?:appointed|named|elected)\b")
_UNTIL = re.compile(
    r"(?:\b(?:until|till|to|ended|ending|ends)|[–—-])\s*(?:on\s)?(?:[a-z]+\s)?$", re.I
)
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:\s?(?:thousand|million|billion|trillion)\b|\s?%)?")
_VERSION = re.compile(r"v?\d+(?:\.\d+)+[\w.-]*")


# Capitalised words in front of a name that are none of it ("The Former Chilean president").
_OUTSIDE = OPENERS | words("the a an former ex acting interim then outgoing incumbent he she it")
# Alone they do not say which one.
_GENERIC = words(
    "open house senate championship masters cup league party congress parliament final"
)


class Reason(enum.StrEnum):
    """Why something that a model said became no claim."""

    SCHEMA = "schema"  # no answer of the asked form
    RELATION = "relation"  # not in the registry, or excluded
    QUOTE = "quote"  # not a span of one sentence of the document
    TAMPERED = "tampered"  # hidden signs, control tokens or orders to a model
    SUBJECT = "subject"  # not named in the sentence, or not of the relation's kind
    OBJECT = "object"  # not named in the sentence, or not of the relation's form
    TIE = "tie"  # the sentence does not put this object to that office of that subject
    HEDGED = "hedged"  # negated, doubted, hoped for, asked
    QUOTED = "quoted"  # somebody's words, or the name of a work
    ROLE = "role"  # called former where the sentence tells of no end
    PAST = "past"  # told as history
    UNDATED = "undated"  # neither the text nor the document says when
    LIMIT = "limit"  # more than one document may claim


class Said(NamedTuple):
    """One statement of a model, of the asked form and otherwise not trusted at all."""

    relation: str
    subject: str
    object: str
    role: ClaimRole
    start: str = ""
    end: str = ""


class Named(NamedTuple):
    """Where a sentence names something, and the name under which it is filed."""

    start: int
    end: int
    name: str


def accept(
    said: Said, quote: tuple[int, int], sentence: Span, registry: Registry, published: date | None
) -> Finding | Reason:
    """Return what the sentence really states of what a model said, or why nothing.

    ``quote`` is the model's quotation, as offsets within the sentence. The finding's span names
    subject and object: it is the quotation, or the sentence where the quotation is too short.
    """
    text, relation = sentence.text, registry[said.relation]
    if len(text) > LONGEST or is_tampered(text):
        return Reason.TAMPERED
    subject = _subject(said.subject, text, relation)
    if subject is None:
        return Reason.SUBJECT
    value = _object(said.object, text, relation, registry)
    if value is None or normalise(value.name) == normalise(subject.name) or _touch(value, subject):
        return Reason.OBJECT
    if any(_in_quotes(text, place) for place in (subject.start, value.start, quote[0])):
        return Reason.QUOTED
    said_by = max(subject.end, value.end, quote[1])
    before = text[:said_by]
    if hedged(before) or _DOUBT.search(before) or _DOUBT_ANYWHERE.search(text):
        return Reason.HEDGED
    tie = ties.tie(text, (subject.start, subject.end), (value.start, value.end), relation)
    if tie is None or (
        tie.title and registry.relation_of_title(tie.title, subject.name) != relation.id
    ):
        return Reason.TIE
    if _hedged_after(text, tie):
        return Reason.HEDGED
    when = _when(said, text, tie, relation, published)
    if isinstance(when, Reason):
        return when
    role, dates = when
    names = min(subject.start, value.start), max(subject.end, value.end)
    start, end = quote if quote[0] <= names[0] and names[1] <= quote[1] else (0, len(text))
    return Finding(
        subject=subject.name,
        relation=relation.id,
        value=value.name,
        role=role,
        start=sentence.start + start,
        end=sentence.start + end,
        title=tie.title,
        dates=dates,
        acting=bool(ACTING.search(text)) and role is not ClaimRole.FORMER,
    )


def is_tampered(text: str) -> bool:
    """Whether a sentence was made for a model's eyes: control tokens, hidden signs, orders."""
    return (
        any(is_hidden(sign) for sign in text)
        or bool(_CONTROL.search(text))
        or bool(_ORDERS.search(text))
    )


def _subject(said: str, text: str, relation: Relation) -> Named | None:
    """Find the subject by the name given, another name of it, or its adjective ("German")."""
    name = canonical_subject(said)
    for spelling in dict.fromkeys((said, name, *subject_aliases(name))):
        for start, end in _literally(text, spelling):
            found = canonical_subject(text[start:end])
            # "U.S. House of Representatives" is more than "U.S. House".
            more = re.match(rf"\sof\s(?:the\s)?[{UPPER}]", text[end:])
            generic = normalise(text[start:end]) in _GENERIC
            if not _is_name(text[start:end]) or generic or (more and not is_country(found)):
                continue
            if re.search(r"\b(?:Wom|M)en['’]s\s$", text[:start]):
                continue  # "the Women's World Championship" is another one
            if _stands_alone(text, start, end, relation, is_subject=True) and _takes(
                relation, found
            ):
                return Named(start, end, found)
    for word in re.finditer(WORD, text):
        # Only what our own table says: the model's word for a country is never taken.
        country = country_of(word.group())
        whole = _stands_alone(text, word.start(), word.end(), relation, is_subject=True)
        # "German chancellor", but neither "Iraqi Kurdistan" nor "the Australian state".
        inside = re.match(
            r"\s(?:state|province|region|city|territory|island)\b", text[word.end() :]
        )
        if country and country == name and whole and not inside and _takes(relation, country):
            return Named(word.start(), word.end(), country)
    return None


def _takes(relation: Relation, subject: str) -> bool:
    """Whether a relation is about such a subject under any of its titles; the tie says which."""
    return any(relation.takes(subject, title) for title in ("", *relation.titles))


def _object(said: str, text: str, relation: Relation, registry: Registry) -> Named | None:
    """Find the object where the sentence names it in the form that the relation takes."""
    kind = relation.object_type
    if kind == "number":
        for start, _ in occurrences(text, said, kind):
            number = _NUMBER.match(text, start)
            if number and not find_days(number.group()):
                return Named(start, number.end(), number.group().strip())
        return None
    for start, end in _literally(text, said):
        spelled = text[start:end]
        if not _stands_alone(text, start, end, relation, is_subject=False):
            continue
        if kind in ("person", "place", "org", "name") and not _is_name(spelled):
            continue
        if kind in ("name", "org") and re.search(rf"['’]s?\s[{UPPER}]|['’]s$", spelled):
            continue  # "Norway's Magnus Carlsen"
        if kind == "name" and person(spelled) not in (None, spelled):
            continue  # "German Angelique Kerber"
        if kind == "name" and len(spelled.partition(" of ")[0].split()) > 1 and " of " in spelled:
            continue  # "Gary Anderson of Scotland"
        if kind == "person" or (kind == "name" and person(spelled) == spelled):
            # One word is no person: a surname alone would be filed beside the full name.
            name = person(spelled)
            if name and len(name.split()) > 1:
                return Named(start, end, name)
            if kind == "person":
                continue
        if kind == "version" and not _VERSION.search(spelled):
            continue
        if not registry.relation_of_title(spelled) and any(sign.isalnum() for sign in spelled):
            return Named(start, end, spelled)
    return None


def _is_name(spelled: str) -> bool:
    """Whether a span begins and ends as a name does ("David Sassoli", not "David Sassoli of")."""
    first, last = spelled.split()[0], spelled.split()[-1]
    alone = normalise(re.split(r"-", first)[0])
    single = len(spelled.split()) == 1 and (alone in _OUTSIDE or ties.is_rank(alone))
    opens = alone in OPENERS or single  # "In", "In Kenya", "President-elect"
    letters = any(sign.isalpha() for sign in spelled)
    cased = not first[0].islower() and not last[0].islower()
    return letters and cased and not opens and not country_of(spelled)


def _literally(text: str, spelling: str) -> Iterator[tuple[int, int]]:
    """Yield where a text spells something in exactly these letters, as whole words."""
    spelling = spelling.strip().rstrip(",;:")
    if not re.search(r"(?:\b(?:Jr|Sr|Inc|Corp|Co|Ltd)|\.\w)\.$", spelling):
        spelling = spelling.rstrip(".")
    if 1 < len(spelling) <= _LONGEST_VALUE:
        exact = r"\s+".join(re.escape(word) for word in spelling.split())
        for match in re.finditer(rf"(?<![\w-]){exact}(?![\w-])", text):
            yield match.span()


def _stands_alone(text: str, start: int, end: int, relation: Relation, is_subject: bool) -> bool:
    """Whether a span is a whole name and not a part of one ("Korea" in "South Korea")."""
    for run in re.finditer(NAME, text):
        if run.end() <= start or run.start() >= end:
            continue
        before, after = text[run.start() : start].split(), text[end : run.end()].split()
        person_after_office = not is_subject and relation.object_type == "person"
        if before and not (
            normalise(before[-1]) in _OUTSIDE
            or (person_after_office and _opens_a_name(before[-1], relation))
            or re.search(r"['’]s?$", before[-1])
        ):
            return False
        # "Apple CEO Tim Cook", but "Slovak National Party" and "Apple Records".
        beside = is_subject and relation.object_type == "person"
        if after and not (
            (is_subject and after[0] in ("'s", "’s", "'", "’"))
            or (beside and _opens_a_name(after[0], relation))
        ):
            return False
    return True


def _opens_a_name(word: str, relation: Relation) -> bool:
    """Whether a capitalised word is an office or an adjective that stands beside a name."""
    bare = normalise(word)
    in_title = any(bare in title.split() for title in relation.titles)
    return in_title or bool(country_of(word)) or ties.is_rank(bare)


def _touch(one: Named, other: Named) -> bool:
    return one.start < other.end and other.start < one.end


def _in_quotes(text: str, place: int) -> bool:
    before = text[:place]
    single = len(re.findall(r"(?<!\w)[‘']", before)) > len(re.findall(r"[’'](?!\w)", before))
    return in_quotes(text, place) or single


def _hedged_after(text: str, tie: ties.Tie) -> bool:
    """Whether what follows the office takes it back ("president's", "prime minister candidate")."""
    return bool(tie.title) and any(
        AFTER_HEDGE.match(text, place) and not re.match(r"[- ](?:elect|designate)\b", text[place:])
        for place in tie.hedgeable
    )


def _when(
    said: Said, text: str, tie: ties.Tie, relation: Relation, today: date | None
) -> tuple[ClaimRole, Dates] | Reason:
    """Decide role and dates by the sentence; the model's word only picks among its dates."""
    days = find_days(text)
    begun = _picked(said.start, days, text, closing=False)
    ended = _picked(said.end, days, text, closing=True)
    over = bool(ended and today and begins(ended) <= today)
    if tie.leaves or over:
        if not tie.leaves and said.role is ClaimRole.CURRENT:
            return Reason.PAST
        by = "text" if begun or ended else "none"
        return ClaimRole.FORMER, Dates(begun, ended, by)
    if said.role is ClaimRole.FORMER:
        return Reason.ROLE
    announced = bool(begun and today and begins(begun) > today)
    if announced or said.role is ClaimRole.FUTURE or _waits(text, relation):
        return ClaimRole.FUTURE, Dates(begun, None, "text") if announced else Dates()
    if begun:
        return ClaimRole.CURRENT, Dates(begun, None, "text")
    if today is None:
        return Reason.UNDATED
    if days and max(ends(day.day) for day in days) < today - FRESH:
        return Reason.PAST
    # Told in the past without a day is background, but for a headline's "X named CEO".
    told = _PAST.search(text) and not days and not TODAY.search(text)
    if told and not _HEADLINE.search(text):
        return Reason.PAST
    return ClaimRole.CURRENT, Dates(day_of(today), None, "published")


def _waits(text: str, relation: Relation) -> bool:
    if _FUTURE.search(text):
        return True
    if not _ELECTED.search(text) or relation.object_type != "person" or not relation.titles:
        return False
    if relation.elected == "parliament":
        return not PARLIAMENT.search(text)
    return relation.elected == "waits"


def _picked(said: str, days: list[DatedSpan], text: str, closing: bool) -> str | None:
    """Return the date of the text that a model named, when it stands where such a date would."""
    wanted = parse_day(said) if said else None
    for day in days:
        if day.day == wanted and bool(_UNTIL.search(text[: day.start])) == closing:
            return day.day
    return None
