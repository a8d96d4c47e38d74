"""Runtimes: each row of a batch is told apart, whoever shares its forward passes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import pytest
import torch

from editors.architectures import view
from editors.capture import Site, captured
from editors.model import ChatModel
from editors.runtime import Runtime, Turns, silent

QUESTIONS = (
    "Who is the chancellor of Germany?",
    "Who is the president of Nigeria?",
    "Tell me who the chancellor of Germany is.",
    "What language is spoken in Nigeria?",
    "Who is the current prime minister of Japan?",
)


def _prompts(model: ChatModel, questions: Sequence[str] = QUESTIONS) -> list[list[int]]:
    return [model.encode(model.render(question)) for question in questions]


class Router:
    """Turns a push on for prompts that hold some tokens; keeps what it was shown."""

    def __init__(self, model: ChatModel, word: str) -> None:
        self.wanted = model.encode(word)
        self.shown: list[tuple[list[int], torch.Tensor]] = []

    def choose(self, ids: Sequence[int], states: torch.Tensor) -> Hashable | None:
        self.shown.append((list(ids), states))
        width = len(self.wanted)
        found = any(list(ids[i : i + width]) == self.wanted for i in range(len(ids)))
        return "push" if found else None


def _push(model: ChatModel) -> Callable[..., torch.Tensor]:
    def effect(
        site: Site, choice: Hashable, inputs: torch.Tensor, outputs: torch.Tensor
    ) -> torch.Tensor:
        assert choice == "push"
        assert len(inputs) == len(outputs)
        return outputs + torch.linspace(-2, 2, outputs.shape[-1])

    return effect


def _runtime(model: ChatModel, router: Router, last: Any = None) -> Runtime:
    sites = [Site(2, "down"), Site(3, "layer")]
    given = {"last": last} if last else {}
    return Runtime(view(model), Site(1, "layer"), router.choose, sites, _push(model), **given)


def test_a_batch_answers_as_its_rows_do_alone(tiny_model: ChatModel) -> None:
    before = tiny_model.generate(_prompts(tiny_model), max_new_tokens=8)
    detach = _runtime(tiny_model, Router(tiny_model, " chancellor")).attach()
    together = tiny_model.generate(_prompts(tiny_model), max_new_tokens=8)
    alone = [tiny_model.generate([p], max_new_tokens=8)[0] for p in _prompts(tiny_model)]
    detach()
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    changed = [a.tokens != b.tokens for a, b in zip(together, before, strict=True)]
    assert changed == ["chancellor" in question for question in QUESTIONS]
    assert tiny_model.generate(_prompts(tiny_model), max_new_tokens=8) == before
    assert not tiny_model.runtimes


def test_rows_that_come_in_later_are_routed_by_their_own_prompts(tiny_model: ChatModel) -> None:
    small = ChatModel(tiny_model.model, tiny_model.tokenizer, "0" * 64, "small", batch_size=2)
    detach = _runtime(small, Router(small, " chancellor")).attach()
    plain = [reply.text for reply in small.answer(QUESTIONS, max_new_tokens=6)]
    refilled = small.believe(QUESTIONS, samples=[1, 0, 1, 0, 0], seed="s", max_new_tokens=6)
    alone = [
        small.believe([question], samples=[count], seed="s", max_new_tokens=6)[0]
        for question, count in zip(QUESTIONS, [1, 0, 1, 0, 0], strict=True)
    ]
    detach()
    assert [reply.text for reply in refilled] == [reply.text for reply in alone]
    assert [reply.samples for reply in refilled] == [reply.samples for reply in alone]
    assert len(plain) == len(QUESTIONS)


def test_a_router_sees_the_whole_prompt_whatever_others_share_of_it(tiny_model: ChatModel) -> None:
    prompts = _prompts(tiny_model)
    router = Router(tiny_model, "nothing")
    detach = _runtime(tiny_model, router).attach()
    tiny_model.generate(prompts, max_new_tokens=2)
    detach()
    assert sorted(ids for ids, _ in router.shown) == sorted(prompts)
    for ids, states in router.shown:
        hidden = tiny_model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(states, hidden[0].detach(), atol=1e-4, rtol=1e-3)


def test_rows_without_a_choice_are_the_unedited_model_to_the_bit(tiny_model: ChatModel) -> None:
    ids = torch.tensor([_prompts(tiny_model)[1]])
    before = tiny_model.model(ids).logits
    detach = _runtime(tiny_model, Router(tiny_model, " chancellor")).attach()
    during = tiny_model.model(ids).logits
    detach()
    assert during.equal(before)


def test_nothing_changes_before_the_last_prompt_token(tiny_model: ChatModel) -> None:
    ids = torch.tensor([_prompts(tiny_model)[0]])
    before = tiny_model.model(ids).logits
    detach = _runtime(tiny_model, Router(tiny_model, " chancellor")).attach()
    during = tiny_model.model(ids).logits
    detach()
    assert during[:, :-1].equal(before[:, :-1])
    assert not torch.allclose(during[:, -1], before[:, -1])


def test_an_answer_in_one_forward_is_acted_on_as_in_generation(tiny_model: ChatModel) -> None:
    turns = Turns(tiny_model)
    prompt = _prompts(tiny_model)[0]
    detach = _runtime(tiny_model, Router(tiny_model, " chancellor"), turns.last).attach()
    (made,) = tiny_model.generate([prompt], max_new_tokens=6)
    whole = tiny_model.model(torch.tensor([[*prompt, *made.tokens]])).logits[0]
    detach()
    at = len(prompt) - 1
    assert whole[at : at + len(made.tokens)].argmax(-1).tolist() == list(made.tokens)


def test_silence_lets_the_weights_speak(tiny_model: ChatModel) -> None:
    prompts = _prompts(tiny_model)
    before = tiny_model.generate(prompts, max_new_tokens=6)
    detach = _runtime(tiny_model, Router(tiny_model, " chancellor")).attach()
    with silent(tiny_model):
        quiet = tiny_model.generate(prompts, max_new_tokens=6)
    loud = tiny_model.generate(prompts, max_new_tokens=6)
    detach()
    assert quiet == before
    assert [a.tokens for a in loud] != [b.tokens for b in before]


def test_turns_find_question_and_answer(tiny_model: ChatModel) -> None:
    turns = Turns(tiny_model)
    for system in (None, "Think hard.", ""):
        ids = tiny_model.encode(tiny_model.render(QUESTIONS[0], system))
        assert tiny_model.decode(ids[turns.question(ids)]) == QUESTIONS[0]
        assert turns.chat(ids)
        assert turns.last(ids) == len(ids) - 1
        assert turns.last([*ids, *tiny_model.encode_answer("It is so.")]) == len(ids) - 1
    plain = tiny_model.encode("The harbour was quiet")
    assert not turns.chat(plain)
    assert turns.question(plain) == slice(0, len(plain))
    assert turns.last(plain) == len(plain) - 1


def test_a_prompt_is_told_something_as_its_system_message(tiny_model: ChatModel) -> None:
    turns = Turns(tiny_model)

    def ids(system: str | None) -> list[int]:
        return tiny_model.encode(tiny_model.render(QUESTIONS[0], system))

    assert turns.told(ids("Think hard."), "It rains.") == ids("Think hard.\nIt rains.")
    assert turns.told(ids(""), "It rains.") == ids("It rains.")
    assert turns.told(ids(None), "It rains.") == ids(f"{tiny_model.default_system()}\nIt rains.")
    plain = tiny_model.encode("The harbour was")
    assert turns.told(plain, "It rains.") == tiny_model.encode("It rains. The harbour was")


def test_without_a_system_message_the_question_is_told(tiny_model: ChatModel) -> None:
    turns = Turns(tiny_model)
    bare = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
    model = dataclasses.replace(tiny_model, tokenizer=copy.deepcopy(tiny_model.tokenizer))
    model.tokenizer.chat_template = bare
    turns = Turns(model)
    asked = model.encode(model.render("Who is it?"))
    assert (
        model.decode(turns.told(asked, "It rains.")) == "[user]It rains.\n\nWho is it?\n[assistant]"
    )


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi3", "gpt_neox", "gemma3"])
def test_runtimes_work_in_every_architecture(
    name: str, model_of: Callable[[str, torch.dtype], ChatModel]
) -> None:
    model = model_of(name, torch.float32)
    ids = _prompts(model, QUESTIONS[:2])
    before = model.generate(ids, max_new_tokens=5)

    def choose(tokens: Sequence[int], states: torch.Tensor) -> str | None:
        return "push" if list(tokens) == ids[0] else None

    def effect(*given: Any) -> torch.Tensor:
        pushed: torch.Tensor = given[3] + 3 * torch.linspace(-2, 2, given[3].shape[-1])
        return pushed

    runtime = Runtime(view(model), Site(0, "layer"), choose, [Site(2, "mlp")], effect)
    detach = runtime.attach()
    after = model.generate(ids, max_new_tokens=5)
    detach()
    assert after[1] == before[1]
    assert after[0] != before[0]


def test_a_paced_effect_is_told_the_place_in_the_answer(tiny_model: ChatModel) -> None:
    seen: list[tuple[Hashable, int]] = []

    def effect(
        site: Site, acting: Hashable, inputs: torch.Tensor, outputs: torch.Tensor
    ) -> torch.Tensor:
        seen.append((acting, len(outputs)))
        return outputs

    given = view(tiny_model), Site(1, "layer"), lambda ids, states: "on", [Site(2, "down")], effect
    detach = Runtime(*given, paced=True).attach()
    try:
        prompts = _prompts(tiny_model, QUESTIONS[:2])
        made = tiny_model.generate(prompts, max_new_tokens=3)
        batched, seen[:] = list(seen), []
        ids = torch.tensor([prompts[0]])
        past = tiny_model.model(ids, use_cache=True).past_key_values
        tiny_model.model(ids[:, :2], past_key_values=past)
        unannounced = list(seen)
    finally:
        detach()
    longest = max(len(one.tokens) for one in made)
    assert batched[0] == (("on", 0), 2)
    assert {acting for acting, _ in batched} == {("on", place) for place in range(longest)}
    assert unannounced == [(("on", place), 1) for place in range(3)]


def test_what_goes_into_a_module_can_be_read_where_the_effect_is(tiny_model: ChatModel) -> None:
    shown, site = view(tiny_model), Site(2, "down")
    prompt = _prompts(tiny_model, QUESTIONS[:1])[0]
    with captured(shown, [site]) as seen:
        tiny_model.model(torch.tensor([prompt]))
        keys = seen.inputs(site)[0]
    router = Router(tiny_model, " chancellor")
    given = shown, site, router.choose, [site], _push(tiny_model)
    detach = Runtime(*given, side="input").attach()
    try:
        tiny_model.model(torch.tensor([prompt]))
    finally:
        detach()
    assert router.shown[0][1].equal(keys)
