"""Claims from news sentences: "X is sworn in as president of Y, succeeding Z".

Only sentences that say plainly that someone takes an office of the registry become claims.
Hedged, negated, quoted, historical and hypothetical sentences give none; a popular election and
an announced date give FUTURE claims. A document without a publication date gives none either:
an old article must not become news.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from detectors.dates import begins, day_of, ends, find_days
from detectors.entities import canonical_subject, country_of, is_country
from detectors.extractors.shapes import (
    AFTER_HEDGE,
    AGAIN,
    HEDGE,
    INSIDE,
    NO_STATE,
    PARLIAMENT,
    PAST,
    PLAIN,
    PREDECESSOR,
    SUBJECT,
    TODAY,
    TRIGGER,
    WAITS,
    shapes,
)
from detectors.extractors.spans import ACTING, Dates, Finding, Span, claim, lines, sentences
from detectors.names import NAME, UPPER, person
from detectors.relations import Registry
from store.records import Claim, ClaimRole, Document

EXTRACTOR = "patterns"

_LONGEST = 700  # characters of a sentence
_FRESH = timedelta(days=45)  # an event that a text dates earlier than this is history


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every plain news sentence about taking an office."""
    published = document.published
    if published is None or published > now + timedelta(days=1):
        return []
    reader = _Reader(registry, published)
    found: dict[tuple[str, str, str, ClaimRole], Finding] = {}
    for line in lines(document.text):
        for sentence in sentences(line.text, line.start):
            # No news sentence is that long, and matching a hostile one would take long.
            if len(sentence.text) <= _LONGEST and TRIGGER.search(sentence.text):
                for finding in reader.read(sentence):
                    key = (finding.subject, finding.relation, finding.value, finding.role)
                    found.setdefault(key, finding)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found.values()]


@dataclass(frozen=True)
class _Office:
    subject: str
    relation: str
    title: str
    acting: bool
    coming: bool  # "the next …", "…-designate"


class _Reader:
    """Reads one document's sentences against the registry's offices of persons."""

    def __init__(self, registry: Registry, published: datetime) -> None:
        self._registry = registry
        self._published = published.date()
        titles = {t for r in registry if r.object_type == "person" for t in r.titles}
        self._shapes = shapes(tuple(sorted(titles, key=lambda t: (-len(t), t))))

    def read(self, sentence: Span) -> Iterator[Finding]:
        text = sentence.text
        for match in self._shapes.takes.finditer(text):
            yield from self._taking(sentence, match, elected=_is_election(match["verb"]))
        for match in self._shapes.appoints.finditer(text):
            yield from self._taking(sentence, match, elected=match["verb"] == "elects")
        for match in self._shapes.succeeds.finditer(text):
            yield from self._succession(sentence, match)
        for shape in (self._shapes.former, self._shapes.former_after):
            for match in shape.finditer(text):
                yield from self._former(sentence, match)

    def _taking(self, sentence: Span, match: re.Match[str], elected: bool) -> Iterator[Finding]:
        text, name = sentence.text, self._person(sentence.text, match, "name")
        office = self._office(text, match)
        if name is None or office is None or self._is_no_news(text, match):
            return
        relation = self._registry[office.relation]
        waits = elected and (
            relation.elected == "waits"
            or (relation.elected == "parliament" and not PARLIAMENT.search(text))
        )
        dates = self._when(text, match)
        if dates is None:
            return
        start = dates.valid_from
        announced = start is not None and begins(start) > self._published
        future = bool(match.groupdict().get("future"))
        role = ClaimRole.CURRENT
        if waits or future or announced or office.coming:
            role = ClaimRole.FUTURE
            # The day of the news is not the day on which an elected person takes office.
            dates = dates if announced else Dates()
        yield self._finding(sentence, match, office, name, role, dates)
        if role is ClaimRole.CURRENT:
            yield from self._predecessor(sentence, match, office, name, dates)

    def _predecessor(
        self, sentence: Span, match: re.Match[str], office: _Office, name: str, dates: Dates
    ) -> Iterator[Finding]:
        found = PREDECESSOR.search(sentence.text, match.end())
        former = self._person(sentence.text, found, "name") if found else None
        if former and former != name and found:
            ended = Dates(None, dates.valid_from, dates.dated_by)
            start, end = sentence.start + found.start(), sentence.start + found.end("name")
            slot = (office.subject, office.relation)
            yield Finding(*slot, former, ClaimRole.FORMER, start, end, office.title, ended)

    def _succession(self, sentence: Span, match: re.Match[str]) -> Iterator[Finding]:
        text = sentence.text
        name, former = self._person(text, match, "name"), self._person(text, match, "former")
        office = self._office(text, match)
        if not name or not former or office is None or self._is_no_news(text, match):
            return
        background = bool(match["who"]) or match["verb"] in ("succeeded", "replaced")
        dates = Dates() if background else self._when(text, match)
        if dates is None:
            return
        if not background:
            yield self._finding(sentence, match, office, name, ClaimRole.CURRENT, dates)
        ended = Dates(None, dates.valid_from, dates.dated_by)
        yield self._finding(sentence, match, office, former, ClaimRole.FORMER, ended)

    def _former(self, sentence: Span, match: re.Match[str]) -> Iterator[Finding]:
        text, groups = sentence.text, match.groupdict()
        subject, name, end = groups["subject"], groups["name"], match.end()
        if subject and not name:
            # "former President of Chile Michelle Bachelet": country and person in one run.
            subject, name, end = _split_country(text, match.start("subject"), subject)
        adjective = country_of(groups["mods"].strip())
        if re.search(rf"[{UPPER}]", groups["mods"]) and not adjective:
            return
        subject = subject or adjective
        value = person(name) if name and len(name.split()) > 1 else None
        if not subject or not value or _in_quotes(text, match.start()):
            return
        relation = self._relation(groups["title"], canonical_subject(subject))
        if relation:
            office = _Office(canonical_subject(subject), relation, groups["title"], False, False)
            found = self._finding(sentence, match, office, value, ClaimRole.FORMER, Dates())
            yield found._replace(end=sentence.start + end)

    def _finding(
        self,
        sentence: Span,
        match: re.Match[str],
        office: _Office,
        name: str,
        role: ClaimRole,
        dates: Dates,
    ) -> Finding:
        return Finding(
            office.subject,
            office.relation,
            name,
            role,
            sentence.start + match.start(),
            sentence.start + match.end(),
            office.title,
            dates,
            office.acting and role is not ClaimRole.FORMER,
        )

    def _person(self, text: str, match: re.Match[str], group: str) -> str | None:
        """The person of a group, unless the words before show that the run is something else."""
        opens = group == "name" and match.re is self._shapes.takes
        # "Minister of Culture Salvador del Solar": the run began inside an office.
        if opens and INSIDE.search(text[: match.start(group)]):
            return None
        name = person(re.sub(r"['’]s$", "", match[group]))
        # One word is a person only with a numeral, and those have two ("Leo XIV").
        return name if name and len(name.split()) > 1 else None

    def _office(self, text: str, match: re.Match[str]) -> _Office | None:
        groups = match.groupdict()
        mods = (groups["mods"] or "").strip()
        odd = [w for w in re.findall(rf"[{UPPER}][\w'’-]+", mods) if not _is_plain(w)]
        adjective = country_of(" ".join(odd)) if odd else None
        if odd and not adjective:
            return None  # "Vice President", "Crown Prince", "Deputy Prime Minister"
        named = groups["subject"] or groups["owner"]
        # "the Australian state's new premier" is not Australia's.
        if groups["unread"] or (adjective and (named or re.search(r"['’]s\b", mods))):
            return None
        agent = groups.get("agent") or ""
        own = agent if re.fullmatch(SUBJECT, agent) and re.search(r"\bits\b", mods) else None
        subject = named or adjective or self._agent_country(agent) or own
        if subject is None:
            return None
        name = canonical_subject(_with_region(text, match) if groups["subject"] else subject)
        relation = self._relation(groups["title"], name)
        if relation is None:
            return None
        if not named and subject != own and self._registry[relation].subjects != "country":
            return None
        coming = bool(re.search(r"\bnext\b", mods)) or bool(WAITS.match(text, match.end("title")))
        return _Office(name, relation, groups["title"], bool(ACTING.search(mods)), coming)

    def _relation(self, title: str, subject: str) -> str | None:
        # "the former mayor of the Colombian capital"; "the CEO of Apple and Pixar"
        if not is_country(subject) and (country_of(subject) or " and " in subject):
            return None
        return self._registry.relation_of_title(title, subject)

    def _agent_country(self, agent: str) -> str | None:
        """The one country that the appointing side is of ("Tanzanian president …")."""
        if not agent or NO_STATE.search(agent):
            return None
        countries = set(_countries(agent))
        return countries.pop() if len(countries) == 1 else None

    def _is_no_news(self, text: str, match: re.Match[str]) -> bool:
        before = text[: match.start("verb")]
        verb = match["verb"]
        after = text[match.end() :]
        hedged = HEDGE.search(before) or AFTER_HEDGE.match(after)
        again = AGAIN.search(match.group()) and "non-consecutive" not in match.group()
        odd = re.search(r"becom|became", verb) and re.match(r"\s(?:ever\s)?to\s", after)
        return bool(hedged or again or odd) or _in_quotes(text, match.start())

    def _when(self, text: str, match: re.Match[str]) -> Dates | None:
        """When the office is taken; None when the sentence tells of the past."""
        clause = re.match(r"[^,;]{0,60}", text[match.end() :])
        until = match.end() + (clause.end() if clause else 0)
        near = [d for d in find_days(text) if match.start() - d.end < 60 and d.start < until]
        if near:
            day = near[-1].day if near[-1].start >= match.end() else near[0].day
            if ends(day) < self._published - _FRESH:
                return None
            if len(day) == 10 or begins(day) > self._published:
                return Dates(day, None, "text")
        elif PAST.match(match["verb"]) and not TODAY.search(text):
            # Told in the past without a day is background, but for a headline's "X named CEO".
            headline = match.re is self._shapes.takes and match.start() == 0
            if not (headline and re.match(r"appointed|named", match["verb"])):
                return None
        return Dates(day_of(self._published), None, "published")


def _is_election(verb: str) -> bool:
    return bool(re.search(r"\b(?:elected|chosen|selected)\b", verb))


def _is_plain(word: str) -> bool:
    return word.casefold() in PLAIN.split("|")


def _in_quotes(text: str, position: int) -> bool:
    before = text[:position]
    return before.count('"') % 2 == 1 or before.count("“") > before.count("”")


def _with_region(text: str, match: re.Match[str]) -> str:
    """The subject with the region that tells it apart ("Portland, Oregon", "Paris (Texas)")."""
    subject = match["subject"]
    region = re.match(
        rf"(?:,\s(?P<comma>[{UPPER}][\w'’]+(?:\s[{UPPER}][\w'’]+)?)(?=[,.;]|$)"
        rf"|\s\((?P<bracket>[{UPPER}][\w'’ ]+)\))",
        text[match.end("subject") :],
    )
    if region is None or is_country(subject):
        return subject
    return f"{subject}, {region['comma'] or region['bracket']}"


def _countries(text: str) -> Iterator[str]:
    words = re.findall(r"[\w'’.-]+", text)
    index = 0
    while index < len(words):
        for size in range(min(6, len(words) - index), 0, -1):
            run = re.sub(r"['’]s?$", "", " ".join(words[index : index + size])).strip(".")
            country = canonical_subject(run) if is_country(run) else country_of(run)
            if run[:1].isupper() and country:
                yield country
                index += size - 1
                break
        index += 1


def _split_country(text: str, start: int, run: str) -> tuple[str | None, str | None, int]:
    """Split a run into a country and the name after it; return both and where the name ends."""
    words = run.split()
    for size in range(len(words) - 2, 0, -1):
        country = " ".join(words[:size])
        name = re.compile(NAME).match(text, start + len(country) + 1)
        if is_country(country) and name:
            return country, name.group(), name.end()
    return None, None, start
