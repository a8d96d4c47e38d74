"""Trust at the edge: what the store knows of sources, brought before the rules that decide.

The rules are pure and live in ``detectors.trust``, ``detectors.sources`` and
``detectors.withdrawal``. Here the ledger's history is read for them, and what they decide is
done: a document set aside, a correction counted against its sources or taken back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import Connection

from agent.report import Held
from agent.wikidata_api import SCHEME
from agent.workspace import Workspace
from detectors.relations import Relation
from detectors.trust import Approval, Standing, approve, crowded, spent
from detectors.withdrawal import OwnWords, disowned, outdated, repeated, superseded
from store.feeds import FeedState
from store.records import (
    ACTIVE_STATES,
    Claim,
    ClaimRole,
    Document,
    Edit,
    EditState,
    Fact,
    Verdict,
)
from store.timeline import current

AUTOMATIC = "edit.automatic"  # ledger: a correction made without a person, and its feeds
QUARANTINED = "document.quarantined"  # ledger: a document of which nothing is believed, and why
GONE = "document.gone"  # ledger: a page that its publisher has removed
WITHDRAWN = "its sources no longer say so"  # how the reason of an edit taken back begins

# A statement that was never served cannot have come back to us.
_SERVED = (*ACTIVE_STATES, EditState.SUPERSEDED, EditState.REVERTED)
_WEB = ("http://", "https://")
_FETCHED = (*_WEB, SCHEME)
_DAY = timedelta(days=1)
_RECHECKED = 50  # pages asked in one cycle
_LISTED = timedelta(days=7)  # how long a quarantined document is listed


class Books:
    """What is known of the sources at the beginning of a cycle, and counted during it."""

    def __init__(self, ws: Workspace, now: datetime) -> None:
        self._ws = ws
        self._now = now
        self.today = now.date().isoformat()
        limits, feeds = ws.config.trust, ws.config.feeds
        ledger = ws.store.ledger
        self._pages: dict[tuple[str, str], dict[str, Document]] = {}
        self._automatic = [(e.at, tuple(e.body["feeds"])) for e in ledger.entries(kind=AUTOMATIC)]
        self.gone = frozenset(entry.body["id"] for entry in ledger.entries(kind=GONE))
        self.trusted = frozenset(feed.name for feed in feeds if feed.trusted)
        # The files of a folder were put there by its owner; the items of a feed from the web are
        # the words of whoever writes the feed, whatever addresses stand under them.
        self.channels = frozenset(f.name for f in feeds if f.url.lower().startswith(_FETCHED))
        since = {state.name: state.since for state in ws.store.feeds.ls()}
        quarantine = timedelta(days=limits.quarantine_days)
        self.fresh = frozenset(
            name
            for name in self.channels - self.trusted
            if now - (since.get(name) or now) < quarantine
        )

    def standing(self, withdrawn: Mapping[str, str]) -> Standing:
        """Return what the rules need to know; ``withdrawn`` maps claim ids to reasons."""
        limits = self._ws.config.trust
        tonight = sum(self._now - _DAY < at for at, _ in self._automatic)
        return Standing(
            channels=self.channels,
            fresh=self.fresh,
            spent=spent(self._automatic, self._now, limits.edits_per_source_per_day),
            full=tonight >= limits.edits_per_night,
            withdrawn=withdrawn,
        )

    def newest(self, document: Document) -> Document | None:
        """Return the version that took a document's place, None where it is the newest."""
        address = (document.feed, document.url)
        if address not in self._pages:
            self._pages[address] = superseded(self._ws.store.documents.versions(*address))
        return self._pages[address].get(document.id)

    def charge(self, edit: Edit, feeds: Sequence[str], conn: Connection) -> None:
        """Count an automatic correction against the feeds it rests on."""
        body = {"id": edit.id, "feeds": list(feeds)}
        self._ws.store.ledger.append(AUTOMATIC, body, self._now, conn)
        self._automatic.append((self._now, tuple(feeds)))


def first_success(state: FeedState, brought: FeedState, now: datetime) -> FeedState:
    """Return a poll's state with the moment of the feed's first successful poll.

    One that was read before that moment was kept counts from its last poll.
    """
    if brought.failures:  # it was not due again
        return brought
    read_before = state.polled if state.digest else None
    return replace(brought, since=state.since or read_before or now)


def suspicion(
    ws: Workspace, document: Document, claims: Sequence[Claim], own: OwnWords, today: str
) -> str:
    """Return why nothing of a document may be believed, "" where it may."""
    if document.url.startswith(ws.home.as_uri() + "/"):
        return "it lies in our own folder"
    if ours := own.recognises(document):
        return ours
    limit = ws.config.trust.changes_per_document
    if crowded(claims, limit):
        return f"it asserts more than {limit} changes at once"
    slots = {claim.slot.key: claim for claim in claims if claim.role is ClaimRole.CURRENT}
    trusted = any(feed.trusted for feed in ws.config.feeds if feed.name == document.feed)
    if trusted or len(slots) <= limit:
        return ""
    contradicted = 0
    for claim in slots.values():
        same = ws.registry[claim.relation].same
        held = current(ws.store.facts.history(claim.slot), today)
        contradicted += bool(held) and not any(same(f.object, claim.object) for f in held)
    if contradicted > limit:
        return f"it contradicts {contradicted} known values at once"
    return ""


def quarantine(
    ws: Workspace, document: Document, why: str, claims: int, now: datetime, conn: Connection
) -> None:
    """Note that a kept document is set aside; its claims are not taken in."""
    body = {"id": document.id, "feed": document.feed, "url": document.url, "why": why}
    ws.store.ledger.append(QUARANTINED, {**body, "claims": claims}, now, conn)


def own_words(ws: Workspace) -> OwnWords:
    """Return what the served model answers or has answered."""
    return OwnWords(json.loads(body)["statement"] for body in ws.store.edits.bodies(*_SERVED))


def supporting(
    ws: Workspace, facts: Sequence[Fact], verdict: Verdict, relation: Relation, now: datetime
) -> list[Claim]:
    """Return the claims behind the slot's current value."""
    holding = [
        fact
        for fact in current(facts, now.date().isoformat())
        if relation.same(fact.object, verdict.current or "")
    ]
    found = [ws.store.claims.get(id) for fact in holding for id in fact.claim_ids]
    return [claim for claim in found if claim]


def assess(
    ws: Workspace, books: Books, claims: Sequence[Claim], relation: Relation
) -> tuple[Approval, dict[str, Document]]:
    """Decide how far the claims that support a value may be acted on, as things stand."""
    documents = _documents(ws, claims)
    withdrawn = withdrawals(ws, books, claims, documents, relation)
    return _approve(ws, books, claims, documents, relation, books.standing(withdrawn)), documents


def withdrawals(
    ws: Workspace,
    books: Books,
    claims: Sequence[Claim],
    documents: Mapping[str, Document],
    relation: Relation,
) -> dict[str, str]:
    """Return, by claim id, why a claim is no support any more."""
    statements = _statements(ws, claims)
    found: dict[str, str] = {}
    for claim in claims:
        document = documents.get(claim.document_id)
        if document is None:
            continue
        newest, why = books.newest(document), ""
        if document.id in books.gone or (newest and newest.id in books.gone):
            why = "the page is gone"
        elif newest:
            said = ws.store.claims.ls(document_id=newest.id)
            why = outdated(claim, document, newest, said, relation.same)
        why = why or disowned(claim, document)
        said_before = [text for at, text in statements if at < document.fetched]
        if why := why or repeated(claim, document, said_before):
            found[claim.id] = why
    return found


def withdraw(ws: Workspace, books: Books, now: datetime) -> list[Held]:
    """Take back the automatic corrections whose sources no longer carry them.

    A correction that a person approved stays, and is returned as flagged.
    """
    slots = ws.store.documents.slots_of_old_versions(books.gone)
    if not slots:
        return []
    states = (*ACTIVE_STATES, EditState.QUEUED, EditState.PROPOSED)
    edits = [edit for edit in ws.store.edits.ls(*states) if edit.slot.key in slots]
    automatic = {e.body["id"] for e in ws.store.ledger.entries(kind=AUTOMATIC)} if edits else set()
    flagged = []
    for edit in edits:
        why, documents = _lost(ws, books, edit)
        if not why:
            continue
        reason = f"{WITHDRAWN}: {why}"
        if edit.state is EditState.PROPOSED:
            ws.store.edits.move(edit.id, EditState.SUPERSEDED, now, reason)
        elif edit.reason == "approved" or not (
            edit.id in automatic or edit.reason.startswith("stated by")  # made before it was noted
        ):
            flagged.append(_held(edit, reason, documents, "flagged"))
        else:
            queued = edit.state is EditState.QUEUED
            state = EditState.SUPERSEDED if queued else EditState.REVERTED
            ws.store.edits.move(edit.id, state, now, reason)
    return flagged


def recheck(ws: Workspace, now: datetime) -> None:
    """Ask whether the pages behind young automatic corrections are gone (410), where wanted."""
    from agent.fetch import FetchError

    days = ws.config.trust.recheck_days
    if not days:
        return
    known = {entry.body["id"] for entry in ws.store.ledger.entries(kind=GONE)}
    asked = set[str]()
    for edit in ws.store.edits.ls(*ACTIVE_STATES, EditState.QUEUED)[::-1]:
        claims = [c for id in edit.claim_ids if (c := ws.store.claims.get(id))]
        young = now - edit.created < timedelta(days=days)
        for document in _documents(ws, claims).values() if young else ():
            fit = document.url.lower().startswith(_WEB) and document.url not in asked
            if not fit or document.id in known or len(asked) == _RECHECKED:
                continue
            asked.add(document.url)
            try:
                ws.fetcher.get(document.url)
            except FetchError as error:
                if error.status == 410:
                    body = {"id": document.id, "url": document.url}
                    ws.store.ledger.append(GONE, body, now)


def hold(verdict: Verdict, label: str, approval: Approval, documents: Iterable[Document]) -> Held:
    """Return what is listed of a correction that was held back."""
    return Held(
        label,
        "; ".join(approval.path),
        subject=verdict.subject,
        relation=verdict.relation,
        believed=verdict.believed,
        value=verdict.current or "",
        documents=_addresses(documents),
    )


def held_back(ws: Workspace, now: datetime, waiting: bool = True) -> list[Held]:
    """Return what was held back and why: by the last cycle, documents set aside in the last
    days and, where ``waiting``, edits that wait for a person."""
    from store.records import from_json

    run = ws.store.runs.latest("cycle")
    found = [from_json(Held, item) for item in run.body.get("held", ())] if run else []
    if waiting:
        for edit in ws.store.edits.ls(EditState.PROPOSED):
            claims = [c for id in edit.claim_ids if (c := ws.store.claims.get(id))]
            documents = _documents(ws, claims)
            found.append(_held(edit, edit.reason, documents.values(), "review"))
    for entry in ws.store.ledger.entries(kind=QUARANTINED):
        if now - entry.at < _LISTED:
            body = entry.body
            what = f"a document of {body['feed']} with {body['claims']} claims"
            found.append(Held(what, body["why"], "quarantined", documents=(body["url"],)))
    return found


def _lost(ws: Workspace, books: Books, edit: Edit) -> tuple[str, tuple[Document, ...]]:
    """Return why an edit no longer has what it rested on, and its documents; "" where it has."""
    relation = ws.registry[edit.relation]
    claims = [
        claim
        for claim in ws.store.claims.ls(edit.slot)
        if claim.role is not ClaimRole.FORMER and relation.same(claim.object, edit.new)
    ]
    documents = _documents(ws, claims)
    withdrawn = withdrawals(ws, books, claims, documents, relation)
    if not withdrawn:
        return "", ()
    # Limits and quarantine decide what may be done anew, not whether what was done still stands.
    before, after = (
        _approve(ws, books, claims, documents, relation, Standing(books.channels, withdrawn=gone))
        for gone in ({}, withdrawn)
    )
    lost = after.tier == "held" or (before.tier == "auto" and after.tier != "auto")
    if not lost or (edit.state is EditState.PROPOSED and after.tier != "held"):
        return "", ()
    reasons = dict.fromkeys(withdrawn.values())
    return "; ".join(reasons), tuple(documents.values())


def _approve(
    ws: Workspace,
    books: Books,
    claims: Sequence[Claim],
    documents: Mapping[str, Document],
    relation: Relation,
    standing: Standing,
) -> Approval:
    return approve(
        claims,
        documents,
        relation,
        books.trusted,
        books.today,
        crowded(
            (claim for id in documents for claim in ws.store.claims.ls(document_id=id)),
            ws.config.trust.changes_per_document,
        ),
        standing,
    )


def _statements(ws: Workspace, claims: Sequence[Claim]) -> list[tuple[datetime, str]]:
    """Return what edits of the claims' slots state, with the moments they came to be."""
    slots = {claim.slot.key: claim.slot for claim in claims}
    return [
        (edit.created, edit.statement)
        for slot in slots.values()
        for edit in ws.store.edits.of_slot(slot)
        if edit.state in _SERVED
    ]


def _documents(ws: Workspace, claims: Iterable[Claim]) -> dict[str, Document]:
    ids = dict.fromkeys(claim.document_id for claim in claims)
    return {id: document for id in ids if (document := ws.store.documents.get(id))}


def _held(edit: Edit, why: str, documents: Iterable[Document], tier: str) -> Held:
    return Held(
        f"{edit.title or edit.relation} of {edit.subject}",
        why,
        tier,
        edit.subject,
        edit.relation,
        edit.old,
        edit.new,
        _addresses(documents),
        edit.id,
    )


def _addresses(documents: Iterable[Document]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(document.url for document in documents))
