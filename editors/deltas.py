"""Edit deltas: what an editor returns, and the one place where weights change.

Computing a delta never changes the model. ``applied`` changes it for the length of a
``with`` block; ``apply`` returns an undo function. Reverting puts the *same tensors* back,
so it is bit-exact by construction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from editors.model import ChatModel


class DeltaError(Exception):
    """A delta that does not fit the model; the message names what does not fit."""


class EditDelta(Protocol):
    """Data that can be applied to a model, undone, stored and exported."""

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Apply to the model in place; return the function that undoes it bit-exactly."""
        ...

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the delta's tensors by name, for a version folder."""
        ...

    @property
    def parameters_added(self) -> int:
        """Number of parameters that the model grows by."""
        ...


@contextlib.contextmanager
def applied(model: ChatModel, *deltas: EditDelta) -> Iterator[ChatModel]:
    """Apply deltas in order for the length of a ``with`` block; undo them in reverse."""
    with contextlib.ExitStack() as stack:
        for delta in deltas:
            stack.callback(delta.apply(model))
        yield model


@dataclass(frozen=True)
class MlpExpansion:
    """Extra bias-free neurons that widen one layer's gated MLP (methods.md X2, §8).

    Attributes:
        layer: index of the decoder layer.
        gate_rows, up_rows: (neurons, hidden) rows appended to ``gate_proj`` and ``up_proj``.
        down_columns: (hidden, neurons) columns appended to ``down_proj``.
    """

    layer: int
    gate_rows: torch.Tensor
    up_rows: torch.Tensor
    down_columns: torch.Tensor

    @property
    def neurons(self) -> int:
        return self.gate_rows.shape[0]

    @property
    def parameters_added(self) -> int:
        return self.gate_rows.numel() + self.up_rows.numel() + self.down_columns.numel()

    def apply(self, model: ChatModel) -> Callable[[], None]:
        if not 0 <= self.layer < len(model.layers):
            raise DeltaError(
                f"delta widens layer {self.layer}, but {model.name} has {len(model.layers)} layers"
            )
        mlp = model.layers[self.layer].mlp
        fused = hasattr(mlp, "gate_up_proj")  # gate rows above, up rows below, in one matrix
        names = ("gate_up_proj", "down_proj") if fused else ("gate_proj", "up_proj", "down_proj")
        if not all(hasattr(mlp, name) for name in names):
            raise DeltaError(
                "delta widens gate_proj, up_proj, down_proj, but the MLPs of "
                f"{model.name} are not made so"
            )
        before = {name: getattr(mlp, name).weight for name in names}
        if before[names[0]].shape[1] != self.gate_rows.shape[1]:
            raise DeltaError(
                f"delta is for a hidden size of {self.gate_rows.shape[1]}, "
                f"but {model.name} has {before[names[0]].shape[1]}"
            )
        # All is checked before anything is changed: half a delta would be no delta.
        shape = self.gate_rows.shape
        if self.up_rows.shape != shape or self.down_columns.T.shape != shape:
            raise DeltaError(
                f"delta has gate rows {tuple(shape)}, up rows {tuple(self.up_rows.shape)} and "
                f"down columns {tuple(self.down_columns.shape)}, which do not belong together"
            )
        with torch.no_grad():
            wide = {name: self._wide(name, weight) for name, weight in before.items()}
        for name, weight in wide.items():
            grad = before[name].requires_grad
            _set_weight(getattr(mlp, name), nn.Parameter(weight, requires_grad=grad))

        def undo() -> None:
            for name, weight in before.items():
                _set_weight(getattr(mlp, name), weight)

        return undo

    def _wide(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return a matrix of the MLP with the neurons added to it."""
        gate, up, down = (
            extra.to(weight) for extra in (self.gate_rows, self.up_rows, self.down_columns)
        )
        if name == "gate_up_proj":
            above, below = weight.chunk(2)
            return torch.cat([above, gate, below, up])
        if name == "down_proj":
            return torch.cat([weight, down], dim=1)
        return torch.cat([weight, gate if name == "gate_proj" else up])

    def tensors(self) -> dict[str, torch.Tensor]:
        prefix = f"model.layers.{self.layer}.mlp"
        return {
            f"{prefix}.gate_proj.rows": self.gate_rows.contiguous(),
            f"{prefix}.up_proj.rows": self.up_rows.contiguous(),
            f"{prefix}.down_proj.columns": self.down_columns.contiguous(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> MlpExpansion:
        """Rebuild from ``tensors()`` output."""
        names = {name.rsplit(".", 2)[1]: name for name in tensors if ".mlp." in name}
        if set(names) != {"gate_proj", "up_proj", "down_proj"} or len(tensors) != 3:
            raise DeltaError("these tensors are no MLP expansion (gate, up and down of one layer)")
        layer = int(names["gate_proj"].split(".")[2])
        return cls(
            layer,
            tensors[names["gate_proj"]],
            tensors[names["up_proj"]],
            tensors[names["down_proj"]],
        )


@dataclass(frozen=True)
class HeadExpansion:
    """One more group of attention heads in a layer: a key and value head and the query heads
    that read it. Its keys and queries are turned by position like those of every other head.

    Attributes:
        layer: index of the decoder layer.
        query_rows: (query heads of a group · head width, hidden) rows appended to ``q_proj``.
        key_rows, value_rows: (head width, hidden) rows appended to ``k_proj`` and ``v_proj``.
        output_columns: (hidden, query heads of a group · head width) columns appended to
            ``o_proj``.
    """

    layer: int
    query_rows: torch.Tensor
    key_rows: torch.Tensor
    value_rows: torch.Tensor
    output_columns: torch.Tensor

    @property
    def parameters_added(self) -> int:
        return sum(tensor.numel() for tensor in self._parts().values())

    def apply(self, model: ChatModel) -> Callable[[], None]:
        if not 0 <= self.layer < len(model.layers):
            raise DeltaError(
                f"delta adds heads to layer {self.layer}, but {model.name} has "
                f"{len(model.layers)} layers"
            )
        attention: Any = getattr(model.layers[self.layer], "self_attn", None)
        parts = self._parts()
        projections: list[Any] = [getattr(attention, name, None) for name in parts]
        if not all(isinstance(one, nn.Linear) for one in projections):
            raise DeltaError(
                "delta adds heads to q_proj, k_proj, v_proj and o_proj, but the attention of "
                f"{model.name} is not made so"
            )
        if any(one.bias is not None for one in projections):
            raise DeltaError(f"delta adds heads without biases; those of {model.name} have some")
        before = {name: getattr(attention, name).weight for name in parts}
        group, width = head_group(model)
        hidden = before["q_proj"].shape[1]
        wanted = {
            "q_proj": (group * width, hidden),
            "k_proj": (width, hidden),
            "v_proj": (width, hidden),
            "o_proj": (hidden, group * width),
        }
        for name, extra in parts.items():
            if tuple(extra.shape) != wanted[name]:
                raise DeltaError(
                    f"delta for {name} has shape {tuple(extra.shape)}, a group of heads of "
                    f"{model.name} needs {wanted[name]}"
                )
        with torch.no_grad():
            wide = {
                name: torch.cat([weight, parts[name].to(weight)], dim=int(name == "o_proj"))
                for name, weight in before.items()
            }
        for name, weight in wide.items():
            grad = before[name].requires_grad
            _set_weight(getattr(attention, name), nn.Parameter(weight, requires_grad=grad))

        def undo() -> None:
            for name, weight in before.items():
                _set_weight(getattr(attention, name), weight)

        return undo

    def tensors(self) -> dict[str, torch.Tensor]:
        prefix = f"model.layers.{self.layer}.self_attn"
        return {
            f"{prefix}.{name}.{'columns' if name == 'o_proj' else 'rows'}": tensor.contiguous()
            for name, tensor in self._parts().items()
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> HeadExpansion:
        """Rebuild from ``tensors()`` output."""
        names = {name.rsplit(".", 2)[1]: name for name in tensors if ".self_attn." in name}
        if set(names) != {"q_proj", "k_proj", "v_proj", "o_proj"} or len(tensors) != 4:
            raise DeltaError("these tensors are no group of heads (q, k, v and o of one layer)")
        parts = (tensors[names[part]] for part in ("q_proj", "k_proj", "v_proj", "o_proj"))
        return cls(int(names["q_proj"].split(".")[2]), *parts)

    def _parts(self) -> dict[str, torch.Tensor]:
        return {
            "q_proj": self.query_rows,
            "k_proj": self.key_rows,
            "v_proj": self.value_rows,
            "o_proj": self.output_columns,
        }


@dataclass(frozen=True)
class JointDelta:
    """Several deltas that belong together, applied in their order. Their tensors have names of
    their own."""

    parts: tuple[EditDelta, ...]

    @property
    def parameters_added(self) -> int:
        return sum(part.parameters_added for part in self.parts)

    def apply(self, model: ChatModel) -> Callable[[], None]:
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                stack.callback(part.apply(model))
            undo = stack.pop_all().close
        return undo

    def tensors(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for part in self.parts:
            found |= part.tensors()
        return found


@dataclass(frozen=True)
class DenseDelta:
    """Additive change of whole weight matrices, by parameter name.

    ``changes[name]`` has the parameter's shape. Applying replaces the parameter with the
    sum, so that undoing restores the original tensor object.
    """

    changes: Mapping[str, torch.Tensor]

    @property
    def parameters_added(self) -> int:
        return 0

    def apply(self, model: ChatModel) -> Callable[[], None]:
        modules = {name: _owner(model.model, name) for name in self.changes}
        before = {name: getattr(owner, leaf) for name, (owner, leaf) in modules.items()}
        for name, change in self.changes.items():
            if before[name].shape != change.shape:
                raise DeltaError(
                    f"delta for {name} has shape {tuple(change.shape)}, "
                    f"the model's is {tuple(before[name].shape)}"
                )
        with torch.no_grad():
            for name, change in self.changes.items():
                owner, leaf = modules[name]
                old = before[name]
                new = old + change.to(old.device, old.dtype)
                setattr(owner, leaf, nn.Parameter(new, requires_grad=old.requires_grad))

        def undo() -> None:
            for name, (owner, leaf) in modules.items():
                setattr(owner, leaf, before[name])

        return undo

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: change.contiguous() for name, change in self.changes.items()}


def _owner(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        owner = root.get_submodule(path)
        getattr(owner, leaf)
    except AttributeError as error:
        raise DeltaError(f"the model has no parameter {name}") from error
    return owner, leaf


def _set_weight(linear: nn.Linear, weight: nn.Parameter) -> None:
    linear.weight = weight
    linear.out_features, linear.in_features = weight.shape


def head_group(model: ChatModel) -> tuple[int, int]:
    """Return how many query heads share a key head, and how wide a head is.

    Raises DeltaError where a model's attention has no projections of its own for the three.
    """
    attention: Any = getattr(model.layers[0], "self_attn", None)
    query, key = (getattr(attention, name, None) for name in ("q_proj", "k_proj"))
    if not isinstance(query, nn.Linear) or not isinstance(key, nn.Linear):
        raise DeltaError(f"the attention of {model.name} has no q_proj and k_proj to add heads to")
    return query.out_features // key.out_features, int(attention.head_dim)


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> MlpExpansion | JointDelta:
    """Rebuild what a version folder holds: the neurons of one layer, or neurons and heads of
    several.

    Raises DeltaError for anything else.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        modules.setdefault(name.rsplit(".", 2)[0], {})[name] = tensor
    parts: list[MlpExpansion | HeadExpansion] = [
        HeadExpansion.from_tensors(own)
        if module.endswith(".self_attn")
        else MlpExpansion.from_tensors(own)
        for module, own in modules.items()
    ]
    if len(parts) == 1 and isinstance(parts[0], MlpExpansion):
        return parts[0]
    if not parts:
        raise DeltaError("there are no tensors of a delta")
    return JointDelta(tuple(parts))
