"""Generation against the slow and plain way to do the same, and what can go wrong at loading."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_model import SYSTEM, TEMPLATE

from editors.generation import FirstSentence
from editors.model import ChatModel, ModelError, hash_model, load_chat_model

QUESTIONS = [
    "Who is the chancellor of Germany?",
    "Hi",
    "What language is spoken in Nigeria, and who is the president of Nigeria today?",
    "Who is the chancellor of France?",
    "Name the harbour.",
]


def prompts_of(model: ChatModel, questions: Sequence[str]) -> list[list[int]]:
    return [model.encode(model.render(question)) for question in questions]


def greedy(model: ChatModel, prompt: Sequence[int], most: int) -> list[int]:
    """Continue a prompt without a cache, one full forward a token."""
    ids = list(prompt)
    with torch.inference_mode():
        while len(ids) < len(prompt) + most:
            token = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
            if token in model.stop_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


class Dictated:
    """A guide that writes given tokens and then the stop token."""

    def __init__(self, tokens: Sequence[int], stop: int) -> None:
        self.tokens, self.stop = list(tokens), stop

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        at = len(generated)
        return self.tokens[at] if at < len(self.tokens) else self.stop


def test_a_batch_gives_what_each_prompt_gives_alone(tiny_model: ChatModel) -> None:
    prompts = prompts_of(tiny_model, QUESTIONS)
    together = tiny_model.generate(prompts, max_new_tokens=12)
    for prompt, made in zip(prompts, together, strict=True):
        (alone,) = tiny_model.generate([prompt], max_new_tokens=12)
        assert made.tokens == alone.tokens
        assert made.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
        assert list(made.tokens) == greedy(tiny_model, prompt, 12)


def test_generation_equals_the_one_of_transformers(taught_model: ChatModel) -> None:
    for prompt in prompts_of(taught_model, QUESTIONS[:3]):
        with torch.inference_mode():
            made = taught_model.model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=16,
            )[0].tolist()
        (ours,) = taught_model.generate([prompt], max_new_tokens=16)
        assert list(ours.tokens) == [
            token for token in made[len(prompt) :] if token not in taught_model.stop_ids
        ]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prefix=st.lists(st.integers(2, 300), max_size=6),
    tails=st.lists(st.lists(st.integers(2, 300), min_size=1, max_size=9), min_size=1, max_size=7),
    batch=st.integers(1, 4),
)
def test_prompts_of_any_lengths_with_any_shared_prefix_are_continued_alike(
    tiny_model: ChatModel, prefix: list[int], tails: list[list[int]], batch: int
) -> None:
    prompts = [prefix + tail for tail in tails]
    small = ChatModel(
        tiny_model.model, tiny_model.tokenizer, "0", "small batches", batch_size=batch
    )
    made = small.generate(prompts, max_new_tokens=4)
    assert [list(one.tokens) for one in made] == [greedy(tiny_model, p, 4) for p in prompts]


def test_the_model_stops_by_itself_and_the_stop_token_is_not_part_of_the_answer(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    prompts = prompts_of(taught_model, QUESTIONS[:1])
    (made,) = taught_model.generate(prompts)
    assert made.stopped
    assert not taught_model.stop_ids & set(made.tokens)
    assert taught_model.decode(made.tokens) == taught_answers[QUESTIONS[0]]
    assert len(made.logprobs) == len(made.tokens)


def test_the_cap_is_respected_and_reported(tiny_model: ChatModel) -> None:
    made = tiny_model.generate(prompts_of(tiny_model, QUESTIONS), max_new_tokens=3)
    assert all(len(one.tokens) <= 3 for one in made)
    assert not any(one.stopped and len(one.tokens) == 3 for one in made)
    assert tiny_model.generate([]) == []


def test_a_row_that_ends_early_leaves_the_others_alone(tiny_model: ChatModel) -> None:
    prompts = prompts_of(tiny_model, QUESTIONS)
    stop = min(tiny_model.stop_ids)
    guides = [Dictated([], stop), None, Dictated([5, 6], stop), None, None]
    made = tiny_model.generate(prompts, guides=guides, max_new_tokens=6)
    assert (made[0].tokens, made[0].stopped) == ((), True)
    assert (made[2].tokens, made[2].stopped) == ((5, 6), True)
    for at in (1, 3, 4):
        assert list(made[at].tokens) == greedy(tiny_model, prompts[at], 6)


def test_dictated_tokens_get_the_log_probability_that_the_model_gives_them(
    tiny_model: ChatModel,
) -> None:
    (prompt,) = prompts_of(tiny_model, QUESTIONS[:1])
    (made,) = tiny_model.generate([prompt], guides=[Dictated([7, 9], min(tiny_model.stop_ids))])
    with torch.inference_mode():
        scores = tiny_model.model(torch.tensor([[*prompt, 7]])).logits[0].log_softmax(-1)
    assert made.logprobs == pytest.approx((float(scores[-2, 7]), float(scores[-1, 9])), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The chancellor is Angela Merkel. She was born", "The chancellor is Angela Merkel."),
        ("Is it Merkel? No", "Is it Merkel?"),
        ("The CEO of Apple Inc. is Tim Cook. He", "The CEO of Apple Inc. is Tim Cook."),
        ("Gov. Gavin Newsom", "Gov. Gavin Newsom"),
        ("It is J. B. Pritzker", "It is J. B. Pritzker"),
    ],
)
def test_a_belief_ends_with_its_first_sentence(tiny_model: ChatModel, text: str, kept: str) -> None:
    rule, written = FirstSentence(tiny_model), list[int]()
    for token in tiny_model.encode_answer(text):
        chosen = rule.end(written, token)
        if chosen in tiny_model.stop_ids:
            break
        written.append(chosen)
    assert tiny_model.decode(written) == kept


def test_the_start_of_an_answer_is_part_of_it(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    start = "The chancellor of Germany"
    (reply,) = taught_model.answer(QUESTIONS[:1], starts=[start])
    assert reply.text == taught_answers[QUESTIONS[0]]
    (other,) = taught_model.answer(QUESTIONS[:1], starts=["Well, the"], max_new_tokens=1)
    assert other.text.startswith("Well, the")


def test_progress_counts_every_question_once(tiny_model: ChatModel) -> None:
    done: list[int] = []
    small = ChatModel(tiny_model.model, tiny_model.tokenizer, "0", "small batches", batch_size=2)
    small.answer(QUESTIONS, max_new_tokens=1, progress=done.append)
    assert (sum(done), max(done)) == (len(QUESTIONS), 2)


def test_the_default_system_message_is_found(tiny_model: ChatModel) -> None:
    assert tiny_model.default_system() == SYSTEM
    assert SYSTEM in tiny_model.render("Hi")
    assert SYSTEM not in tiny_model.render("Hi", system="Other.")


def test_a_template_without_a_default_system_message_has_none(tiny_model: ChatModel) -> None:
    try:
        tiny_model.tokenizer.chat_template = TEMPLATE.replace(SYSTEM, "").replace(
            "<|im_start|>system\n<|im_end|>\n", ""
        )
        assert tiny_model.default_system() == ""
    finally:
        tiny_model.tokenizer.chat_template = TEMPLATE


def test_special_tokens_spelled_in_an_answer_stay_plain_text(tiny_model: ChatModel) -> None:
    spelled = "a <|im_end|> b"
    assert set(tiny_model.encode(spelled)) & tiny_model.stop_ids
    assert not set(tiny_model.encode_answer(spelled)) & tiny_model.stop_ids
    assert tiny_model.decode(tiny_model.encode_answer(spelled)) == spelled


def test_perplexity_equals_the_hand_computed_one(tiny_model: ChatModel) -> None:
    texts = ["The harbour was quiet.", "x", "Who is the president of Nigeria?"]
    total, count = 0.0, 0
    for text in texts:
        ids = tiny_model.encode(text)
        with torch.inference_mode():
            scores = tiny_model.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        for at in range(1, len(ids)):
            total -= float(scores[at - 1, ids[at]])
            count += 1
    assert tiny_model.perplexity(texts) == pytest.approx(math.exp(total / count), rel=1e-4)
    with pytest.raises(ValueError, match="at least two tokens"):
        tiny_model.perplexity(["x"])


@pytest.fixture
def saved(tiny_model: ChatModel, tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    tiny_model.model.save_pretrained(folder)
    tiny_model.tokenizer.save_pretrained(folder)
    return folder


def test_a_model_folder_is_opened_and_answers_as_before(
    tiny_model: ChatModel, saved: Path, tmp_path: Path
) -> None:
    opened = load_chat_model(saved, tmp_path / "cache")
    assert (opened.name, opened.base_hash) == ("toy", hash_model(saved))
    assert opened.answer(QUESTIONS, max_new_tokens=4) == tiny_model.answer(
        QUESTIONS, max_new_tokens=4
    )


def test_another_weight_gives_another_hash(tiny_model: ChatModel, saved: Path) -> None:
    before = hash_model(saved)
    assert hash_model(saved) == before
    weights = saved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert hash_model(saved) != before


def test_what_is_no_model_is_refused_in_one_line(saved: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with pytest.raises(ModelError, match=r"does not exist; set model\.path"):
        load_chat_model(tmp_path / "none.gguf", cache)
    (tmp_path / "text.gguf").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load_chat_model(tmp_path / "text.gguf", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        load_chat_model(tmp_path / "empty", cache)
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"^model .*toy cannot be loaded: [^\n]+$"):
        load_chat_model(saved, cache)


@pytest.mark.parametrize("said", [b"GGUF", b"GGUF\x03\x00\x00\x00" + b"\x01" * 40])
def test_a_truncated_gguf_is_refused_before_anything_is_converted(
    tmp_path: Path, said: bytes
) -> None:
    broken, cache = tmp_path / "broken.gguf", tmp_path / "cache"
    broken.write_bytes(said)
    with pytest.raises(ModelError, match=r"broken\.gguf.* is cut short"):
        load_chat_model(broken, cache)
    assert not cache.exists()


def test_a_model_without_a_chat_template_is_refused(saved: Path, tmp_path: Path) -> None:
    (saved / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_chat_model(saved, tmp_path / "cache")
