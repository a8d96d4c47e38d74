"""What the tests of the editing benchmarks share: facts, a bench on a toy, scripted editors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from samples import REGISTRY

from agent.benchmarks.edit_records import choose, read_records
from agent.benchmarks.edit_run import Bench, Unedited, fingerprint
from agent.progress import Silent
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.generation import Generation
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from store.records import Reply

FACTS = (
    ("Germany", "head_of_government", "chancellor", "Angela Merkel", "Friedrich Merz"),
    ("Nigeria", "head_of_state", "president", "Muhammadu Buhari", "Bola Tinubu"),
    ("France", "head_of_state", "president", "Emmanuel Macron", "William Ruto"),
    ("Japan", "head_of_government", "prime minister", "Shinzo Abe", "Sanae Takaichi"),
)
WEIGHT = "model.layers.2.mlp.down_proj.weight"


def fact(subject: str, relation: str, title: str, old: str, new: str) -> dict[str, Any]:
    questions = REGISTRY.questions(relation, subject, title)
    return {
        "id": subject,
        "subject": subject,
        "relation": relation,
        "question": questions[0],
        "new": new,
        "old": [old],
        "statement": REGISTRY.statement(relation, subject, title, new),
        "paraphrases": [questions[1], f"The {title} of {subject} is"],
        "locality": list(REGISTRY.same_subject(relation, subject))[:2],
        "portability": [{"question": f"Name the {title} of {subject}.", "answers": [new]}],
    }


def write_facts(path: Path) -> Path:
    """Write the facts as a file of records."""
    path.write_text("".join(json.dumps(fact(*one)) + "\n" for one in FACTS), encoding="utf-8")
    return path


def a_bench(model: ChatModel, data: Path, folder: Path, batch: int = 2) -> Bench:
    ticks: Iterator[int] = iter(range(1000))
    return Bench(
        model=model,
        chosen=choose(read_records(data), 4, seed=0),
        unedited=Unedited(model, folder / "cache", 16),
        resources=Resources(),
        batch=batch,
        measurements=2,
        chat_tokens=16,
        texts=["What is the capital of Germany? It is Berlin."],
        clock=lambda: float(next(ticks)),
        progress=Silent(),
    )


@dataclass
class Spoken:
    """A delta under which the model says to some prompts what a script says."""

    script: Mapping[str, str]

    parameters_added: ClassVar[int] = 0

    def apply(self, model: ChatModel) -> Callable[[], None]:
        before = dict(vars(model))
        answer, generate = model.answer, model.generate

        def say(questions: Sequence[str], **more: Any) -> list[Reply]:
            replies = answer(questions, **more)
            return [Reply(r.question, self.script.get(r.question, r.text), 0.0) for r in replies]

        def go_on(prompts: Sequence[Sequence[int]], **more: Any) -> list[Generation]:
            made = generate(prompts, **more)
            texts = [self.script.get(model.decode(prompt)) for prompt in prompts]
            return [
                one if text is None else Generation(tuple(model.encode_answer(text)), (), True)
                for one, text in zip(made, texts, strict=True)
            ]

        vars(model).update(answer=say, generate=go_on)

        def undo() -> None:
            vars(model).clear()
            vars(model).update(before)

        return undo

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


@dataclass(frozen=True)
class Scripted:
    """An editor that makes the model say ``form`` to a fact's every prompt that asks for it."""

    data: Path
    form: str = "It is {new}."
    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> None:
        return None

    def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> Spoken:
        records = {r.id: r for r in choose(read_records(self.data), 4, seed=0).records}
        script = {}
        for request in requests:
            record = records[request.id]
            for probe in (record.edit, *record.paraphrases, *record.portability):
                script[probe.prompt.text] = self.form.format(new=request.new, old=request.old)
        return Spoken(script)

    def settled(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> None:
        return None


@dataclass(frozen=True)
class Nothing:
    """An editor whose deltas change nothing, and that writes down what it is given."""

    stacks: bool = True  # type: ignore[misc]
    seen: list[tuple[str, ...]] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    change: float = 0.0
    fails_at: int = -1
    error: BaseException = field(default_factory=lambda: EditorError("cannot"))

    def prepare(self, model: ChatModel, resources: Resources) -> int:
        return 0

    def edit(self, model: ChatModel, state: int, requests: Sequence[EditRequest]) -> DenseDelta:
        if len(self.seen) == self.fails_at:
            raise self.error
        self.seen.append(tuple(request.id for request in requests))
        self.weights.append(fingerprint(model))
        assert state == len(self.seen) - 1
        weight = model.model.get_parameter(WEIGHT)
        return DenseDelta({WEIGHT: torch.full_like(weight, self.change)})

    def settled(self, model: ChatModel, state: int, requests: Sequence[EditRequest]) -> int:
        return state + 1
