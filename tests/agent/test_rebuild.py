"""The serving version is had again from base and ledger; taking one edit back harms no other."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from samples import NOW, a_claim, a_document, an_edit
from workspaces import remembered, toy_home

from agent import queueing
from agent.consolidation import consolidate
from agent.progress import Silent
from agent.rebuild import Rebuilt, check_rebuild
from agent.served import open_served
from agent.workspace import Workspace
from editors.model import ChatModel
from store.errors import StoreError
from store.records import Edit

MERZ = an_edit(neighbours=[("France", "president", "head_of_state")])
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
TAKAICHI = an_edit("Sanae Takaichi", "Japan", "head_of_government", "prime minister", "Shinzo Abe")
EDITS = (MERZ, TINUBU, TAKAICHI)
NEW = ("Chile", "Ghana", "Egypt", "Norway", "Brazil", "Poland", "Malta", "India", "Cuba", "Mali")


@pytest.fixture
def ws(taught_model: ChatModel, tmp_path: Path) -> Iterator[Workspace]:
    with toy_home(tmp_path, taught_model) as opened:
        learn(opened, "France", "Kenya", "Peru")
        remembered(opened, *EDITS)
        yield opened


def learn(ws: Workspace, *countries: str, days: float = 0) -> None:
    """Know the presidents of countries, which are neighbours of every edit from then on."""
    for country in countries:
        document = a_document(f"The president of {country} is Jane Doe.")
        claim = a_claim(document, "Jane Doe", subject=country, relation="head_of_state")
        ws.store.facts.assimilate([claim], lambda a, b: a == b, NOW + timedelta(days=days))


def serve(ws: Workspace, *edits: Edit) -> str:
    version = consolidate(ws, edits, NOW, Silent()).version
    ws.store.versions.set_alias("serving", version.id, NOW)
    return version.id


def serve_other_tensors(ws: Workspace, noise: float) -> None:
    """Serve what another machine might have computed: the same recipe, other bytes."""
    made = consolidate(ws, EDITS, NOW, Silent()).version
    torch.manual_seed(0)
    tensors = {
        name: tensor + noise * torch.randn_like(tensor)
        for name, tensor in ws.store.versions.load(made).items()
    }
    version = ws.store.versions.save(
        made.base_hash, made.editor, made.edit_ids, tensors, made.settings, NOW
    )
    ws.store.versions.set_alias("serving", version.id, NOW)


def test_the_serving_version_is_rebuilt_bit_for_bit_whatever_was_learned_since(
    ws: Workspace,
) -> None:
    version = serve(ws, *EDITS)
    learn(ws, *NEW, days=1)
    queueing.revert(ws.store, [MERZ.id], "", NOW + timedelta(days=2))
    before = ws.store.ledger.head()
    found = check_rebuild(ws, Silent())
    assert found == Rebuilt(version, version)
    assert found.identical
    assert found.equal
    assert ws.store.ledger.head() == before
    assert len(ws.store.versions.ls()) == 1


def test_what_was_learned_since_would_have_made_another_version(ws: Workspace) -> None:
    """Else the test above could not fail."""
    version = serve(ws, *EDITS)
    learn(ws, *NEW, days=1)
    assert serve(ws, *EDITS) != version


def test_other_bytes_with_equal_answers_are_equal(ws: Workspace) -> None:
    serve_other_tensors(ws, 1e-7)
    found = check_rebuild(ws, Silent())
    assert not found.identical
    assert found.equal
    assert found.probes > 10
    assert found.differing == ()


def test_other_answers_are_named(ws: Workspace) -> None:
    serve_other_tensors(ws, 5.0)
    found = check_rebuild(ws, Silent())
    assert not found.equal
    assert set(found.differing) <= {probe.question for edit in EDITS for probe in edit.probes}
    assert found.differing


def test_what_cannot_be_rebuilt_is_said(ws: Workspace) -> None:
    with pytest.raises(StoreError, match="the base model is served"):
        check_rebuild(ws, Silent())
    for base, edits, message in (
        ("c" * 64, [MERZ.id], "another base model"),
        (ws.base_hash, ["unknown"], "edit unknown of version .* is unknown"),
    ):
        tensors = {
            "model.layers.2.mlp.gate_proj.rows": torch.zeros(1, 32),
            "model.layers.2.mlp.up_proj.rows": torch.zeros(1, 32),
            "model.layers.2.mlp.down_proj.columns": torch.zeros(32, 1),
        }
        version = ws.store.versions.save(base, "compiled", edits, tensors, {}, NOW)
        ws.store.versions.set_alias("serving", version.id, NOW)
        with pytest.raises(StoreError, match=message):
            check_rebuild(ws, Silent())


def test_taking_one_edit_back_leaves_every_other_answer_as_it_was(ws: Workspace) -> None:
    questions = [p.question for e in (MERZ, TAKAICHI) for p in e.probes]
    own = TINUBU.probes[0].question
    before = {a.reply.question: a for a in open_served(ws).answer([*questions, own])}
    assert before[own].edit_id == TINUBU.id
    queueing.revert(ws.store, [TINUBU.id], "", NOW)
    after = {a.reply.question: a for a in open_served(ws).answer([*questions, own])}
    assert after[own].edit_id is None
    assert {q: after[q].text for q in questions} == {q: before[q].text for q in questions}
    assert {q: after[q].edit_id for q in questions} == {q: before[q].edit_id for q in questions}
