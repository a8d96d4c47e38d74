"""The detectors on real data that lies beside the project; bounds were measured, then eased."""

import json
import lzma
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from detectors.answers import read
from detectors.extractors import fields, patterns
from detectors.judge import same
from detectors.relations import load_registry
from detectors.verdict import decide
from store.records import Belief, ClaimRole, Document, Fact, Reply, VerdictKind

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
REGISTRY = load_registry()

pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the development data does not lie beside the project"
)


def _rows(name: str) -> Iterator[dict[str, Any]]:
    path = SHARED / name
    content = path.read_bytes()
    text = lzma.decompress(content) if path.suffix == ".xz" else content
    yield from map(json.loads, text.splitlines())


def _document(title: str, text: str, published: datetime | None = None) -> Document:
    return Document("d", "feed", "u", title, text, NOW, published, "h")


def test_profile_fields_give_the_holder_that_the_evidence_states() -> None:
    outcome: Counter[str] = Counter()
    for row in _rows("changed_facts_unified/changed_facts.dev.jsonl"):
        if row["source"] != "factbook":
            continue
        line = row["evidence"].removeprefix(f"{row['subject']}, ")
        claims = fields.extract(_document(row["subject"], line), REGISTRY, NOW)
        right = [same(claim.object, row["new_value"]) for claim in claims]
        outcome["right" if all(right) and right else "wrong" if right else "none"] += 1
    assert outcome["right"] >= 540
    # The two that differ are misread in the data ("Swiss Confederation Johann …").
    assert outcome["wrong"] <= 2


def test_leaders_of_eight_years_of_profiles_are_read() -> None:
    outcome: Counter[bool] = Counter()
    for row in _rows("factbook_changes/factbook_changes.dev.jsonl"):
        leader = row["field"] in ("chief_of_state", "head_of_government")
        if not (leader and row["new_name"] and row["country"]):
            continue
        line = f"{row['field'].replace('_', ' ')}: {row['new_text']}"
        for claim in fields.extract(_document(row["country"], line), REGISTRY, NOW):
            outcome[same(claim.object, row["new_name"])] += 1
    assert outcome[True] >= 700
    assert outcome[False] / outcome.total() <= 0.015


def test_news_of_a_decade_gives_claims_that_quote_their_text() -> None:
    claims = []
    for row in _rows("current_events/change_candidates.dev.jsonl"):
        published = datetime.fromisoformat(row["date"]).replace(tzinfo=UTC)
        document = _document("", row["text"], published)
        found = patterns.extract(document, REGISTRY, NOW)
        assert all(document.text[c.start : c.end] == c.quote for c in found)
        claims += found
    current = [claim for claim in claims if claim.role is ClaimRole.CURRENT]
    assert len(current) >= 180
    quoted = [claim.quote for claim in current]
    assert not any("re-elected" in quote or "Vice President of" in quote for quote in quoted)


def _labelled() -> list[dict[str, Any]]:
    """Answers about offices of countries: 17 models, 3 phrasings, automatic labels."""
    return [
        row
        for row in _rows("dyknow_labelled/answers.dev.jsonl.xz")
        if row["domain"] == "countries_byGDP"
    ]


def _values(row: dict[str, Any]) -> list[list[str]]:
    values = [*row["history"], *([row["matched"]] if row["matched"] else []), *row["current"]]
    return [list(value) for value in dict.fromkeys(map(tuple, values))]


def test_the_reading_of_answers_agrees_with_the_labels() -> None:
    rows = _labelled()[::3]
    agree = 0
    for row in rows:
        names = list(dict.fromkeys(value[0] for value in _values(row)))
        found = read(row["answer"], names)
        holding = {value[0] for value in row["current"]}
        label = "irrelevant" if not found else "outdated"
        agree += row["label"] == ("current" if holding & set(found) else label)
    assert agree / len(rows) >= 0.98


def _fact(value: list[str], number: int) -> Fact:
    start, end = (day.replace("-00", "") or None for day in value[1:3])
    return Fact(str(number), "s", "head_of_state", value[0], (), NOW, None, start, end)


def test_stale_verdicts_on_labelled_answers_are_nearly_always_right() -> None:
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in _labelled():
        groups[row["subject"], row["relation"], row["model"]].append(row)
    outcome: Counter[tuple[VerdictKind, str]] = Counter()
    for rows in groups.values():
        values = [value for row in rows for value in _values(row)]
        facts = [_fact(list(v), n) for n, v in enumerate(dict.fromkeys(map(tuple, values)))]
        replies = tuple(Reply(row["prompt"], row["answer"], 0.0) for row in rows)
        belief = Belief("s", "head_of_state", replies, "m", NOW)
        decision = decide(belief, facts, "2023-12-31", REGISTRY["head_of_state"])
        labels = Counter(row["label"] for row in rows).most_common(1)[0]
        outcome[decision.kind, labels[0] if labels[1] > 1 else "mixed"] += 1
    stale = Counter({label: n for (kind, label), n in outcome.items() if kind == "STALE"})
    kept = Counter({label: n for (kind, label), n in outcome.items() if kind == "KEEP"})
    assert stale["outdated"] >= 210
    assert stale.total() - stale["outdated"] <= 4
    assert kept["current"] >= 290
    assert kept.total() - kept["current"] <= 6
