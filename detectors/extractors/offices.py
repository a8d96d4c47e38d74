"""Reading one mention of an office: "the country's first female prime minister of Japan".

A mention is found by its title and read outwards, word by word to the left and by one anchored
expression to the right, so that the time grows with the length of the text only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from detectors.entities import canonical_subject, country_of, is_country, is_shared_name, normalise
from detectors.extractors.shapes import (
    AFTER_HEDGE,
    GENERIC,
    NOTE,
    OF,
    ORDINAL,
    OTHER_OFFICE,
    PARTISAN,
    PLAIN,
    WAITS,
)
from detectors.extractors.spans import ACTING
from detectors.names import BODIES, NAME, OPENERS, PORTFOLIOS, REGIONS, UPPER, person
from detectors.relations import Registry, Relation

_POSSESSIVE = re.compile(r"['’]s?$")
_REGION_FIRST = (
    r"(?:New|North|South|West|East|Northern|Southern|Western|Eastern|British|Rhode|Nova|Baja|Prince"
    r"\sEdward|Puerto)\s"
)
# First words of cities of two words.
_CITIES = frozenset({"San", "Los", "Las", "Santa", "Salt", "Buenos", "Tel", "Kuala", "Addis"})
_WHOLES = frozenset({"England", "Scotland", "Wales", "Britain"})
_OWNED = re.compile(r"(?:The\s)?(?P<owner>.+?)(?P<of>['’]s|(?<=UK)|(?<=U\.S\.))\s(?P<rest>.+)")
_SHORT = {"United Kingdom": "UK", "United States": "US"}
_NOT_THE_NAME = re.compile(
    rf"\s(?:site|website|company|firm|group|giant|network|newspaper|magazine|carmaker|airline|service"
    rf"|platform|province|region|state|city|club|team|party)\s[{UPPER}]"
)
_JOINS = frozenset({"of", "and", "the", "for", "de", "&"})
_INITIALS = frozenset({"U.S.", "U.K.", "D.C."})
_REACH = 110  # characters left of a title that can belong to it
_OF_MINISTRY = re.compile(r"(?i)\b(?:minister|secretary)\s(?:of|for)\s")
_PORTFOLIO = rf"(?:{'|'.join(sorted(PORTFOLIOS))})"
# "Minister of Justice *and Security*" is one office.
_PORTFOLIOS = re.compile(
    rf"(?:(?:,|,?\sand)\s(?:the\s)?{_PORTFOLIO}(?:\s{_PORTFOLIO})*\b"
    r"(?!\s(?:[Mm]inister|[Ss]ecretary)))+"
)
_STATE_AFTER = re.compile(r"\s(?:[a-z-]+\s)?(?:government|republic|state|nation|people)\b")
_STATE_BODY = re.compile(
    r"(?P<country>.+)\s(?:Armed\sForces|Defen[cs]e\sForces?|Military|Government|Republic|State)"
)
_TEAM = re.compile(
    rf"(?:^|\s)(?P<team>{NAME}\s(?:(?:men|women)['’]s\s)?(?:national\s)?(?:[a-z]+\s)?team)\s$"
)
# Offices of one country only.
_ONE_COUNTRY = {"taoiseach": "Ireland", "tánaiste": "Ireland", "tanaiste": "Ireland"}

# Names of an office itself, and the title of who holds it.
_STATIONS = {
    "presidency": "president", "premiership": "premier", "governorship": "governor",
    "mayoralty": "mayor", "papacy": "pope", "chairmanship": "chairman",
}  # fmt: skip


@dataclass(frozen=True)
class Office:
    """One mention. ``text[start:end]`` is the phrase with its article, modifiers and subject.

    ``subject`` is None where the mention does not say of what; ``attributed`` when it stands
    before the title ("Lebanese Foreign Minister"), ``own`` when it is "its", the acting side's.
    ``body`` is what the mention names without saying of which country ("the National Assembly").
    """

    start: int
    end: int
    title_start: int
    title: str
    subject: str | None
    attributed: bool
    own: bool
    acting: bool
    former: bool
    coming: bool
    body: str = ""


@functools.lru_cache(maxsize=4)
def _title_pattern(titles: tuple[str, ...]) -> re.Pattern[str]:
    longest = sorted(set(titles), key=lambda t: (-len(t), t))
    spelt = "|".join(re.escape(t).replace(r"\ ", "[ -]").replace(r"\-", "[ -]") for t in longest)
    return re.compile(rf"\b(?:{spelt})\b")


def is_office(relation: Relation) -> bool:
    """Whether a relation is an office: persons hold it, and of something else than a person."""
    return relation.object_type == "person" and relation.subjects != "person"


def title_pattern(registry: Registry) -> re.Pattern[str]:
    """The titles of all offices that people hold; matched on a text in small letters."""
    titles: set[str] = set()
    for relation in registry:
        if not is_office(relation):
            continue
        spelt = {*relation.titles, *(title.casefold() for title in relation.titles.values())}
        # Plurals head lists; in a sentence they mean several holders.
        titles |= {t for t in spelt if not (t.endswith("s") and t[:-1] in spelt)}
    titles |= {station for station, title in _STATIONS.items() if title in titles}
    return _title_pattern(tuple(sorted(titles)))


def find_offices(text: str, titles: re.Pattern[str]) -> list[Office]:
    """Return the mentions of offices in a sentence, in order."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a letter whose small form is longer: offsets would shift
        lowered = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    found = [_read(text, *_own_words(text, titles, m)) for m in titles.finditer(lowered)]
    offices = [office for office in found if office]
    return _coordinated(text, offices)


def _own_words(text: str, titles: re.Pattern[str], match: re.Match[str]) -> tuple[int, int]:
    """Where a title stands, without a word that ends a name: "UK Independence *Party* leader"."""
    start, end = match.span()
    first, gap, rest = text[start:end].partition(" ")
    if gap and first[0].isupper() and rest[0].islower() and titles.fullmatch(rest.lower()):
        start += len(first) + 1
    return start, end


def _coordinated(text: str, offices: list[Office]) -> list[Office]:
    """Lend the subject of "CEO and chairman of Wells Fargo" to the office that lacks one."""
    lent = list(offices)
    for n in range(len(lent) - 1):
        one, other = lent[n], lent[n + 1]
        if not re.fullmatch(r"\s(?:and|as\swell\sas)\s(?:as\s)?", text[one.end : other.start]):
            continue
        if one.subject is None and other.subject and not other.attributed:
            lent[n] = replace(one, subject=other.subject)
        elif other.subject is None and one.subject:
            lent[n + 1] = replace(other, subject=one.subject, attributed=one.attributed)
    return lent


def group(text: str, offices: list[Office], office: Office) -> Iterator[Office]:
    """Yield an office and those joined to it by "and", which one person holds."""
    at = offices.index(office)
    yield office
    for step in (-1, 1):
        n = at
        while 0 <= n + step < len(offices):
            left, right = sorted((offices[n], offices[n + step]), key=lambda o: o.start)
            if not re.fullmatch(
                r",?\s(?:and|as\swell\sas)\s(?:as\s)?", text[left.end : right.start]
            ):
                break
            n += step
            yield offices[n]


@dataclass(frozen=True)
class _Left:
    start: int
    mods: frozenset[str]
    prefix: str  # capitalised words before the title
    prefix_start: int
    owner: str  # "Japan" in "Japan's prime minister"


def _read(text: str, start: int, end: int) -> Office | None:
    left = _left(text, start)
    if left is None:
        return None
    title = text[start:end]
    more = _PORTFOLIOS.match(text, end) if _OF_MINISTRY.search(title) else None
    end = more.end() if more else end
    note = NOTE.match(text, end)
    right = OF.match(text, note.end() if note else end)
    if right and left.owner and not right.group().startswith(" of "):
        right = None  # "the Gambia's president at the embassy"
    if right and right["unread"]:
        return None
    subject, stop, body = _right(text, end, right)
    begin, attributed = left.start, False
    if subject is None and not (right and right["subject"]):
        if left.owner:
            if left.prefix:
                return None  # "Japan's Liberal Democratic president"
            subject = canonical_subject(left.owner)
        elif left.prefix:
            subject, attributed = _attribute(left.prefix), True
    elif left.prefix or left.owner:
        # "elects Jane Doe President of Chile": the words before are not the office's.
        if left.owner or country_of(left.prefix) or is_country(left.prefix):
            return None
        begin = start
    if subject is None:
        subject = _ONE_COUNTRY.get(title.lower())
    return Office(
        begin,
        stop,
        start,
        _STATIONS.get(title.lower(), title),
        subject,
        attributed,
        "its" in left.mods,
        bool(ACTING.search(" ".join(left.mods))),
        bool(left.mods & {"former", "ex", "late", "previous", "then"}),
        bool(left.mods & {"next", "incoming"} or WAITS.match(text, end)),
        body,
    )


def _right(text: str, end: int, match: re.Match[str] | None) -> tuple[str | None, int, str]:
    """The subject after a title, where the mention ends, and a body that names no country."""
    if match is None:
        return None, end, ""
    if match["country"]:
        country, stop = _country_first(text, match.start("country"), match["country"])
        return (country, stop, "") if country else (None, end, "")
    subject, stop = _named(text, match)
    if subject is None:
        return None, match.end("subject"), match["subject"]
    return subject, stop, ""


def _left(text: str, start: int) -> _Left | None:
    """Read backwards from a title; None when the words make it another office."""
    low = max(0, start - _REACH)
    tokens = list(re.finditer(r"\S+", text[low:start]))
    if start and not (text[start - 1].isspace() or text[start - 1] == "("):
        return None  # "vice-president", "ex-president"
    team = _TEAM.search(text, low, start) if text.endswith("team ", low, start) else None
    if team:  # "the new England national football team manager"
        return _of_team(text, team)
    mods: set[str] = set()
    prefix: list[str] = []
    begin = prefix_start = start
    for n in range(len(tokens) - 1, -1, -1):
        raw = tokens[n].group()
        small = raw.strip(",").casefold()
        # "first female, Muslim president" is one phrase, "Morales, president" two.
        listed = raw.endswith(",") and small in PLAIN and mods
        if raw.endswith((",", ".", ";", ":")) and raw not in _INITIALS and not listed:
            break
        if small in OTHER_OFFICE and begin == start:
            return None
        if small in PARTISAN and raw[0].isupper() and prefix:
            prefix.insert(0, raw)  # "Liberal Party leader"
            prefix_start = begin = low + tokens[n].start()
            continue
        if small in PLAIN or small in PARTISAN or ORDINAL.fullmatch(small):
            if prefix and small in ("and", "or"):
                break
            named = f"{raw} {' '.join(prefix)}"
            if prefix and raw == "New" and (is_country(named) or named in REGIONS):
                prefix.insert(0, raw)
                prefix_start = begin = low + tokens[n].start()
                continue
            if small in ("south", "african", "asian", "american", "european") and raw[0].isupper():
                prefix.insert(0, raw)  # part of a name or a demonym
                prefix_start = begin = low + tokens[n].start()
                continue
            if small in ("and", "or") and not mods:
                break
            mods.add(small)
            begin = low + tokens[n].start()
            if small in ("the", "a", "an", "its", "his", "her", "their"):
                break
            continue
        if raw[0].isupper() and any(word.endswith(("'s", "’s")) for word in mods):
            return None  # "the Australian state's new premier"
        if prefix and raw in ("of", "for") and n and re.match(rf"[{UPPER}]", tokens[n - 1].group()):
            prefix.insert(0, raw)  # "Brothers of Italy leader"
            continue
        if not raw[0].isupper() or raw == "MP":
            if raw.endswith(("'s", "’s", "s'", "s’")):
                return None  # "the Australian territory's premier"
            break
        if _POSSESSIVE.search(raw):
            owner, at = _owner(tokens, n)
            article = re.search(r"\b[Tt]he\s$", text[: low + at])
            at = article.start() - low if article else at
            return _Left(low + at, frozenset(mods), " ".join(prefix), prefix_start, owner)
        if n == 0 or raw.casefold() not in OPENERS:
            if small in OPENERS:
                break
            prefix.insert(0, raw)
            prefix_start = begin = low + tokens[n].start()
            continue
        break
    joined = " ".join(prefix)
    if prefix and normalise(prefix[-1]) in OTHER_OFFICE:
        return None
    return _Left(begin, frozenset(mods), joined, prefix_start, "")


def _of_team(text: str, match: re.Match[str]) -> _Left:
    start = match.start("team")
    before = re.search(r"(?:\b(?:the|new|its|former)\s)+$", text[:start], re.IGNORECASE)
    begin = before.start() if before else start
    mods = frozenset(text[begin:start].casefold().split())
    return _Left(begin, mods, match["team"], start, "")


def _owner(tokens: list[re.Match[str]], last: int) -> tuple[str, int]:
    """The name that ends in "'s", and where it begins."""
    kept = last
    n = last - 1
    while n >= 0:
        raw = tokens[n].group()
        if raw.endswith((",", ".", ";", ":")):
            break
        if re.match(rf"[{UPPER}]", raw) and raw.casefold() not in OPENERS:
            kept = n
        elif raw not in _JOINS:
            break
        n -= 1
    spelt = " ".join(token.group() for token in tokens[kept : last + 1])
    return _POSSESSIVE.sub("", spelt), tokens[kept].start()


def _attribute(prefix: str) -> str | None:
    """The subject in the words before a title ("Lebanese", "UK", "Credit Suisse")."""
    country = country_of(prefix)
    if country:
        return country
    words = prefix.split()
    for size in range(len(words), 0, -1):
        run = " ".join(words[:size])
        country = canonical_subject(run) if is_country(run) else country_of(run)
        if country and size == len(words):
            return country
        if country and country_of(run) and words[-1] not in BODIES:
            return None  # "Japanese Liberal Democratic leader" names a party, not the country
    return canonical_subject(prefix)


def _named(text: str, match: re.Match[str]) -> tuple[str | None, int]:
    """The subject after "of" and where it ends; None when it does not say which one."""
    run, start = match["subject"], match.start("subject")
    if is_country(run):
        return canonical_subject(run), match.end("subject")
    country, stop = _country_first(text, start, run)
    if country:
        return country, stop
    state = _STATE_BODY.fullmatch(run)
    if state and (country := _country(state["country"])):
        return country, match.end("subject")  # "of the French Armed Forces"
    if (country := country_of(run)) and _STATE_AFTER.match(text, match.end("subject")):
        return country, match.end("subject")  # "of the Syrian transitional government"
    split = _body_first(text, start, run)
    if split:
        return split
    if " and " in run and is_country(run.split(" and ")[0]):
        head = run.split(" and ")[0]
        return canonical_subject(head), start + len(head)
    owned = _OWNED.match(run)
    if owned and is_country(owned["owner"]):
        rest = owned["rest"]  # "chairman of the UK's Environment Agency"
        if is_shared_name(rest):
            return of_country(rest, canonical_subject(owned["owner"])), match.end("subject")
        if owned["of"]:
            run, start = rest, start + owned.start("rest")
    run = _POSSESSIVE.sub("", run)
    if _NOT_THE_NAME.match(text, match.end("subject")):
        return None, match.end("subject")  # "CEO of Internet site Reddit"
    if all(word in GENERIC for word in normalise(run).split()):
        return None, match.end("subject")
    return canonical_subject(_with_region(text, run, start + len(run))), start + len(run)


def of_country(body: str, country: str) -> str:
    """A body whose name those of many countries bear, told apart: "Labour Party (UK)"."""
    return canonical_subject(f"{body} ({_SHORT.get(country, country)})")


def own_body(agent: str) -> str:
    """The name under which an acting side is filed: "Japan's Democratic Party"."""
    owned = _OWNED.match(agent)
    if owned and is_country(owned["owner"]) and is_shared_name(owned["rest"]):
        return of_country(owned["rest"], canonical_subject(owned["owner"]))
    return canonical_subject(agent)


def _country(name: str) -> str | None:
    return canonical_subject(name) if is_country(name) else country_of(name)


def _country_first(text: str, start: int, run: str) -> tuple[str | None, int]:
    """Split "Armenia Armen Sarkissian" after the country; return it and where it ends."""
    words = run.split()
    for size in range(len(words), 0, -1):
        country = _POSSESSIVE.sub("", " ".join(words[:size]))
        if not is_country(country):
            continue
        end = start + len(country)
        if size == len(words):
            return canonical_subject(country), end
        name = re.compile(NAME).match(text, end + 1)
        if name and (found := person(name.group())) and len(found.split()) > 1:
            return canonical_subject(country), end
        if words[size] in _JOINS or words[size].islower():
            return canonical_subject(country), end
    return None, start


def _body_first(text: str, start: int, run: str) -> tuple[str, int] | None:
    """Split "Arizona Republican Party Jane Doe" or "Oregon Jane Doe" before the person."""
    words = run.split()
    for size in range(1, len(words) - 1):
        body = " ".join(words[:size])
        city = size == 2 and words[0] in _CITIES  # "San Francisco Jane Doe"
        if words[size - 1] not in BODIES and body not in REGIONS and not city:
            continue
        end = start + len(body)
        name = re.compile(NAME).match(text, end + 1)
        if name and (found := person(name.group())) and len(found.split()) > 1:
            return canonical_subject(body), end
    return None


def _with_region(text: str, subject: str, end: int) -> str:
    """The subject with the region that tells it apart ("Portland, Oregon", "Paris (Texas)")."""
    region = re.match(
        # Two words only where no person is called so: "the mayor of Rome, Virginia Raggi, …".
        rf"(?:,\s(?P<comma>(?:{_REGION_FIRST})?[{UPPER}][\w'’]+)(?=[,.;]|$)"
        rf"|\s\((?P<bracket>[{UPPER}][\w'’ ]*[a-z][\w'’ ]*)\))",
        text[end:],
    )
    name = (region["comma"] or region["bracket"]) if region else ""
    # "London, England" is London, but "Rome, Georgia" another Rome.
    whole = name in _WHOLES or (is_country(name) and name != "Georgia")
    return f"{subject}, {name}" if name and not whole else subject


def is_hedged_after(text: str, end: int) -> bool:
    """Whether what follows an office makes it another thing ("candidate", "in exile")."""
    return bool(AFTER_HEDGE.match(text, end))
