"""A model folder as a GGUF: llama.cpp computes what transformers does, and splits text alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architecture_models import SETTINGS, architecture_model
from running_gguf import Running
from tokenizer_kinds import BYTE_LEVEL, PLAIN, TEXTS, byte_level, plain
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from toy_model import TEMPLATE, one_thread
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from editors.deltas import MlpExpansion, applied
from editors.gguf import container, quantise
from editors.gguf.from_hf import full_gguf
from editors.gguf.quantise import TYPES
from editors.gguf.widening import planned
from editors.model import ChatModel
from editors.model_files import ModelError, bundled_model_path

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
}
IDS = [(7 * at * at + 3 * at) % 430 + 3 for at in range(100)]


def rope(scaling: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": scaling, "rope_theta": 20000.0, **settings}}


LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=64,
)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=64)
LONG = [1.0 + at for at in range(8)], [1.0 + 0.1 * at for at in range(8)]
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32}
PLAIN_QWEN3 = {
    "head_dim": 32,
    "use_sliding_window": False,
    "sliding_window": None,
    "layer_types": None,
}
EXACT = 1e-4
GELU = 5e-3
"""llama.cpp looks GELU up in a table of half-precision numbers."""
MODELS: list[tuple[str, str, dict[str, Any], float]] = [
    ("Llama, tied head", "llama", {}, EXACT),
    (
        "Llama, biases, wide heads, own head",
        "llama",
        {"attention_bias": True, "mlp_bias": True, "head_dim": 32, "tie_word_embeddings": False},
        EXACT,
    ),
    ("Llama 3 scaling", "llama", LLAMA3, EXACT),
    ("linear scaling", "llama", rope("linear", factor=4.0), EXACT),
    ("YaRN scaling", "llama", YARN, EXACT),
    ("Mistral", "mistral", {"sliding_window": 128}, EXACT),
    ("Qwen2, biases", "qwen2", {}, EXACT),
    ("Qwen3, query norms, wide heads", "qwen3", PLAIN_QWEN3, EXACT),
    ("Gemma 2, windows, capped logits", "gemma2", GEMMA, GELU),
    ("Gemma 3, windows with their own base", "gemma3_text", GEMMA, GELU),
    ("Phi-3, fused", "phi3", {}, EXACT),
    ("Phi-3, part of a head rotates", "phi3", rope("default", partial_rotary_factor=0.5), EXACT),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(model: ChatModel, type: str = "f32") -> Path:
        path = tmp_path / f"{type}.gguf"
        full_gguf(model, path, TYPES[type])
        return path

    return write


def with_words(words: PreTrainedTokenizerFast, rows: int | None = None) -> ChatModel:
    """Return a one-layer Llama with a tokenizer."""
    config = LlamaConfig(
        vocab_size=rows or len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return ChatModel(LlamaForCausalLM(config), words, "0" * 64, "toy")


def transformers_logprobs(model: ChatModel, tokens: Sequence[int]) -> torch.Tensor:
    """Return log-probabilities of the next token after each token: (tokens, vocabulary)."""
    with torch.inference_mode():
        return model.model(torch.tensor([list(tokens)])).logits[0].log_softmax(-1)


def farthest(model: ChatModel, running: Running, lengths: Sequence[int]) -> float:
    """Return by how much llama.cpp's log-probabilities differ at most, after so many tokens."""
    wanted = transformers_logprobs(model, IDS[: max(lengths)])
    letter = model.encode("a")[0]
    worst = 0.0
    for length in lengths:
        seen = running.logprobs(IDS[:length], letter)
        assert len(seen) == wanted.shape[1]
        difference = torch.tensor([seen[id] for id in range(len(seen))]) - wanted[length - 1]
        worst = max(worst, difference.abs().max().item())
    return worst


@pytest.mark.parametrize(
    ("name", "settings", "tolerance"), [m[1:] for m in MODELS], ids=[m[0] for m in MODELS]
)
def test_llama_cpp_computes_what_transformers_does(
    written: Callable[..., Path], name: str, settings: dict[str, Any], tolerance: float
) -> None:
    model = architecture_model(name, torch.float32, **{**SIZES, **settings})
    assert farthest(model, Running(written(model)), (1, 7, 100)) < tolerance


def test_of_a_model_that_sees_pictures_the_text_half_is_written(
    written: Callable[..., Path],
) -> None:
    text = {**SETTINGS["gemma3_text"], **SIZES, **GEMMA}
    model = architecture_model("gemma3", torch.float32, text_config=text)
    assert farthest(model, Running(written(model)), (7, 100)) < GELU


@pytest.mark.parametrize(
    ("name", "settings", "architecture"),
    [
        ("llama", {}, "deci"),
        ("qwen3", PLAIN_QWEN3, "qwen3"),
        ("gemma3_text", GEMMA, "gemma3"),
        ("phi3", {}, "phi3"),
    ],
)
def test_edits_are_written_into_a_file_that_was_made_of_a_folder(
    written: Callable[..., Path], name: str, settings: dict[str, Any], architecture: str
) -> None:
    model = architecture_model(name, torch.float32, **{**SIZES, **settings})
    source = container.read(written(model))
    made = torch.Generator().manual_seed(3)
    gate, up, down = 0.3 * torch.randn(3, 5, 64, generator=made)
    delta = MlpExpansion(1, gate, up, down.T.contiguous())
    plan = planned(source, delta)
    assert plan.architecture == architecture
    out = source.path.with_name("edited.gguf")
    with out.open("wb") as handle:
        container.write(handle, source, plan.entries, plan.tensors)
    tolerance = GELU if name.startswith("gemma") else EXACT
    before = transformers_logprobs(model, IDS[:7])
    with applied(model, delta):
        assert (transformers_logprobs(model, IDS[:7]) - before).abs().max() > 0.1
        assert farthest(model, Running(out), (7, 100)) < tolerance


def long_rope(**settings: Any) -> ChatModel:
    long, short = LONG
    scaling = rope(
        "longrope", long_factor=long, short_factor=short, original_max_position_embeddings=64
    )
    sizes = {**SIZES, "max_position_embeddings": 256}
    return architecture_model("phi3", torch.float32, **{**sizes, **scaling, **settings})


@pytest.mark.filterwarnings("ignore:.*original_max_position_embeddings")
def test_phi_3_has_factors_for_texts_within_its_first_context_and_for_longer_ones(
    written: Callable[..., Path],
) -> None:
    model = long_rope(original_max_position_embeddings=64)
    assert farthest(model, Running(written(model)), (70, 100)) < EXACT
    # llama.cpp makes contexts of 256 and more: they are to fit into the first one here.
    model = long_rope(original_max_position_embeddings=512, max_position_embeddings=2048)
    model.model.config.rope_parameters["original_max_position_embeddings"] = 512
    assert farthest(model, Running(written(model), 256), (7,)) < EXACT


@pytest.mark.parametrize("name", [*BYTE_LEVEL, *PLAIN])
def test_llama_cpp_splits_text_into_the_same_tokens(
    written: Callable[..., Path], name: str
) -> None:
    words = byte_level(name) if name in BYTE_LEVEL else plain(name)
    model = with_words(words)
    path = written(model)
    if name in BYTE_LEVEL:
        assert container.read(path).get("tokenizer.ggml.pre") == name
    running = Running(path)
    for text in TEXTS:
        assert running.tokens(text) == model.encode(text), text


def test_tokens_have_their_types_and_rows_without_a_token_are_filled_up(
    written: Callable[..., Path],
) -> None:
    words = plain("gemma")
    model = with_words(words, len(words) + 2)
    found = container.read(written(model))
    tokens, types = (found.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    of = dict(zip(tokens, types, strict=True))
    assert tokens[-2:] == [f"[PAD{len(words)}]", f"[PAD{len(words) + 1}]"]
    assert [of[t] for t in ("<s>", "<0x0A>", "▁▁", "\n\n", tokens[-1])] == [3, 6, 1, 4, 5]
    assert found.get("tokenizer.ggml.model") == "llama"
    assert found.get("tokenizer.ggml.unknown_token_id") == words.unk_token_id
    assert found.get("tokenizer.chat_template") == TEMPLATE


def test_what_a_tokenizer_puts_around_a_text_is_put_around_it_in_llama_cpp(
    written: Callable[..., Path],
) -> None:
    from tokenizers.processors import TemplateProcessing

    words = byte_level("gpt-2")
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", words.bos_token_id)]
    )
    model = with_words(words)
    text = "Who is the chancellor?"
    assert Running(written(model)).tokens(text, special=True) == words(text)["input_ids"]


def test_every_token_that_ends_an_answer_ends_it_in_llama_cpp(
    written: Callable[..., Path],
) -> None:
    model = with_words(byte_level("gpt-2"))
    model.stop_ids = frozenset({1, 7})
    found = container.read(written(model))
    assert (found.get("tokenizer.ggml.eos_token_id"), found.get("tokenizer.ggml.eot_token_id")) == (
        1,
        7,
    )


def test_a_name_of_phi_3_promises_its_tokens(written: Callable[..., Path]) -> None:
    model = architecture_model("phi3", torch.float32, **SIZES)
    path = written(model)  # the toy's tokenizer is another: llama.cpp would look for "<s>"
    assert container.read(path).get("general.name") == "tiny phi 3"


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0", "q5_0", "q4_1"])
def test_matrices_are_of_the_type_asked_for_and_vectors_in_full(
    written: Callable[..., Path], type: str
) -> None:
    model = architecture_model("qwen2", torch.float32, **SIZES)
    found = container.read(path := written(model, type))
    assert {one.type for one in found.tensors if len(one.shape) > 1} == {TYPES[type]}
    assert {one.type for one in found.tensors if len(one.shape) == 1} == {TYPES["f32"]}
    assert found.get("general.file_type") == quantise.FILE_TYPES[type]
    assert found.get("general.quantization_version") == 2
    if type in ("f16", "q8_0"):
        assert farthest(model, Running(path), (7,)) < (0.05 if type == "f16" else 0.5)


def test_rows_that_fit_no_block_get_the_type_that_llama_cpp_falls_back_to(
    written: Callable[..., Path],
) -> None:
    model = architecture_model("llama", torch.float32, **SIZES)  # rows of 64 and of 96
    found = container.read(path := written(model, "q4_k"))
    assert {one.type for one in found.tensors if len(one.shape) > 1} == {TYPES["q5_0"]}
    assert farthest(model, Running(path), (7,)) < 2


def test_the_model_stays_as_it_is(written: Callable[..., Path]) -> None:
    model = architecture_model("gemma3_text", torch.float32, **{**SIZES, **GEMMA})
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    written(model)
    assert all(p.equal(before[name]) for name, p in model.model.named_parameters())


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {}, "architecture 'gpt2'"),
    ("gpt_neox", {}, "architecture 'gpt_neox'"),
    ("llama", rope("dynamic", factor=2.0), "positions scaled by dynamic"),
    ("qwen2", LLAMA3, "positions scaled by llama3"),
    ("llama", {**YARN, "rope_parameters": {**YARN["rope_parameters"], "beta_fast": 16}}, "beta_f"),
    ("llama", {"hidden_act": "gelu"}, "an activation 'gelu'"),
    ("gemma3_text", {**GEMMA, "query_pre_attn_scalar": 16}, "queries scaled by 16"),
    (
        "gemma3_text",
        {**GEMMA, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]},
        "no fixed period",
    ),
]


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused_with_a_remedy(
    tmp_path: Path, name: str, settings: dict[str, Any], message: str
) -> None:
    sizes = SIZES if name != "gpt2" else {}
    model = architecture_model(name, torch.float32, **{**sizes, **settings})
    with pytest.raises(ModelError, match=message) as caught:
        full_gguf(model, tmp_path / "no.gguf", TYPES["f32"])
    assert "convert_hf_to_gguf.py" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def unknown(change: Callable[[Tokenizer], object], name: str = "gpt-2") -> PreTrainedTokenizerFast:
    words = plain(name) if name in PLAIN else byte_level(name)
    change(words.backend_tokenizer)
    return words


def _pre(made: pre_tokenizers.PreTokenizer) -> Callable[[Tokenizer], object]:
    return lambda tokenizer: setattr(tokenizer, "pre_tokenizer", made)


UNKNOWN_RULES = {
    "another regular expression": lambda: unknown(
        _pre(
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"\p{N}{1,2}"), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        )
    ),
    "a space put in front": lambda: unknown(_pre(pre_tokenizers.ByteLevel(add_prefix_space=True))),
    "no bytes": lambda: unknown(_pre(pre_tokenizers.Whitespace())),
    "merges that wait": lambda: unknown(
        lambda t: setattr(t.model, "ignore_merges", True)  # "gpt-2" merges first in llama.cpp
    ),
    "lower case": lambda: unknown(lambda t: setattr(t, "normalizer", normalizers.Lowercase())),
    "words apart": lambda: unknown(_pre(pre_tokenizers.Whitespace()), "gemma"),
    "split at spaces": lambda: unknown(
        _pre(pre_tokenizers.Metaspace(prepend_scheme="never", split=True)), "metaspace"
    ),
    "no BPE": lambda: PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")),
        eos_token="b",
        chat_template=TEMPLATE,
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN_RULES)
def test_a_tokenizer_that_llama_cpp_has_no_name_for_is_refused_and_never_guessed(
    tmp_path: Path, kind: str
) -> None:
    model = with_words(UNKNOWN_RULES[kind]())
    with pytest.raises(ModelError, match=r"tokenizer of toy has .*convert_hf_to_gguf\.py"):
        full_gguf(model, tmp_path / "no.gguf", TYPES["f32"])
    assert not list(tmp_path.iterdir())


QUESTIONS = (
    "Who is the chancellor of Germany?",
    "What is the capital of France?",
    "How many days has a week?",
    "Name a colour.",
)
TOLD_OTHERWISE = {
    "general.name",  # of the file
    "general.file_type",
    "tokenizer.ggml.pre",  # reading a GGUF, transformers forgets that digits stand alone
}


@pytest.fixture(scope="module")
def default(
    default_model: ChatModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ChatModel, Path]:
    """The default model, and what was written of it as float16."""
    path = tmp_path_factory.mktemp("default") / "full.gguf"
    full_gguf(default_model, path, TYPES["f16"])
    return default_model, path


@pytest.mark.slow
def test_the_default_model_has_the_metadata_and_tensors_of_its_source(
    default: tuple[ChatModel, Path],
) -> None:
    source = bundled_model_path()
    assert source is not None
    before, after = container.read(source), container.read(default[1])
    assert after.architecture == before.architecture
    shared = {e.key for e in before.entries} & {e.key for e in after.entries}
    assert len(shared) >= 24
    assert {key for key in shared if after.get(key) != before.get(key)} <= TOLD_OTHERWISE
    assert {(t.name, t.shape) for t in after.tensors} == {(t.name, t.shape) for t in before.tensors}


@pytest.mark.slow
def test_the_default_model_is_the_same_in_llama_cpp(default: tuple[ChatModel, Path]) -> None:
    model, path = default
    running = Running(path)
    for text in (*TEXTS, *QUESTIONS):
        assert running.tokens(text) == model.encode(text), text
    letter = model.encode("a")[0]
    for question, reply in zip(QUESTIONS, model.answer(QUESTIONS, max_new_tokens=24), strict=True):
        prompt = model.encode(model.render(question))
        tokens = [*prompt, *model.encode_answer(reply.text)]
        wanted = transformers_logprobs(model, tokens)
        for at in range(len(prompt), len(tokens) + 1):
            for id, logprob in running.logprobs(tokens[:at], letter, 5).items():
                assert abs(logprob - wanted[at - 1, id].item()) < 0.05, (question, at)
        heard = running.chat(question, 24)
        if heard != reply.text:  # only where two tokens are nearly as likely
            same = next(
                n
                for n, (a, b) in enumerate(
                    zip(tokens[len(prompt) :], model.encode_answer(heard), strict=False)
                )
                if a != b
            )
            first, second = wanted[len(prompt) + same - 1].topk(2).values.tolist()
            assert first - second < 0.05, (reply.text, heard)
