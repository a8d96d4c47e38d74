"""What a free-text answer says: whom it names as the holder, and which known values that is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from detectors.entities import normalise
from detectors.judge import TOLERANCE, occurrences, same
from detectors.names import HONORIFICS, NAME, person, words
from detectors.quantities import numbers, version

_SENTENCES = 3  # of an answer that are read: later ones tell stories
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-HJ-UWYZ]\.)(?<!\b[DJMS][rt]\.)(?<!\bMs\.)\s+(?=[\"“A-Z])"
)
_COPULA = re.compile(
    r"(?:\b(?:is|are|remains|serves\sas|named|called)\b|(?<=\w)['’]s\b|:)\s*", re.IGNORECASE
)
# What leads to a value that is no person, beside the copula.
_LINK = re.compile(
    rf"{_COPULA.pattern}|\b(?:plays?(?:\s[\w-]+){{0,5}}?\s(?:for|at|with)|member\sof|belongs?\sto|"
    r"(?:works?|drives|races)(?:\s[\w-]+){0,4}?\s(?:for|at)|(?:employed|owned|held|won)\sby|known\sas|"
    r"(?:based|headquartered|located)\s(?:in|at))\s+",
    re.IGNORECASE,
)
_MEASURED = re.compile(
    r"(?:\b(?:is|are|was|were|has|have|had|stands\sat|stood\sat|at)\b|(?<=\w)['’]s\b|:)\s*",
    re.IGNORECASE,
)
_PLACED = re.compile(r"(?:(?:based|headquartered|located|situated)\s+)?(?:in|at)\s+", re.IGNORECASE)
_HOLDS = re.compile(
    rf"(?P<name>{NAME})\s(?:(?:currently|now|still)\s)?"
    r"(?:owns|own|won|holds|is\sthe|are\sthe|is\sits|has\swon)\b"
)
_AFTER = re.compile(r"\s(?:in|but|as|who|where|when|and\s(?:he|she|has|is))\s")
_CALLED = words("called named known renamed used spelled")
_JOINING = words("al and at da de del der di do dos du e for in la le of on the van von y &")
_FILLER = re.compile(
    r"(?:[\s,]|\b(?:currently|now|still|presently|today|actually|officially|at the moment|"
    r"none other than|held by|led by|serving|president-elect)\b)+",
    re.IGNORECASE,
)
_NEGATION = re.compile(r"\s*(?:not|no longer|never|n['’]t|unknown|unclear)\b", re.IGNORECASE)
_GENERIC = words("a an the of in on at by to known not who it he she they there i as")

# Before or after a name: it is named as someone else than the present holder.
_ANOTHER_BEFORE = re.compile(
    r"(?:\b(?:not|n['’]t|no longer|never|neither|nor|than|instead of|succeed(?:s|ed|ing)|"
    r"replac(?:es|ed|ing)|(?:took|taking) over from|after|following|former(?:ly)?|previous(?:ly)?|"
    r"late|predecessor|successor (?:of|to)|was|were|under|wife of|son of|daughter of|"
    r"(?:appointed|nominated|elected|chosen) by|defeat(?:s|ed|ing))|\bex-)"
    r"\s*,?\s*(?:[a-z][\w-]*\s+){0,3}(?:[A-Z]\w+\s+){0,2}$"
)
_ANOTHER_AFTER = re.compile(
    r"\s*,?\s*(?:who\s+)?(?:was|were|served|had been|used to|until|stepped down|resigned|died)\b",
    re.IGNORECASE,
)


def named(answer: str, object_type: str = "person") -> str:
    """Return the value that an answer names first as the answer, or "" for a generic one.

    "The chancellor of Germany is Angela Merkel, the …" names "Angela Merkel"; "The president of
    Italy is the head of state" and "… is not known" name nobody.
    """
    for sentence in _sentences(answer):
        head = _head(sentence, object_type)
        if head:
            return head
    return ""


def read(
    answer: str,
    values: Sequence[str],
    object_type: str = "person",
    *,
    tolerance: float = TOLERANCE,
) -> tuple[str, ...]:
    """Return those of ``values`` that an answer names as the present holder.

    Several come back when the answer names several, or one that may mean several ("Bush").
    Values that are only mentioned ("succeeding Angela Merkel", "is not Angela Merkel") do not.
    """
    head = named(answer, object_type)
    if head:
        found = tuple(v for v in values if same(head, v, object_type, tolerance=tolerance))
        return found or _cut_short(answer, head, values, object_type)
    for sentence in _sentences(answer):
        found = tuple(v for v in values if _holds(sentence, v, object_type, values, tolerance))
        if found:
            return found
    return ()


def _cut_short(answer: str, head: str, values: Sequence[str], object_type: str) -> tuple[str, ...]:
    """The values that an answer spells out though a full stop or comma of their own ended the
    reading: "S.U. 1º de Dezembro", "Henri Cartier-Bresson Foundation, Paris"."""
    if object_type in ("person", "number", "version"):
        return ()
    start = normalise(head)
    return tuple(
        value
        for value in values
        if normalise(value).startswith(start)
        and re.search(rf"(?<!\w){re.escape(value.rstrip('.'))}(?!\w)", answer)
    )


def _sentences(answer: str) -> list[str]:
    text = " ".join(re.sub(r"[*_`#]+", "", answer).split())
    return _SENTENCE_END.split(text)[:_SENTENCES]


def _head(sentence: str, object_type: str) -> str:
    if object_type in ("number", "version"):
        return _figure(sentence, object_type)
    copulas = list((_COPULA if object_type in ("person", "place") else _LINK).finditer(sentence))
    if object_type == "person":
        opening = _opening_name(sentence, alone=not copulas)
        if opening:
            return opening
    if object_type in ("org", "name"):
        holding = _HOLDS.match(sentence)
        if holding and not _GENERIC & set(normalise(holding["name"]).split()):
            return holding["name"]
    for copula in copulas:
        rest = sentence[copula.end() :]
        if _NEGATION.match(rest):
            return ""
        head = _value_at_start(rest, object_type)
        if head:
            return head
    if copulas:
        return _subject(sentence[: copulas[-1].start()], object_type)
    return _small_letters(sentence) if object_type == "person" else _bare(sentence, object_type)


def _figure(sentence: str, object_type: str) -> str:
    """The number or version that a sentence states; "" where it could be one of several."""
    for link in _MEASURED.finditer(sentence):
        rest = sentence[link.end() :]
        if _NEGATION.match(rest):
            return ""
        several = object_type == "number" and link.group()[0] in "hH" and len(numbers(rest)) > 1
        found = "" if several else _first_figure(rest, object_type)
        if found:  # "has 16 states and a population of 83 million" tells one number of two
            return found
    if object_type == "number" and len(numbers(sentence)) > 1:
        return ""
    return _first_figure(sentence, object_type)


def _first_figure(text: str, object_type: str) -> str:
    found = version(text) if object_type == "version" else next(iter(numbers(text)), None)
    return text[found.start : found.end].strip() if found else ""


def _bare(sentence: str, object_type: str) -> str:
    """An answer that is nothing but its value ("Inter Miami", "the euro")."""
    head = _value_at_start(sentence, object_type)
    small = {word for word in head.split() if word.islower()} - _JOINING
    return "" if small and object_type in ("org", "name") else head


def _opening_name(sentence: str, alone: bool) -> str:
    """A name that opens the sentence as its statement: "Angela Merkel, who …", "Xi Jinping."."""
    head = _value_at_start(sentence, "person")
    after = sentence[sentence.find(head) + len(head) :] if head and head in sentence else "-"
    if not head or (" " not in head and after.strip(" .")):
        return ""  # "Sure!", "However, …"
    ending = r"\s*[,(]|\s+who" + (r"|\W*$|\s*[.;–—-]|\s+(?:and|since|from)\b" if alone else "")
    return head if re.match(ending, after) and not re.match(r"\s*,?\s*was\b", after) else ""


def _value_at_start(text: str, object_type: str) -> str:
    filler = _FILLER.match(text)
    text = text[filler.end() :] if filler else text
    if object_type == "place":
        text = _PLACED.sub("", text, count=1) if _PLACED.match(text) else text
    if object_type != "person":
        return _thing(text, object_type)
    rest = text.split()
    while len(rest) > 1 and normalise(rest[0]) in HONORIFICS | {"current"}:
        rest = rest[1:]
    text = re.sub(r"[\"“][^\"”]*[\"”]\s*", "", " ".join(rest))  # nicknames
    match = re.match(NAME, text)
    # "the Head of the Royal Family" is no name.
    if not match or (" " not in match.group() and re.match(r"\sof\b", text[match.end() :])):
        return ""
    return person(match.group()) or ""


def _thing(text: str, object_type: str) -> str:
    """A place, body, name or text: up to the first mark that ends it."""
    head = re.split(r"[,;.!?(]\s|[.!?]$|\s(?:which|and it|since|with a|as of)\s", text)[0].strip(
        " \"'"
    )
    head = re.sub(r"^the\s", "", head)
    if object_type in ("org", "name"):
        head = _AFTER.split(head)[0]  # "Williams in Formula 1", "Ferrari but …"
    named = head[:1].isupper() or head[:1].isdigit()
    if object_type == "text":  # "the euro"
        parts = head.casefold().split()
        named = named or (0 < len(parts) <= 3 and parts[0].isalpha())
        named = named and not (_GENERIC | _CALLED) & set(parts[:1]) and not _GENERIC & set(parts)
    plausible = named and not re.search(
        r"\b(?:was|were|do|not|am|sure|sorry)\b", head, re.IGNORECASE
    )
    return head if plausible and len(head.split()) <= 6 else ""


def _subject(before: str, object_type: str) -> str:
    """The name before the copula: "Shinzo Abe is the …", "The president, Hugo Chavez, is …"."""
    if object_type != "person":
        return ""
    for part in reversed([part.strip() for part in before.split(",") if part.strip()]):
        rest = part.split()
        while len(rest) > 1 and normalise(rest[0]) in HONORIFICS | {"current"}:
            rest = rest[1:]
        name = " ".join(rest)
        if re.fullmatch(NAME, name) and len(rest) > 1:
            return person(name) or ""
    return ""


def _small_letters(sentence: str) -> str:
    """An answer in small letters that is nothing but a name ("barack obama")."""
    parts = sentence.strip(" .!").split()
    plain = 2 <= len(parts) <= 4 and all(re.fullmatch(r"[^\W\d_]+", part) for part in parts)
    if not plain or not sentence.islower() or _GENERIC & set(parts):
        return ""
    return " ".join(part.capitalize() for part in parts)


def _holds(
    sentence: str, value: str, object_type: str, values: Sequence[str], tolerance: float
) -> bool:
    others = [other for other in values if not same(other, value, object_type, tolerance=tolerance)]
    return any(
        not _ANOTHER_BEFORE.search(sentence[:start]) and not _ANOTHER_AFTER.match(sentence[end:])
        for start, end in occurrences(sentence, value, object_type, others, tolerance=tolerance)
    )
