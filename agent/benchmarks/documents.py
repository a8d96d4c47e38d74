"""Extraction alone, on labelled documents.

Three layouts are read:

- labelled texts: ``title``, ``text``, ``published`` and ``claims``, each with relation, subject,
  object and role; ``background`` may list what is true but only told in passing;
- dated sentences (``date``, ``text``) whose labels lie in a file of their own, by the first 12
  digits of the sha256 of the text;
- changes of structured fields: ``country``, ``field``, ``new_text`` and ``new_name`` (of leaders)
  or ``new_value``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from agent.benchmarks.scores import Measurement, Tally, confusion
from agent.config import ConfigError
from detectors.entities import canonical_subject, normalise
from detectors.extractors import extract
from detectors.judge import same
from detectors.relations import Registry
from editors.metrics import wilson
from store.records import Claim, ClaimRole, Document, digest

NEEDED = ("text",)
OTHER = "other"  # a labelled change outside the registry


@dataclass(frozen=True)
class Label:
    """A claim that a careful reader takes from a document. An empty relation is left open."""

    relation: str
    subject: str
    object: str
    role: ClaimRole


@dataclass(frozen=True)
class Labels:
    """All that a careful reader takes from one document.

    Attributes:
        claims: what it tells as news, or as its content.
        background: what it mentions in passing: neither a hit nor a mistake.
        subjects_open, relations_open: other subjects or relations that will do.
        role_open: the text leaves open whether a change has happened yet.
        subject_free: the subject has no fixed name; it is not compared.
        present_only: nothing is said of former and future values; such claims are not judged.
    """

    claims: tuple[Label, ...]
    background: tuple[Label, ...] = ()
    subjects_open: tuple[str, ...] = ()
    relations_open: tuple[str, ...] = ()
    role_open: bool = False
    subject_free: bool = False
    present_only: bool = False


def id_of(text: str) -> str:
    """Return the id under which a sentence's labels are filed."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def labelled(
    rows: Sequence[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    now: datetime,
) -> list[tuple[Document, Labels]]:
    """Return the documents that have labels, with them. Raises ConfigError where none has."""
    filed = {str(row["id"]): row for row in labels}
    found: dict[str, tuple[Document, Labels]] = {}
    for row in rows:
        if "new_text" in row:
            change = _change(row, now)
            if change:
                found[change[0].id] = change
            continue
        own = row if "claims" in row else filed.get(id_of(str(row.get("text", ""))))
        if own is not None and row.get("text"):
            document = _document(row, now)
            found[document.id] = (document, _labels(own))
    if not found:
        raise ConfigError(
            "none of the records has labels; name the file that holds them with --labels"
        )
    return list(found.values())


def measure_documents(
    documents: Sequence[tuple[Document, Labels]], registry: Registry, now: datetime
) -> Measurement:
    """Compare what is extracted with the labels, claim by claim."""
    started = time.perf_counter()
    extracted = [extract(document, registry, now) for document, _ in documents]
    seconds = time.perf_counter() - started
    tally, pairs, failures = Tally(), [], []
    passing = 0
    for (document, labels), claims in zip(documents, extracted, strict=True):
        met: set[Label] = set()
        for claim in claims:
            if labels.present_only and claim.role is not ClaimRole.CURRENT:
                continue
            found = [label for label in labels.claims if _matches(claim, label, labels, registry)]
            met.update(found)
            if found:  # several claims may meet one label: sources repeat themselves
                pairs.append((found[0].role.value, claim.role.value))
            elif any(_matches(claim, label, labels, registry) for label in labels.background):
                passing += 1
            else:
                pairs.append(("nothing", claim.role.value))
                tally.add(claim.relation, wrong=1)
                failures.append(_failure(document, "wrong", claim))
        for label in labels.claims:
            if label.relation == OTHER:
                continue
            tally.add(label.relation or "any", right=label in met, missed=label not in met)
            if label not in met:
                pairs.append((label.role.value, "nothing"))
                failures.append(_failure(document, "missed", label))
    every = sum(map(len, extracted))
    return Measurement(
        kind="documents",
        n=len(documents),
        seconds=seconds,
        shares={"told in passing, of all claims": wilson(passing, every)} if passing else {},
        scores=tally.scores(),
        confusion=confusion(pairs),
        failures=tuple(failures),
    )


def _document(row: Mapping[str, Any], now: datetime) -> Document:
    text, title = str(row["text"]), str(row.get("title", ""))
    day = row.get("published", row.get("date"))
    published = datetime.fromisoformat(str(day)) if day else None
    if published and published.tzinfo is None:
        published = published.replace(tzinfo=UTC)
    return Document(digest(title, text), "bench", "", title, text, now, published, digest(text))


def _labels(row: Mapping[str, Any]) -> Labels:
    return Labels(
        claims=tuple(_label(claim) for claim in row["claims"]),
        background=tuple(_label(claim) for claim in row.get("background", ())),
        subjects_open=tuple(row.get("subject_open", ())),
        relations_open=tuple(row.get("relation_open", ())),
        role_open=bool(row.get("role_open")),
        subject_free=bool(row.get("subject_free")),
    )


def _label(row: Mapping[str, Any]) -> Label:
    return Label(row["relation"], row["subject"], row["object"], ClaimRole(row["role"]))


def _change(row: Mapping[str, Any], now: datetime) -> tuple[Document, Labels] | None:
    """A changed field as a document of one line, in the way in which profiles are read."""
    value = row.get("new_name") or row.get("new_value")
    leader = str(row["field"]) in ("chief_of_state", "head_of_government")
    if not (row.get("country") and value) or (leader and not row.get("new_name")):
        return None
    text = f"{str(row['field']).replace('_', ' ')}: {row['new_text']}"
    document = _document({"text": text, "title": row["country"]}, now)
    label = Label("", str(row["country"]), str(value), ClaimRole.CURRENT)
    return document, Labels((label,), present_only=True)


def _matches(claim: Claim, label: Label, labels: Labels, registry: Registry) -> bool:
    subjects = (label.subject, *labels.subjects_open)
    return (
        _same_role(claim.role, label.role, labels.role_open)
        and (not label.relation or claim.relation in (label.relation, *labels.relations_open))
        and (labels.subject_free or any(_same_subject(claim.subject, s) for s in subjects))
        and registry[claim.relation].same(claim.object, label.object)
    )


def _same_role(one: ClaimRole, other: ClaimRole, role_open: bool) -> bool:
    return one is other or (role_open and ClaimRole.CURRENT in (one, other))


def _same_subject(one: str, other: str) -> bool:
    first, second = canonical_subject(one), canonical_subject(other)
    return normalise(first) == normalise(second) or same(first, second, "org")


def _failure(document: Document, kind: str, of: Claim | Label) -> Mapping[str, Any]:
    return {
        "kind": kind,
        "relation": of.relation,
        "subject": of.subject,
        "object": of.object,
        "role": of.role.value,
        "title": document.title,
        "text": document.text[:300],
    }
