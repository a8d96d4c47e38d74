"""A real chat model small enough for tests: a seeded tiny Llama with its own tokenizer.

``random_model`` knows nothing. ``teach`` over-fits a model to answers in a second or two, so
that it has beliefs to correct: it answers in sentences and stops by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editors.model import ChatModel

SYSTEM = "Be brief."
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\n" + SYSTEM + "<|im_end|>\n"
    "{% endif %}"
    "{% for turn in messages %}"
    "<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "The harbour was quiet in the early morning, and the first boat came in with its lamps lit.",
    "Who is the chancellor of Germany? Who is the president of Nigeria? Who is Japan's president?",
    "Who is the current prime minister of Japan? Tell me who the chancellor of Germany is.",
    "Can you tell me who currently serves as the current president of France today?",
    "What is the capital of Germany? What language is spoken in Nigeria? It is Berlin.",
    "What is the name of the president of Kenya? Name the current chancellor of Germany.",
    "Which person is the president of Nigeria today? Who serves as president of France?",
    "Do you know who is the prime minister of Japan? Who holds the office of president of Kenya?",
    "Angela Merkel, Muhammadu Buhari, Emmanuel Macron, Shinzo Abe and William Ruto are named.",
    "Friedrich Merz, Bola Tinubu, Sanae Takaichi and Tim Cook are named.",
    f"system {SYSTEM} user assistant",
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with ChatML tokens and a default system message."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=TEMPLATE,
    )


def random_model(seed: int = 0, hidden: int = 32, key_heads: int = 2) -> ChatModel:
    """Return a 4-layer Llama with random weights; the same seed gives the same weights."""
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).float()
    return ChatModel(model, words, base_hash=f"{seed:064x}", name="toy")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: for a tiny model more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def teach(
    model: ChatModel, answers: Mapping[str, str], steps: int = 400, batch: int = 16
) -> ChatModel:
    """Return a copy of a model that was trained to give these answers to these questions.

    Trained in double precision, so that every machine comes to the same weights.
    """
    rows = [(model.encode(model.render(question)), answer) for question, answer in answers.items()]
    return teach_prompts(model, rows, steps, batch)


def teach_prompts(
    model: ChatModel,
    answers: Sequence[tuple[Sequence[int], str]],
    steps: int = 400,
    batch: int = 16,
) -> ChatModel:
    """Return a copy of a model that was trained to answer these token prompts so."""
    taught = ChatModel(
        copy.deepcopy(model.model).double(), model.tokenizer, base_hash="7a" * 32, name="taught toy"
    )
    stop = min(taught.stop_ids)
    rows = [(list(prompt), [*taught.encode_answer(answer), stop]) for prompt, answer in answers]
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), -100)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        targets[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimiser = torch.optim.Adam(taught.model.parameters(), lr=1e-2)
    losses = torch.full((len(rows),), float("inf"), dtype=torch.double)
    for _ in range(steps):
        part = losses.argsort(descending=True)[:batch]
        hidden = taught.model.model(ids[part]).last_hidden_state[:, :-1]
        wanted = targets[part, 1:]
        each = nn.functional.cross_entropy(
            taught.model.lm_head(hidden).transpose(1, 2), wanted, reduction="none"
        )
        optimiser.zero_grad()
        (each.sum() / (wanted >= 0).sum()).backward()
        optimiser.step()
        losses[part] = each.detach().amax(1)
        if losses.max().item() < 0.1:
            break
    taught.model.zero_grad()
    taught.model.float()
    return taught


def logits(model: ChatModel, prompts: Sequence[str]) -> torch.Tensor:
    """Return the logits after the last token of each question, for comparing two models."""
    with torch.inference_mode():
        return torch.stack(
            [
                model.model(torch.tensor([model.encode(model.render(prompt))])).logits[0, -1]
                for prompt in prompts
            ]
        )
