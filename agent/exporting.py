"""Export to a GGUF: write it, ask the file itself, and give the edits finer types until they hold.

Quantising can take an edit away. So the battery is asked of the file, by llama.cpp, and compared
with the unquantised weights; where too many edits are lost, just the matrices that carry them are
written in a finer type.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import baselines
from agent.battery import IN_SCOPE, Result, locality_questions, run_battery, share, trimmed
from agent.llama_cpp import LlamaCpp, available
from agent.progress import Progress
from agent.report import Baseline
from agent.rescue import Try, least, rescued, types_of, write
from agent.workspace import Workspace
from editors.deltas import EditDelta, applied, from_tensors
from editors.gguf import container, quantise
from editors.gguf.container import Entry, GgufFile
from editors.gguf.widening import Form, planned
from editors.metrics import Interval, wilson
from editors.model_files import ModelError
from store.files import Files
from store.records import Edit, ProbeKind, Version, to_json


@dataclass(frozen=True)
class Checked:
    """What a file answers, asked by llama.cpp.

    Attributes:
        weights: of the questions in scope, what the unquantised weights pass.
        exported: what the file passes.
        accuracy, generality: of the file, by kind of question.
        row: the comparable figures, for the report; locality is against the source file.
        answers: of the file to each edit's own question, by the question.
        tries: in order, until one held or all had been tried.
    """

    weights: Interval
    exported: Interval
    accuracy: Interval
    generality: Interval
    row: Baseline
    answers: Mapping[str, str]
    tries: tuple[Try, ...]

    @property
    def held(self) -> bool:
        """Whether the file lost no more than may be lost."""
        return self.exported.point >= least(self.weights)


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path, size, sha256: of the file.
        source_size: bytes of the file that it was made from.
        version: its id, None: the base model.
        edits: how many it carries.
        architecture: as llama.cpp reads it.
        neurons, heads: added to the layers that carry the edits.
        padding: bytes of zeros in other layers.
        types: of the matrices that carry the edits, by part.
        copied: tensors that are the source's, byte for byte; ``changed``: the others' names.
        checked: what the file answers; None where it was not asked.
    """

    path: str
    size: int
    sha256: str
    source_size: int
    version: str | None
    edits: int
    architecture: str
    neurons: int
    heads: int
    padding: int
    types: Mapping[str, str] = field(default_factory=dict)
    copied: int = 0
    changed: tuple[str, ...] = ()
    checked: Checked | None = None


def exported(
    ws: Workspace, version: Version | None, out: Path, progress: Progress, **how: Any
) -> Exported:
    """Write a GGUF as ``export_gguf`` does, and keep what came of it for the report."""
    made = export_gguf(ws, version, out, progress, **how)
    if made.checked:
        ws.store.runs.add("export", ws.now(), to_json(made))
    return made


def export_gguf(
    ws: Workspace,
    version: Version | None,
    out: Path,
    progress: Progress,
    *,
    type: str = "same",
    padded: bool = False,
    check: bool = True,
    force: bool = False,
) -> Exported:
    """Write a version of the home folder's model as a GGUF file.

    Args:
        version: None: the base model.
        out: the file, or a folder to put it in.
        type: "same" or a type of ``quantise.TYPES``, for all weights.
        padded: widen every layer, even where llama.cpp can do with one.
        check: ask the file, and give the edits finer types until they hold.
        force: write over a file that is no export.

    Raises ModelError, StoreError; then nothing is left of it.
    """
    source = container.read(source_of(ws, quantise.named(type), progress))
    delta = delta_of(ws, version)
    edits = edits_of(ws, version)
    path = _target(ws, out, source, version, force)
    given = Form(quantise.named(type), padded=padded)
    provenance = _entries(provenance_of(ws, version))
    check = check and bool(edits)
    if check and not available():
        raise ModelError(
            "the file is to be asked by llama.cpp: pip install 'corrigenda[gguf]', or --no-check"
        )
    examiner = _Examiner(ws, source, delta, edits, progress) if check and delta else None
    checked = None
    with _readable_errors(path), Files().replacing(path) as temporary:
        with progress.stage("writing the file", None):
            if examiner is None or delta is None:
                plan = planned(source, delta, given, provenance)
                write(temporary, source, plan)
            else:
                results: list[list[Result]] = []

                def passed() -> Interval:
                    results.append(examiner.in_scope(temporary))
                    return _passed(results[-1])

                weights = _passed(examiner.weights)
                plan, tries, best = rescued(
                    temporary, source, delta, given, provenance, passed, weights
                )
                checked = examiner.checked(temporary, results[best], tries)
        digest = _sha256(temporary)
        size = temporary.stat().st_size
    return Exported(
        path=str(path),
        size=size,
        sha256=digest,
        source_size=source.path.stat().st_size,
        version=version.id if version else None,
        edits=len(edits),
        architecture=plan.architecture,
        neurons=plan.neurons,
        heads=plan.heads,
        padding=plan.padding,
        types=types_of(plan),
        copied=len(plan.tensors) - len(plan.changed),
        changed=plan.changed,
        checked=checked,
    )


class _Examiner:
    """Asks the edits' battery, of the unquantised weights once and of files by llama.cpp."""

    def __init__(
        self,
        ws: Workspace,
        source: GgufFile,
        delta: EditDelta,
        edits: Sequence[Edit],
        progress: Progress,
    ) -> None:
        self._ws, self._source, self._edits, self._progress = ws, source, edits, progress
        self._tokens = ws.config.model.max_new_tokens
        self._scope = trimmed(edits, *IN_SCOPE)
        self._answers: dict[str, str] = {}

        def ask(questions: Sequence[str]) -> list[str]:
            with progress.stage("asking the unquantised weights", len(questions)) as advance:
                replies = ws.model.answer(questions, max_new_tokens=self._tokens, progress=advance)
            return [reply.text for reply in replies]

        with applied(ws.model, delta):
            self.weights = run_battery(ask, self._scope, {}, ws.registry)

    def in_scope(self, path: Path) -> list[Result]:
        """Return how a file answers what the edits are about."""
        return run_battery(
            lambda questions: self._ask(path, "asking the file", questions),
            self._scope,
            {},
            self._ws.registry,
        )

    def checked(self, path: Path, results: Sequence[Result], tries: Sequence[Try]) -> Checked:
        """Ask what must stand too, of the file and of its source; return all figures."""
        some = baselines.chosen(self._edits)
        local = locality_questions(some)
        before = self._ask(self._source.path, "asking the source", local)
        known = dict(zip(local, before, strict=True))
        outside = trimmed(some, ProbeKind.SAME_SUBJECT)
        others = run_battery(
            lambda questions: self._ask(path, "asking the file", questions),
            outside,
            known,
            self._ws.registry,
        )
        return Checked(
            weights=_passed(self.weights),
            exported=_passed(results),
            accuracy=share(results, ProbeKind.EDIT),
            generality=share(results, ProbeKind.PARAPHRASE, ProbeKind.ALIAS),
            row=baselines.row(
                "as exported", baselines.comparable(self._edits, [*results, *others])
            ),
            answers={r.question: r.answer for r in results if r.kind is ProbeKind.EDIT},
            tries=tuple(tries),
        )

    def _ask(self, path: Path, stage: str, questions: Sequence[str]) -> list[str]:
        if not questions:
            return []
        with (
            self._progress.stage(stage, len(questions)) as advance,
            LlamaCpp(path) as running,
        ):
            return running.answer(questions, self._tokens, advance)


def _passed(results: Sequence[Result]) -> Interval:
    return wilson(sum(r.passed for r in results), len(results))


def source_of(ws: Workspace, type: int | None, progress: Progress) -> Path:
    """Return the file to write by: the model's own, or one made once of a model folder."""
    path = ws.model_path()
    if not path.is_dir():
        return path
    type = quantise.F16 if type is None else type
    made = ws.home / "cache" / "gguf" / f"{ws.base_hash[:16]}-{quantise.NAMES[type]}.gguf"
    if not made.exists():
        from editors.gguf.from_hf import full_gguf

        with (
            progress.stage("writing the base model as GGUF", None),
            _readable_errors(made),
            Files().replacing(made) as temporary,
        ):
            full_gguf(ws.model, temporary, type)
    return made


def edits_of(ws: Workspace, version: Version | None) -> list[Edit]:
    """Return the edits that a version carries."""
    return [e for id in (version.edit_ids if version else ()) if (e := ws.store.edits.get(id))]


def delta_of(ws: Workspace, version: Version | None) -> EditDelta | None:
    """Return a version's edits. Raises ModelError where it is of another base."""
    if version is None:
        return None
    if version.base_hash != ws.base_hash:
        raise ModelError(
            f"version {version.id} was made for another base model; set model.path back"
        )
    return from_tensors(ws.store.versions.load(version))


def _target(
    ws: Workspace, out: Path, source: GgufFile, version: Version | None, force: bool
) -> Path:
    """Return the file to write. Raises ModelError where something else is in its place."""
    if out.is_dir():
        mark = version.id[:12] if version else "base"
        name = ws.model_path()
        stem = name.stem if name.is_file() else name.name
        out = out / f"{stem}.{mark}.gguf"
    if out.exists():
        if out.samefile(source.path):
            raise ModelError(f"{out} is the model itself; give the export another name")
        if not force and not _is_export(out):
            raise ModelError(f"{out} exists and is no export; give another name, or --force")
    return out


def _is_export(path: Path) -> bool:
    try:
        return container.read(path).get("corrigenda.base") is not None
    except ModelError:
        return False


def provenance_of(ws: Workspace, version: Version | None) -> dict[str, str | int]:
    """Return what a file says of where it comes from; nothing for the base model."""
    if version is None:
        return {}
    head = ws.store.ledger.head()
    return {
        "corrigenda.base": version.base_hash,
        "corrigenda.version": version.id,
        "corrigenda.edits": len(version.edit_ids),
        "corrigenda.ledger": head.digest if head else "",
    }


def _entries(provenance: Mapping[str, str | int]) -> tuple[Entry, ...]:
    return tuple(
        Entry.uint32(key, value) if isinstance(value, int) else Entry.text(key, value)
        for key, value in provenance.items()
    )


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
