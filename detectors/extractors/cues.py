"""Claims from the registry's sentence templates: "{object} wins the {subject}".

The relations that are no offices name their news sentences themselves (``Relation.cues``). A
template is plain words with the two places {subject} and {object}; "…" stands for some words of the
same clause and "(beats|defeats)" for one of several. Places are capitalised runs, numbers or
versions, as the relation's kinds of object and subject want. What holds for offices holds here: no
hedged, negated, quoted or past sentence, no document without a date.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from detectors.entities import canonical_subject, country_of, normalise
from detectors.extractors import editions
from detectors.extractors.plain_news import LONGEST, hedged, in_quotes, when
from detectors.extractors.shapes import ASIDE
from detectors.extractors.spans import Finding, Span, claim, lines, sentences
from detectors.names import DESCRIPTORS, HONORIFICS, NAME, OPENERS, UPPER, WORD, person
from detectors.relations import Registry, Relation
from store.records import Claim, ClaimRole, Document

EXTRACTOR = "cues"

_PLACES = re.compile(r"\{(subject|object)\}")
_WORDS = re.compile(r"\([^()]*\)|…|[^\s()…]+")
_NUMBER = re.compile(
    r"(?:about\s|over\s|some\s)?(?P<value>[$€£]?\d[\d,]*(?:\.\d+)?(?:\s(?:thousand|million|billion|trillion))?%?)"
)
_VERSION = re.compile(r"(?P<value>v?\d+(?:\.\d+)+(?:-?[a-z]+\d*)?|\d+)(?![\w.]*\d)")
_TEAM = re.compile(rf"{NAME}(?:\s\d{{2}}(?!\d)(?:\s{WORD})?)?")
_ASIDES = re.compile(rf"{ASIDE.pattern}|\s(?:directed\s)?by\s{NAME}\s")
# Right before a run: it is the end of something longer, or one of several.
_PART = re.compile(r"(?:\b(?:of|for|in|at|from|by|with|to|against|over|and)\s(?:the\s)?|[&-]\s*)$")
# A thing's name, with the small words inside: "Women's Prize for Fiction".
_RUN = re.compile(
    rf"(?:{WORD}|\d{{1,2}}\.\sFC)(?:\s(?:(?:of|the|for|in|and|de|do|la|&|–)\s){{0,2}}(?:{WORD})){{0,8}}"
)
# After the last place the sentence goes on with something else, not with more of the name.
_CLOSED = re.compile(
    r"\s*(?:$|[.,;:!?()–—-]|(?:[a-z]+ly|for|in|from|after|as|on|at|following|and|amid|with|by|to|over"
    r"|when|while|who|which|because|despite|effective|today|during|under|against|until|due)\b)"
)
# Two who win doubles are one winner: "Jane Doe *and* Ann Roe".
_PAIR = re.compile(rf"{NAME}\sand\s\Z")
# The beginning of a name that goes on after "of", where the clause opens with it.
_OF_NAME = re.compile(
    r"(?:^|^In\s[^,]{1,40},\s)(?P<name>(?:Prince|King|Queen|Lord|Duke|House|Shape|Triangle)\sof\s)\Z"
)
_SHARED = re.compile(rf"(?:,\s(?:and\s)?|\sand\s){NAME}")
_ARTICLE = re.compile(r"\s*(?:(?:the|a|an)\s)?")
_SMALL = re.compile(r"[a-z]{3,}")
_ADVERB = r"(?:(?:[a-z]+ly|also|now)\s)?"
_REACH = 170  # characters that "…" may stand for
# What "…" does not stand for: "after" tells of another event, but for "after extra time".
_TURNS = re.compile(
    r"\b(?:will|would|could|may|might|if|after(?!\s(?:extra|over|penalt|defeating|beating|a\s[\d–-]+\s)))\b|;"
)


@dataclass(frozen=True)
class _Cue:
    """A template taken apart: words before, between and after its two places."""

    relation: str
    first: str  # "subject" or "object", whichever stands left
    before: re.Pattern[str]
    between: re.Pattern[str]
    onward: re.Pattern[str] | None  # the words between that follow "…"
    after: re.Pattern[str]
    by_after: bool  # the words after are looked for, those between are only a gap
    trigger: str  # a word without which the template cannot match, in small letters


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every sentence that follows a template of the registry."""
    published = document.published
    if published is None or published > now + timedelta(days=1):
        return []
    templates = _cues(tuple((r.id, r.cues) for r in registry if r.cues))
    found: dict[tuple[str, str, str], Finding] = {}
    for line in lines(document.text):
        for sentence in sentences(line.text, line.start):
            if len(sentence.text) > LONGEST:
                continue
            for finding in _read(sentence, document, registry, templates):
                found.setdefault((finding.subject, finding.relation, finding.value), finding)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found.values()]


@functools.lru_cache(maxsize=4)
def _cues(templates: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[_Cue, ...]:
    return tuple(_compiled(relation, cue) for relation, cues in templates for cue in cues)


def _compiled(relation: str, cue: str) -> _Cue:
    before, first, between, _, after = _PLACES.split(cue)
    # An article before a place is read with the place ("the", "their first", "a record").
    between = re.sub(r"\s(?:the|a|an)\s*$", " ", between)
    between, _, onward = between.partition("…")
    by_after = not between.strip() or between.strip() in ("of", "version")
    words = _words(after if by_after else f"{between} {onward}")
    plain = [word for word in words if word.isalpha()]
    return _Cue(
        relation,
        first,
        re.compile(
            _pattern(re.sub(r"(?i)\b(?:the|a|an)\s*$", "", before)) + r"\s*(?:the\s)?$",
            re.IGNORECASE,
        ),
        re.compile(
            r"\s*" + _pattern(between) + r"\s*" if by_after else r"\b" + _pattern(between) + r"\b"
        ),
        re.compile(rf"\b{_pattern(onward)}\b") if onward.strip() else None,
        re.compile((r"\b" if by_after else r"\s*") + _pattern(after)),
        by_after,
        max(plain, key=len, default="").casefold(),
    )


def _words(text: str) -> list[str]:
    return _WORDS.findall(text)


def _pattern(text: str) -> str:
    """The words of a part of a template as an expression."""
    parts: list[str] = []
    glue = ""
    for word in _words(text):
        choices = word[1:-1].split("|") if word.startswith("(") else [word]
        spelt = "|".join(re.escape(choice).replace(r"\ ", r"\s") for choice in choices)
        parts.append(f"{glue}(?:{spelt})")
        glue = r"\s" + _ADVERB if len(parts) == 1 else r"\s"
    return "".join(parts)


def _read(
    sentence: Span, document: Document, registry: Registry, templates: tuple[_Cue, ...]
) -> Iterator[Finding]:
    text = sentence.text
    lowered = text.lower()
    for cue in templates:
        if cue.trigger and cue.trigger not in lowered:
            continue
        relation = registry[cue.relation]
        anchor = cue.after if cue.by_after else cue.between
        for match in anchor.finditer(text):
            read = _by_after if cue.by_after else _around
            places = read(text, cue, relation, match)
            if places:
                yield from _claimed(sentence, document, relation, cue, match, *places)


_Place = tuple[int, int, str]  # start, end, value


def _around(
    text: str, cue: _Cue, relation: Relation, match: re.Match[str]
) -> tuple[_Place, _Place] | None:
    """The places left and right of the words between."""
    left = _left(text, match.start(), cue.first, relation, cue.before)
    for end in _ends_of_words(text, cue, match) if left else ():
        right = _right(text, end, _other(cue.first), relation, cue.after, left[2] if left else "")
        if left and right:
            return left, right
    return None


def _ends_of_words(text: str, cue: _Cue, match: re.Match[str]) -> Iterator[int]:
    """Where the words between may end: "defeats … to win" has an end at each "to win"."""
    if cue.onward is None:
        yield match.end()
        return
    turn = _TURNS.search(text, match.end(), match.end() + _REACH)
    stop = turn.start() if turn else match.end() + _REACH
    for onward in cue.onward.finditer(text, match.end(), min(len(text), stop + 30)):
        if onward.start() >= stop:
            return
        yield onward.end()


def _by_after(
    text: str, cue: _Cue, relation: Relation, match: re.Match[str]
) -> tuple[_Place, _Place] | None:
    """Both places left of the words after: "Python 3.14 is released"."""
    position = len(text[: match.start()].rstrip())
    kind = _other(cue.first)
    second = None
    for start, end, value in _ending_at(text, position, kind, relation):
        second = (start, end, value)
        gap = cue.between
        head = text[:start]
        for size in range(0, 16):
            if gap.fullmatch(head[len(head) - size :]) and size <= len(head):
                stop = len(head) - size
                for first in _ending_at(text, stop, cue.first, relation):
                    if cue.before.search(text[: first[0]]):
                        return first, second
    return None


def _other(place: str) -> str:
    return "object" if place == "subject" else "subject"


def _left(
    text: str, position: int, place: str, relation: Relation, before: re.Pattern[str]
) -> _Place | None:
    """The nearest fitting run left of a verb, over an aside at most."""
    low = max(0, position - 200)
    if place == "subject" and editions.APPLIES & set(relation.subject_words):
        return _prize(text, low, position, relation)
    runs = [(m.start() + low, m.end() + low) for m in _TEAM.finditer(text[low:position])][-6:]
    for apposed in (False, True):
        for start, end in reversed(runs):
            if apposed:
                near = text[start - 2 : start] == ", " and text[end:position] == ", "
            else:
                near = bool(_ASIDES.fullmatch(text, end, position))
            opened = _opened(text, start, end)
            longer = _OF_NAME.search(text, low, opened) if place == "object" else None
            if longer and near and _kind(place, relation) == "name":
                return longer.start("name"), end, text[longer.start("name") : end]
            pair = _PAIR.search(text, low, opened) if "oubles" in text else None
            if near and pair and place == "object":
                return pair.start(), end, text[pair.start() : end]
            if not near or not before.search(text[:opened]) or _is_part(text, opened, end, apposed):
                continue
            value = _value(text, opened, end, place, relation)
            if value:
                return opened, end, value
    return None


def _prize(text: str, low: int, position: int, relation: Relation) -> _Place | None:
    """The competition or prize that ends right before a verb: "The Prize in Physics is …"."""
    for match in _RUN.finditer(text, low, position):
        if text[match.end() : position].strip():
            continue
        start = _opened(text, match.start(), match.end())
        start += 4 if text.startswith(("The ", "the "), start) else 0
        read = editions.read(text[:position].rstrip(), start)
        if read and relation.takes(read[2]):
            return start, read[1], canonical_subject(read[2])
    return None


def _opened(text: str, start: int, end: int) -> int:
    """Where a run begins without the word that only opens the sentence."""
    while (word := re.match(r"(?:\w+|\d+)\s", text[start:end])) and (
        word.group().strip().casefold() in OPENERS or word.group().strip().isdigit()
    ):
        start += word.end()
    return start


def _is_part(text: str, start: int, end: int, apposed: bool) -> bool:
    """Whether a run is the end of something longer, or its beginning ("Prince of Penzance")."""
    one = " " not in text[start:end]
    if text[:start].endswith(", ") and text[: text.find(" ")].casefold() not in OPENERS:
        return not apposed or one  # "the base at Fort Bragg, North Carolina, …"
    return bool(_PART.search(text[max(0, start - 24) : start])) or (
        one and text[end : end + 4] == " of "
    )


def _right(
    text: str,
    position: int,
    place: str,
    relation: Relation,
    after: re.Pattern[str],
    winner: str = "",
) -> _Place | None:
    """The place that begins right of the words between."""
    kind = _kind(place, relation)
    if kind in ("number", "version"):
        pattern = _NUMBER if kind == "number" else _VERSION
        match = re.compile(r"\s*").match(text, position)
        found = pattern.match(text, match.end() if match else position)
        ok = found and after.match(text, found.end())
        return (found.start("value"), found.end("value"), found["value"]) if found and ok else None
    if place == "subject" and editions.APPLIES & set(relation.subject_words):
        closing = None if after.pattern == r"\s*" else after
        read = editions.read(text, position, closing, winner)
        if read is None:
            return None
        start, end, name = read
        # "the Golden Lion award" is the Golden Lion.
        short = re.sub(r"\s(?:award|prize)$", "", name)
        name = canonical_subject(short if relation.takes(short) else name)
        return (start, end, name) if relation.takes(name) else None
    article = _ARTICLE.match(text, position)
    begin = article.end() if article else position
    run = _RUN.match(text, begin)
    if run is None:
        # A currency is written small: "adopts the euro as its currency".
        small = _SMALL.match(text, begin)
        stop = after.match(text, small.end()) if small and kind == "text" else None
        if small and stop and stop.group().strip():
            return small.start(), small.end(), small.group()
        return None
    for end in _ends(text, run.start(), run.end()):
        stop = after.match(text, end)
        if stop and _CLOSED.match(text, stop.end()):
            value = _value(text, run.start(), end, place, relation)
            return (run.start(), end, value) if value else None
    return None


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where a run may end: as a whole, or before its last words (which the template names)."""
    yield end
    for match in reversed(list(re.finditer(r"\s", text[start:end]))):
        yield start + match.start()


def _ending_at(text: str, position: int, place: str, relation: Relation) -> Iterator[_Place]:
    """What can be read as the place and ends exactly there."""
    low = max(0, position - 120)
    kind = _kind(place, relation)
    if kind in ("number", "version"):
        pattern = _NUMBER if kind == "number" else _VERSION
        for match in pattern.finditer(text, low, position):
            if match.end("value") == position:
                yield match.start("value"), position, match["value"]
        return
    for match in _RUN.finditer(text, low, position):
        if match.end() == position:
            value = _value(text, match.start(), position, place, relation)
            if value:
                yield match.start(), position, value


def _kind(place: str, relation: Relation) -> str:
    if place == "object":
        return relation.object_type
    return "person" if relation.subjects == "person" else "name"


def _value(text: str, start: int, end: int, place: str, relation: Relation) -> str | None:
    """The filed form of a run at a place, or None when it does not fit there."""
    run = re.sub(r"['’]s?$", "", text[start:end]).strip()
    kind = _kind(place, relation)
    if kind == "person":
        name = person(run)
        value = name if name and len(name.split()) > 1 else None
    else:
        value = _thing(text, run, start, place == "object")
    if value is None or (place == "subject" and not relation.takes(value)):
        return None
    return value


def _thing(text: str, run: str, start: int, kind_is_holder: bool) -> str | None:
    words = run.split()
    if words and words[0] in ("The", "A", "An"):
        words = words[1:]
    if words and words[0] == "Miss":  # "Miss America Jane Doe"
        words = words[2:] if len(words) > 3 else []
    while len(words) > 1 and kind_is_holder and re.search(r"['’]s$", words[0]):
        words = words[1:]  # "Norway's Jane Doe"
    while len(words) > 1 and normalise(words[0]) in ("host", "hosts"):
        words = words[1:]
    while len(words) > 2 and normalise(words[0]) in DESCRIPTORS | HONORIFICS:
        words = words[1:]
    # "American Jordan Spieth": who, not of which country.
    if len(words) > 2 and kind_is_holder and country_of(words[0]) and person(" ".join(words[1:])):
        words = words[1:]
    if not words or words[0].casefold() in _PRONOUNS:
        return None
    if len(words) == 1 and country_of(words[0]):
        return None
    # A surname alone, where the text gives the whole name.
    if len(words) == 1:
        whole = re.search(rf"[{UPPER}][\w'’.-]+\s{re.escape(words[0])}\b", text)
        if whole and whole.start() < start:
            return None
    return " ".join(words)


_PRONOUNS = frozenset(
    {"he", "she", "it", "they", "this", "that", "who", "these", "those", "we", "i"}
)


def _claimed(
    sentence: Span,
    document: Document,
    relation: Relation,
    cue: _Cue,
    match: re.Match[str],
    left: _Place,
    right: _Place,
) -> Iterator[Finding]:
    text = sentence.text
    start, end = left[0], max(match.end(), right[1])
    if hedged(text[: match.start()], stories=False) or in_quotes(text, start):
        return
    if editions.no_title(text, start, end):
        return
    assert document.published is not None  # extract returned before
    dates = when(text, start, end, document.published.date(), past=False)
    if dates is None:
        return
    if cue.first == "subject" and _SHARED.match(text, right[1]):
        return  # a prize that several share: one of them is not the answer
    subject, value = (left, right) if cue.first == "subject" else (right, left)
    # A thing that is renamed is filed under the name it gives up, even where both are known.
    renamed = canonical_subject(subject[2]) == canonical_subject(value[2])
    name = subject[2] if renamed else canonical_subject(subject[2])
    if editions.APPLIES & set(relation.subject_words):
        qualified = editions.qualified(text, start, end, name)
        if qualified is None:
            return
        name = qualified
    if name.casefold() == value[2].casefold():
        return
    yield Finding(
        name,
        relation.id,
        value[2],
        ClaimRole.CURRENT,
        sentence.start + start,
        sentence.start + end,
        "",
        dates,
    )
