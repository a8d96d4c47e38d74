"""The detectors on real data that lies beside the project; bounds were measured, then eased."""

import dataclasses
import html
import json
import lzma
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from detectors.answers import read
from detectors.extractors import differences, fields, patterns
from detectors.judge import same
from detectors.relations import load_registry
from detectors.verdict import decide
from store.records import Belief, Claim, ClaimRole, Document, Fact, Reply, VerdictKind

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


def _current(title: str, line: str) -> list[Claim]:
    found = fields.extract(_document(title, line), REGISTRY, NOW)
    return [claim for claim in found if claim.role is ClaimRole.CURRENT]


def test_profile_fields_give_the_holder_that_the_evidence_states() -> None:
    outcome: Counter[str] = Counter()
    for row in _rows("changed_facts_unified/changed_facts.dev.jsonl"):
        if row["source"] != "factbook":
            continue
        line = row["evidence"].removeprefix(f"{row['subject']}, ")
        right = [same(c.object, row["new_value"]) for c in _current(row["subject"], line)]
        outcome["right" if all(right) and right else "wrong" if right else "none"] += 1
    # Measured: 600 right, 12 none (three vacancies, elects, another country's king).
    assert outcome["right"] / outcome.total() >= 0.97
    # The three that differ are misread in the data: "Swiss Confederation Johann …" (two),
    # "Presidential Council".
    assert outcome["wrong"] <= 3


# Names that the data misread, most of them the end of an office.
_MISREAD = re.compile(
    r"Presidential Council|Swiss Confederation|Islamic Republic|Prokopios|Sonexay|formerly"
)
# Rows whose text names no holder of the office.
_NOBODY = re.compile(r"vacant|president|prime minister|formerly|.*[- ]elect\b.*", re.IGNORECASE)


def test_leaders_of_eight_years_of_profiles_are_read() -> None:
    outcome: Counter[str] = Counter()
    for row in _rows("factbook_changes/factbook_changes.dev.jsonl"):
        if row["field"] not in ("chief_of_state", "head_of_government") or not row["country"]:
            continue
        for version in ("old", "new"):
            name = row[f"{version}_name"]
            if not name or _NOBODY.fullmatch(name):
                continue
            line = f"{row['field'].replace('_', ' ')}: {row[f'{version}_text']}"
            found = [claim.object for claim in _current(row["country"], line)]
            right = all(same(value, name) for value in found)
            misread = _MISREAD.match(name) is not None
            outcome["none" if not found else "right" if right or misread else "wrong"] += 1
    assert outcome["right"] / outcome.total() >= 0.965
    assert outcome["wrong"] <= 1


@pytest.mark.parametrize(
    "field", ["population", "inflation_rate", "unemployment_rate", "life_expectancy"]
)
def test_numbers_of_ten_years_of_profiles_are_read_with_their_year(field: str) -> None:
    outcome: Counter[str] = Counter()
    for row in _rows("factbook_changes/factbook_changes.dev.jsonl"):
        territory = "Gaza" in (row["country"] or "") or row["country"] == "West Bank"
        if row["field"] != field or not row["country"] or territory:
            continue
        found = _current(row["country"], f"{field.replace('_', ' ')}: {row['new_text']}")
        outcome["right" if [c.object for c in found] == [row["new_value"]] else "other"] += 1
        outcome["none"] += not found
        outcome["dated"] += bool(found and row["new_since"])
        outcome["year"] += bool(
            found and row["new_since"] and (found[0].valid_from or "")[:4] == row["new_since"]
        )
    claimed = outcome["right"] + outcome["other"] - outcome["none"]
    # The data took the year of "NA% (2015 est.)" for a share, and 1967 for Israel's year.
    assert outcome["right"] / claimed >= 0.995
    assert outcome["none"] / (claimed + outcome["none"]) <= 0.02
    assert outcome["year"] / max(outcome["dated"], 1) >= 0.99


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, path if key == "text" else (*path, key))
    else:
        broken = re.sub(r"</?(?:br|p)\b[^>]*>", "; ", str(value))
        plain = " ".join(html.unescape(re.sub(r"<[^>]+>", "", broken)).split()).strip("; ")
        yield f"{' > '.join(path)}: {plain}"


def _profiles(year: int, codes: set[str]) -> dict[str, Document]:
    published = datetime(year, 12, 31, tzinfo=UTC)
    profiles = {}
    path = SHARED / f"factbook_snapshots/factbook_{year}-12-31.tar.xz"
    with tarfile.open(path) as archive:
        for member in archive:
            wanted = Path(member.name).stem in codes and member.isfile()
            stream = archive.extractfile(member) if wanted else None
            profile = json.load(stream) if stream else {}
            names = profile.get("Government", {}).get("Country name", {})
            title = names.get("conventional short form", {}).get("text", "")
            if title and title != "none":
                text = "\n".join(_flat(profile))
                profiles[member.name] = dataclasses.replace(
                    _document(title, text, published), id=f"{member.name} {year}", url=member.name
                )
    return profiles


def test_leaders_that_changed_between_two_snapshots_are_former_ones() -> None:
    names: dict[str, list[str]] = defaultdict(list)
    gone: dict[tuple[str, str], str] = {}  # who held an office at the first snapshot
    for row in _rows("factbook_changes/factbook_changes.dev.jsonl"):
        if row["field"] in ("chief_of_state", "head_of_government") and row["country"]:
            names[row["code"]] += [row["old_name"], row["new_name"]]
            between = "2021-12-31" < row["new_first_seen"] <= "2023-12-31"
            if between and row["new_since"] != row["old_since"]:
                gone.setdefault((row["code"], row["field"]), row["old_name"])
    codes = {code for code, _ in gone}
    old, new = _profiles(2021, codes), _profiles(2023, codes)
    found: list[tuple[str, Claim]] = []
    for path in old.keys() & new.keys():
        claims = differences.extract(new[path], old[path], REGISTRY, NOW)
        assert all(new[path].text[c.start : c.end] == c.quote for c in claims)
        code = Path(path).stem
        found += [(code, c) for c in claims if REGISTRY[c.relation].object_type == "person"]
    assert all(claim.role is ClaimRole.FORMER for _, claim in found)
    known = sum(any(n and same(claim.object, n) for n in names[code]) for code, claim in found)
    # Measured: all but seven are in the data; those are real changes that it spells otherwise or
    # saw at another time (Li Keqiang, Micheál Martin, Muhammadu Buhari …).
    assert len(found) >= 110
    assert known / len(found) >= 0.9
    # Territories (the old queen's) have no head of state of their own.
    wanted = [(code, name) for (code, _), name in gone.items() if name not in ("", "Elizabeth II")]
    got = sum(any(c == code and same(f.object, name) for c, f in found) for code, name in wanted)
    assert len(wanted) >= 80
    assert got / len(wanted) >= 0.9


def test_news_of_a_decade_gives_claims_that_quote_their_text() -> None:
    claims = []
    for row in _rows("current_events/change_candidates.dev.jsonl"):
        published = datetime.fromisoformat(row["date"]).replace(tzinfo=UTC)
        document = _document("", row["text"], published)
        found = patterns.extract(document, REGISTRY, NOW)
        assert all(document.text[c.start : c.end] == c.quote for c in found)
        claims += found
    current = [claim for claim in claims if claim.role is ClaimRole.CURRENT]
    assert len(current) >= 300
    again = [claim for claim in current if "re-elected" in claim.quote]
    assert len(again) >= 15
    assert all(claim.valid_from is None for claim in again)
    heads = [
        claim.quote
        for claim in current
        if claim.relation == "head_of_state" and "succeeded by" not in claim.quote
    ]
    assert not any("ice president" in quote[-40:].casefold() for quote in heads)


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
