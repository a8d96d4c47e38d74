"""Rebuilding: the serving version computed again from the base model and the ledger."""

from __future__ import annotations

from dataclasses import dataclass

from agent.battery import Reference, Result, locality_questions, run_battery
from agent.consolidation import compute
from agent.progress import Progress
from agent.workspace import Workspace
from agent.writers import writer_of
from editors.deltas import EditDelta, applied, from_tensors
from store.errors import StoreError
from store.records import Edit, Version
from store.versions import version_id


@dataclass(frozen=True)
class Rebuilt:
    """How a version compares with what base and ledger give.

    Attributes:
        rebuilt: the id that the computed version would have.
        probes: how many probes were asked of both, where the ids differ; else 0.
        differing: the questions of the probes that passed with one and failed with the other.
    """

    version: str
    rebuilt: str
    probes: int = 0
    differing: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        return self.version == self.rebuilt

    @property
    def equal(self) -> bool:
        """The same bytes, or, as on other hardware, the same battery results."""
        return self.identical or (self.probes > 0 and not self.differing)


def check_rebuild(ws: Workspace, progress: Progress) -> Rebuilt:
    """Compute the serving version again, by what was known when it was made; store nothing.

    Raises StoreError where no version is served, where the stored one is damaged, and where
    base or ledger are not those it was made from.
    """
    version = ws.store.versions.alias("serving")
    if version is None:
        raise StoreError("the base model is served; there is no version to rebuild")
    if version.base_hash != ws.base_hash:
        raise StoreError(
            f"version {version.id} was made for another base model; set model.path back"
        )
    stored = from_tensors(ws.store.versions.load(version))
    edits = [_edit(ws, version, id) for id in version.edit_ids]
    edits.sort(key=lambda edit: (edit.created, edit.id))
    # With a setting of another release left out the ids differ, and the batteries decide.
    writer = writer_of(version.editor, version.settings)
    delta, _ = compute(ws, edits, writer, progress, known_on=version.created)
    rebuilt = version_id(
        version.base_hash, version.editor, version.edit_ids, delta.tensors(), writer.settings
    )
    if rebuilt == version.id:
        return Rebuilt(version.id, rebuilt)
    before, after = (_battery(ws, each, edits, progress) for each in (stored, delta))
    differing = [b.question for b, a in zip(before, after, strict=True) if b.passed != a.passed]
    return Rebuilt(version.id, rebuilt, len(before), tuple(sorted(set(differing))))


def _edit(ws: Workspace, version: Version, id: str) -> Edit:
    edit = ws.store.edits.get(id)
    if edit is None:
        raise StoreError(
            f"edit {id} of version {version.id} is unknown; restore the database from a backup"
        )
    return edit


def _battery(
    ws: Workspace, delta: EditDelta, edits: list[Edit], progress: Progress
) -> list[Result]:
    tokens = ws.config.model.max_new_tokens
    known = Reference(ws.model, ws.home / "cache", tokens).answers(locality_questions(edits))
    with progress.stage("asking the batteries", None), applied(ws.model, delta):
        return run_battery(
            lambda questions: [
                reply.text for reply in ws.model.answer(questions, max_new_tokens=tokens)
            ],
            edits,
            known,
            ws.registry,
        )
