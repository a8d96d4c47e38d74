"""A tiny model of each architecture, built once; a test must leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from architecture_models import SETTINGS, architecture_model
from toy_model import one_thread

from editors.model import ChatModel


@pytest.fixture(scope="session")
def _built() -> Callable[[str, torch.dtype], ChatModel]:
    made: dict[tuple[str, torch.dtype], ChatModel] = {}

    def build(name: str, dtype: torch.dtype) -> ChatModel:
        if (name, dtype) not in made:
            made[name, dtype] = architecture_model(name, dtype)
        return made[name, dtype]

    return build


@pytest.fixture
def model_of(
    _built: Callable[[str, torch.dtype], ChatModel],
) -> Iterator[Callable[..., ChatModel]]:
    """Gives an architecture's model, in float64 unless told; each is checked afterwards to be
    as it was."""
    used: dict[int, tuple[ChatModel, dict[str, torch.nn.Parameter], list[torch.Tensor]]] = {}

    def give(name: str, dtype: torch.dtype = torch.float64) -> ChatModel:
        model = _built(name, dtype)
        if id(model) not in used:
            parameters = dict(model.model.named_parameters())
            copies = [p.detach().clone() for p in parameters.values()]
            used[id(model)] = (model, parameters, copies)
        return model

    with one_thread():
        yield give
    for model, before, copies in used.values():
        name = model.name
        after = dict(model.model.named_parameters())
        assert after.keys() == before.keys()
        for (path, parameter), copy in zip(before.items(), copies, strict=True):
            assert after[path] is parameter, f"{path} of {name} was replaced and not put back"
            assert parameter.equal(copy), f"{path} of {name} was changed"
            assert parameter.grad is None, f"{path} of {name} was left with a gradient"
            assert parameter.requires_grad, f"{path} of {name} was left frozen"
        for path, module in model.model.named_modules():
            left = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            assert not left, f"{path or 'the model'} of {name} was left with a hook"


@pytest.fixture(params=sorted(SETTINGS))
def each_model(request: pytest.FixtureRequest, model_of: Callable[[str], ChatModel]) -> ChatModel:
    """The tiny model of one architecture after the other."""
    return model_of(request.param)
