"""Training the memory tier's scope: `corrigenda editors train memory`.

Reads files of facts in any of the benchmark's layouts. Alike are an edit's prompt and its
paraphrases, and the wordings of one relation; not alike are wordings of different relations, and
what a file asks beside the edit on the same subject. What the benchmark tests is left out by
subject, as for every method that is trained.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.benchmarks.edit_layouts import EditRecord
from agent.benchmarks.edit_records import RecordFile, read_records
from agent.config import ConfigError
from agent.progress import Progress
from agent.training import LEAST, Tested
from agent.workspace import Workspace
from editors.memory import wording
from editors.memory.relation_match import Wordings, recall, save, train
from editors.metrics import Interval, mean_share

TESTED = 600
"""The draw of `bench edit` that the scope must not see, of each file: its first of seed 0."""
HELD = 10  # one subject in so many is held out
MOST = 3000  # records of a file
STEPS = 3000
IDLE = (
    "Tell me about {}.",
    "Who is {}?",
    "What is {}?",
    "Describe {}.",
    "Write a poem about {}.",
    "Give me a short summary of {}.",
    "Why is {} famous?",
    "What do you think of {}?",
    "What is interesting about {}?",
    "{} is",
    "{} and",
    "I like {} because",
    "How old is {}?",
    "What happened to {}?",
    "Recommend a book about {}.",
)


@dataclass(frozen=True)
class ScopeTraining:
    """What a training came to: figures on subjects that were held out, at a threshold of 0.5.

    Attributes:
        pairs: that were trained on.
        found: share of paraphrases that are found to ask the same.
        taken: share of other questions that are wrongly taken for the same.
        path: where the head lies.
    """

    pairs: int
    found: Interval
    taken: Interval
    path: Path


def run(home: Path, data: Sequence[Path], progress: Progress) -> ScopeTraining:
    """Train the scope with a home folder's embeddings. Raises ConfigError."""
    with Workspace.open(home) as ws:
        return trained(ws, [read_records(path) for path in data], progress)


def trained(
    ws: Workspace, files: Sequence[RecordFile], progress: Progress, steps: int = STEPS
) -> ScopeTraining:
    """Train it with an open workspace, and keep it there."""
    tested = Tested(files, TESTED)
    records = [[r for r in file.records if not tested.has(r.subject)] for file in files]
    for some in records:
        random.Random("scope").shuffle(some)
    chosen = [record for some in records for record in some[:MOST]]
    if len(chosen) < LEAST:
        raise ConfigError(
            f"--data: {len(chosen)} facts are left to train on, beside the first {TESTED} of a "
            f"file that the benchmark tests; give files with {LEAST} more facts at least"
        )
    learnt = wordings([record for record in chosen if not _held(record)])
    beside = wordings([record for record in chosen if _held(record)])
    texts = [*learnt.texts, *beside.texts]
    with progress.stage("embedding wordings", len(texts)) as advance:
        parts = []
        for start in range(0, len(texts), 256):
            parts.append(ws.embeddings.vectors(texts[start : start + 256]))
            advance(len(parts[-1]))
    import torch

    vectors = torch.cat(parts)
    own, other = vectors[: len(learnt.texts)], vectors[len(learnt.texts) :]
    with progress.stage("training the scope", steps) as advance:
        head = train(learnt, own, steps=steps, progress=advance)
    alike = [*beside.same, *beside.loose]
    pairs = {
        name: tuple(other[[pair[side] for pair in some]] for side in (0, 1))
        for name, some in (("found", alike), ("taken", beside.other))
        if some
    }
    sure = {
        n: (p >= 0.5) for n, p in recall(head, {n: (a, b) for n, (a, b) in pairs.items()}).items()
    }
    path = ws.scope_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    save(head, path)
    return ScopeTraining(
        pairs=len(learnt.same) + len(learnt.loose) + len(learnt.other),
        found=mean_share(sure.get("found", torch.zeros(0)).tolist()),
        taken=mean_share(sure.get("taken", torch.zeros(0)).tolist()),
        path=path,
    )


def wordings(records: Sequence[EditRecord]) -> Wordings:
    """Return what records teach of what asks for the same. Pure."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    same: list[tuple[int, int]] = []
    loose: list[tuple[int, int]] = []
    other: list[tuple[int, int]] = []
    kinds: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for record in records:
        name = [wording.name_of(record.subject)]
        asked = wording.mask(record.edit.prompt.text, name)
        if asked is None:
            continue
        own = [wording.mask(probe.prompt.text, name) for probe in record.paraphrases]
        pairs = [(number(asked), number(text)) for text in own if text]
        if "|" in record.slot:  # the file names the relation
            kinds[record.kind].update(dict.fromkeys(n for pair in pairs for n in pair))
            kinds[record.kind][number(asked)] = None
            same += pairs
        else:
            loose += pairs
        around = (*record.locality, *record.portability)
        outside = [wording.mask(probe.prompt.text, name) for probe in around]
        other += [(number(asked), number(text)) for text in outside if text and text != asked]
    idle = tuple(number(text.format(wording.MASK)) for text in IDLE)
    return Wordings(
        tuple(numbers),
        tuple(same),
        tuple(other),
        tuple(tuple(kind) for kind in kinds.values()),
        tuple(loose),
        idle,
    )


def _held(record: EditRecord) -> bool:
    """Whether a record's subject is held out."""
    return (
        hashlib.sha256(" ".join(wording.name_of(record.subject)).encode()).digest()[0] % HELD == 0
    )
