"""Claims from news sentences: "X is sworn in as president of Y, succeeding Z".

Only sentences that say plainly that someone takes or leaves an office of the registry become
claims. Hedged, negated, quoted, historical and hypothetical sentences give none; a popular election
and an announced date give FUTURE claims. A document without a publication date gives none either:
an old article must not become news.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from detectors.dates import DATE_PATTERN, begins, parse_day
from detectors.entities import is_country
from detectors.extractors import shapes
from detectors.extractors.contests import Contest, contests
from detectors.extractors.departures import Left, agent_of, departures, named_after, successors
from detectors.extractors.offices import Office, title_pattern
from detectors.extractors.plain_news import LONGEST
from detectors.extractors.scene import Person, Placed, Scene
from detectors.extractors.setting import Setting
from detectors.extractors.spans import Dates, Finding, claim, lines, sentences
from detectors.relations import Registry
from store.records import Claim, ClaimRole, Document

EXTRACTOR = "patterns"

_FROM_UNTIL = re.compile(
    rf"[^.;]{{0,30}}?\s(?:from|between)\s(?P<start>{DATE_PATTERN})\s(?:to|until|till|and|through)\s"
    rf"(?P<end>{DATE_PATTERN})"
)
_UNTIL = re.compile(rf"[^.;,]{{0,20}}?\s(?:until|till)\s(?P<end>{DATE_PATTERN})")
_SINCE = re.compile(rf"[^.;,]{{0,20}}?\ssince\s(?P<start>{DATE_PATTERN})")


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every plain news sentence about taking or leaving an office."""
    published = document.published
    if published is None or published > now + timedelta(days=1):
        return []
    titles = title_pattern(registry)
    found: dict[tuple[str, str, str, ClaimRole], Finding] = {}
    for line in lines(document.text):
        last: list[Left] = []
        for sentence in sentences(line.text, line.start):
            findings: list[Finding] = []
            if len(sentence.text) <= LONGEST and shapes.TRIGGER.search(sentence.text.lower()):
                before = line.text[: sentence.start - line.start]
                after = line.text[sentence.start + len(sentence.text) - line.start :][:160]
                setting = Setting(sentence.text, before, after)
                placed = tuple(one for left in last[-1:] for one in left.placed)
                scene = Scene(sentence, registry, titles, published.date(), setting, placed)
                findings, last = _read(scene, last)
            else:
                last = []
            for finding in findings:
                key = (finding.subject, finding.relation, finding.value, finding.role)
                found.setdefault(key, finding)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found.values()]


def _read(scene: Scene, last: list[Left]) -> tuple[list[Finding], list[Left]]:
    """The findings of a sentence, and the departures that the next one may go on about."""
    found: list[Finding] = []
    for left in last[-1:]:
        found += successors(scene, left, 0)
    for contest in contests(scene.text):
        found += _won(scene, contest)
    if not scene.offices:
        return _consistent(found), []
    left_here: list[Left] = []
    for left, finding in departures(scene):
        left_here.append(left)
        if finding:
            found.append(finding)
    for left in left_here[-1:]:
        found += successors(scene, left, left.end)
    for match in shapes.ALONGSIDE.finditer(scene.text):
        found += _alongside(scene, match)
    for match in shapes.TAKES.finditer(scene.text):
        found += _taking(scene, match)
    for match in shapes.APPOINTS.finditer(scene.text):
        found += _appointment(scene, match)
    for match in shapes.SUCCEEDS.finditer(scene.text):
        found += _succession(scene, match)
    for match in shapes.INFINITIVE.finditer(scene.text):
        found += _election(scene, match)
    for office in scene.offices:
        found += _former(scene, office)
        found += _spell(scene, office)
    return _consistent(found), left_here


def _consistent(found: list[Finding]) -> list[Finding]:
    """Drop what a sentence says both ways: someone who leaves an office does not hold it.

    "Is elected by parliament, becoming the first female president": she is elected.
    """
    roles: dict[tuple[str, str, str], set[ClaimRole]] = {}
    for finding in found:
        roles.setdefault((finding.subject, finding.relation, finding.value), set()).add(
            finding.role
        )
    kept = []
    for finding in found:
        said = roles[finding.subject, finding.relation, finding.value]
        if {ClaimRole.CURRENT, ClaimRole.FORMER} <= said:
            continue
        if finding.role is not ClaimRole.CURRENT or ClaimRole.FUTURE not in said:
            kept.append(finding)
    return kept


def _taking(scene: Scene, match: re.Match[str]) -> Iterator[Finding]:
    """ "Jane Doe is sworn in as president of Chile"."""
    who = scene.subject(match.start())
    office = scene.office_from(match.end(), shapes.AS_OFFICE)
    if who and office is None and shapes.IN_OFFICE.match(scene.text, match.start("verb")):
        # "El Salvador's new president Jane Doe takes office."
        held = scene.held_by(who) if shapes.THEN.match(scene.text, match.end()) else None
        if held and held.end <= match.start() and not held.acting:
            yield from _taken(scene, match, who, replace(held, coming=False), "", False)
    elif who and office:
        agent = scene.text[match.end() : office.start]
        yield from _taken(scene, match, who, office, agent, bool(match["future"]))


def _alongside(scene: Scene, match: re.Match[str]) -> Iterator[Finding]:
    """ "…, with Jane Doe as his vice president": takes office with him, of the same country."""
    who = scene.overlapping(match.start("name"), match.end("name"))
    first = scene.office_from(match.end(), shapes.NOTHING)
    before = [one for one in scene.offices if one.end <= match.start("name") and one.subject]
    if not who or not first or not before or first.subject or scene.no_news(0, match.start()):
        return
    dates = scene.when(match.start(), "is", first.end)
    subject = before[-1].subject
    placed = scene.placed(first.title, subject, (match.start(), first.end)) if subject else None
    if placed and is_country(placed.subject) and dates:
        yield scene.finding((match.start(), first.end), placed, who, ClaimRole.CURRENT, dates)


def _appointment(scene: Scene, match: re.Match[str]) -> Iterator[Finding]:
    """ "The king appoints Jane Doe as prime minister"."""
    if match["verb"] in ("appoint", "elect") and scene.text[: match.start()].endswith(" and "):
        return  # "decides to resign and appoint …"
    who, office = named_after(scene, match.end(), shapes.PERSON_AS)
    if who and office and match.start() > 1 and office.start >= who.end - 1:
        yield from _taken(scene, match, who, office, agent_of(scene.text, match.start()), False)


def _taken(
    scene: Scene, match: re.Match[str], who: Person, office: Office, agent: str, future: bool
) -> Iterator[Finding]:
    verb = match["verb"]
    start, end = min(match.start(), who.start), max(office.end, who.end, match.end())
    odd = re.search(r"becom|became", verb) and shapes.A_FIRST.match(scene.text, end)
    words = scene.text[start : end + 60]
    again = bool(shapes.AGAIN.search(words)) and "non-consecutive" not in words
    if office.former or odd or scene.no_news(start, match.start()):
        return
    dates = scene.when(start, verb, end)
    if dates is None:
        return
    if again:
        # Another term: who holds the office is said, since when is not.
        for one in scene.places(office, agent):
            yield scene.finding((start, end), one, who, ClaimRole.CURRENT, Dates())
        return
    announced = bool(dates.valid_from and begins(dates.valid_from) > scene.published)
    for one in scene.places(office, agent):
        role = ClaimRole.CURRENT
        if announced or future or office.coming or _waits(scene, one, verb):
            role = ClaimRole.FUTURE
        # The day of the news is not the day on which an elected person takes office.
        known = dates if announced or role is ClaimRole.CURRENT else Dates()
        yield scene.finding((start, end), one, who, role, known, one.office.acting)
        if role is ClaimRole.CURRENT:
            yield from _predecessor(scene, end, one, who, dates)


def _waits(scene: Scene, placed: Placed, verb: str) -> bool:
    """Whether who is elected does not hold the office yet."""
    if not shapes.ELECTION.search(verb):
        return False
    elected = scene.registry[placed.relation].elected
    return elected == "waits" or (
        elected == "parliament" and not shapes.PARLIAMENT.search(scene.text)
    )


def _predecessor(
    scene: Scene, begin: int, placed: Placed, who: Person, dates: Dates
) -> Iterator[Finding]:
    found = shapes.PREDECESSOR.search(scene.text, begin)
    former = scene.overlapping(found.start("name"), found.end("name")) if found else None
    if found and former and former.name != who.name:
        ended = Dates(None, dates.valid_from, dates.dated_by)
        span = (found.start(), former.end)
        yield scene.finding(span, placed, former, ClaimRole.FORMER, ended)


def _succession(scene: Scene, match: re.Match[str]) -> Iterator[Finding]:
    """ "Jane Doe replaces John Roe as the new CEO of Apple"."""
    who = scene.subject(match.start())
    background = False
    if who is None:
        # "Jane Doe, who succeeded John Roe as …" tells of the past.
        who = scene.before(match.start(), shapes.WHO)
        background = True
    former = scene.after(match.end(), shapes.SMALLS) or scene.held_after(match.end())
    office = scene.office_from(former.end, shapes.AS_ONLY) if former else None
    if not who or not former or office is None or scene.no_news(who.start, match.start()):
        return
    coming = bool(match["coming"])
    background = background or match["verb"] in ("succeeded", "replaced", "took over from")
    dates = Dates() if background or coming else scene.when(who.start, match["verb"], office.end)
    if dates is None:
        return
    span = (who.start, office.end)
    for one in scene.places(office):
        future = (
            coming or office.coming or bool(match["named"] and _waits(scene, one, match["verb"]))
        )
        if not background:
            role = ClaimRole.FUTURE if future else ClaimRole.CURRENT
            known = Dates() if future else dates
            yield scene.finding(span, one, who, role, known, one.office.acting)
        if not future:
            ended = Dates(None, dates.valid_from, dates.dated_by)
            yield scene.finding(span, one, former, ClaimRole.FORMER, ended)


def _election(scene: Scene, match: re.Match[str]) -> Iterator[Finding]:
    """ "Jane Doe defeats John Roe to become the next president of Chile"."""
    who = scene.before(match.start(), shapes.ASIDE)
    office = scene.office_from(match.end(), shapes.AS_OFFICE)
    if not who or not office or office.former or scene.no_news(who.start, match.start("verb")):
        return
    if scene.when(who.start, "wins", office.end) is None or match["verb"].endswith("re-elected"):
        return
    for one in scene.places(office):
        # Being elected a party's leader is holding the office; a state's waits.
        holds = scene.registry[one.relation].elected == "holds" and not office.coming
        role = ClaimRole.CURRENT if holds else ClaimRole.FUTURE
        dates = scene.when(who.start, "wins", office.end) if holds else None
        yield scene.finding(
            (who.start, office.end), one, who, role, dates or Dates(), office.acting
        )


def _won(scene: Scene, contest: Contest) -> Iterator[Finding]:
    """ "Jane Doe wins the Chilean presidential election"."""
    who = scene.subject(contest.verb)
    if who is None or scene.no_news(who.start, contest.verb):
        return
    if scene.when(who.start, contest.word, contest.end) is None:
        return
    subject = contest.subject or scene.setting.country
    placed = scene.placed(contest.title, subject, (contest.verb, contest.end)) if subject else None
    if placed is None:
        return
    held = scene.held_by(who)
    holds = held is not None and held.title.casefold() == contest.title and not held.former
    again = shapes.AGAIN.search(scene.text, contest.verb) or shapes.INCUMBENT.search(
        scene.text[max(0, who.start - 60) : who.end]
    )
    if holds or again:
        role, dates = ClaimRole.CURRENT, Dates()
    elif scene.registry[placed.relation].elected == "holds":
        role = ClaimRole.CURRENT
        dates = scene.when(who.start, contest.word, contest.end) or Dates()
    else:
        role, dates = ClaimRole.FUTURE, Dates()
    yield scene.finding((who.start, contest.end), placed, who, role, dates)


def _former(scene: Scene, office: Office) -> Iterator[Finding]:
    """ "Former French president Jane Doe", "Jane Doe, a former chancellor of Germany"."""
    if not office.former or scene.no_news(office.start, 0):
        return
    who = scene.holder(office)
    if who is None and scene.text[office.start - 2 : office.start] == ", ":
        who = scene.before(office.start, shapes.COMMA)
    if who is None:
        return
    span = (min(who.start, office.start), max(who.end, office.end))
    for one in scene.places(office, among=False, told=True):
        yield scene.finding(span, one, who, ClaimRole.FORMER, Dates())


def _spell(scene: Scene, office: Office) -> Iterator[Finding]:
    """ "Jane Doe, who served as president of Chile from 2010 to 2014"."""
    who = scene.before(office.start, shapes.SPELL)
    if who is None or office.coming or scene.no_news(who.start, who.end):
        return
    verb = scene.text[who.end : office.start]
    spell = _FROM_UNTIL.match(scene.text, office.end) or _UNTIL.match(scene.text, office.end)
    since = None if spell else _SINCE.match(scene.text, office.end)
    end = parse_day(spell["end"]) if spell else None
    if spell and end and begins(end) <= scene.published:
        start = parse_day(spell["start"]) if "start" in spell.groupdict() else None
        role, dates, stop = ClaimRole.FORMER, Dates(start, end, "text"), spell.end()
    elif since and re.search(r"\bhas\b", verb) and not office.former:
        day = parse_day(since["start"])
        if day is None or begins(day) > scene.published:
            return
        role, dates, stop = ClaimRole.CURRENT, Dates(day, None, "text"), since.end()
    else:
        return
    for one in scene.places(office, among=False, since=bool(since), told=True):
        yield scene.finding((who.start, stop), one, who, role, dates, office.acting)
