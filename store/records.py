"""The words of the house as plain values: every other module speaks in these.

All records are frozen dataclasses of plain types, so that each can be listed as JSON
(``to_json``) and rebuilt from it (``from_json``). Dates in the world (``valid_*``) are
``Day`` values, ISO 8601 strings that may be partial (``"2018"``, ``"2018-04"``,
``"2018-04-26"``) because sources often say no more; moments of our own (``fetched``,
``recorded_*``) are aware UTC ``datetime`` values.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Day = str
"""A possibly partial ISO date: ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``."""


class ClaimRole(enum.StrEnum):
    """How the text puts the object: as holder, as former or as future holder."""

    CURRENT = "current"
    FORMER = "former"
    FUTURE = "future"


class VerdictKind(enum.StrEnum):
    KEEP = "KEEP"
    STALE = "STALE"
    WRONG = "WRONG"
    UNKNOWN = "UNKNOWN"
    AMBIGUOUS = "AMBIGUOUS"
    UNSUPPORTED = "UNSUPPORTED"


class EditState(enum.StrEnum):
    PROPOSED = "proposed"  # waits for a person's approval
    QUEUED = "queued"  # approved, waits for the memory tier
    REMEMBERED = "remembered"  # answered by the memory tier
    CONSOLIDATED = "consolidated"  # also in the weights
    REJECTED = "rejected"
    PARKED = "parked"  # failed too often, waits for a person
    SUPERSEDED = "superseded"  # a newer edit of the same slot took over
    REVERTED = "reverted"


ACTIVE_STATES = frozenset({EditState.REMEMBERED, EditState.CONSOLIDATED})
"""States in which the served model answers the edit."""


class ProbeKind(enum.StrEnum):
    EDIT = "edit"
    PARAPHRASE = "paraphrase"
    ALIAS = "alias"
    NEGATION = "negation"
    ONE_HOP = "one-hop"
    SAME_SUBJECT = "same-subject"  # locality: another relation of the subject
    NEAR_ENTITY = "near-entity"  # locality: the relation of another subject


@dataclasses.dataclass(frozen=True)
class Slot:
    """What can be asked. ``subject`` is the display name; ``key`` is the identity."""

    subject: str
    relation: str

    @property
    def key(self) -> str:
        return f"{' '.join(self.subject.casefold().split())}|{self.relation}"


@dataclasses.dataclass(frozen=True)
class Document:
    """One fetched item. ``id`` is a digest of (feed, url, content hash)."""

    id: str
    feed: str
    url: str
    title: str
    text: str
    fetched: datetime
    published: datetime | None
    content_hash: str
    mime: str = "text/plain"
    guid: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """Slot + object taken from a document, with the quoted span it rests on.

    ``document.text[start:end] == quote``. ``title`` is the office title the source
    uses ("chancellor"), lower case, empty where there is none. ``dated_by`` says where
    ``valid_from`` comes from: ``"text"``, ``"published"`` or ``"none"``.
    """

    id: str
    subject: str
    relation: str
    object: str
    role: ClaimRole
    document_id: str
    quote: str
    start: int
    end: int
    extractor: str
    extracted: datetime
    title: str = ""
    valid_from: Day | None = None
    valid_until: Day | None = None
    dated_by: str = "none"
    acting: bool = False

    @property
    def slot(self) -> Slot:
        return Slot(self.subject, self.relation)


@dataclasses.dataclass(frozen=True)
class Fact:
    """One value in a slot's history (bitemporal, append-only).

    ``valid_from``/``valid_until``: when it was true in the world (None = not known /
    still true). ``recorded_from``/``recorded_until``: when we held this row to be so;
    a row is never changed, only closed and followed by another. ``former`` marks a
    value that sources call former even where no end date is known.
    """

    id: str
    subject: str
    relation: str
    object: str
    claim_ids: tuple[str, ...]
    recorded_from: datetime
    recorded_until: datetime | None = None
    valid_from: Day | None = None
    valid_until: Day | None = None
    former: bool = False
    acting: bool = False
    titles: tuple[str, ...] = ()

    @property
    def slot(self) -> Slot:
        return Slot(self.subject, self.relation)


@dataclasses.dataclass(frozen=True)
class Reply:
    """One answer of a model: the question, the text, the mean log-probability of its ``tokens``
    tokens, and the texts of further answers that were drawn instead of chosen greedily."""

    question: str
    text: str
    logprob: float
    tokens: int = 0
    samples: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """The log-probability of the whole answer."""
        return self.logprob * self.tokens


@dataclasses.dataclass(frozen=True)
class Belief:
    """What the model answers for a slot. ``agreement`` is the share of answers, drawn ones
    included, that name what is named most often (0..1); ``logprob`` the mean log-probability
    of a token of the greedy answers, None where it was not measured."""

    subject: str
    relation: str
    replies: tuple[Reply, ...]
    model: str
    asked: datetime
    agreement: float = 0.0
    logprob: float | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Comparison of a belief with a slot's facts; ``path`` names the rules that fired."""

    id: str
    subject: str
    relation: str
    kind: VerdictKind
    path: tuple[str, ...]
    believed: str
    current: str | None
    decided: datetime
    title: str = ""
    fact_ids: tuple[str, ...] = ()
    belief: Belief | None = None

    @property
    def slot(self) -> Slot:
        return Slot(self.subject, self.relation)


@dataclasses.dataclass(frozen=True)
class Probe:
    """One question of an edit's battery. ``expected`` is the new object for scope probes
    and empty for locality probes (which are compared with the unedited model)."""

    kind: ProbeKind
    question: str
    expected: str = ""


@dataclasses.dataclass(frozen=True)
class Edit:
    """The correction of one slot.

    ``statement`` is the sentence that states the new fact ("The chancellor of Germany
    is Friedrich Merz."); ``subject_aliases`` other names of the subject; ``former`` the
    values that must no longer be answered.
    """

    id: str
    subject: str
    relation: str
    title: str
    old: str
    new: str
    statement: str
    probes: tuple[Probe, ...]
    state: EditState
    created: datetime
    updated: datetime
    verdict_id: str = ""
    subject_aliases: tuple[str, ...] = ()
    former: tuple[str, ...] = ()
    claim_ids: tuple[str, ...] = ()
    reason: str = ""
    attempts: int = 0

    @property
    def slot(self) -> Slot:
        return Slot(self.subject, self.relation)


@dataclasses.dataclass(frozen=True)
class Version:
    """An immutable model version; ``id`` is the digest of its manifest."""

    id: str
    base_hash: str
    editor: str
    edit_ids: tuple[str, ...]
    path: str
    created: datetime
    files: tuple[tuple[str, str], ...] = ()  # (name, sha256)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LedgerEntry:
    seq: int
    at: datetime
    kind: str
    body: Mapping[str, Any]
    previous: str
    digest: str


def digest(*parts: str) -> str:
    """Return a 16-hex-digit identity of some strings, stable across runs and machines."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def utcnow() -> datetime:
    """The default clock. Pure code takes a clock as an argument instead of calling this."""
    return datetime.now(UTC)


Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a dict of JSON types (dates as ISO strings, enums as values)."""
    return {f.name: _plain(getattr(record, f.name)) for f in dataclasses.fields(record)}


def dumps(value: Any) -> str:
    """Serialise canonically: sorted keys, no spaces, so that equal values hash equally."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(cls: type[Record], data: Mapping[str, Any]) -> Record:
    """Rebuild a record from ``to_json`` output; unknown keys are ignored."""
    kind: Any = cls  # a class is hashable, whatever its instances are
    values = {}
    for name, convert in _readers(kind):
        if name in data:
            value = data[name]
            values[name] = value if convert is None or value is None else convert(value)
    return cls(**values)


@functools.cache  # resolving annotations costs more than building the record
def _readers(cls: Any) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    hints = get_type_hints(cls)
    return tuple((field.name, _reader(hints[field.name])) for field in dataclasses.fields(cls))


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    """Return what makes a typed value of a JSON one; None where they are the same."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = _reader(args[0])
        return tuple if item is None else lambda value: tuple(item(each) for each in value)
    if origin is tuple:
        items = [_reader(arg) or _same for arg in args]
        return lambda value: tuple(r(v) for r, v in zip(items, value, strict=True))
    if origin is Union or (origin is not None and type(None) in args):
        return _reader(next(arg for arg in args if arg is not type(None)))
    if hint is datetime:
        return lambda value: value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return lambda value: value if isinstance(value, hint) else from_json(hint, value)
    return None


def _same(value: Any) -> Any:
    return value


_AS_IT_IS = frozenset({str, int, float, bool})


def _plain(value: Any) -> Any:
    if value is None or type(value) in _AS_IT_IS:  # most values, and lists are long
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value
