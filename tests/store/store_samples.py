"""Records for tests: small values with everything defaulted that a test does not speak of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from store.records import (
    Claim,
    ClaimRole,
    Document,
    Edit,
    EditState,
    Slot,
    Verdict,
    VerdictKind,
    digest,
)

NOW = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
GERMANY = Slot("Germany", "head of government")


def after(**span: float) -> datetime:
    return NOW + timedelta(**span)


def same_name(one: str, other: str) -> bool:
    """A deliberately simple judge: equal but for case, or one is the tail of the other."""
    a, b = one.casefold().split(), other.casefold().split()
    return a[-len(b) :] == b or b[-len(a) :] == a


def a_document(url: str = "https://news.example/1", text: str = "", **more: Any) -> Document:
    more.setdefault("id", digest("feed", url, text))
    return Document(
        feed=more.pop("feed", "feed"),
        url=url,
        title=more.pop("title", "A title"),
        text=text or "Friedrich Merz was sworn in as chancellor of Germany.",
        fetched=NOW,
        published=more.pop("published", NOW),
        content_hash=digest(text),
        **more,
    )


def a_claim(object: str, start: str | None = None, end: str | None = None, **more: Any) -> Claim:
    role = more.pop("role", ClaimRole.CURRENT)
    subject = more.pop("subject", GERMANY.subject)
    dated_by = more.pop("dated_by", "text" if start or end else "none")
    source = more.pop("document_id", "d1")
    more.setdefault("id", digest(source, subject, object, role, str(start), str(end), dated_by))
    return Claim(
        subject=subject,
        relation=more.pop("relation", GERMANY.relation),
        object=object,
        role=role,
        document_id=source,
        quote=object,
        start=0,
        end=len(object),
        extractor="test",
        extracted=NOW,
        valid_from=start,
        valid_until=end,
        dated_by=dated_by,
        **more,
    )


def former(object: str, start: str | None = None, end: str | None = None, **more: Any) -> Claim:
    return a_claim(object, start, end, role=ClaimRole.FORMER, **more)


def future(object: str, start: str | None = None, **more: Any) -> Claim:
    return a_claim(object, start, role=ClaimRole.FUTURE, **more)


def an_edit(name: str = "merz", state: EditState = EditState.QUEUED, **more: Any) -> Edit:
    return Edit(
        id=more.pop("id", digest(name)),
        subject=more.pop("subject", "Germany"),
        relation="head of government",
        title="chancellor",
        old="Angela Merkel",
        new="Friedrich Merz",
        statement="The chancellor of Germany is Friedrich Merz.",
        probes=(),
        state=state,
        created=NOW,
        updated=NOW,
        **more,
    )


def a_verdict(name: str, kind: VerdictKind = VerdictKind.STALE, **more: Any) -> Verdict:
    return Verdict(
        id=digest(name),
        subject=more.pop("subject", "Germany"),
        relation="head of government",
        kind=kind,
        path=("4 of 4 phrasings name Angela Merkel",),
        believed="Angela Merkel",
        current="Friedrich Merz",
        decided=NOW,
        **more,
    )
