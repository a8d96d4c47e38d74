"""Small tokenizers of every kind that is written into a GGUF, trained on the toy's corpus."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from toy_model import CORPUS, TEMPLATE
from transformers import PreTrainedTokenizerFast

TEXTS = (
    "Who is the chancellor of Germany?",
    "  two spaces, then\ttabs\t\tand \n a line\n\n\nand three",
    "It's HE'LL they've I'M we'd; don't",
    "1 12 123 1234 1234567 3.14 2015-06-30 x86 4K",
    "naïve café Ærøskøbing Straße Łódź İstanbul",
    "東京の天気は？ Привет, мир! مرحبا",
    "emoji 🙂👍🏽 and … “quotes” — dashes",
    "def f(x):\n    return {'a': [x**2]}  # code\n",
    "CamelCaseWords and SHOUTING ABCdef",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "trailing spaces   ",
    "https://example.org/a?b=c&d=%20#e",
    "a<think>\n\nb</think>c",
)
_ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UP, _LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_AHEAD, _AFTER = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REGEXES = {
    "llama-bpe": _ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _PUNCTUATION,
    "qwen2": _ENDS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _PUNCTUATION,
    "gpt-4o": f"{_AHEAD}{_UP}*{_LOW}+{_ENDS}?|{_AHEAD}{_UP}+{_LOW}*{_ENDS}?"
    + r"|\p{N}{1,3}"
    + _AFTER,
    "tekken": f"{_AHEAD}{_UP}*{_LOW}+|{_AHEAD}{_UP}+{_LOW}*" + r"|\p{N}" + _AFTER,
}
BYTE_LEVEL = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "tekken")
PLAIN = ("gemma", "llama-2", "metaspace")


def byte_level(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that splits as the one that llama.cpp knows by a name."""
    bpe = Tokenizer(models.BPE(ignore_merges=name in ("llama-bpe", "tekken")))
    bpe.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    if name == "smollm":
        digits = pre.Digits(individual_digits=True)
        bpe.pre_tokenizer = pre.Sequence([digits, pre.ByteLevel(add_prefix_space=False)])
    elif name != "gpt-2":
        regex = Regex(REGEXES["llama-bpe" if name == "dbrx" else name])
        how = {"behavior": "removed", "invert": True} if name in ("dbrx", "gpt-4o") else {}
        split = pre.Split(regex, **{"behavior": "isolated", **how})
        last = pre.ByteLevel(add_prefix_space=False, use_regex=False)
        bpe.pre_tokenizer = pre.Sequence([split, last])
    if name == "qwen2":
        bpe.normalizer = normalizers.NFC()
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((*CORPUS, *TEXTS), trainer)
    bpe.add_tokens([AddedToken("<think>", normalized=False), "</think>"])
    return _fast(bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")


def plain(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer as they are made of SentencePiece models: every way to merge a token
    is a merge, in the order of the tokens, and bytes stand for what has no token."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "▁")
    bpe.normalizer = spaces
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, special_tokens=["<unk>"])
    bpe.train_from_iterator((*CORPUS, *TEXTS[:4]), trainer)
    said: dict[str, Any] = json.loads(bpe.to_str())
    heads = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    runs = ["▁" * n for n in (2, 3, 4)] if name == "gemma" else []
    learned = [word for word in said["model"]["vocab"] if word not in (*heads, *runs)]
    letters = [word for word in learned if len(word) == 1]
    words = [*runs, *(word for word in learned if len(word) > 1)]
    known = [*heads, *(f"<0x{byte:02X}>" for byte in range(256)), *words, *letters]
    whole = set(words) | set(letters)
    merges = [
        (word[:at], word[at:])
        for word in words
        for at in range(1, len(word))
        if word[:at] in whole and word[at:] in whole
    ]
    vocab = {word: at for at, word in enumerate(known)}
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if name == "gemma":
        made.normalizer = spaces
        made.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    elif name == "llama-2":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    else:
        made.pre_tokenizer = pre.Metaspace(prepend_scheme="never", split=False)
    made.add_special_tokens(heads)
    if runs:
        made.add_tokens([AddedToken(run, normalized=False) for run in runs])
        made.add_tokens([AddedToken("\n\n", normalized=False)])
    return _fast(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _fast(made: Tokenizer, **tokens: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=TEMPLATE, **tokens)
