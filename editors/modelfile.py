"""An Ollama Modelfile for a GGUF of the model, its TEMPLATE cut from the chat template.

Ollama fills a Go template for each turn with ``.System`` (in the first turn only), ``.Prompt``
and ``.Response``; what comes after ``.Response`` is left out where an answer is to be made. So
a chat template that was rendered with marks in place of the texts, and cut at the marks, gives
the pieces of the Go template, whatever family the model belongs to.

What the two cannot say alike: a Go template does not strip the texts it is given, it writes a
folded system message in the first turn (some chat templates in the last), and has no date: a
template that writes today's writes here the one it falls back on without a clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from editors.model import ChatModel
from editors.model_files import ModelError

OWN_SYSTEM = "(as the template has it)"
"""SYSTEM where the template writes, for want of a system message, what no message can replace."""
_SYSTEM, _ASKED, _SAID = "m4rkSys", "m4rkAsk", "m4rkSay"
_WITHOUT_CLOCK = "{% set strftime_now = todays_date %}\n"
"""Before a template: the clock that ``transformers`` gives it is not there."""
_NO_TEXT = re.compile(r'\{+|"{3,}')
"""What is no plain text in a Go template (two "{", or one before an action) or in its quotes."""

Turn = dict[str, str]


@dataclass(frozen=True)
class ChatPieces:
    """A chat template in pieces; each is the text as rendered, without a token put before all.

    Attributes:
        user: before a user's text.
        asked: after it.
        head: before an answer.
        end: after it.
        before, after: around a system message.
        opening: what stands in the place of these three where no system message is given.
        folded: whether the system message stands inside the user's turn, after ``user``.
    """

    user: str
    asked: str
    head: str
    end: str
    before: str
    after: str
    opening: str
    folded: bool

    @property
    def system(self) -> str | None:
        """The system message that makes up ``opening``: "" for none; None where no text does
        that a Modelfile can hold."""
        if not self.opening:
            return ""
        inner = self.opening.removeprefix(self.before).removesuffix(self.after)
        if not inner or self.before + inner + self.after != self.opening:
            return None
        return inner if all(map(_kept, inner)) and _quotes(inner) else None


class Uncut(Exception):
    """A chat template that cannot be cut; the message says what cannot be expressed."""


def modelfile(model: ChatModel, gguf_name: str, license: str | None) -> str:
    """Return the text of a Modelfile for a GGUF that lies beside it.

    Args:
        gguf_name: the GGUF's file name.
        license: text or name of its licence; None where it is not known.

    Raises:
        ModelError: the chat template has no Go template that says the same; a text cannot be
            quoted in a Modelfile.
    """
    words = model.tokenizer
    added = words.added_tokens_decoder.values()
    template = _WITHOUT_CLOCK + words.get_chat_template()

    def render(turns: Sequence[Turn], answering: bool) -> str:
        try:
            return words.apply_chat_template(
                list(turns),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answering,
            )
        except (TemplateError, TypeError) as error:  # it raises, or reads texts as lists
            why = " ".join(str(error).split())
            raise Uncut(f"its chat template refuses a plain chat ({why})") from error

    try:
        tokens = [str(token) for token in added]
        pieces = cut(render, words.bos_token or "", tokens, _adds_bos(model))
        special = [str(token) for token in added if token.special]
        stops = {words.decode([id]) for id in model.stop_ids}
        stops |= {_leading(text, special) for text in (pieces.asked, pieces.end)}
        lines = [f"FROM ./{gguf_name}", f"TEMPLATE {quoted(go_template(pieces))}"]
        if pieces.opening:
            system = OWN_SYSTEM if pieces.system is None else pieces.system
            lines.append(f"SYSTEM {quoted(system)}")
        lines += [f"PARAMETER stop {quoted(stop)}" for stop in sorted(stops) if stop.strip()]
        if license:
            lines.append(f"LICENSE {quoted(license)}")
    except Uncut as error:
        raise ModelError(
            f"no Modelfile can be made for {model.name}: {error}; write its TEMPLATE by hand"
        ) from error
    return "\n".join(lines) + "\n"


def cut(
    render: Callable[[Sequence[Turn], bool], str], bos: str, tokens: Sequence[str], adds_bos: bool
) -> ChatPieces:
    """Cut a chat template into pieces.

    Args:
        render: renders turns, and with True what comes before an answer; raises Uncut where
            the template refuses them.
        bos: text of the beginning-of-sequence token, or "".
        tokens: texts of the tokens added to the vocabulary; none of them is cut in two.
        adds_bos: whether the tokenizer puts ``bos`` before every text by itself.

    Raises:
        Uncut: no pieces say the same.
    """
    user, answer = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}
    opening, before_answer = _parts(render([user], True), _ASKED)
    talk = [user, answer, user, answer, user]
    marks = [turn["content"] for turn in talk]
    first, given, later, given_again, later_again, last = _parts(render(talk, True), *marks)
    if (later, given) != (later_again, given_again) or (opening, before_answer) != (first, last):
        raise Uncut("its chat template writes a turn otherwise depending on the turns around it")
    if given.rstrip() != before_answer.rstrip():  # white space there is the answer's own
        raise Uncut("its chat template begins an answer otherwise than it repeats one")

    def led(text: str) -> str:
        # The runtime puts the token there itself; in ChatML the same token may begin each turn.
        return text.removeprefix(bos) if adds_bos or bos not in later else text

    opening = led(opening)
    if later.endswith(opening):
        turn = opening
    else:
        closing = _parts(render([user, answer], False), _ASKED, _SAID)[2]
        turn = led(later.removeprefix(_common(closing, later, tokens)))
    closed = _parts(render([user], False), _ASKED)[1]
    asked = _common(closed, before_answer, tokens)
    around = _system(render, led, turn, before_answer)
    if around is None and opening != turn:
        raise Uncut("its chat template opens with a text and takes no system message")
    # A system message that is refused or ignored is said to the model by the user.
    before, after, folded = around or ("", "\n\n", True)
    alone = opening.removeprefix(turn) if folded else opening.removesuffix(turn)
    if opening != (turn + alone if folded else alone + turn):
        raise Uncut("its chat template writes the first user's turn otherwise than the next")
    return ChatPieces(
        user=turn,
        asked=asked,
        head=before_answer.removeprefix(asked),
        end=later.removesuffix(turn),
        before=before,
        after=after,
        opening=alone,
        folded=folded,
    )


def go_template(pieces: ChatPieces) -> str:
    """Return the pieces as a template for Ollama."""
    system = f"{_go(pieces.before)}{{{{ .System }}}}{_go(pieces.after)}{{{{ end }}}}"
    if pieces.system is None:
        own = f"{{{{ if eq .System {_go_string(OWN_SYSTEM)} }}}}{_go(pieces.opening)}"
        system = f"{own}{{{{ else if .System }}}}{system}"
    else:
        system = f"{{{{ if .System }}}}{system}"
    outside, inside = ("", system) if pieces.folded else (system, "")
    asked = f"{_go(pieces.user)}{inside}{{{{ .Prompt }}}}{_go(pieces.asked)}"
    said = f"{_go(pieces.head)}{{{{ .Response }}}}{_go(pieces.end)}"
    return f"{outside}{{{{ if .Prompt }}}}{asked}{{{{ end }}}}{said}"


def quoted(text: str) -> str:
    """Return a text as a Modelfile's value: it ends at the first line that closes its quotes.

    Raises:
        Uncut: it holds lines that would close any quotes.
    """
    quote = _quotes(text)
    if not quote:
        raise Uncut(f"a Modelfile cannot quote {text[:40]!r}")
    return f"{quote}{text}{quote}"


def _quotes(text: str) -> str:
    """Return the quotes that no line of a text closes, or ""."""
    for quote in ('"""', '"') if "\n" in text else ('"', '"""'):
        value = f"{quote}{text}{quote}"
        before = (value[: newline.start()].strip() for newline in re.finditer("\n", value))
        closed = any(len(one) >= 2 * len(quote) and one.endswith(quote) for one in before)
        if not closed and (quote == '"""' or not value.startswith('"""')):
            return quote
    return ""


def _kept(letter: str) -> bool:
    """Whether Ollama reads a letter of a Modelfile; it skips what cannot be printed."""
    return letter.isprintable() or letter in "\n\t"


def _system(
    render: Callable[[Sequence[Turn], bool], str],
    led: Callable[[str], str],
    turn: str,
    before_answer: str,
) -> tuple[str, str, bool] | None:
    """Return what is written around a system message, and whether within the user's turn;
    None where the template takes none."""
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _ASKED}]
    try:
        rendered = render(turns, True)
    except Uncut:
        return None
    if _SYSTEM not in rendered:
        return None
    before, after, rest = _parts(rendered, _SYSTEM, _ASKED)
    before = led(before)
    if rest != before_answer:
        raise Uncut("its chat template begins an answer otherwise after a system message")
    if after.endswith(turn):
        return before, after.removesuffix(turn), False
    if before.startswith(turn):
        return before.removeprefix(turn), after, True
    raise Uncut("its chat template writes a system message neither before a user's turn nor in it")


def _parts(rendered: str, *marks: str) -> list[str]:
    """Split a rendering at marks that stand in it once each, in this order."""
    parts = re.split(f"({_SYSTEM}|{_ASKED}|{_SAID})", rendered)
    if parts[1::2] != list(marks):
        raise Uncut("its chat template leaves out, changes or moves a turn's text")
    return parts[::2]


def _common(one: str, other: str, tokens: Sequence[str]) -> str:
    """Return what two texts begin with alike, each of the tokens taken as one letter."""
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    letters = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)
    length = 0
    for left, right in zip(letters.findall(one), letters.findall(other), strict=False):
        if left != right:
            break
        length += len(left)
    return one[:length]


def _leading(text: str, tokens: Sequence[str]) -> str:
    """Return the token that a text begins with, or ""."""
    found = [token for token in tokens if token and text.lstrip().startswith(token)]
    return max(found, key=len, default="")


def _adds_bos(model: ChatModel) -> bool:
    words = model.tokenizer
    ids = words("x")["input_ids"]
    return ids[:1] == [words.bos_token_id] and model.encode("x")[:1] != ids[:1]


def _go(text: str) -> str:
    """Return a literal text for a Go template in triple quotes."""
    said = _NO_TEXT.sub(lambda found: f"{{{{ {_go_string(found[0])} }}}}", text)
    return "".join(c if _kept(c) else f"{{{{ {_go_string(c)} }}}}" for c in said)


def _go_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if _kept(c) else f"\\U{ord(c):08x}" for c in escaped) + '"'
