"""Files of facts to edit: read whole, then so many records chosen by a seed."""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.benchmarks.edit_layouts import (
    LAYOUTS,
    BenchProbe,
    EditRecord,
    Prompt,
    layout_of,
    read,
    spells,
)
from agent.config import ConfigError
from editors.requests import EditRequest

NEIGHBOURS = 4  # questions on other subjects that a request tells the editor to leave alone
NEAR_TESTED = 2  # near questions that are asked where a record has no locality probes
ABOUT_TRAINED = "Tell me about {subject}."
ABOUT_TESTED = "What is {subject} known for?"


@dataclass(frozen=True)
class RecordFile:
    """The records of one file.

    Attributes:
        layout: its name, one of ``LAYOUTS``.
        sha256: of the file's bytes, hex.
        records: one a slot, the newest value where the file has several.
        left_out: why rows are not among them, counted.
    """

    layout: str
    sha256: str
    records: tuple[EditRecord, ...]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Chosen:
    """The records of one run, each with what the editor is asked for it, in order.

    ``derived`` counts the records whose locality probes the file did not bring.
    """

    records: tuple[EditRecord, ...]
    requests: tuple[EditRequest, ...]
    derived: int = 0

    def shapes(self) -> dict[str, int]:
        """Return how many statements were made in which way, the most frequent first."""
        return dict(Counter(record.shape for record in self.records).most_common())


def read_records(path: Path) -> RecordFile:
    """Return the records of a JSON array or a JSON-lines file (``.xz`` or not).

    Raises ConfigError, one line that names the file and the row: not JSON, rows of no known
    layout or of several, a row that its layout does not allow.
    """
    try:
        content = path.read_bytes()
        text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    layout = ""
    newest: dict[str, EditRecord] = {}
    left_out: Counter[str] = Counter()
    for place, row in _rows(path, text):
        found = layout_of(row) if isinstance(row, dict) else None
        if found is None:
            keys = f"it has {', '.join(sorted(row)[:8])}" if isinstance(row, dict) else "no object"
            raise ConfigError(
                f"{path}, {place} has none of the layouts {', '.join(LAYOUTS)} ({keys})"
            )
        if layout and found != layout:
            raise ConfigError(f"{path}, {place} has layout {found}, those before it {layout}")
        layout = found
        try:
            record = read(layout, row, str(row.get("id", row.get("case_id", place))))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{path}, {place} is no record of layout {layout}: {type(error).__name__} {error}"
            ) from error
        if isinstance(record, str):
            left_out[record] += 1
            continue
        known = newest.get(record.slot)
        if known is not None:
            left_out["another value or question of the same slot"] += 1
        if known is None or record.since > known.since:
            newest[record.slot] = record
    if not newest:
        why = f" that can be scored ({next(iter(left_out))})" if left_out else ""
        raise ConfigError(f"{path} holds no records{why}")
    digest = hashlib.sha256(content).hexdigest()
    return RecordFile(layout, digest, tuple(newest.values()), dict(left_out.most_common()))


def _rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    if text.lstrip().startswith("["):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {error.lineno} is not JSON: {error.msg}") from error
        yield from ((f"record {number}", row) for number, row in enumerate(whole, 1))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ConfigError(f"{path}, line {number} is not JSON: {error.msg}") from error


def choose(
    file: RecordFile, n: int, seed: int, most: int = 4, skip: frozenset[str] = frozenset()
) -> Chosen:
    """Choose ``n`` records by ``seed``, and build what the editors are asked.

    A run is the beginning of every longer one with the same seed. ``most`` bounds the probes
    of a kind (paraphrases, each group of locality and of portability) of a record. Records on a
    subject in ``skip`` (folded) are passed over: the order of the others is that without them.

    Neighbours that an editor is told of come from records that were not chosen, and are never
    among the probes: what is tested was not trained. Locality probes that an edit of the same
    run may rightly change (its own prompts, prompts that name its subject) are left out.

    Raises ConfigError where the file has fewer than ``n`` records.
    """
    order = list(range(len(file.records)))
    random.Random(seed).shuffle(order)
    order = [at for at in order if file.records[at].slot.partition("|")[0] not in skip]
    if n > len(order):
        raise ConfigError(f"--n is {n}, but the file has {len(order)} records; lower it")
    drawn = [file.records[at] for at in order[:n]]
    edited = {record.slot.partition("|")[0] for record in drawn}
    pool = _Pool([file.records[at] for at in order[n:]], edited)
    scope = {p.prompt for r in drawn for p in (r.edit, *r.paraphrases, *r.portability)}
    whole = _whole(drawn)
    records, requests, derived = [], [], 0
    for record in drawn:
        tested, trained = pool.near(record, seed)
        local = record.locality
        if not local:
            derived += 1
            about = BenchProbe(Prompt(ABOUT_TESTED.format(subject=record.subject), True))
            local = (
                *(BenchProbe(prompt, group="neighbour") for prompt in tested),
                replace(about, group="same subject"),
            )
        kept = [p for p in local if p.prompt not in scope and _only(whole, p.prompt, record)]
        records.append(
            replace(
                record,
                paraphrases=record.paraphrases[:most],
                locality=_first(kept, most),
                portability=_first(record.portability, most),
            )
        )
        requests.append(_request(record, trained))
    asked = {probe.prompt.text for record in records for probe in record.locality}
    requests = [
        replace(r, neighbours=tuple(q for q in r.neighbours if q not in asked)) for r in requests
    ]
    return Chosen(tuple(records), tuple(requests), derived)


def choose_from(files: Sequence[RecordFile], n: int, seed: int, most: int = 4) -> Chosen:
    """Choose ``n`` records of several files, as equally many of each as they have, taking turns.

    Each file's records are those that ``choose`` draws from it; their ids begin with the number
    of the file. Of a subject that several files have, the first file's records are kept, and no
    locality probe names a subject that another file's records edit.

    Raises ConfigError where the files have fewer than ``n`` records.
    """
    if len(files) == 1:
        return choose(files[0], n, seed, most)
    seen: set[str] = set()
    skips, sizes = [], []
    for file in files:
        subjects = [record.slot.partition("|")[0] for record in file.records]
        skips.append(frozenset(seen))
        sizes.append(sum(subject not in seen for subject in subjects))
        seen.update(subjects)
    if n > sum(sizes):
        raise ConfigError(f"--n is {n}, but the files have {sum(sizes)} records; lower it")
    counts = [0] * len(files)
    while sum(counts) < n:
        for at, size in enumerate(sizes):
            if sum(counts) < n and counts[at] < size:
                counts[at] += 1
    # Passed over and not taken out: what a method was trained on is told by each file's own draw.
    parts = [
        choose(file, count, seed, most, skip)
        for file, count, skip in zip(files, counts, skips, strict=True)
        if count
    ]
    pairs = [
        [
            (replace(r, id=f"{at}:{r.id}"), replace(q, id=f"{at}:{q.id}"))
            for r, q in zip(part.records, part.requests, strict=True)
        ]
        for at, part in enumerate(parts)
    ]
    turns = [pair for some in itertools.zip_longest(*pairs) for pair in some if pair]
    drawn = [record for record, _ in turns]
    whole = _whole(drawn)
    records = tuple(
        replace(r, locality=tuple(p for p in r.locality if _only(whole, p.prompt, r)))
        for r in drawn
    )
    requests = tuple(request for _, request in turns)
    return Chosen(records, requests, sum(part.derived for part in parts))


def _whole(records: Sequence[EditRecord]) -> re.Pattern[str]:
    """Return what finds any of the records' subjects, whole."""
    subjects = sorted((record.subject for record in records), key=len)[::-1]
    return re.compile(r"\b(?:" + "|".join(map(re.escape, subjects)) + r")\b")


class _Pool:
    """Records that are not edited, by kind."""

    def __init__(self, records: Sequence[EditRecord], edited: set[str]) -> None:
        self._all = [r for r in records if r.slot.partition("|")[0] not in edited]
        self._kinds: defaultdict[str, list[EditRecord]] = defaultdict(list)
        for record in self._all:
            self._kinds[record.kind].append(record)

    def near(self, record: EditRecord, seed: int) -> tuple[list[Prompt], list[Prompt]]:
        """Return prompts on other subjects to test and others to train, of the record's kind
        as far as there are any. The two come from two halves of the pool."""
        draw = random.Random(f"{seed} {record.id}")
        found: list[EditRecord] = []
        for some in (self._kinds[record.kind], self._all):
            found += draw.sample(some, min(len(some), 2 * (NEAR_TESTED + NEIGHBOURS)))
        halves: tuple[list[Prompt], list[Prompt]] = ([], [])
        for one in found:
            half = halves[_half(one.slot)]
            if one.edit.prompt not in half and not spells(
                one.edit.prompt.text, record.edit.answers
            ):
                half.append(one.edit.prompt)
        return halves[0][:NEAR_TESTED], halves[1][:NEIGHBOURS]


def _half(slot: str) -> int:
    """Two thirds of all slots serve training."""
    return min(hashlib.sha256(slot.encode()).digest()[0] % 3, 1)


def _first(probes: Sequence[BenchProbe], most: int) -> tuple[BenchProbe, ...]:
    """Return the first probes of each group and rendering."""
    seen: Counter[tuple[str, bool]] = Counter()
    kept = []
    for probe in probes:
        seen[probe.group, probe.prompt.chat] += 1
        if seen[probe.group, probe.prompt.chat] <= most:
            kept.append(probe)
    return tuple(kept)


def _only(whole: re.Pattern[str], prompt: Prompt, record: EditRecord) -> bool:
    """Whether a locality prompt names the subject of no other edit of the run."""
    return all(name == record.subject for name in whole.findall(prompt.text))


def _request(record: EditRecord, near: Sequence[Prompt]) -> EditRequest:
    chat = record.edit.prompt.chat
    text = (record.edit.prompt.text,)
    about = (ABOUT_TRAINED.format(subject=record.subject),)
    return EditRequest(
        id=record.id,
        questions=text if chat else (),
        new=record.new,
        statement=record.statement,
        old=next(iter(record.former), ""),
        neighbours=(*about, *(p.text for p in near if p.chat)) if chat else (),
        subject=record.subject,
        prompts=() if chat else text,
    )
