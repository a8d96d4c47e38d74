"""Claims that no longer count: their page was corrected, or they are our own words. Pure.

A published story is a promise that its publisher may take back. When a newer version of the same
page no longer makes a claim, the old version is no support for it any more, unless the page

- says that the value *was* true (the holder is now a former one, or a later one is dated by the
  text): what changed is the world, not the story;
- has moved on to other things altogether (a page of headlines): it says nothing of the old story.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from detectors.dates import begins
from detectors.entities import normalise
from detectors.sources import likeness, word_runs, zones
from store.records import Claim, ClaimRole, Document

Same = Callable[[str, str], bool]

_ANOTHER = 0.3  # likeness under which a page's new text is about something else
_OURS = 0.5  # share of a text's word runs that are our own statements
_LOOKED_AT = 4_000  # characters of a text compared with our statements
_CORRECTION = re.compile(
    # A heading or a label; "Corrections Minister …" is neither.
    r"^\W{0,4}(?:corrections?|corrected|clarification|editor(?:['’]?s|s['’])?\snote|erratum"
    r"|corrigendum)\b[^\n:.]{0,40}(?:[:—–]|$)"
    r"|\b(?:earlier|previous|original)\sversions?\sof\sthis\b"
    r"|\bthis\s(?:article|story|report|page|text)\s(?:has\sbeen|was)\s(?:corrected|amended)\b",
    re.IGNORECASE | re.MULTILINE,
)
_RETRACTION = re.compile(
    r"^\W{0,4}(?:retraction|retracted|withdrawn)\b[^\n:.]{0,40}(?:[:—–]|$)"
    r"|\b(?:article|story|report|page|text|claim|item)\s(?:has\sbeen|was|is)\s(?:now\s)?"
    r"(?:retracted|withdrawn|false|untrue|a\shoax|fabricated)\b"
    r"|\bwe\s(?:have\s)?(?:retract|withdr[ae]w)\w*\s(?:this|our|the)\b",
    re.IGNORECASE | re.MULTILINE,
)
_REPORT = re.compile(
    r"\bcorrigenda\.report/\d|\bcorrigenda · drift report\b|\bcorrigenda edits revert [0-9a-f]{6}"
)


def superseded(versions: Sequence[Document]) -> dict[str, Document]:
    """Return, by the id of each version of a page that is no longer there, the newest one.

    ``versions`` are all documents that one feed gave for one address, in the order in which
    they were kept. Where several came in one poll the address is shared (items without links
    have the feed's own), and only equal GUIDs make a page.
    """
    polls = Counter(document.fetched for document in versions)
    shared = any(count > 1 for count in polls.values())
    newest: dict[str, Document] = {}
    for document in versions:
        newest[document.guid if shared else ""] = document
    if shared:
        newest.pop("", None)
    found = {}
    for document in versions:
        latest = newest.get(document.guid if shared else "")
        if latest and latest.id != document.id and latest.fetched != document.fetched:
            found[document.id] = latest
    return found


def disowned(claim: Claim, document: Document) -> str:
    """Return why a document takes its own claim back, "" where it does not."""
    if any(_RETRACTION.search(zone) for zone in zones(document, [(claim.start, claim.end)])):
        return "the page is retracted"
    for start, end in _lines(document.text, _CORRECTION):
        if start <= claim.start < end:
            return ""  # the correction itself says so
        if _names(document.text[start:end], claim.object):
            return "the page carries a correction that names the value"
    return ""


def outdated(
    claim: Claim, document: Document, newest: Document, claims: Sequence[Claim], same: Same
) -> str:
    """Return why a claim of a superseded page is no support any more, "" where it still is.

    ``claims`` are those of ``newest``; ``same`` tells whether two objects are one.
    """
    slot = [c for c in claims if c.slot.key == claim.slot.key]
    again = [
        c
        for c in slot
        if same(c.object, claim.object) and (c.role is not ClaimRole.FUTURE or c.role is claim.role)
    ]
    if any(not disowned(c, newest) for c in again):
        return ""
    text = f"{newest.title}\n{newest.text}"
    if again or _CORRECTION.search(text) or _RETRACTION.search(text):
        return "the page was corrected"
    others = [c for c in slot if c.role is ClaimRole.CURRENT]
    if others:
        succeeded = any(_begins_later(c, claim) for c in others)
        return "" if succeeded else f"the page now names {others[0].object}"
    elsewhere = likeness(document.text, newest.text) < _ANOTHER
    if elsewhere and not _names(text, claim.object):
        return ""
    return "the page no longer says so"


class OwnWords:
    """What we have said ourselves: a text that repeats it is no source.

    ``statements`` are those of edits: what the served model answers.
    """

    def __init__(self, statements: Iterable[str]) -> None:
        self._statements = frozenset(normalise(text) for text in statements if text)
        self._runs = {run for text in self._statements for run in word_runs(text)}

    def recognises(self, document: Document) -> str:
        """Return why a whole document is our own words, "" where it is not."""
        if _REPORT.search(f"{document.title}\n{document.text}"):
            return "it is a report of corrigenda"
        runs = word_runs(document.text[:_LOOKED_AT]) if self._runs else set()
        if runs and len(runs & self._runs) / len(runs) >= _OURS:
            return "it repeats what the served model answers"
        return ""


def repeated(claim: Claim, document: Document, statements: Collection[str]) -> str:
    """Return why a claim is an echo: its line says one of ``statements`` word for word."""
    start = document.text.rfind("\n", 0, claim.start) + 1
    end = document.text.find("\n", claim.end)
    line = f" {normalise(document.text[start : end if end >= 0 else None])} "
    if any(f" {normalise(statement)} " in line for statement in statements if statement):
        return "it repeats what the served model answers"
    return ""


def _begins_later(one: Claim, other: Claim) -> bool:
    """Whether one claim's value begins after the other's, by what the texts say."""
    if one.dated_by != "text" or not one.valid_from or not other.valid_from:
        return False
    return begins(one.valid_from) > begins(other.valid_from)


def _lines(text: str, pattern: re.Pattern[str]) -> Iterable[tuple[int, int]]:
    for match in pattern.finditer(text):
        start = text.rfind("\n", 0, match.end()) + 1
        end = text.find("\n", match.end())
        yield start, end if end >= 0 else len(text)


def _names(text: str, value: str) -> bool:
    """Whether a text has a value's last word: a person's family name, as a rule."""
    words = normalise(value).split()
    return bool(words) and f" {words[-1]} " in f" {normalise(text)} "
