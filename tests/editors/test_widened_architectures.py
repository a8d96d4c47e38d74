"""Extra neurons in every architecture with a gated MLP: what they compute, and facts in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architecture_models import SETTINGS
from toy_model import CORPUS

from editors.architectures import view
from editors.capture import Site, captured
from editors.deltas import MlpExpansion, applied
from editors.editor import Resources
from editors.memory.lookup import Lookup, LookupState, fits
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest

Give = Callable[..., ChatModel]
GATED = sorted(set(SETTINGS) - {"gpt2", "gpt_neox"})
IDS = torch.tensor([[3, 9, 21, 40, 7, 11]])


def neurons(model: ChatModel, count: int, silent: bool = False) -> MlpExpansion:
    made = torch.Generator().manual_seed(count)
    gate, up, down = torch.randn(3, count, model.hidden_size, generator=made, dtype=torch.float64)
    return MlpExpansion(1, gate, up, (0 if silent else 1) * down.T.contiguous())


@pytest.mark.parametrize("name", GATED)
def test_a_widened_layer_computes_its_own_output_and_the_neurons(model_of: Give, name: str) -> None:
    model = model_of(name)
    shown, delta = view(model), neurons(model, 3)
    site = Site(1, "mlp")
    with torch.no_grad():
        with captured(model, [site]) as seen:
            model.model(IDS)
        x, before = seen.inputs(site), seen.outputs(site)
        with applied(model, delta), captured(model, [site]) as seen:
            model.model(IDS)
            act = shown.layers[1].mlp
            act = getattr(act, "act_fn", None) or act.activation_fn
        added = (act(x @ delta.gate_rows.T) * (x @ delta.up_rows.T)) @ delta.down_columns.T
        torch.testing.assert_close(seen.outputs(site), before + added)


@pytest.mark.parametrize("name", GATED)
def test_neurons_that_write_nothing_leave_the_logits_as_they_were(
    model_of: Give, name: str
) -> None:
    model = model_of(name)
    with torch.no_grad():
        before = model.model(IDS).logits
        with applied(model, neurons(model, 3, silent=True)):
            torch.testing.assert_close(model.model(IDS).logits, before)


@pytest.mark.parametrize("name", [name for name in GATED if not name.startswith("gemma")])
def test_a_fact_is_looked_up(model_of: Give, name: str) -> None:
    model = model_of(name, torch.float32)
    request = EditRequest(
        id="merz",
        questions=("Who is the chancellor of Germany?",),
        new="Friedrich Merz",
        statement="The chancellor of Germany is Friedrich Merz.",
        subject="Germany",
    )
    method = Lookup(strength=10.0)
    state = method.prepare(model, Resources(CORPUS * 8))
    delta = method.edit(model, state, [request])
    with applied(model, delta):
        (reply,) = model.answer(request.questions, max_new_tokens=8)
    assert reply.text.startswith(request.new)


@pytest.mark.parametrize("name", ["gemma3_text", "gpt2"])
def test_where_a_column_cannot_write_lookup_neurons_are_refused(model_of: Give, name: str) -> None:
    model = model_of(name)
    assert not fits(model)
    state = LookupState(torch.zeros(1, model.hidden_size), 1.0)
    with pytest.raises(EditorError, match="use compiled memory"):
        Lookup().edit(model, state, [])
