"""One turn of the loop: poll, extract, ask, judge, propose, remember.

Each step leaves the store consistent: what one feed or one slot brings is written in its
own transaction, so that a crash between two of them loses nothing and repeats nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from agent.config import FeedEntry
from agent.feeds import FeedConfig, FeedError, after_failure, poll
from agent.progress import Progress
from agent.reading import Reader
from agent.report import FeedInput, FeedStatus, Held
from agent.served import Served, ServedAsker, active_edits, fact_of, open_served, slot_by_question
from agent.trust import (
    WITHDRAWN,
    Books,
    assess,
    first_success,
    hold,
    own_words,
    quarantine,
    recheck,
    supporting,
    suspicion,
    withdraw,
)
from agent.wikidata import properties
from agent.wikidata_api import SCHEME
from agent.workers import beating, has_stopped, own_name
from agent.workspace import Workspace
from detectors.beliefs import ask_beliefs
from detectors.extractors import extract
from detectors.proposal import propose
from detectors.relations import Relation
from detectors.verdict import verdict_for
from detectors.withdrawal import OwnWords
from store.facts import Rule
from store.failpoints import reach
from store.feeds import FeedState
from store.records import (
    ACTIVE_STATES,
    Belief,
    Claim,
    Document,
    Edit,
    EditState,
    Fact,
    Slot,
    Verdict,
    VerdictKind,
    digest,
    to_json,
)
from store.timeline import current

BELIEF_TOKENS = 32  # enough to name a holder; a longer answer is cut


@dataclass(frozen=True)
class CycleResult:
    """What one turn did; counts are of what is new."""

    feeds: tuple[FeedInput, ...]
    documents: int
    claims: int
    slots: int
    verdicts: dict[str, int]
    proposed: int
    remembered: int
    held: tuple[Held, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Polled:
    feeds: tuple[FeedInput, ...]
    documents: tuple[Document, ...]
    claims: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Detected:
    verdicts: tuple[Verdict, ...]
    proposed: tuple[Edit, ...]
    held: tuple[Held, ...]


def run_once(ws: Workspace, now: datetime, progress: Progress) -> CycleResult:
    """Run one whole turn and record it."""
    started = time.monotonic()
    polled = poll_feeds(ws, now, progress)
    recheck(ws, now)
    books = Books(ws, now)
    flagged = withdraw(ws, books, now)
    detected = detect(ws, now, progress, books)
    remembered = remember(ws, now, progress)
    result = CycleResult(
        feeds=polled.feeds,
        documents=len(polled.documents),
        claims=polled.claims,
        slots=len(detected.verdicts),
        verdicts=ws.store.verdicts.counts(),
        proposed=len(detected.proposed),
        remembered=remembered,
        held=(*detected.held, *flagged),
        notes=polled.notes,
        seconds=round(time.monotonic() - started, 2),
    )
    ws.store.runs.add("cycle", now, to_json(result))
    return result


def poll_feeds(ws: Workspace, now: datetime, progress: Progress) -> Polled:
    """Poll every configured feed; keep documents, evidence, claims and facts.

    A feed that fails is noted with its error and waits longer; the others go on.
    """
    inputs, new, notes, claims = [], [], [], 0
    own: OwnWords | None = None
    reader = Reader.of(ws)
    with progress.stage("polling feeds", len(ws.config.feeds)) as advance:
        for entry in ws.config.feeds:
            state = ws.store.feeds.get(entry.name) or FeedState(entry.name)
            try:
                brought = poll(_feed(ws, entry), ws.fetcher, state, lambda: now)
            except FeedError as error:
                ws.store.feeds.put(after_failure(state, str(error), now, error.retry_after))
                inputs.append(FeedInput(entry.name, entry.url, FeedStatus.FAILED, 0, str(error)))
                advance()
                continue
            fresh = [d for d in brought.documents if ws.store.documents.get(d.id) is None]
            # Evidence first: adding it again after a crash changes nothing.
            store_evidence(ws, fresh, progress)
            own = own or (own_words(ws) if fresh else None)
            read = reader.read(fresh, now, progress)
            for document in fresh:
                claims += take_in(ws, document, now, own, read.get(document.id, ()))
            # The feed counts as read only once its documents are kept.
            ws.store.feeds.put(first_success(state, brought.state, now))
            new += fresh
            status = FeedStatus.UNCHANGED if brought.unchanged else FeedStatus.OK
            note = brought.notes[0] if brought.notes else ""
            inputs.append(FeedInput(entry.name, entry.url, status, len(fresh), note))
            notes += [f"{entry.name}: {note}" for note in brought.notes]
            advance()
    return Polled(tuple(inputs), tuple(new), claims, (*notes, *reader.notes()))


def store_evidence(ws: Workspace, documents: Sequence[Document], progress: Progress) -> None:
    """Index documents for retrieval; a new text of a known page replaces the old one."""
    if not documents:
        return
    with progress.stage("storing evidence", len(documents)) as advance:
        for start in range(0, len(documents), 16):
            part = documents[start : start + 16]
            earlier = [ws.store.documents.latest(d.feed, d.url) for d in part]
            ws.evidence.remove([d.id for d in earlier if d])
            ws.evidence.add(part)
            advance(len(part))


def take_in(
    ws: Workspace,
    document: Document,
    now: datetime,
    own: OwnWords | None = None,
    read: Sequence[Claim] = (),
) -> int:
    """Keep a document with its claims and what follows for the facts, in one transaction.

    A suspicious one is kept without its claims. ``own`` is what we have said ourselves,
    ``read`` what a language model read in the document. Returns the number of claims taken
    in; 0 when the document is known.
    """
    before = ws.store.documents.latest(document.feed, document.url)
    found = extract(document, ws.registry, now, before)
    known = {claim.id for claim in found}
    claims = [*found, *(claim for claim in read if claim.id not in known)]
    today = now.date().isoformat()
    why = suspicion(ws, document, claims, own or own_words(ws), today) if claims else ""
    with ws.store.begin() as conn:
        if not ws.store.documents.add(document, conn=conn):
            return 0
        ws.store.ledger.append(
            "document.added", {"id": document.id, "feed": document.feed}, now, conn=conn
        )
        if why:
            quarantine(ws, document, why, len(claims), now, conn)
            claims = []
        ws.store.facts.take_in(claims, lambda id: _rule(ws.registry[id]), now, conn)
        reach("document.added")
    if why:
        ws.evidence.remove([document.id])
    reach("document.committed")
    return len(claims)


def detect(
    ws: Workspace, now: datetime, progress: Progress, books: Books | None = None
) -> Detected:
    """Compare what the served model believes with the facts, slot by slot.

    A slot is asked anew only when what answers it has changed since; otherwise its belief
    is at hand and only the facts can have changed. Only verdicts that differ are kept.
    """
    today = now.date().isoformat()
    latest = {verdict.slot.key: verdict for verdict in ws.store.verdicts.ls()}
    skipped = ws.config.detect.skip
    known = ws.store.facts.histories()
    histories = {slot: facts for slot, facts in known.items() if slot.relation not in skipped}
    if not histories:
        return Detected((), (), ())
    served = open_served(ws)
    asked = [
        slot
        for slot in sorted(histories, key=lambda s: (_newest(histories[s]), s.key), reverse=True)
        if not _at_hand(served, slot, latest)
    ][: ws.config.detect.max_slots]
    beliefs = _ask(ws, served, asked, histories, now, progress)
    verdicts: list[Verdict] = []
    for slot, facts in histories.items():
        before = latest.get(slot.key)
        belief = beliefs.get(slot.key) or (before.belief if before else None)
        if belief is None:
            continue
        title = title_of(ws, slot, facts)
        verdict = verdict_for(belief, facts, today, ws.registry[slot.relation], now, title)
        if before is None or _content(verdict) != _content(before):
            verdicts.append(verdict)
    ws.store.verdicts.add_all(verdicts)
    proposed, held = [], []
    books = books or Books(ws, now)
    # All of them, not only the new: what was held back may have found another source since.
    for verdict in (latest | {verdict.slot.key: verdict for verdict in verdicts}).values():
        outcome = correct(ws, verdict, now, books)
        if isinstance(outcome, Edit):
            proposed.append(outcome)
        elif isinstance(outcome, Held):
            held.append(outcome)
    return Detected(tuple(verdicts), tuple(proposed), tuple(held))


def correct(ws: Workspace, verdict: Verdict, now: datetime, books: Books) -> Edit | Held | None:
    """Queue or propose the edit that a verdict asks for; return it, or what was held back."""
    wanted = {VerdictKind.STALE} | ({VerdictKind.WRONG} if ws.config.edit.wrong else set())
    if verdict.kind not in wanted or not verdict.current:
        return None
    slot, relation = verdict.slot, ws.registry[verdict.relation]
    standing = ws.store.edits.open_for(slot)
    agrees = standing is not None and relation.same(standing.new, verdict.current)
    if standing and agrees and standing.state is not EditState.PROPOSED:
        return None
    facts = ws.store.facts.history(slot)
    claims = supporting(ws, facts, verdict, relation, now)
    approval, documents = assess(ws, books, claims, relation)
    label = f"{verdict.title or relation.label} of {verdict.subject}"
    if approval.tier == "held":
        return hold(verdict, label, approval, documents.values())
    edit = propose(
        verdict,
        facts,
        relation,
        ws.registry,
        verdict.title,
        approval,
        now,
        neighbours_of(ws, slot, train=False),
        offices_of(ws, slot, now),
    )
    if ws.config.edit.approval == "review" and edit.state is EditState.QUEUED:
        edit = replace(edit, state=EditState.PROPOSED, reason="edit.approval is 'review'")
    if standing and agrees:
        # What waited for a person need not wait longer once a second source has come.
        if edit.state is not EditState.QUEUED:
            return None
        with ws.store.begin() as conn:
            books.charge(standing, approval.feeds, conn)
            return ws.store.edits.move(standing.id, edit.state, now, edit.reason, conn=conn)
    with ws.store.begin() as conn:
        known = ws.store.edits.get(edit.id, conn)
        if known and _taken_back(known) and edit.state is not EditState.QUEUED:
            # It comes back only when enough sources carry it again.
            why = replace(approval, path=(known.reason, *approval.path))
            return hold(verdict, label, why, documents.values())
        if known and known.state is not EditState.SUPERSEDED and not _taken_back(known):
            return None  # decided before: rejected, reverted or parked stays so
        # One in force goes on answering until the new one does (``remember``).
        if standing and standing.state not in ACTIVE_STATES:
            ws.store.edits.move(standing.id, EditState.SUPERSEDED, now, _newer(edit), conn=conn)
        if edit.state is EditState.QUEUED:
            books.charge(edit, approval.feeds, conn)
        if known:  # a value that came back
            return ws.store.edits.move(known.id, edit.state, now, edit.reason, conn=conn)
        ws.store.edits.add(edit, conn=conn)
    return edit


def remember(ws: Workspace, now: datetime, progress: Progress) -> int:
    """Put every queued edit into the memory tier, once the served answer has been checked.

    An edit whose answer does not come out right fails; after three tries it is parked.
    Returns the number of edits remembered.
    """
    queued = ws.store.edits.ls(EditState.QUEUED)
    if not queued:
        return 0
    served = open_served(ws)
    subjects = {e.subject for e in [*active_edits(ws), *queued]}
    served.tier.scope.parse = slot_by_question(ws.registry, sorted(subjects))
    # Loaded before any lease is taken: a missing model is not the edits' fault.
    batch = served.model.batch_size
    worker = own_name()
    ws.store.edits.end_leases(has_stopped, ws.now())
    count, tried = 0, set[str]()
    with progress.stage("remembering", len(queued)) as advance:
        while leased := _lease(ws, worker, batch, tried):
            served.tier.scope.add(map(fact_of, leased))
            ids = [edit.id for edit in leased]
            with beating(ws.store.edits, ids, worker, ws.now, ws.config.edit.lease_seconds):
                answers = served.answer([edit.probes[0].question for edit in leased], advance)
            for edit, answered in zip(leased, answers, strict=True):
                count += _settle(ws, edit, answered.text, worker, now)
    return count


def _lease(ws: Workspace, worker: str, most: int, tried: set[str]) -> list[Edit]:
    """Lease queued edits that this run has not tried yet; they are answered in one batch.

    One that failed before is leased alone: should it kill its worker, it takes none along.
    """
    leased: list[Edit] = []
    again: list[Edit] = []
    seconds = ws.config.edit.lease_seconds
    while len(leased) < most:
        edit = ws.store.edits.lease(worker, ws.now(), seconds)
        if edit is None:
            break
        if edit.id in tried:
            again.append(edit)
        elif edit.attempts and leased:
            again.append(edit)
            break
        else:
            leased.append(edit)
            tried.add(edit.id)
            if edit.attempts:
                break
    for edit in again:  # left to the next run, or batch, in nobody's way
        ws.store.edits.release(edit.id, worker)
    return leased


def _settle(ws: Workspace, edit: Edit, text: str, worker: str, now: datetime) -> bool:
    """Mark a leased edit as remembered if the memory tier's answer is right.

    Only then does it take over from an earlier edit of its slot.
    """
    if not ws.registry[edit.relation].mentions(text, edit.new, edit.former):
        ws.store.edits.fail(edit.id, worker, ws.now(), f"the memory tier answered {text[:120]!r}")
        return False
    body = {"tier": "memory", "answers": {edit.id: {"text": text, "right": True}}}
    earlier = [e.id for e in active_edits(ws) if e.slot.key == edit.slot.key]
    with ws.store.begin() as conn:
        for id in earlier:
            ws.store.edits.move(id, EditState.SUPERSEDED, now, _newer(edit), conn=conn)
        ws.store.edits.move(edit.id, EditState.REMEMBERED, now, edit.reason, conn=conn)
        ws.store.runs.add("answers", now, body, conn=conn)
    return True


def neighbours_of(
    ws: Workspace, slot: Slot, train: bool, known_on: datetime | None = None
) -> list[tuple[str, str, str]]:
    """Return other slots as (subject, title, relation) that an edit must leave alone, by what
    we know or knew at a moment.

    Subjects fall into two fixed halves: the editor trains on one, the battery tests on the
    other, so that locality is never measured on what was trained.
    """
    others = [
        (other.subject, title_of(ws, other, facts), other.relation)
        for other, facts in ws.store.facts.histories(known_on).items()
        if other.key != slot.key and (int(digest(other.subject), 16) % 2 == 0) == train
    ]
    # The same relation first: the nearest neighbours are the hardest.
    return sorted(others, key=lambda o: (o[2] != slot.relation, digest(slot.key, *o)))


def offices_of(ws: Workspace, slot: Slot, now: datetime) -> list[tuple[str, str]]:
    """Return the other offices of a slot's subject as (title, holder), where one holds it."""
    subject, found = slot.key.partition("|")[0], []
    for other, facts in ws.store.facts.histories().items():
        if other.key == slot.key or other.key.partition("|")[0] != subject:
            continue
        holding = current(facts, now.date().isoformat())
        title = title_of(ws, other, facts)
        if title and len(holding) == 1 and ws.registry[other.relation].single:
            found.append((title, holding[0].object))
    return found


def title_of(ws: Workspace, slot: Slot, facts: Sequence[Fact] | None = None) -> str:
    """Return the title by which sources call a slot's office, '' where they give none."""
    facts = ws.store.facts.history(slot) if facts is None else facts
    titles = [title for fact in reversed(facts) for title in fact.titles if title]
    return ws.registry.asked_title(slot.relation, titles[0]) if titles else ""


def _feed(ws: Workspace, entry: FeedEntry) -> FeedConfig:
    url = entry.url
    if "://" not in url and not url.startswith(SCHEME) and not Path(url).is_absolute():
        url = str((ws.home / url).resolve())
    return FeedConfig(
        entry.name,
        url,
        trusted=entry.trusted,
        include=entry.include,
        max_items=entry.max_items,
        endpoint=ws.config.wikidata.endpoint,
        properties=properties(ws.registry),
    )


def _rule(relation: Relation) -> Rule:
    return Rule(relation.same, relation.single)


def _taken_back(edit: Edit) -> bool:
    """Whether an edit was reverted for want of sources, not by a person."""
    return edit.state is EditState.REVERTED and edit.reason.startswith(WITHDRAWN)


def _newer(edit: Edit) -> str:
    return f"a newer value: {edit.new}"


def _newest(facts: Sequence[Fact]) -> datetime:
    return max(fact.recorded_from for fact in facts)


def _at_hand(served: Served, slot: Slot, latest: Mapping[str, Verdict]) -> bool:
    """Whether what answered a slot's latest belief is what answers it now."""
    verdict = latest.get(slot.key)
    return bool(verdict and verdict.belief and verdict.belief.model == served.identity(slot))


def _ask(
    ws: Workspace,
    served: Served,
    slots: Sequence[Slot],
    histories: Mapping[Slot, Sequence[Fact]],
    now: datetime,
    progress: Progress,
) -> dict[str, Belief]:
    if not slots:
        return {}
    titled = [(slot, title_of(ws, slot, histories[slot])) for slot in slots]
    phrasings = ws.config.detect.phrasings
    with progress.stage("asking the model", len(slots) * phrasings) as advance:
        asker = ServedAsker(served, BELIEF_TOKENS, advance)
        samples = ws.config.detect.samples
        beliefs = ask_beliefs(asker, titled, ws.registry, now, phrasings, samples)
    return {
        slot.key: replace(belief, model=served.identity(slot))
        for slot, belief in zip(slots, beliefs, strict=True)
    }


def _content(verdict: Verdict) -> tuple[object, ...]:
    """What makes two verdicts of a slot differ."""
    model = verdict.belief.model if verdict.belief else ""
    return verdict.kind, verdict.current, verdict.believed, verdict.title, model
