"""A fast tokenizer as the metadata of a GGUF file.

llama.cpp splits text by rules that it knows by name, and so a name is written only where the
tokenizer's own rules are the same; any other is refused. Two kinds are known: byte-level BPE
("gpt2", with its merges) and BPE on text with bytes to fall back on, as SentencePiece makes it
("llama", with a score for each token). What stands where is in the GGUF specification; the rules
and their names are those of llama.cpp's ``src/llama-vocab.cpp``. It normalises no text: NFC, which
Qwen's tokenizers ask for, is left out there, and "gpt-4o" and "tekken" take combining marks that
stand alone for no part of a word. So it is in all files that people have of such models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from editors.model_files import ModelError

if TYPE_CHECKING:
    from gguf import GGUFWriter

    from editors.model import ChatModel

REMEDY = "convert the base with llama.cpp's convert_hf_to_gguf.py and set model.path to that file"
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
"""Types of tokens (``gguf.TokenType``)."""
SPACE = "▁"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+{end}|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*{end}|"
    r"{numbers}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_THREE_DIGITS = _ENDING + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_ONE_DIGIT = _ENDING + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_BY_CASE = _CASED.replace("{end}", _ENDING + "?").replace("{numbers}", r"\p{N}{1,3}")
_BY_CASE_PLAIN = _CASED.replace("{end}", "").replace("{numbers}", r"\p{N}")
_BYTES, _DIGITS = "bytes", "digits"
_NAMES: Mapping[tuple[str, ...], Mapping[bool, str]] = {
    (_BYTES,): {False: "gpt-2"},
    (_DIGITS, _BYTES): {False: "smollm"},
    (_THREE_DIGITS,): {True: "llama-bpe", False: "dbrx"},
    (_ONE_DIGIT,): {False: "qwen2"},
    (_BY_CASE,): {False: "gpt-4o"},
    (_BY_CASE_PLAIN,): {True: "tekken"},
}
"""llama.cpp's names: by how text is split, and by whether a token goes before its merges."""
_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused\d+>|<pad>|<mask>|\[@BOS@\]", re.DOTALL)
"""What is a control token whatever its tokenizer says, as llama.cpp's converter has it."""


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp is told of a tokenizer.

    Attributes:
        kind: "gpt2" or "llama".
        pre: the name of the rules by which text is split.
        tokens, types: one for each row of the embedding.
        merges: of "gpt2", "left right"; the first goes first.
        scores: of "llama", one a token; of two merges the one with the higher score goes first.
        special: ids by role, "bos", "eos", "unk", "pad", "eot", "eom".
        space_prefix: whether a text is given a space in front.
        add_bos, add_eos: whether a text is given these tokens.
        template: for chats, Jinja.
    """

    kind: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    special: Mapping[str, int] = field(default_factory=dict)
    space_prefix: bool = False
    add_bos: bool = False
    add_eos: bool = False
    template: str = ""

    def write(self, writer: GGUFWriter) -> None:
        """Put it into the metadata of a file."""
        writer.add_add_space_prefix(self.space_prefix)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_tokenizer_model(self.kind)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.kind == "gpt2":
            writer.add_token_merges(self.merges)
        else:
            writer.add_token_scores(self.scores)
        for role, token in self.special.items():
            getattr(writer, f"add_{role}_token_id")(token)
        writer.add_chat_template(self.template)


def vocabulary(model: ChatModel, rows: int) -> Vocabulary:
    """Return a chat model's tokenizer as llama.cpp takes it. Pure.

    Args:
        rows: of the embedding; what has no token is filled up with unused ones, and added
            tokens without a row (pictures, in a text model) are left out.

    Raises ModelError: llama.cpp has no rules that split text in the same way.
    """
    said = _said(model)
    bpe, added = said["model"], {int(a["id"]): a for a in said.get("added_tokens") or []}
    if bpe.get("type") != "BPE" or any(
        bpe.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise _refused(model, f"a {bpe.get('type')} model of its own kind")
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in bpe["merges"]]
    by_id = {int(id): token for token, id in bpe["vocab"].items()}
    if max(by_id, default=0) >= rows:
        raise ModelError(f"{model.name}: its embedding has {rows} rows, its tokenizer more tokens")
    add_bos, add_eos = _added_around(model)
    plain = bool(bpe.get("byte_fallback"))
    tokens, types = _tokens(by_id, added, rows, {left + right for left, right in merges}, plain)
    template = model.tokenizer.chat_template
    common: dict[str, Any] = {
        "tokens": tokens,
        "types": types,
        "special": _roles(model, rows),
        "add_bos": add_bos,
        "add_eos": add_eos,
        "template": template["default"] if isinstance(template, dict) else template or "",
    }
    if plain:
        prefix = _space_prefix(model, said)
        if types.count(BYTE) != 256:
            raise _refused(model, "a token for some bytes only")
        scores = _scores(tokens, merges)
        return Vocabulary("llama", "default", scores=scores, space_prefix=prefix, **common)
    written = tuple(" ".join(part.replace(" ", "Ġ") for part in merge) for merge in merges)
    return Vocabulary("gpt2", _pre(model, said), merges=written, **common)


def split_as_said(tokenizer: Any, pre: str) -> None:
    """Make a tokenizer that was read from a GGUF split text as the file's rules say.

    What reads it ("transformers") knows no rules but GPT-2's. A name that is not known here leaves
    the tokenizer as it is.
    """
    found = [
        (shape, whole)
        for shape, names in _NAMES.items()
        for whole, name in names.items()
        if name == pre
    ]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not found or backend is None or type(backend.model).__name__ != "BPE":
        return
    from tokenizers import Regex, pre_tokenizers

    shape, whole = found[0]
    steps: list[Any] = []
    for step in shape:
        if step == _DIGITS:
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        elif step != _BYTES:
            steps.append(pre_tokenizers.Split(Regex(step), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=_BYTES in shape))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.model.ignore_merges = whole


def strips_right(model: ChatModel) -> bool:
    """Whether control tokens swallow the spaces that follow them, as Phi-3's do."""
    return any(a.get("rstrip") and a.get("special") for a in _said(model).get("added_tokens") or [])


def _said(model: ChatModel) -> dict[str, Any]:
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _refused(model, "no fast form (tokenizer.json)")
    said: dict[str, Any] = json.loads(backend.to_str())
    return said


def _refused(model: ChatModel, has: str) -> ModelError:
    return ModelError(f"the tokenizer of {model.name} has {has}, unknown to llama.cpp: {REMEDY}")


def _tokens(
    by_id: Mapping[int, str],
    added: Mapping[int, Mapping[str, Any]],
    rows: int,
    merged: set[str],
    plain: bool,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return texts and types by id. ``plain``: texts stand as they are, "▁" for a space."""
    tokens, types = [], []
    for id in range(rows):
        text, type = by_id.get(id, f"[PAD{id}]"), NORMAL if id in by_id else UNUSED
        if id in added:
            text = added[id]["content"]
            if added[id].get("special") or _SPECIAL.fullmatch(text):
                type = CONTROL
            elif not (plain and SPACE in text and text in merged):
                # Runs of spaces that come of merges are left to them: they are no other tokens.
                text, type = text.replace(SPACE, " "), USER_DEFINED
        elif plain and re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            type = BYTE
        tokens.append(text)
        types.append(type)
    return tuple(tokens), tuple(types)


def _scores(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> tuple[float, ...]:
    """Return scores that put merges in their order; what no merge makes comes last.

    A tokenizer.json made of a SentencePiece model lists the merges by the scores of what they
    make, and these fall with the index: -index, the usual stand-in, gives the same order there.
    """
    rank: dict[str, int] = {}
    for at, merge in enumerate(merges):
        rank.setdefault("".join(merge), at)
    return tuple(-float(rank.get(token, len(merges))) for token in tokens)


def _roles(model: ChatModel, rows: int) -> dict[str, int]:
    """Return special tokens by role; other tokens that end an answer are "eot" and "eom"."""
    found: dict[str, int] = {}
    config = getattr(model.model, "config", None)
    for role in ("bos", "eos", "unk", "pad"):
        id = getattr(model.tokenizer, f"{role}_token_id", None)
        if id is None and role == "bos":
            id = getattr(config, "bos_token_id", None)
        if isinstance(id, int) and 0 <= id < rows:
            found[role] = id
    stops = sorted(id for id in model.stop_ids if id < rows)
    if not stops:
        raise ModelError(f"{model.name} names no token that ends an answer (eos_token)")
    found.setdefault("eos", stops[0])
    others = [id for id in stops if id != found["eos"]]
    return found | dict(zip(("eot", "eom"), others, strict=False))


def _added_around(model: ChatModel) -> tuple[bool, bool]:
    """Return whether a text is given a token to begin with, and one to end with."""
    words = model.tokenizer
    bare = list(words("a", add_special_tokens=False)["input_ids"])
    whole = list(words("a")["input_ids"])
    for bos in (False, True):
        for eos in (False, True):
            if whole == [words.bos_token_id] * bos + bare + [words.eos_token_id] * eos:
                return bos, eos
    raise _refused(model, "tokens of its own around a text")


def _pre(model: ChatModel, said: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of how byte-level BPE splits a text."""
    normal = said.get("normalizer") or {}
    if normal.get("type") not in (None, "NFC") and normal.get("normalizers") != []:
        raise _refused(model, f"a normalizer ({normal.get('type')})")
    steps = said.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    shape = tuple(filter(None, (_step(one) for one in steps)))
    whole = any(one.get("type") == "ByteLevel" for one in steps)
    name = _NAMES.get(shape, {}).get(bool(said["model"].get("ignore_merges"))) if whole else None
    if name is None:
        raise _refused(model, "a pre-tokenizer")
    return name


def _step(said: Mapping[str, Any]) -> str:
    """Return one step of splitting: a regular expression or a word for it, "" for nothing."""
    if said.get("type") == "ByteLevel" and not said.get("add_prefix_space"):
        return _BYTES if said.get("use_regex", True) else ""
    if said.get("type") == "Digits" and said.get("individual_digits"):
        return _DIGITS
    # All is matched: to keep the matches is to split there.
    how = (said.get("behavior"), bool(said.get("invert")))
    if said.get("type") == "Split" and how in (("Isolated", False), ("Removed", True)):
        return str(said["pattern"].get("Regex", "?"))
    return "?"


def _space_prefix(model: ChatModel, said: Mapping[str, Any]) -> bool:
    """Return whether a text gets a space in front; spaces become "▁" and split nothing.

    llama.cpp gives one after each control token too, as tokenizers do that prepend; those
    with the scheme "first" do not.
    """
    normal, pre = said.get("normalizer") or {}, said.get("pre_tokenizer") or {}
    steps = normal.get("normalizers", [normal] if normal else [])
    prepends = [one for one in steps if one == {"type": "Prepend", "prepend": SPACE}]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # After the replacement there is no space left to split at.
    idle = not pre or (pre.get("type") == "Split" and pre.get("pattern") == {"String": " "})
    if idle and steps and steps[-1] == replace and steps[:-1] == prepends:
        return bool(prepends)
    metaspace = pre.get("type") == "Metaspace" and pre.get("replacement") == SPACE
    if not steps and metaspace and pre.get("split") is False:
        return bool(pre.get("prepend_scheme") != "never")
    raise _refused(model, "a normalizer or pre-tokenizer")
