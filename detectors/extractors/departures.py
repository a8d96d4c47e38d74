"""News of leaving an office: resignations, dismissals, deaths in office and who follows.

Only a plain departure counts: "announces that he will resign", "offers to resign" and "survives a
vote" leave the holder where he is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from detectors.dates import begins
from detectors.extractors import offices as offices_of
from detectors.extractors import shapes
from detectors.extractors.offices import Office
from detectors.extractors.scene import Person, Placed, Scene
from detectors.extractors.spans import ACTING, Dates, Finding
from store.records import ClaimRole


class Left(NamedTuple):
    """Offices that someone left: what "is succeeded by" in the next sentence speaks of."""

    placed: tuple[Placed, ...]
    who: Person
    dates: Dates
    end: int  # in the sentence
    coming: bool = False  # announced: the holder is still there


def departures(scene: Scene) -> Iterator[tuple[Left, Finding | None]]:
    """Yield each departure of a sentence with its finding; an announced one has none yet."""
    for match in shapes.LEAVES.finditer(scene.text):
        yield from _leaving(scene, match)
    for match in shapes.ANNOUNCES.finditer(scene.text):
        left = _to_leave(scene, match)
        if left:
            yield left, None
    for match in shapes.DISMISSES.finditer(scene.text):
        yield from _dismissal(scene, match)
    for office in scene.offices:
        yield from _end_of(scene, office.start)


def _leaving(scene: Scene, match: re.Match[str]) -> Iterator[tuple[Left, Finding]]:
    who = (
        scene.before(match.start(), shapes.WITH_CABINET)
        or scene.named_with(match.start())
        or scene.carried(match.start())
    )
    if who and match["plural"] and not shapes.TOGETHER.search(scene.text, who.end, match.start()):
        return  # "moves that Jane Doe resign"
    if who is None or scene.no_news(who.start, match.start()):
        return
    if "leave of absence" in scene.text:
        return  # the holder comes back
    office = scene.office_from(match.end(), shapes.FROM_OFFICE)
    if office is None and not shapes.ELSEWHERE.match(scene.text, match.end()):
        office = scene.held_by(who)
    if office is None or office.former or office.coming:
        return
    placed = tuple(scene.places(office))
    start, end = min(who.start, office.start), max(match.end(), office.end)
    for left, found in _left(scene, placed, who, (start, end), match["verb"]):
        # "is replaced as CEO by …": the successor is named in the same breath.
        yield (left._replace(end=match.start()) if match["followed"] else left), found


def _to_leave(scene: Scene, match: re.Match[str]) -> Left | None:
    who = scene.before(match.start(), shapes.ASIDE)
    if who is None or scene.no_news(who.start, match.start()):
        return None
    office = scene.office_from(match.end(), shapes.FROM_OFFICE)
    if office is None and not shapes.ELSEWHERE.match(scene.text, match.end()):
        office = scene.held_by(who)
    if office is None or office.former or office.coming:
        return None
    placed = tuple(scene.places(office))
    return Left(placed, who, Dates(), match.end(), coming=True) if placed else None


def _dismissal(scene: Scene, match: re.Match[str]) -> Iterator[tuple[Left, Finding]]:
    small = shapes.SMALLS.match(scene.text, match.end())
    if small is None or scene.no_news(match.start(), match.start()):
        return
    agent = agent_of(scene.text, match.start())
    who, office = named_after(scene, match.end(), shapes.AS_ONLY)
    if who is None or office is None or office.former:
        return
    placed = tuple(scene.places(office, agent))
    end = max(who.end, office.end)
    yield from _left(scene, placed, who, (match.start(), end), match["verb"])


def named_after(
    scene: Scene, position: int, gap: re.Pattern[str]
) -> tuple[Person | None, Office | None]:
    """The person after a verb and the office: "president Jane Doe", "Jane Doe as mayor of …"."""
    office = scene.office_from(position, shapes.SMALLS)
    if office:
        who = scene.holder(office)
        # "appoints foreign minister Jane Doe as chancellor": the second office is meant.
        return who, (scene.office_from(who.end, gap) if who else None) or office
    who = scene.after(position, shapes.SMALLS)
    if who:
        return who, scene.office_from(who.end, gap)
    return None, None


def _end_of(scene: Scene, start: int) -> Iterator[tuple[Left, Finding]]:
    """ "Following the resignation of Swiss Defence Minister Jane Doe"."""
    match = shapes.END_OF.search(scene.text[max(0, start - 60) : start])
    if match is None or scene.no_news(start, max(0, start - 60) + match.start()):
        return
    office = next(o for o in scene.offices if o.start == start)
    who = scene.holder(office)
    if who and not office.former:
        placed = tuple(scene.places(office, among=False, told=True))
        for one in placed:
            span = (max(0, start - 60) + match.start(), who.end)
            found = scene.finding(span, one, who, ClaimRole.FORMER, Dates())
            yield Left((one,), who, Dates(), who.end), found


def _left(
    scene: Scene, placed: tuple[Placed, ...], who: Person, span: tuple[int, int], verb: str
) -> Iterator[tuple[Left, Finding]]:
    dates = scene.when(span[0], verb, span[1])
    if dates is None or not placed:
        return
    if dates.valid_from and begins(dates.valid_from) > scene.published:
        return  # "resigns effective 7 June": still the holder
    ended = Dates(None, dates.valid_from, dates.dated_by)
    left = Left(placed, who, dates, span[1])
    for one in placed:
        acting = one.office.acting
        yield left, scene.finding(span, one, who, ClaimRole.FORMER, ended, acting)


def successors(scene: Scene, left: Left, begin: int) -> Iterator[Finding]:
    """Yield who follows in the offices that someone left, from ``begin`` of a sentence on."""
    match = shapes.SUCCESSOR.search(scene.text, begin)
    if match is None or scene.no_news(match.start(), match.start()):
        return
    group = next(g for g in ("by", "next", "place", "with", "chosen", "made", "taken") if match[g])
    first, last = match.span(group)
    titled = [o for o in scene.offices if first <= o.title_start <= last]
    joined = list(offices_of.group(scene.text, scene.offices, titled[-1])) if titled else []
    holder = next(filter(None, map(scene.holder, joined)), None)
    who = holder if titled else scene.overlapping(first, last)
    if who is None or who.name == left.who.name:
        return
    future = bool(match["will"] or match["be"])
    if left.coming and not future:
        return
    near = scene.text[match.start() : match.end() + 45]
    acting = bool(ACTING.search(near) or re.search(r"\bad\sinterim\b|\btemporar", near))
    role = ClaimRole.FUTURE if future else ClaimRole.CURRENT
    dates = Dates() if future else left.dates
    for one in left.placed:
        yield scene.finding((match.start(), match.end()), one, who, role, dates, acting)


def agent_of(text: str, verb: int) -> str:
    """The words before a verb that say who acts: the clause, at most 160 characters."""
    clause = re.split(r"[;]|\.\s", text[max(0, verb - 160) : verb])[-1].strip()
    return re.sub(r",\s(?:which|a|an|the)\s[^,]*,$", "", clause)
