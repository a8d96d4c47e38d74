"""Edits in sequence, scored after the last one (design.md §5), every editor alike."""

from __future__ import annotations

import contextlib
import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from agent.benchmarks.edit_layouts import BenchProbe, EditRecord, Prompt, names, spells
from agent.benchmarks.edit_records import Chosen
from agent.benchmarks.peak_memory import PeakMemory
from agent.progress import Progress, Silent
from editors import metrics
from editors.editor import Editor, Resources
from editors.metrics import Interval, RetentionMatrix, mean_share
from editors.model import ChatModel
from editors.requests import EditorError
from store.files import Files

ALONE_TEXTS = 3  # pieces of text that each edit's own perplexity is measured on
PLAIN_TOKENS = 24  # new tokens of a plain continuation, which seldom ends by itself
TOLD = "This is up to date: "
UNEDITED, RETRIEVAL = "unedited", "retrieval"

Answer = Callable[[EditRecord, Prompt], str]
"""Gives the answer to a prompt of a record."""


@dataclass(frozen=True)
class Scores:
    """The figures of one rendering (chat, or plain continuation), each with its n.

    ``accuracy`` is of the edit prompts, ``generality`` of the paraphrases, ``leak`` of both
    where a former value is known. Locality compares with the unedited model; ``local`` has
    the shared prefix by kind of probe.
    """

    accuracy: Interval
    generality: Interval
    leak: Interval
    locality_exact: Interval
    locality_prefix: Interval
    portability: Interval
    local: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Seconds:
    """Wall clock of the editing alone, in seconds.

    ``growth`` is the mean cost of an edit in the last tenth by that in the first tenth; None
    with fewer than two batches.
    """

    prepare: float
    total: float
    median: float
    growth: float | None


@dataclass(frozen=True)
class Retention:
    """The sampled matrix of one rendering: how many edits were made at each measurement, the
    accuracy over them then, and by how much edits end below their best on average."""

    edits: tuple[int, ...]
    accuracy: tuple[Interval, ...]
    forgetting: float


@dataclass(frozen=True)
class EditRow:
    """What one way of carrying the edits came to.

    ``scores`` and ``retention`` are by rendering ("chat", "plain"). A row with an ``error``
    has no figures.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 0
    scores: Mapping[str, Scores] = field(default_factory=dict)
    perplexity_ratio: float | None = None
    seconds: Seconds | None = None
    peak_mib: float | None = None
    retention: Mapping[str, Retention] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Bench:
    """What every editor of one run is given alike.

    Attributes:
        batch: edits made together.
        alone: each edit is made by itself on the unedited model, asked and undone.
        measurements: how often the edits made so far are asked, the end included.
        chat_tokens: cap of an answer in chat.
        texts: what the perplexity is measured on; empty for not at all.
        clock: seconds, rising.
    """

    model: ChatModel
    chosen: Chosen
    unedited: Unedited
    resources: Resources
    batch: int
    measurements: int
    chat_tokens: int
    texts: Sequence[str]
    clock: Callable[[], float]
    progress: Progress
    alone: bool = False


class Unedited:
    """The unedited model's answers, asked once and kept on disk under the model's hash."""

    def __init__(self, model: ChatModel, folder: Path, chat_tokens: int) -> None:
        self._model = model
        self._tokens = chat_tokens
        name = f"bench-{model.base_hash[:16]}-{chat_tokens}-{PLAIN_TOKENS}.json"
        self._path = folder / name
        self._known: dict[Prompt, str] = {}
        self._perplexities: dict[tuple[str, ...], float] = {}
        if self._path.exists():
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = {Prompt(text, chat): answer for text, chat, answer in kept}

    def ask(self, prompts: Sequence[Prompt], progress: Progress) -> Mapping[Prompt, str]:
        """Return answers to at least ``prompts``. The model must be unedited now."""
        missing = sorted(set(prompts) - set(self._known))
        if missing:
            self._known.update(
                ask(self._model, missing, self._tokens, "asking the unedited model", progress)
            )
            kept = [[p.text, p.chat, answer] for p, answer in sorted(self._known.items())]
            Files().replace(self._path, json.dumps(kept, ensure_ascii=False).encode())
        return self._known

    def perplexity(self, texts: Sequence[str]) -> float:
        """Return the perplexity of texts, measured once. The model must be unedited now."""
        key = tuple(texts)
        if key not in self._perplexities:
            self._perplexities[key] = self._model.perplexity(texts)
        return self._perplexities[key]


def ask(
    model: ChatModel, prompts: Sequence[Prompt], chat_tokens: int, stage: str, progress: Progress
) -> dict[Prompt, str]:
    """Answer prompts greedily and free-running, each in its own rendering."""
    asked = sorted(set(prompts))
    chat, plain = [p for p in asked if p.chat], [p for p in asked if not p.chat]
    with progress.stage(stage, len(asked)) as advance:
        replies = model.answer(
            [p.text for p in chat], max_new_tokens=chat_tokens, progress=_since_last(advance)
        )
        made = model.generate(
            [model.encode(p.text) for p in plain],
            max_new_tokens=PLAIN_TOKENS,
            progress=_since_last(advance),
        )
    answers = {p: reply.text for p, reply in zip(chat, replies, strict=True)}
    return answers | {p: model.decode(one.tokens) for p, one in zip(plain, made, strict=True)}


def prompts_of(records: Sequence[EditRecord]) -> list[Prompt]:
    """Return every prompt that is asked about some records."""
    return sorted({p.prompt for r in records for p in _probes(r)})


def score(
    records: Sequence[EditRecord],
    answer: Answer,
    unedited: Mapping[Prompt, str],
    tokens: Callable[[str], Sequence[int]],
) -> dict[str, Scores]:
    """Judge the answers, chat and plain apart. Pure but for the functions given.

    Locality is a mean over distinct questions, however many records share one.

    Args:
        answer: gives the answer to be judged.
        unedited: the unedited model's answers, to compare the locality probes with.
        tokens: tokenises an answer, for the shared prefix.
    """
    found = {}
    for name, chat in (("chat", True), ("plain", False)):
        if any(p.prompt.chat is chat for r in records for p in _probes(r)):
            found[name] = _scores(records, chat, answer, unedited, tokens)
    return found


def right(record: EditRecord, probe: BenchProbe, text: str) -> bool:
    """Whether an answer names any accepted spelling of what the probe asks for."""
    return names(text, probe.answers, record.former)


def _scores(
    records: Sequence[EditRecord],
    chat: bool,
    answer: Answer,
    unedited: Mapping[Prompt, str],
    tokens: Callable[[str], Sequence[int]],
) -> Scores:
    shares: dict[str, list[float]] = {
        name: [] for name in ("accuracy", "generality", "leak", "portability")
    }
    # Few subjects may be left unedited: a question that many records share counts once.
    kept: dict[tuple[str, Prompt], list[tuple[bool, float]]] = {}
    for record in records:
        for name, probes in (
            ("accuracy", (record.edit,)),
            ("generality", record.paraphrases),
            ("portability", record.portability),
        ):
            for probe in probes:
                if probe.prompt.chat is chat:
                    text = answer(record, probe.prompt)
                    shares[name].append(right(record, probe, text))
                    former = _former(record, probe)
                    if name != "portability" and former:
                        shares["leak"].append(names(text, former, probe.answers))
        for probe in record.locality:
            if probe.prompt.chat is chat:
                before, after = unedited[probe.prompt], answer(record, probe.prompt)
                prefix = metrics.shared_prefix(tokens(before), tokens(after))
                kept.setdefault((probe.group, probe.prompt), []).append((before == after, prefix))
    local: dict[str, list[float]] = {}
    for (group, _), found in kept.items():
        local.setdefault(group, []).append(sum(prefix for _, prefix in found) / len(found))
    exact = [sum(same for same, _ in found) / len(found) for found in kept.values()]
    means = {name: mean_share(values) for name, values in shares.items()}
    return Scores(
        accuracy=means["accuracy"],
        generality=means["generality"],
        leak=means["leak"],
        locality_exact=mean_share(exact),
        locality_prefix=mean_share([share for some in local.values() for share in some]),
        portability=means["portability"],
        local={group: mean_share(values) for group, values in sorted(local.items())},
    )


def _former(record: EditRecord, probe: BenchProbe) -> list[str]:
    """Former values whose appearance in the answer says something: not those that the
    question itself names."""
    return [old for old in record.former if not spells(probe.prompt.text, [old])]


def unedited_row(bench: Bench) -> EditRow:
    """Score the model as it is."""
    known = bench.unedited.ask(prompts_of(bench.chosen.records), bench.progress)
    scores = score(bench.chosen.records, lambda _, p: known[p], known, bench.model.encode_answer)
    return EditRow(UNEDITED, scores=scores, perplexity_ratio=1.0 if bench.texts else None)


def retrieval_row(bench: Bench) -> EditRow:
    """Score the unedited model that is told each record's fact: in the system message, or as a
    sentence before the plain text. It is told for every probe of the record, locality probes
    too: retrieval that always finds the fact, and never knows that it is not wanted."""
    model, records = bench.model, bench.chosen.records
    known = bench.unedited.ask(prompts_of(records), bench.progress)
    pairs = [(record, p) for record in records for p in prompts_of([record])]
    chat = [(record, p) for record, p in pairs if p.chat]
    plain = [(record, p) for record, p in pairs if not p.chat]
    default = model.default_system()
    with bench.progress.stage("retrieval", len(pairs)) as advance:
        replies = model.answer(
            [p.text for _, p in chat],
            systems=[f"{default}\n{TOLD}{record.statement}".strip() for record, _ in chat],
            max_new_tokens=bench.chat_tokens,
            progress=_since_last(advance),
        )
        made = model.generate(
            [model.encode(f"{record.statement} {p.text}") for record, p in plain],
            max_new_tokens=PLAIN_TOKENS,
            progress=_since_last(advance),
        )
    answers = {(r.id, p): reply.text for (r, p), reply in zip(chat, replies, strict=True)}
    answers |= {
        (r.id, p): model.decode(one.tokens) for (r, p), one in zip(plain, made, strict=True)
    }
    scores = score(records, lambda r, p: answers[r.id, p], known, model.encode_answer)
    return EditRow(RETRIEVAL, scores=scores)


def edited_row(bench: Bench, name: str, editor: Editor, settings: Mapping[str, Any]) -> EditRow:
    """Make all edits in sequence, score them after the last, and undo them.

    An editor that cannot (EditorError) gives a row with its error. The model is as before in
    any case, an interruption included.

    With ``bench.alone`` each edit is asked by itself instead.

    Raises EditorError where the weights are not bit-identical afterwards: no row of another
    editor could be trusted then.
    """
    model, records, batch = bench.model, bench.chosen.records, bench.batch
    known = bench.unedited.ask(prompts_of(records), bench.progress)
    before = fingerprint(model)
    base = bench.unedited.perplexity(bench.texts) if bench.texts else None
    try:
        with contextlib.ExitStack() as undo, PeakMemory(model.device) as memory:
            begun = bench.clock()
            state = editor.prepare(model, bench.resources)
            prepared = bench.clock() - begun
            rows: list[list[bool]] = []
            if bench.alone:
                costs, answer, ratio = _edit_alone(bench, name, editor, state, undo)
                peak = memory.peak_mib()
            else:
                costs, rows = _edit(bench, name, editor, state, undo)
                peak = memory.peak_mib()
                answers = _ask(bench, records, name)
                ratio = model.perplexity(bench.texts) / base if base else None
                rows.append([_edit_right(r, answers) for r in records])
                answer = _of_prompt(answers)
    except EditorError as error:
        row = EditRow(name, settings, batch, error=str(error))
    else:
        scores = score(records, answer, known, model.encode_answer)
        seconds = Seconds(prepared, sum(costs), statistics.median(costs), growth(costs, batch))
        kept = _retention(records, rows)
        row = EditRow(name, settings, batch, scores, ratio, seconds, peak, kept)
    if fingerprint(model) != before:
        raise EditorError(f"editor {name} did not leave the weights as they were; stopped here")
    return row


def _edit(
    bench: Bench, name: str, editor: Editor, state: Any, undo: contextlib.ExitStack
) -> tuple[list[float], list[list[bool]]]:
    """Make the edits; return the seconds of each, and for the measurements on the way whether
    each edit made so far was right."""
    requests, n, batch = bench.chosen.requests, len(bench.chosen.requests), bench.batch
    costs: list[float] = []
    rows: list[list[bool]] = []
    marks = measured_at(n, batch, bench.measurements)
    with bench.progress.stage(f"editing with {name}", n) as advance:
        for start in range(0, n, batch):
            part = requests[start : start + batch]
            begun = bench.clock()
            if editor.stacks:
                delta = editor.edit(bench.model, state, part)
            else:  # it carries all so far, from the unedited weights
                undo.close()
                delta = editor.edit(bench.model, state, requests[: start + len(part)])
            undo.callback(delta.apply(bench.model))
            state = editor.settled(bench.model, state, part)
            _finish(bench.model.device)
            costs += [(bench.clock() - begun) / len(part)] * len(part)
            advance(len(part))
            if len(costs) in marks:
                made = bench.chosen.records[: len(costs)]
                answers = ask(
                    bench.model,
                    [r.edit.prompt for r in made],
                    bench.chat_tokens,
                    f"asking after {len(made)} edits",
                    bench.progress,
                )
                rows.append([_edit_right(r, answers) for r in made])
    return costs, rows


def _edit_alone(
    bench: Bench, name: str, editor: Editor, state: Any, undo: contextlib.ExitStack
) -> tuple[list[float], Answer, float | None]:
    """Make each edit by itself on the unedited model and ask what concerns it; return the
    seconds of each, the answers, and the mean of their perplexity ratios on a few texts."""
    model, texts = bench.model, bench.texts[:ALONE_TEXTS]
    base = bench.unedited.perplexity(texts) if texts else None
    costs: list[float] = []
    ratios: list[float] = []
    answers: dict[tuple[str, Prompt], str] = {}
    pairs = list(zip(bench.chosen.records, bench.chosen.requests, strict=True))
    with bench.progress.stage(f"editing and asking one by one with {name}", len(pairs)) as advance:
        for record, request in pairs:
            begun = bench.clock()
            undo.callback(editor.edit(model, state, [request]).apply(model))
            _finish(model.device)
            costs.append(bench.clock() - begun)
            found = ask(model, prompts_of([record]), bench.chat_tokens, "", Silent())
            answers |= {(record.id, prompt): text for prompt, text in found.items()}
            if base:
                ratios.append(model.perplexity(texts) / base)
            undo.close()
            advance(1)
    return costs, lambda r, p: answers[r.id, p], statistics.fmean(ratios) if ratios else None


def measured_at(n: int, batch: int, measurements: int) -> frozenset[int]:
    """Return after how many edits those so far are asked, the end (which is asked anyway) left
    out: the ends of batches nearest to equal parts of the run."""
    ends = range(batch, n, batch)
    wanted = (n * at / measurements for at in range(1, measurements))
    return (
        frozenset(min(ends, key=lambda end: abs(end - at)) for at in wanted)
        if ends
        else frozenset()
    )


def growth(costs: Sequence[float], batch: int) -> float | None:
    """Return the mean cost of an edit in the last tenth of the run by that in the first."""
    tenth = max(len(costs) // 10, 1)
    if len(costs) <= batch or not (first := statistics.fmean(costs[:tenth])):
        return None
    return statistics.fmean(costs[-tenth:]) / first


def fingerprint(model: ChatModel) -> str:
    """Return the sha256 of all parameters and buffers by name, bit for bit."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        found.update(memoryview(flat.cpu().numpy()))
    return found.hexdigest()


def _retention(records: Sequence[EditRecord], rows: Sequence[list[bool]]) -> dict[str, Retention]:
    kept = {}
    for name, chat in (("chat", True), ("plain", False)):
        at = [i for i, record in enumerate(records) if record.edit.prompt.chat is chat]
        some = [[row[i] for i in at if i < len(row)] for row in rows]
        if measured := [row for row in some if row]:
            matrix = RetentionMatrix(measured)
            edits = tuple(map(len, measured))
            kept[name] = Retention(edits, matrix.accuracies(), matrix.mean_forgetting())
    return kept


def _ask(bench: Bench, records: Sequence[EditRecord], name: str) -> dict[Prompt, str]:
    stage = f"asking the model edited with {name}"
    return ask(bench.model, prompts_of(records), bench.chat_tokens, stage, bench.progress)


def _of_prompt(answers: Mapping[Prompt, str]) -> Answer:
    """One model answers whatever record asks."""
    return lambda _, prompt: answers[prompt]


def _edit_right(record: EditRecord, answers: Mapping[Prompt, str]) -> bool:
    return right(record, record.edit, answers[record.edit.prompt])


def _probes(record: EditRecord) -> Iterator[BenchProbe]:
    yield record.edit
    yield from (*record.paraphrases, *record.locality, *record.portability)


def _since_last(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Turn calls with what is done so far into calls with what is newly done."""
    done = 0

    def tell(so_far: int) -> None:
        nonlocal done
        advance(so_far - done)
        done = so_far

    return tell


def _finish(device: torch.device) -> None:
    """Wait for work that an accelerator still has under way, before the clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
