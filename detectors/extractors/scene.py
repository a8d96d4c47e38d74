"""One sentence taken apart: its offices and names, and what stands next to what.

The readers of takings and departures link these pieces by the short gaps between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

from detectors.entities import canonical_subject, country_of, is_country, is_shared_name
from detectors.extractors import offices as offices_of
from detectors.extractors.offices import Office, is_office
from detectors.extractors.plain_news import hedged, in_quotes, when
from detectors.extractors.setting import Setting, acting_country, place_of
from detectors.extractors.shapes import (
    AND,
    ASIDE,
    CHAMBER,
    COMMA,
    COMPANY_POSTS,
    FINITE,
    FOUNDER,
    INSIDE,
    JOINED,
    LEAVES,
    NO_STATE,
    OF,
    OWNER,
    PARTICIPLE,
    PAST,
    SMALLS,
)
from detectors.extractors.spans import Dates, Finding, Span
from detectors.names import NAME, OPENERS, PARTICLES, PORTFOLIOS, person
from detectors.relations import Registry
from store.records import ClaimRole

_NAME = re.compile(NAME)
_BODY = re.compile(
    rf"(?:The\s)?(?P<name>{NAME}(?:\s(?:of|and|for)\s(?:the\s)?{NAME})?)(?:\s(?:party|coalition))?"
)
# What the president of it is: of the country.
_STATE = re.compile(r"(?:Republic|Federation|Union|State|Nation|Country)")
_NEAR = 200  # characters between a name and the verb it is the subject of


@dataclass(frozen=True)
class Person:
    """A name in a sentence: ``text[start:end]`` is the run, ``name`` what is filed."""

    start: int
    end: int
    name: str


@dataclass(frozen=True)
class Placed:
    """An office whose subject and relation are known."""

    office: Office
    subject: str
    relation: str


class Scene:
    """A sentence, its offices and its runs of capitalised words."""

    def __init__(
        self,
        sentence: Span,
        registry: Registry,
        titles: re.Pattern[str],
        published: date,
        setting: Setting,
        left: tuple[Placed, ...] = (),
    ) -> None:
        self.text = sentence.text
        self.start = sentence.start
        self.registry = registry
        self.published = published
        self.setting = setting
        self._left = left  # what somebody left in the sentence before
        self.offices = offices_of.find_offices(sentence.text, titles)
        self._runs = list(_runs(sentence.text, self.offices))
        self.offices = [self._placed_after(office) for office in self.offices]

    def _placed_after(self, office: Office) -> Office:
        """ "Vice President Jane Doe of Uruguay": the country stands behind the name."""
        who = self.holder(office) if office.subject is None and not office.body else None
        match = OF.match(self.text, who.end) if who else None
        if match and match["subject"] and is_country(match["subject"]):
            return replace(office, subject=canonical_subject(match["subject"]), attributed=True)
        return office

    # --- people -------------------------------------------------------------------------------

    def before(self, position: int, gap: re.Pattern[str]) -> Person | None:
        """The nearest person left of a place whose distance to it reads as ``gap``."""
        found = self._before(position, gap, apposed=False)
        # "The mayor's son, John Roe, is …": a name between commas, when nothing else is named.
        return found or self._before(position, gap, apposed=True)

    def _before(self, position: int, gap: re.Pattern[str], apposed: bool) -> Person | None:
        tried = 0
        for start, end in reversed(self._runs):
            if end > position:
                continue
            if position - end > _NEAR or tried >= 6:
                return None
            tried += 1
            if apposed:
                if self.text[start - 2 : start] != ", " or self.text[end:position] != ", ":
                    continue
            elif not gap.fullmatch(self.text, end, position) or self._inside(start):
                continue
            found = self.person(start, end)
            if found:
                return found
        return None

    def at(self, position: int) -> Person | None:
        """The person whose name begins at a place."""
        for start, end in self._runs:
            if start <= position < end and not self.text[start:position].strip():
                return self.person(start, end)
        return None

    def after(self, position: int, gap: re.Pattern[str]) -> Person | None:
        """The first person right of a place whose distance from it reads as ``gap``."""
        for start, end in self._runs:
            if start < position:
                continue
            if start - position > _NEAR:
                return None
            if gap.fullmatch(self.text, position, start):
                return self.person(start, end)
        return None

    def overlapping(self, start: int, end: int) -> Person | None:
        """The person whose run shares words with a span."""
        for first, last in self._runs:
            if first < end and last > start:
                return self.person(first, last)
        return None

    def held_by(self, who: Person) -> Office | None:
        """The office next to a person: "President Jane Doe", "Jane Doe, the mayor of Rome,"."""
        for office in self.offices:
            holder = self.holder(office)
            if holder and holder.start == who.start:
                return office
            between = self.text[who.end : office.start]
            closed = self.text[office.end : office.end + 1] in (",", ")", " ")
            if office.start > who.end and between in (", ", " (") and closed:
                return office
        return None

    def named_with(self, position: int) -> Person | None:
        """The person in "Jane Doe, chair of the agency resigns", where a comma was forgotten."""
        for office in self.offices:
            if self.text[office.end : position] == " ":
                return self.before(office.start, COMMA)
        return None

    def subject(self, position: int) -> Person | None:
        """Who the verb at a place is about: the name before it, or that of the verb before."""
        return self.before(position, ASIDE) or self.carried(position)

    def carried(self, position: int) -> Person | None:
        """Who "… is elected leader of the party *and* becomes …" is about, or "…, becoming …"."""
        low = max(0, position - _NEAR)
        joined = JOINED.search(self.text, low, position)
        if joined is None or (joined["comma"] and not PARTICIPLE.match(self.text, position)):
            return None
        for start, end in self._runs:
            if end > joined.start() or start < low:
                continue
            verb = FINITE.match(self.text, end)
            if verb and verb.end() <= joined.start() and not self._inside(start):
                return self.person(start, end)
        return None

    def held_after(self, position: int) -> Person | None:
        """The holder in "replaces outgoing president Jane Doe"."""
        office = self.office_from(position, SMALLS)
        return self.holder(office) if office else None

    def person(self, start: int, end: int) -> Person | None:
        """A run as a person; None when it does not read as one of two words or more."""
        run = re.sub(r"['’]s?$", "", self.text[start:end])
        name = person(run)
        # One word ("Doe", "De Wever") is a person only where the paragraph gives the whole name.
        first, _, last = (name or "").rpartition(" ")
        if name and first.casefold() in ("", *PARTICLES) and not is_country(name):
            name = self.setting.whole_name(last) or (name if first else None)
        if name is None or " " not in name or is_country(name):
            return None
        return Person(start, end, name)

    def holder(self, office: Office) -> Person | None:
        """The person that stands right after an office ("Greek president Jane Doe")."""
        gap = re.match(r",?\s(?:U\.S\.\s|Sir\s|Dr\.?\s)?", self.text[office.end :])
        found = self.at(office.end + gap.end()) if gap else None
        if found and gap and gap.group().startswith(","):
            # "The leader of the party, Jane Doe, resigns": closed by a comma.
            after = self.text[found.end : found.end + 1]
            return found if after == "," or LEAVES.match(self.text, found.end + 1) else None
        return found

    def _inside(self, start: int) -> bool:
        """Whether a run goes on with something longer, and so is no subject of its own."""
        # "The son of President John Roe": what stands before the title counts.
        for office in reversed(self.offices):
            if self.text[office.end : start] in (" ", ", ", " and "):
                start = office.start
        before = self.text[:start]
        # "Minister of Culture Salvador del Solar": the run began inside an office.
        return bool(INSIDE.search(before[-24:]) or AND.search(before[-40:]))

    # --- offices ------------------------------------------------------------------------------

    def office_from(self, position: int, gap: re.Pattern[str]) -> Office | None:
        """The first office right of a place whose distance to it reads as ``gap``."""
        for office in self.offices:
            if office.start < position:
                continue
            if office.start - position > _NEAR:
                return None
            if gap.fullmatch(self.text, position, office.start):
                # "resigns as President Jane Doe's spokesman": the office of another.
                owner = OWNER.match(self.text, office.end)
                return None if owner else office
        return None

    def places(
        self,
        office: Office,
        agent: str = "",
        among: bool = True,
        since: bool = False,
        told: bool = False,
    ) -> Iterator[Placed]:
        """Yield an office, and those joined to it by "and", with their subjects and relations.

        ``agent``: who gives or takes it away. ``since``: the words after were read already.
        ``told``: the mention itself must say of what (people are described in passing).
        """
        joined = offices_of.group(self.text, self.offices, office) if among else iter((office,))
        for one in joined:
            placed = self._place(one, agent, told)
            if placed and (since or not offices_of.is_hedged_after(self.text, one.end)):
                yield placed

    def _place(self, office: Office, agent: str, told: bool) -> Placed | None:
        subject = office.subject or self._left_before(office, told)
        implied = False
        if subject is None:
            subject = self._own(office, agent) or self._founded(office)
        if subject is None:
            subject = self._agent_country(agent) or self._set_in(office, agent, told)
            implied = subject is not None and is_country(subject)
        if implied and office.body:
            # "the National Assembly" is one of many: it is filed with its country.
            implied = bool(_STATE.fullmatch(office.body))
            subject = subject if implied else self._of_country(office.body)
        elif subject and is_shared_name(subject) and not told:
            subject = self._of_country(subject)
        if subject is None:
            return None
        relation = self._relation(office.title, subject)
        if relation is None:
            return None
        adjective = office.attributed and is_country(subject)
        if (implied or adjective) and self.registry[relation].subjects != "country":
            return None
        return Placed(office, subject, relation)

    def _left_before(self, office: Office, told: bool) -> str | None:
        """ "Jane Doe is elected as the new leader": of what the sentence before says was left."""
        if told or office.body or office.former:
            return None
        for one in self._left:
            if one.office.title.casefold() == office.title.casefold():
                return one.subject
        return None

    def _founded(self, office: Office) -> str | None:
        """ "Netflix co-founder Jane Doe steps down as CEO": of what the person is a founder."""
        match = FOUNDER.match(self.text) if office.title.casefold() in COMPANY_POSTS else None
        return canonical_subject(match["body"]) if match else None

    def placed(self, title: str, subject: str, span: tuple[int, int]) -> Placed | None:
        """The office of that title as one that a span of the sentence speaks of."""
        name = self._of_country(subject) if is_shared_name(subject) else subject
        subject = name or subject
        relation = self._relation(title, subject)
        if relation is None or (title == "president" and not is_country(subject)):
            return None
        start, end = span
        office = Office(start, end, start, title, subject, *(False,) * 5)
        return Placed(office, subject, relation)

    def _of_country(self, body: str) -> str | None:
        """A body whose name many countries' bodies bear, told apart by its country."""
        country = self.setting.country
        return offices_of.of_country(body, country) if country else None

    def _own(self, office: Office, agent: str) -> str | None:
        """The acting side's own office: "appoints Jane Doe as *its* chair"."""
        body = _BODY.fullmatch(agent)
        if body and (office.own or self._names_own(office, agent)):
            return offices_of.own_body(body["name"])
        return None

    def _set_in(self, office: Office, agent: str, told: bool) -> str | None:
        """The country that the words around speak of, for an office that names none."""
        if told:
            return place_of(self.text)
        # "Japan's Democratic Party elects Jane Doe as president": not Japan's.
        if NO_STATE.search(agent) or office.own or office.title.casefold() == "pope":
            return None
        return self.setting.country or self.setting.region

    def _relation(self, title: str, subject: str) -> str | None:
        # "the former mayor of the Colombian capital"; "the CEO of Apple and Pixar"
        several = re.search(r"^(?!.*\b(?:of|on|for)\b.*\sand\s).*\sand\s", subject)
        if not is_country(subject) and (country_of(subject) or several):
            return None
        relation = self.registry.relation_of_title(title, subject)
        if relation is None and title.casefold() == "president" and CHAMBER.search(subject):
            relation = self.registry.relation_of_title("speaker", subject)
        return relation if relation and is_office(self.registry[relation]) else None

    def _names_own(self, office: Office, agent: str) -> bool:
        """Whether "Chelsea sacks manager Jane Doe" is about Chelsea's: a relation that says so."""
        relation = self.registry.relation_of_title(office.title, agent) if agent else None
        if relation is None or not _NAME.fullmatch(agent):
            return False
        row = self.registry[relation]
        return row.subjects != "country" and bool(row.subject_words or row.only)

    def _agent_country(self, agent: str) -> str | None:
        """The one country that the appointing side is of ("Tanzanian president …")."""
        if not agent or NO_STATE.search(agent):
            return None
        return acting_country(agent)

    # --- statements ---------------------------------------------------------------------------

    def no_news(self, start: int, verb: int) -> bool:
        """Whether the sentence before a verb hedges it, or it stands in quotation marks."""
        return hedged(self.text[:verb]) or in_quotes(self.text, start)

    def when(self, start: int, verb: str, end: int) -> Dates | None:
        """When a statement holds from; None when it tells of the past."""
        past = bool(PAST.match(verb))
        # Told in the past without a day is background, but for a headline's "X named CEO".
        if past and start == 0 and re.match(r"appointed|named|elected|hired", verb):
            past = False
        return when(self.text, start, end, self.published, past)

    def finding(
        self,
        span: tuple[int, int],
        placed: Placed,
        who: Person,
        role: ClaimRole,
        dates: Dates,
        acting: bool = False,
    ) -> Finding:
        """The finding that a span of the sentence says who holds (held, will hold) an office."""
        return Finding(
            placed.subject,
            placed.relation,
            who.name,
            role,
            self.start + span[0],
            self.start + span[1],
            placed.office.title,
            dates,
            acting,
        )


def _runs(text: str, offices: list[Office]) -> Iterator[tuple[int, int]]:
    """The capitalised runs outside offices, without the word that only opens a sentence."""
    for match in _NAME.finditer(text):
        start, end = match.span()
        pieces = [(start, end)]
        for office in offices:
            # The title, what stands before it as its subject, and the subject after "of".
            pieces = [
                part
                for piece in pieces
                for part in _without(piece, office.start, max(office.end, office.title_start))
            ]
        for first, last in pieces:
            yield from _trimmed(text, first, last)


def _without(piece: tuple[int, int], start: int, end: int) -> list[tuple[int, int]]:
    if end <= piece[0] or start >= piece[1]:
        return [piece]
    return [p for p in ((piece[0], start), (end, piece[1])) if p[0] < p[1]]


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    of_ministry = bool(re.search(r"\b(?:of|for|and)\s$", text[:start]))
    while True:
        opener = re.match(r"\w+\s", text[start:end])
        word = opener.group().strip() if opener else ""
        # "Minister of Labour Jane Doe": the ministry is no part of the name.
        ministry = of_ministry and word in PORTFOLIOS
        if not opener or not (word.casefold() in OPENERS or ministry):
            break
        start += opener.end()
    if start < end:
        yield start, end
