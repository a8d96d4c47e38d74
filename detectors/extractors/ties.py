"""Whether a sentence ties an object to an office of a subject, by what stands between them.

"the president of Chile, Gabriel Boric," ties; "the president of Chile meets Emmanuel Macron" does
not, although it names an office, its country and a person.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from detectors.entities import normalise
from detectors.names import HONORIFICS, NAME, UPPER, person, words
from detectors.relations import Relation

_LONGEST = 120  # characters between the office and its holder
# Right before a title they make another office of it; and further off, another person.
_LESSER = re.compile(
    r"\b(?:vice|deputy|shadow|assistant|associate|junior|honorary|would-be|opposition|rival"
    r"|self-\w+|de[\s-]facto)[\s-](?:\w+\s)?$|\b(?:spokes\w+|aide|adviser|advisor)\s(?:\w+\s){0,2}$",
    re.IGNORECASE,
)
_FORMER = re.compile(r"\b(?:former|ex)\b", re.IGNORECASE)
_OF = re.compile(
    r"(?:\s\([^)]{1,30}\))?\s(?:of|at|for)\s(?:the\s)?"
    r"(?:(?:[Ss]tate|[Cc]ity|[Pp]rovince|[Rr]egion|Republic|Kingdom)\sof\s(?:the\s)?)?"
)
# "the CEO of Internet site Reddit": the name only says what kind of thing the subject is.
_KIND = re.compile(rf"\s(?:site|company|firm|giant|maker|group|platform|startup|bank)\s[{UPPER}]")
# Between a subject and its office: "Apple's new CEO", "the former Chilean president". Words of no
# list only behind a possessive, where no verb can stand.
_MODS = re.compile(
    r"['’]s?\s(?:(?!(?:and|or|of|the|a|in|for|to|state|province|city)\b)[a-z][a-z-]*,?\s){0,3}"
    r"|\s(?:(?:new|next|first|second|third|\w+th|female|former|ex|acting|interim|caretaker|then"
    r"|transitional|provisional|outgoing|incoming|incumbent|current|deposed|ousted|late)[\s-]){0,3}"
)
_TAKES = re.compile(
    r"\b(?:sworn|inaugurated|installed|crowned|appointed|named|elected|chosen|selected|promoted"
    r"|becomes?|became|takes?|took|assumes?|assumed|succeeds?|succeeded|replaces?|replaced|enthroned)\b"
)
_LEAVES = re.compile(
    r"\b(?:resign(?:s|ed|ation)|step(?:s|ped|ping)\sdown|dies|died|ousted|ousts|removed|removes"
    r"|dismiss(?:ed|es|al)|impeached|sacked|sacks|fired|fires|quits?|retires?|retired|leaves|left(?!-)"
    r"|departs?|served|deposed|overthrown|abdicat\w+)\b"
)
_LEFT = re.compile(rf"[\s,]*(?:(?:is|was|has\sbeen|gets)\s)?(?:[a-z]+ly\s)?{_LEAVES.pattern}")
# After the verb of a departure: it is from something else than the office named before.
_POST = r"(?:his|her|their|the)\s(?:[a-z]+\s)?(?:posts?|offices?|position|job|role|duties)\b"
_ANOTHER = re.compile(
    rf"\s(?:as|(?:from\s)?(?!{_POST})(?:his|her|their|the)|from\s(?=[{UPPER}]))\s"
)
_IS = re.compile(
    r"(?:,\s(?:who\s)?|\s)?(?:\s?(?:is|remains|,|as)\s?)?(?:the|its|their|a|an|new|\s)*"
)
_OUTRIGHT = re.compile(r"(?:,|\sis|\sremains|:)?\s(?:(?:now|the|its|at|about)\s)*")
_BY_AGENT = re.compile(r"\bby\s(?:the\s)?(?:[\w'’-]+\s){0,4}$")
_APPOINTS = re.compile(
    r"(?:,[^,]{1,90},)?\s(?:\w+ly\s|has\s)?(?:appoints?|appointed|names?|named|nominat\w+|swears"
    rf"|elects|selects|chooses|fires|dismisses|sacks|removes|replaces\s)\s?(?:\w+\s){{0,4}}[{UPPER}]"
)
_PREDECESSOR = re.compile(
    r"\b(?:succeed(?:s|ed|ing)?|replac(?:es|ed|ing)|taking\sover\sfrom|takes\sover\sfrom"
    r"|(?:resignation|death|dismissal|removal|ouster|retirement|departure|impeachment)\sof"
    r"|ousts|ousting|fires|dismisses|sacks|removes)\s(?:[\w'’-]+\s){0,5}$",
    re.IGNORECASE,
)
# Right before a name: it is that of the loser, or a part of something else.
_LOSER = re.compile(
    r"\b(?:defeat\w*|beat\w*|upset\w*|overcom\w+|over|against|rival)\s(?:[\w'’.-]+\s){0,3}$", re.I
)
_PART = re.compile(
    r"\b(?:of|for|in|at|by|from|with|than|and|or|to)\s(?:the\s)?$"
    rf"|[{UPPER}][\w'’-]*,\s$"  # "in Turin, Italy"
)
_SUCCESSOR = re.compile(r"\b(?:succeeded|replaced)\sby\s(?:[\w'’-]+\s){0,4}$", re.IGNORECASE)
_SLACK = 60  # characters more than a cue has between its two names
_STOP = words("the a an of in to as its is and for by at on new with from")


class Tie(NamedTuple):
    """How a sentence ties an object to a subject; offsets within the sentence."""

    title: str  # the office as the sentence spells it; '' where a cue tied
    end: int  # where office, subject and object all have been named
    leaves: bool  # the object leaves, or had, the office
    hedgeable: tuple[int, ...]  # places whose following words may take the statement back


def is_rank(word: str) -> bool:
    """Whether a word (normal form) is a rank or form of address before a name."""
    return word in HONORIFICS


def tie(
    text: str, subject: tuple[int, int], value: tuple[int, int], relation: Relation
) -> Tie | None:
    """Return how the sentence ties the two, or None when it does not plainly do so."""
    for start, end, title in _offices(text, subject, relation):
        if value[0] < end and start < value[1]:
            continue
        leaves = _role_between(text, (start, end), value, relation)
        if leaves is not None:
            last = max(end, value[1])
            return Tie(title, last, leaves, (end,) if end <= value[0] else (end, value[1]))
    if any(_cued(text, subject, value, cue) for cue in relation.cues):
        return Tie("", max(subject[1], value[1]), False, ())
    return None


def _offices(
    text: str, subject: tuple[int, int], relation: Relation
) -> Iterator[tuple[int, int, str]]:
    """Yield the spans in which the relation's title and the subject stand as one phrase."""
    for title in sorted(relation.titles, key=lambda t: (-len(t), t)):
        spelled = r"[\s-]".join(re.escape(word) for word in title.split())
        for match in re.finditer(rf"(?<![\w-]){spelled}(?![\w-])", text, re.IGNORECASE):
            if _LESSER.search(text, 0, match.start()):
                continue
            of = match.end() < subject[0] and _OF.fullmatch(text[match.end() : subject[0]])
            if of and not _KIND.match(text, subject[1]):
                yield match.start(), subject[1], match.group()
            if subject[1] < match.start():
                between = text[subject[1] : match.start()]
                if _MODS.fullmatch(between) and not _LESSER.search(between):
                    yield subject[0], match.end(), match.group()


def _role_between(
    text: str, office: tuple[int, int], value: tuple[int, int], relation: Relation
) -> bool | None:
    """Whether the object had the office (True) or has it (False); None when neither is said."""
    before, after = text[: value[0]], text[value[1] :]
    if (
        _LOSER.search(before)
        or _APPOINTS.match(after)
        or (_BY_AGENT.search(before) and not _SUCCESSOR.search(before))
    ):
        return None
    first = value[1] <= office[0]
    between = text[value[1] : office[0]] if first else text[office[1] : value[0]]
    if len(between) > _LONGEST or _other_person(between, relation):
        return None
    if relation.object_type != "person":
        # Nobody is sworn in as a capital: only what is said outright.
        return False if _OUTRIGHT.fullmatch(between) else None
    if _SUCCESSOR.search(before):
        return False
    if _PREDECESSOR.search(before):
        return True
    if first:
        if _LEAVES.search(between) or (
            re.match(r",\s", between) and _LEFT.match(text[office[1] :])
        ):
            return True
        if _FORMER.search(between) or _FORMER.search(text[office[0] : office[1]]):
            return True
        return False if _TAKES.search(between) or _IS.fullmatch(between) else None
    left = _LEFT.match(after)
    if left:
        return None if _ANOTHER.match(after, left.end()) else True
    held = re.search(r"\b(?:former|ex|late)[\s-](?:\w+\s)?$", before[: office[0]], re.IGNORECASE)
    former = bool(held) or bool(_FORMER.search(text[office[0] : office[1]]))
    if not between.strip():
        # "former president of Chile Gabriel Boric"
        return former
    if re.fullmatch(r"\s(?:is|becomes|remains)\s", between):
        return False
    # An apposition has a comma on either side, and is no part of "the wife of the president".
    closed = re.match(r"\s*(?:[,.;)]|$)", after)
    part = re.search(r"\b(?:of|to|for|with|by|from|against|and)\s(?:the\s)?$", text[: office[0]])
    return former if re.fullmatch(r",\s", between) and closed and not part else None


def _other_person(between: str, relation: Relation) -> bool:
    """Whether somebody else stands between, who is not named as the one who appoints."""
    if relation.object_type not in ("person", "name"):
        return False
    return any(
        person(run.group()) is not None
        and len(run.group().split()) > 1
        and (
            not _BY_AGENT.search(between[: run.start()])
            or _SUCCESSOR.search(between[: run.start()])
        )
        for run in re.finditer(NAME, between)
    )


def _cued(text: str, subject: tuple[int, int], value: tuple[int, int], cue: str) -> bool:
    """Whether a sentence says what a cue says, in its order, a few more words allowed."""
    first, second = sorted((subject, value))
    holes = ("{subject}", "{object}") if first == subject else ("{object}", "{subject}")
    parts = re.fullmatch(rf"(.*){re.escape(holes[0])}(.*){re.escape(holes[1])}(.*)", cue)
    if parts is None:
        return False
    between = text[first[1] : second[0]]
    before = text[: value[0]]
    if _LOSER.search(before) or (_PART.search(before) and not _ends_in_part(cue, "{object}")):
        return False
    if len(between) > len(parts[2]) + _SLACK or re.search(r";|,\s(?:while|but|and)\b", between):
        return False
    zones = (text[max(0, first[0] - _SLACK) : first[0]], between, text[second[1] :])
    wanted = [_wanted(part) for part in parts.groups()]
    return any(wanted) and all(
        any(option <= set(normalise(zone).split()) for option in options)
        for all_options, zone in zip(wanted, zones, strict=True)
        for options in all_options
    )


def _ends_in_part(cue: str, hole: str) -> bool:
    """Whether a cue itself has such a word before its hole ("moves its capital to {object}")."""
    return bool(_PART.search(cue[: cue.index(hole)]))


def _wanted(part: str) -> list[list[frozenset[str]]]:
    """The words that a part of a cue asks for, each as its alternatives ("(wins|claims) the")."""
    found = []
    for match in re.finditer(r"\(([^()]*)\)|[^\s()]+", part):
        options = match[1].split("|") if match[1] is not None else [match[0]]
        spelled = [frozenset(normalise(option).split()) - _STOP for option in options]
        if all(spelled):  # an optional word, an article or "…" asks for nothing
            found.append(spelled)
    return found
