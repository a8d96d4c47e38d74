"""What is true of a slot when, derived purely from everything that sources claim of it.

The history of a slot is a function of the *set* of its claims: :func:`timeline` builds it
afresh each time, so the order in which documents arrive can make no difference, and
:func:`assimilate` only says which stored rows that history replaces.

How claims are read:

- Claims of one object that overlap or touch nothing else are one spell. A stated end, or
  another holder in between, starts a new one: a person may hold an office twice.
- A source that calls a value former fixes its end where it gives a date in its text. The
  publication date of such a source is only a bound, and so is a planned end ("2022-2027").
- The start of another value ends a spell that has no fixed end (single-valued slots).
- Values that cannot be ordered (equal starts, or no dates) stay open side by side: a
  conflict that is seen as several current values.
- A future value needs a date from the text; without one it leaves no trace in the history.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from store.records import Claim, ClaimRole, Day, Fact, digest

Same = Callable[[str, str], bool]
"""Tells whether two spellings name the same object."""

_YEAR = 372  # days as counted by ``_ordinal``: twelve months of 31


@dataclasses.dataclass(frozen=True)
class Spell:
    """One value over one stretch of time; a :class:`Fact` without identity and record times."""

    object: str
    valid_from: Day | None
    valid_until: Day | None
    former: bool
    acting: bool
    titles: tuple[str, ...]
    claim_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Changes:
    """What a new state of knowledge does to the stored rows: ids to close, rows to insert."""

    close: tuple[str, ...] = ()
    insert: tuple[Fact, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Mention:
    """A claim read as a stretch of time."""

    claim: Claim
    start: Day | None
    end: Day | None
    inferred: bool = False  # ``start`` was taken over from another claim

    @property
    def fixed(self) -> bool:
        """Whether the source states when the value ended."""
        former = self.claim.role is ClaimRole.FORMER
        return self.end is not None and former and self.claim.dated_by != "published"

    @property
    def doubt(self) -> int:
        """How far the start is from being stated as a fact (0 = stated)."""
        if self.inferred:
            return 3
        if self.claim.dated_by == "published":
            return 2
        return int(self.claim.role is ClaimRole.FUTURE)


@dataclasses.dataclass
class _Stretch:
    """The mentions that make up one spell of one object."""

    object: str
    mentions: list[_Mention]
    start: Day | None = None
    end: Day | None = None
    fixed: bool = False

    @property
    def former(self) -> bool:
        return any(mention.claim.role is ClaimRole.FORMER for mention in self.mentions)

    @property
    def planned(self) -> bool:
        return all(mention.claim.role is ClaimRole.FUTURE for mention in self.mentions)


def day_key(day: Day) -> tuple[int, int, int]:
    """Return a sort key: a partial date stands before every date it contains.

    Raises ValueError for what is not ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``.
    """
    parts = [int(part) for part in day.split("-")]
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"not a day: {day!r}; write YYYY, YYYY-MM or YYYY-MM-DD")
    year, month, date = (*parts, 0, 0)[:3]
    return year, month, date


def agree(one: Day, other: Day) -> bool:
    """Tell whether two partial dates may be the same day ("2018" and "2018-04" may)."""
    return all(a == b for a, b in zip(one.split("-"), other.split("-"), strict=False))


def later(one: Day, other: Day) -> bool:
    """Tell whether ``one`` surely comes after ``other``."""
    return day_key(one) > day_key(other) and not agree(one, other)


def timeline(claims: Iterable[Claim], same: Same, single: bool = True) -> list[Spell]:
    """Return the history of one slot, oldest first, as the set of its claims tells it.

    ``same`` is asked in both directions, on distinct spellings only. With ``single`` a
    later value ends an earlier one; otherwise values never touch each other.
    """
    known = sorted({claim.id: claim for claim in claims}.values(), key=lambda claim: claim.id)
    names = _spellings([claim.object for claim in known], same)
    mentions: dict[str, list[_Mention]] = defaultdict(list)
    for claim in known:
        mention = _read(claim)
        if mention is not None:
            mentions[names[claim.object]].append(mention)

    stretches: list[_Stretch] = []
    for name, own in mentions.items():
        others = [m.start for key in mentions if key != name for m in mentions[key] if m.start]
        stretches += _stretches(name, own, others if single else [])
    if single:
        _end_at_successors(stretches)
    for name, own in mentions.items():
        _attach_undated(name, own, stretches)
    return sorted((_spell(stretch) for stretch in stretches), key=_chronological)


def assimilate(
    history: Sequence[Fact], claims: Iterable[Claim], same: Same, now: datetime, single: bool = True
) -> Changes:
    """Return the changes that bring a slot's rows in line with all ``claims`` of the slot.

    Rows whose content still holds are left alone, so known claims change nothing. A
    claim that is no longer given is thereby withdrawn. If the clock stepped back, rows
    are closed at the moment they were recorded, never before it.
    """
    known = list(claims)
    rows = [fact for fact in history if fact.recorded_until is None]
    moment = max([now, *(fact.recorded_from for fact in rows)])
    subject = _display([claim.subject for claim in known]) if known else ""
    relation = known[0].relation if known else ""
    wanted = dict.fromkeys(timeline(known, same, single))
    close = []
    for fact in rows:
        spell = _content(fact)
        if spell in wanted and fact.subject == subject:
            del wanted[spell]
        else:
            close.append(fact.id)
    insert = tuple(_fact(subject, relation, spell, moment) for spell in wanted)
    return Changes(tuple(close), insert)


def current(facts: Iterable[Fact], today: Day) -> list[Fact]:
    """Return the values that hold on a day: none, one, or several (a conflict or a list)."""
    holding = [fact for fact in facts if _holds(fact, today)]
    dated = {fact.object for fact in holding if fact.valid_from is not None}
    if not dated:
        return holding
    # Beside dated values, an ended one of unknown start (it reaches back without limit) is
    # no evidence, and an undated row of a value that is already there says nothing more.
    return [
        fact
        for fact in holding
        if fact.valid_from is not None or (fact.valid_until is None and fact.object not in dated)
    ]


def past(facts: Iterable[Fact], today: Day) -> list[Fact]:
    """Return the values that have begun before a day and no longer hold on it."""
    rows = list(facts)
    holding = {fact.id for fact in current(rows, today)}
    return [fact for fact in rows if fact.id not in holding and _begun(fact, today)]


def _begun(fact: Fact, today: Day) -> bool:
    return fact.valid_from is None or day_key(fact.valid_from) <= day_key(today)


def _holds(fact: Fact, today: Day) -> bool:
    """The end is exclusive: a successor holds from the day on which its predecessor ends."""
    if fact.valid_until is None:
        return _begun(fact, today) and not fact.former
    return _begun(fact, today) and day_key(today) < day_key(fact.valid_until)


def _read(claim: Claim) -> _Mention | None:
    start, end = claim.valid_from, claim.valid_until
    published = claim.dated_by == "published"
    if claim.role is ClaimRole.FUTURE and (start is None or published):
        return None
    if claim.role is ClaimRole.FORMER and published and end is None:
        start, end = None, start  # by the day of publication it had ended
    if start and end and later(start, end):
        # Impossible dates: of a former value believe the end, of a present one the start.
        start, end = (None, end) if claim.role is ClaimRole.FORMER else (start, None)
    return _Mention(claim, start, end)


def _stretches(name: str, mentions: list[_Mention], others: list[Day]) -> list[_Stretch]:
    """Group the dated mentions of one object; ``others`` are the starts of other objects."""
    anchored = [_anchor(mention, mentions) for mention in mentions]
    found: list[_Stretch] = []
    dated = [(m.start, m) for m in anchored if m.start]
    for start, mention in sorted(dated, key=lambda pair: day_key(pair[0])):
        if found and _continues(found[-1], start, others):
            found[-1].mentions.append(mention)
        else:
            found.append(_Stretch(name, [mention]))
        _settle(found[-1])
    ended = [m for m in anchored if m.start is None and m.end is not None]
    if ended:
        found.append(_Stretch(name, ended))
        _settle(found[-1])
    return found


def _anchor(mention: _Mention, mentions: list[_Mention]) -> _Mention:
    """Give an end without a start the last start before it."""
    end = mention.end
    if mention.start is not None or end is None:
        return mention
    earlier = [m for m in mentions if m.start and (later(end, m.start) or _within(m.start, end))]
    if not earlier:
        return mention
    host = max(earlier, key=_by_start)
    stated = [m.end for m in earlier if m.start == host.start and m.fixed and m.end]
    if mention.fixed and stated and later(end, max(stated, key=day_key)):
        if _ordinal(end) - _ordinal(max(stated, key=day_key)) > _YEAR:
            return mention  # a second time in office, of which only the end is known
        return dataclasses.replace(mention, start=host.start, end=None, inferred=True)
    return dataclasses.replace(mention, start=host.start, inferred=True)


def _continues(stretch: _Stretch, start: Day, others: list[Day]) -> bool:
    """Tell whether a mention from ``start`` on (the latest so far) is part of a stretch."""
    starts = [m.start for m in stretch.mentions if m.start]
    first, last = stretch.start or starts[0], starts[-1]
    if stretch.end is not None and not agree(start, stretch.end):
        return day_key(start) < day_key(stretch.end)
    if agree(start, first):
        return True
    if stretch.end is not None:
        return False
    return not any(later(other, last) and later(start, other) for other in others)


def _settle(stretch: _Stretch) -> None:
    """Choose the start and the end that the mentions of a stretch support best."""
    dated = [m for m in stretch.mentions if m.start is not None]
    if dated:
        least = min(m.doubt for m in dated)
        stretch.start = _refined([m.start for m in dated if m.start and m.doubt == least])
    fixed = [m.end for m in stretch.mentions if m.end and m.fixed]
    bounds = [m.end for m in stretch.mentions if m.end and m.claim.role is ClaimRole.FORMER]
    planned = [m.end for m in stretch.mentions if m.end]
    stretch.fixed = bool(fixed)
    if fixed:
        stretch.end = max(fixed, key=day_key)  # terms that follow each other reach the last end
    elif bounds:
        stretch.end = min(bounds, key=day_key)
    elif planned:
        stretch.end = max(planned, key=day_key)


def _end_at_successors(stretches: list[_Stretch]) -> None:
    starts = sorted({s.start for s in stretches if s.start}, key=day_key)
    for stretch in stretches:
        if stretch.start is None:
            continue
        following = next((day for day in starts if later(day, stretch.start)), None)
        if following is None:
            continue
        if stretch.end is not None and agree(stretch.end, following):
            stretch.end = max(stretch.end, following, key=len)
        elif stretch.end is None or (not stretch.fixed and later(stretch.end, following)):
            stretch.end = following


def _attach_undated(name: str, mentions: list[_Mention], stretches: list[_Stretch]) -> None:
    """Let mentions without dates support the spell they can mean, or stand as one of their own."""
    own = sorted((s for s in stretches if s.object == name and not s.planned), key=_by_start)
    undated = [m for m in mentions if m.start is None and m.end is None]
    present = [m for m in undated if m.claim.role is ClaimRole.CURRENT]
    former = [m for m in undated if m.claim.role is ClaimRole.FORMER]
    if present:
        if not own:
            own.append(_Stretch(name, []))
            stretches.append(own[0])
        own[-1].mentions += present
    if former:
        # "The former president" does not end a dated spell that goes on: it may be the second.
        over = [s for s in own if s.end is not None or s.former or s.start is None]
        if over:
            over[-1].mentions += former
        else:
            stretches.append(_Stretch(name, former))


def _spell(stretch: _Stretch) -> Spell:
    claims = [mention.claim for mention in stretch.mentions]
    holding = [claim for claim in claims if claim.role is ClaimRole.CURRENT] or claims
    titles = Counter(claim.title for claim in claims if claim.title)
    return Spell(
        object=stretch.object,
        valid_from=stretch.start,
        valid_until=stretch.end,
        former=stretch.former,
        acting=all(claim.acting for claim in holding),
        titles=tuple(sorted(titles, key=lambda title: (-titles[title], title))),
        claim_ids=tuple(sorted(claim.id for claim in claims)),
    )


def _spellings(objects: Iterable[str], same: Same) -> dict[str, str]:
    """Map each spelling to the fullest one of the same object.

    A spelling that fits several fuller ones ("Bush") stands alone: guessing which is
    meant would depend on the order in which they came.
    """
    folded: dict[str, list[str]] = defaultdict(list)
    for spelling in objects:
        folded[" ".join(spelling.casefold().split())].append(spelling)
    best = {key: _display(found) for key, found in folded.items()}
    heads: list[str] = []
    chosen: dict[str, str] = {}
    for name in sorted(best.values(), key=_fullness, reverse=True):
        fits = [head for head in heads if same(head, name) or same(name, head)]
        if len(fits) == 1:
            chosen[name] = fits[0]
        else:
            heads.append(name)
            chosen[name] = name
    return {spelling: chosen[best[key]] for key, found in folded.items() for spelling in found}


def _display(spellings: Iterable[str]) -> str:
    return max(set(spellings), key=_fullness)


def _fullness(spelling: str) -> tuple[int, int, int, str]:
    words = spelling.split()
    shouted = sum(word.isupper() and len(word) > 3 for word in words)
    return len(words), -shouted - spelling.islower(), len(spelling), spelling


def _refined(days: list[Day]) -> Day:
    """Return the earliest day, as exactly as a day that agrees with it tells it."""
    first = min(days, key=day_key)
    return min((day for day in days if agree(day, first)), key=lambda day: (-len(day), day))


def _within(part: Day, whole: Day) -> bool:
    return agree(part, whole) and len(part) != len(whole)


def _ordinal(day: Day) -> int:
    year, month, date = day_key(day)
    return year * _YEAR + month * 31 + date


def _by_start(item: _Mention | _Stretch) -> tuple[int, int, int]:
    return day_key(item.start) if item.start else (-1, 0, 0)


def _chronological(spell: Spell) -> tuple[object, ...]:
    start = day_key(spell.valid_from) if spell.valid_from else (-1, 0, 0)
    end = day_key(spell.valid_until) if spell.valid_until else (10_000, 0, 0)
    return (*start, *end, spell.object, spell.claim_ids)


def _content(fact: Fact) -> Spell:
    return Spell(
        object=fact.object,
        valid_from=fact.valid_from,
        valid_until=fact.valid_until,
        former=fact.former,
        acting=fact.acting,
        titles=fact.titles,
        claim_ids=fact.claim_ids,
    )


def _fact(subject: str, relation: str, spell: Spell, moment: datetime) -> Fact:
    identity = (subject, relation, spell.object, *spell.claim_ids, moment.isoformat())
    return Fact(
        id=digest(*identity, str(spell.valid_from), str(spell.valid_until), str(spell.former)),
        subject=subject,
        relation=relation,
        recorded_from=moment,
        **{field.name: getattr(spell, field.name) for field in dataclasses.fields(spell)},
    )
