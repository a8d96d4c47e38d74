"""The generation loop: whatever shares a batch, an answer is the one its prompt gives alone."""

import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_model import tokenizer
from transformers import MistralConfig, MistralForCausalLM

from editors.generation import FirstSentence, Sampling, draws, generate, nucleus
from editors.model import ChatModel

QUESTIONS = [
    "Who is the chancellor of Germany?",
    "Hi",
    "What language is spoken in Nigeria, and who is the president of Nigeria today?",
    "Who is the chancellor of France?",
    "Name the harbour.",
]
STEPS = 6


def of_size(model: ChatModel, rows: int) -> ChatModel:
    return ChatModel(model.model, model.tokenizer, "0", "toy", batch_size=rows)


def alone(model: ChatModel, prompt: Sequence[int]) -> list[int]:
    """Continue a prompt without batch and cache, one full forward a token."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + STEPS:
            token = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in model.stop_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


def forwards(model: ChatModel) -> tuple[list[tuple[int, int]], torch.utils.hooks.RemovableHandle]:
    """Collect (rows, columns) of every forward pass."""
    seen: list[tuple[int, int]] = []
    hook = model.model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    return seen, hook


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prefix=st.lists(st.integers(2, 300), max_size=5),
    tails=st.lists(st.lists(st.integers(2, 300), min_size=1, max_size=9), min_size=1, max_size=7),
    samples=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    rows=st.integers(1, 9),
    refill=st.booleans(),
)
def test_neither_batch_nor_order_nor_drawn_answers_change_a_greedy_answer(
    tiny_model: ChatModel,
    prefix: list[int],
    tails: list[list[int]],
    samples: list[int],
    rows: int,
    refill: bool,
) -> None:
    prompts = [prefix + tail for tail in tails]
    model = of_size(tiny_model, rows)
    drawn = [draws(str(p), n, STEPS) for p, n in zip(prompts, samples, strict=False)]
    made = generate(model, prompts, drawn=drawn, refill=refill, max_new_tokens=STEPS)
    assert [list(one.tokens) for one in made] == [alone(tiny_model, p) for p in prompts]
    assert [len(one.drawn) for one in made] == samples[: len(prompts)]
    turned = generate(model, prompts[::-1], drawn=drawn[::-1], refill=refill, max_new_tokens=STEPS)
    assert [one.tokens for one in turned[::-1]] == [one.tokens for one in made]
    assert [one.drawn for one in turned[::-1]] == [one.drawn for one in made]


def test_waiting_prompts_take_the_places_that_become_free(tiny_model: ChatModel) -> None:
    """One answer in eight is long: without refilling each batch is kept waiting by its own."""
    prompts = [[5, 6, 7 + number] for number in range(32)]

    class Long:
        def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
            return 9

    class Short:
        def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
            return min(tiny_model.stop_ids)

    def steps(refill: bool) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
        seen, hook = forwards(tiny_model)
        try:
            made = generate(
                of_size(tiny_model, 8),
                prompts,
                guides=[Short() if number % 8 else Long() for number in range(32)],
                refill=refill,
                max_new_tokens=12,
            )
        finally:
            hook.remove()
        return [one.tokens for one in made], seen

    (one, apart), (other, refilled) = steps(False), steps(True)
    assert one == other
    assert max(rows for rows, _ in refilled) <= 8
    assert len(refilled) < len(apart) / 2


def test_drawn_answers_share_the_prompt_with_the_greedy_one(tiny_model: ChatModel) -> None:
    prompts = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 10]]
    seen, hook = forwards(tiny_model)
    try:
        generate(tiny_model, prompts, drawn=[draws("a", 3, 4), draws("b", 3, 4)], max_new_tokens=4)
    finally:
        hook.remove()
    assert seen[:2] == [(1, 4), (2, 1)]  # what all share, then the rest of each prompt, once
    assert seen[2] == (8, 1)


def test_progress_counts_every_prompt_once_whether_refilled_or_not(tiny_model: ChatModel) -> None:
    prompts = [tiny_model.encode(tiny_model.render(question)) for question in QUESTIONS]
    for refill in (False, True):
        done: list[int] = []
        generate(
            of_size(tiny_model, 2),
            prompts,
            drawn=[draws("x", number % 3, 5) for number in range(len(prompts))],
            refill=refill,
            max_new_tokens=5,
            progress=done.append,
        )
        assert sum(done) == len(prompts)
        assert min(done) >= 0


def test_a_model_that_attends_to_a_window_answers_alike() -> None:
    """Its cache forgets, so rows of different widths are never put together."""
    words = tokenizer()
    config = MistralConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        initializer_range=0.2,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ChatModel(MistralForCausalLM(config).float(), words, "0", "window", batch_size=3)
    prompts = [[5, 6, 7, 8 + number, 9, 10] for number in range(5)]
    made = generate(model, prompts, refill=True, max_new_tokens=STEPS)
    assert [list(one.tokens) for one in made] == [alone(model, prompt) for prompt in prompts]


def test_drawn_answers_are_the_same_for_the_same_seed_and_differ_for_another(
    tiny_model: ChatModel,
) -> None:
    def believe(questions: list[str], counts: list[int], seed: str, rows: int) -> list:
        return of_size(tiny_model, rows).believe(
            questions, samples=counts, seed=seed, max_new_tokens=5
        )

    first = believe(QUESTIONS, [3, 0, 3, 0, 0], "m", 32)
    again = believe(QUESTIONS[:1], [2], "m", 1)
    assert first[0].samples[:2] == again[0].samples
    assert [len(reply.samples) for reply in first] == [3, 0, 3, 0, 0]
    assert believe(QUESTIONS[:1], [3], "other", 32)[0].samples != first[0].samples


def test_without_drawn_answers_a_belief_is_the_greedy_answer(tiny_model: ChatModel) -> None:
    plain = tiny_model.believe(QUESTIONS, max_new_tokens=5)
    drawn = tiny_model.believe(QUESTIONS, samples=[3] * len(QUESTIONS), max_new_tokens=5)
    assert [(r.question, r.text, r.tokens) for r in plain] == [
        (r.question, r.text, r.tokens) for r in drawn
    ]
    assert all(reply.samples == () for reply in plain)
    prompts = [tiny_model.encode(tiny_model.render(question)) for question in QUESTIONS]
    free = tiny_model.generate(prompts, max_new_tokens=5)
    assert plain[0].tokens == len(free[0].tokens)
    assert plain[0].total == pytest.approx(sum(free[0].logprobs), abs=1e-3)


def test_drawn_answers_end_with_their_first_sentence_too(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    (reply,) = taught_model.believe(QUESTIONS[:1], samples=[2], max_new_tokens=24)
    assert reply.text == taught_answers[QUESTIONS[0]]
    assert reply.samples == (reply.text, reply.text)  # it was taught nothing else


def test_as_the_temperature_falls_drawing_becomes_greedy(tiny_model: ChatModel) -> None:
    prompts = [tiny_model.encode(tiny_model.render(question)) for question in QUESTIONS[:2]]
    made = generate(
        tiny_model,
        prompts,
        drawn=[draws("s", 2, STEPS)] * 2,
        sampling=Sampling(temperature=1e-4),
        max_new_tokens=STEPS,
    )
    assert all(one.drawn == (one.tokens, one.tokens) for one in made)


def slowly(logits: torch.Tensor, at: float, sampling: Sampling) -> int:
    """Draw a token by the definition of the nucleus, one token after the other."""
    share = (logits.double() / sampling.temperature).softmax(-1).tolist()
    kept: list[int] = []
    for token in sorted(range(len(share)), key=lambda i: -share[i]):
        kept.append(token)
        if sum(share[i] for i in kept) >= sampling.top_p:
            break
    reached, whole = 0.0, sum(share[i] for i in kept)
    for token in kept:
        reached += share[token]
        if at * whole < reached:
            return token
    return kept[-1]


@given(
    seed=st.integers(0, 10_000),
    size=st.sampled_from([3, 60, 500]),
    spread=st.sampled_from([0.1, 1.0, 8.0]),  # 0.1: so flat that the likeliest few hold little
    at=st.floats(0, 1, exclude_max=True),
    top_p=st.floats(0.05, 0.99),
)
def test_a_token_is_drawn_by_the_definition_of_the_nucleus(
    seed: int, size: int, spread: float, at: float, top_p: float
) -> None:
    logits = spread * torch.randn(2, size, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(0.7, top_p)
    made = nucleus(logits, torch.tensor([at, at], dtype=torch.float64), sampling).tolist()
    assert made == [slowly(row, at, sampling) for row in logits]


def test_tokens_are_drawn_as_often_as_their_share_of_the_nucleus() -> None:
    share = torch.tensor([0.5, 0.3, 0.15, 0.05])
    at = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    made = nucleus(share.log().expand(1000, 4), at, Sampling(1.0, 0.9))
    assert made.bincount(minlength=4).tolist() == pytest.approx([526, 316, 158, 0], abs=1)


def test_the_numbers_to_draw_with_do_not_depend_on_how_many_there_are() -> None:
    assert draws("seed", 3, 8)[:1] == draws("seed", 1, 8)
    assert draws("seed", 1, 8) != draws("seed2", 1, 8)
    assert draws("seed", 0, 8) == []
    numbers = [number for row in draws("seed", 40, 50) for number in row]
    assert 0 <= min(numbers) < max(numbers) < 1
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_quick_look_for_a_sentences_end_misses_none(
    tiny_model: ChatModel, data: st.DataObject
) -> None:
    words = ["The", " chancellor", "is", " Merkel", ".", "!", "?", " ", "\n", " Gov", " Inc", "a"]
    texts = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=8))
    tokens = [token for text in texts for token in tiny_model.encode_answer(text)]
    *written, token = tokens

    ended = re.search(r"(\w{3,})[.!?]\s*$", tiny_model.decode(written[-8:]))
    small = tiny_model.decode([token]).strip()[:1].islower()
    ends = ended is not None and ended[1].casefold() != "gov" and not small
    chosen = FirstSentence(tiny_model).end(written, token)
    assert (chosen in tiny_model.stop_ids) == ends
