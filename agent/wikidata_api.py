"""The configured endpoint of a Wikidata-like store: which entities changed, and what they say.

One small question tells the revisions and names of fifty entities; only those that changed since
are read, one by one (a country's is a megabyte), and the labels of their values fifty at once.
Everything goes through the guarded fetcher.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from agent.fetch import Fetched, FetchError
from agent.wikidata import (
    LANGUAGES,
    Entity,
    Properties,
    entity_id,
    item_of,
    label_of,
    reduce,
)
from detectors.extractors.wikidata_lines import Item

SCHEME = "wikidata:"
ENDPOINT = "https://www.wikidata.org"
_MAX_FAILURES = 3  # entities that cannot be read before the rest is left to the next poll
BATCH = 50  # ids in one question: the public endpoint's limit

_IDS = re.compile(r"Q[1-9]\d{0,11}(?:\s*,\s*Q[1-9]\d{0,11})*,?", re.IGNORECASE)


class Getter(Protocol):
    def get(self, url: str) -> Fetched: ...


@dataclass(frozen=True)
class Read:
    """What one poll brought. ``revisions`` are those that need not be read again, ``items`` the
    names of all entities asked for; ``changed`` tells whether any had to be read."""

    entities: tuple[Entity, ...]
    labels: Mapping[str, str]
    items: tuple[Item, ...]
    revisions: Mapping[str, int]
    notes: tuple[str, ...]
    changed: bool


def ids_of(url: str) -> tuple[str, ...]:
    """Return the ids of "wikidata:Q183,Q30", each once. Raises ValueError."""
    listed = url[len(SCHEME) :].strip()
    if not url.lower().startswith(SCHEME) or not _IDS.fullmatch(listed):
        raise ValueError(f"{url[:80]!r} names no entities; write it like 'wikidata:Q183,Q30'")
    ids = (id.strip().upper() for id in listed.split(","))
    return tuple(dict.fromkeys(id for id in ids if id))


def pack(revisions: Mapping[str, int]) -> str:
    """Write revisions as a validator: "Q183=17 Q30=4"."""
    return " ".join(f"{id}={revision}" for id, revision in sorted(revisions.items()))


def unpack(validator: str) -> dict[str, int]:
    """Read what :func:`pack` wrote; anything else is passed over."""
    pairs = (pair.partition("=") for pair in validator.split())
    return {id: int(revision) for id, _, revision in pairs if revision.isdecimal()}


class Endpoint:
    """Ask one endpoint. Every method raises FetchError, one line, for what is no answer."""

    def __init__(self, address: str, fetcher: Getter) -> None:
        self._address = address.rstrip("/")
        self._fetcher = fetcher

    def page(self, id: str) -> str:
        """Return the address under which people read an entity."""
        return f"{self._address}/wiki/{id}"

    def read(
        self,
        ids: Sequence[str],
        known: Mapping[str, int],
        wanted: Properties,
        in_time: Callable[[], bool],
    ) -> Read:
        """Read the entities whose revision is not the ``known`` one, while ``in_time()``."""
        notes: list[str] = []
        summaries = dict(self._summaries(ids, notes))
        revisions = {id: known[id] for id in summaries if id in known}
        # A store that tells no revisions is read every time.
        changed = [
            id
            for id, raw in summaries.items()
            if not _revision(raw) or _revision(raw) != known.get(id)
        ]
        entities: list[Entity] = []
        failures: list[FetchError] = []
        for place, id in enumerate(changed):
            if not in_time():
                left = len(changed) - place
                notes.append(f"answers slowly; {left} entities are left to the next poll")
                break
            try:
                raw = self._entity(id)
            except FetchError as error:
                failures.append(error)
                if error.retry_after or len(failures) == _MAX_FAILURES:
                    break
                continue
            revisions[id] = _revision(raw)
            entity = reduce(raw, wanted)
            if entity and entity.drafts:
                entities.append(entity)
            else:
                why = "says nothing of a known relation" if entity else "has no English label"
                notes.append(f"{id} {why}")
        if failures and not entities:
            raise failures[0]
        notes += [f"{error}; it is asked again at the next poll" for error in failures]
        needed = {id for entity in entities for id in entity.ids()}
        labels = dict(self._labels(sorted(needed)))
        items = tuple(item_of(raw) for raw in summaries.values() if label_of(raw))
        return Read(tuple(entities), labels, items, revisions, tuple(notes), bool(changed))

    def _entity(self, id: str) -> Any:
        answer = self._ask([id], "info|labels|aliases|claims|sitelinks")
        return next(iter(answer.values()), None)

    def _summaries(self, ids: Sequence[str], notes: list[str]) -> Iterator[tuple[str, Any]]:
        """Yield each id that exists with its revision and names, noting those that do not."""
        for part in _batches(ids):
            for id, raw in self._ask(part, "info|labels|sitelinks").items():
                own = entity_id(raw)
                if not own or "missing" in raw:
                    notes.append(f"{id} does not exist; take it from the feed's url")
                    continue
                if own != id and id in part:
                    notes.append(f"{id} has become {own}; correct the feed's url")
                yield own, raw

    def _labels(self, ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        for part in _batches(ids):
            for id, raw in self._ask(part, "labels").items():
                if label := label_of(raw):
                    yield from {id: label, entity_id(raw) or id: label}.items()

    def _ask(self, ids: Sequence[str], props: str) -> dict[str, Any]:
        """Return entities by id. Ids that the endpoint refuses count as missing."""
        asked = list(ids)
        refused: dict[str, Any] = {}
        while asked:
            answer = self._get(asked, props)
            error = answer.get("error")
            if not isinstance(error, dict):
                found = answer.get("entities")
                if not isinstance(found, dict):
                    raise FetchError(self._address, "gives no entities", "check wikidata.endpoint")
                return {id: raw for id, raw in found.items() if isinstance(raw, dict)} | refused
            bad = error.get("id")
            if error.get("code") != "no-such-entity" or bad not in asked:
                said = str(error.get("info") or error.get("code") or "no reason given")
                raise FetchError(self._address, f"refuses to answer ({said[:200]})")
            asked.remove(bad)
            refused[bad] = {"id": bad, "missing": ""}
        return refused

    def _get(self, ids: Sequence[str], props: str) -> dict[str, Any]:
        query = {
            "action": "wbgetentities",
            "format": "json",
            "ids": "|".join(ids),
            "props": props,
            "languages": "|".join(LANGUAGES),
            "sitefilter": "enwiki",
        }
        url = f"{self._address}/w/api.php?{urlencode(query)}"
        try:
            answer = json.loads(self._fetcher.get(url).body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise FetchError(
                self._address, "answers with no JSON object", "check wikidata.endpoint"
            )
        return answer


def _revision(raw: Any) -> int:
    revision = raw.get("lastrevid") if isinstance(raw, dict) else None
    return revision if isinstance(revision, int) else 0


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))
