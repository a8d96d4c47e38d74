"""Language patches: the mixture's ends are exact, and only the widest open gate acts."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TINUBU, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.language_patches import (
    LanguagePatches,
    Mixture,
    PatchMemory,
    Told,
    measured_shift,
    mixture,
    odds,
)
from editors.memory.texts import Way, answered, clarified
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest
from editors.runtime import Turns


def _memory(model: ChatModel, editor: LanguagePatches, *facts: EditRequest) -> PatchMemory:
    memory = editor.edit(model, editor.prepare(model, by_words("Marta Kovac")), facts).memory
    assert isinstance(memory, PatchMemory)
    return memory


@given(st.integers(0, 99), st.floats(0, 1))
def test_the_mixture_is_a_distribution_between_its_ends(seed: int, gate: float) -> None:
    drawn = torch.Generator().manual_seed(seed)
    told, untold = torch.randn(2, 9, generator=drawn) * 5
    mixed = mixture(told, untold, gate)
    torch.testing.assert_close(mixed.sum(), torch.tensor(1.0))
    ends = torch.stack([told.softmax(-1), untold.softmax(-1)])
    assert bool((mixed >= ends.amin(0) - 1e-6).all())
    assert bool((mixed <= ends.amax(0) + 1e-6).all())
    assert mixture(told, untold, 0.0).equal(ends[1])
    assert mixture(told, untold, 1.0).equal(ends[0])


def test_the_told_row_gives_what_a_whole_forward_gives(tiny_model: ChatModel) -> None:
    prompt, answer = tiny_model.encode("Who is the chancellor?"), tiny_model.encode("It is Merz")
    told = Told(tiny_model, prompt, -1)
    with torch.inference_mode():
        for count in range(len(answer) + 1):
            whole = torch.tensor([prompt + answer[:count]])
            wanted = tiny_model.model(whole).logits[0, -1]
            torch.testing.assert_close(told.logits(answer[:count]), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gate", [0.0, 1.0])
def test_at_its_ends_the_gate_gives_the_untold_or_the_told_answer(
    reader: ChatModel, gate: float
) -> None:
    turns = Turns(reader)
    prompt = reader.encode(reader.render(MERZ.questions[0]))
    told = clarified(reader, turns, prompt, MERZ.statement)
    way = Way(prompt, Mixture(Told(reader, told, -1), gate))
    made = answered(reader, [prompt], [way], 24)[0]
    alone = answered(reader, [told if gate else prompt], [Way(told if gate else prompt)], 24)[0]
    assert made.tokens == alone.tokens
    assert made.stopped


def test_patches_come_out_and_the_rest_is_the_models_to_the_bit(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = LanguagePatches()
    delta = editor.edit(reader, editor.prepare(reader, by_words("Marta Kovac")), FACTS)
    with applied(reader, delta):
        during = reader.answer(list(UNTOLD))
    assert [one.text for one in during[:3]] == [MERZ.new, MERZ.new, TINUBU.new]
    assert during[5] == before[5]
    assert reader.answer(list(UNTOLD)) == before


def test_a_gate_below_the_least_leaves_the_model_alone(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = LanguagePatches(least=1.1)
    with applied(reader, editor.edit(reader, editor.prepare(reader, by_words()), FACTS)):
        assert reader.answer(list(UNTOLD)) == before


def test_only_the_widest_open_gate_acts_and_the_newest_of_equals(tiny_model: ChatModel) -> None:
    older = replace(MERZ, id="a", new="Olaf Scholz", statement="It is Olaf Scholz.")
    memory = _memory(tiny_model, LanguagePatches(), older, TINUBU, MERZ)
    made = memory.gates(tiny_model, [Asked(q, True) for q in UNTOLD][:3])
    found = [one[0].statement for one in made if one]
    assert found == [MERZ.statement, MERZ.statement, TINUBU.statement]
    assert all(one is not None and 0.9 <= one[1] <= 1 for one in made)


def test_the_model_can_be_asked_for_the_gate(tiny_model: ChatModel) -> None:
    """A random model has no opinion; what it has is shifted so that own wordings and strangers
    lie on either side of even."""
    memory = _memory(tiny_model, LanguagePatches(gate="likelihood"), MERZ)
    assert memory.shift == pytest.approx(measured_shift(tiny_model, [MERZ]))
    own, beside = MERZ.questions[-1], MERZ.neighbours[0]
    gates = memory.gates(tiny_model, [Asked(own, True), Asked(beside, True)])
    raw = odds(tiny_model, [(MERZ.questions[0], own), (MERZ.questions[0], beside)])
    assert float(raw.mean()) == pytest.approx(memory.shift)
    for gate, value in zip(gates, raw, strict=True):
        assert gate is not None
        assert gate[1] == pytest.approx(float(torch.sigmoid(value - memory.shift)))
    assert odds(tiny_model, []).shape == (0,)


def test_an_unknown_gate_is_refused_and_no_patch_no_gate(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="gate is one of scope, likelihood, not 'door'"):
        _memory(tiny_model, LanguagePatches(gate="door"), MERZ)
    memory = _memory(tiny_model, LanguagePatches(gate="likelihood"))
    assert memory.gates(tiny_model, [Asked("Who?", True)]) == [None]
