"""What an edit does while the model runs: a choice for each row of a batch, and its effect.

Methods that route (PPA, GRACE, WISE, MELO) look at a question somewhere in the model, choose
what is to act on it, and act further up, until its answer ends. The generation loop runs what
all prompts begin with once, then the prompts, then a token a step while rows leave and others
come in, and tells the model's runtimes before every forward whose rows it holds
(``generation.Attached``). A forward that nobody announced (perplexity, a test) is its own
rows and all prompt; with keys and values of earlier tokens it goes on with the rows of the
forward before it.

::

    runtime = Runtime(view, read=Site(12, "layer"), choose=choose, sites=sites, effect=effect)
    undo = runtime.attach()     # the model now routes
    undo()                      # bit for bit as before: no weight was ever touched

Where ``paced`` is set, what acts is a pair: the choice, and how many tokens after the last of
the prompt this one stands (0: the last one itself), for methods with a value per answer place.

An effect begins at the last token of the prompt, which predicts the first of the answer, and
stays for all that follow: so it does not depend on how much of the prompt others share, and
everything before it is the unedited model's. Effects must lie above what is read.

Trunk cache and early exit run layers by themselves: wrap them in ``silent(model)``.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from editors.architectures import ModelView
from editors.capture import Site
from editors.forward import first
from editors.model import ChatModel

Choose = Callable[[Sequence[int], torch.Tensor], Hashable | None]
"""Given a prompt's token ids (none where they are not known) and its (tokens, width) states at
the site that is read, returns what is to act, or None for the unedited model."""
Effect = Callable[[Site, Hashable, torch.Tensor, torch.Tensor], torch.Tensor]
"""Given a site, what acts, and a module's inputs (n, in) and outputs (n, out) at some tokens,
returns other outputs."""
Begin = Callable[[Sequence[int]], int]
"""Given token ids, returns the index of the last token of the prompt among them."""


@dataclass(frozen=True)
class Pass:
    """One forward: a key a batch row (none: what all rows begin with), (B, T) token ids or None
    where they are not known, (B, T) bool what is real, whether these are prompts or tokens
    after them, how many columns all rows begin with were run before, and (B,) the tokens of
    each row up to the end of this forward."""

    rows: tuple[int, ...]
    ids: torch.Tensor | None
    real: torch.Tensor
    prompt: bool
    before: int = 0
    length: torch.Tensor | None = None


def last_token(ids: Sequence[int]) -> int:
    """The prompt is all there is."""
    return len(ids) - 1


class Turns:
    """Where a rendered chat holds the question and where the answer begins, by token ids."""

    def __init__(self, model: ChatModel) -> None:
        start, _, rest = model.render("\x01", system="\x00").partition("\x00")
        between = rest.partition("\x01")[0]
        head, _, closing = model.render("\x01").partition("\x01")
        opening = _common_end(head, _second_turn(model) or between) or head
        self._model = model
        self._opening = model.encode(opening)
        self._closing = model.encode(closing)
        # Some templates put the system message into the user's turn: it has no end of its own.
        apart = bool(start) and between.endswith(opening)
        self._system = (model.encode(start), model.encode(between)) if apart else None

    def question(self, ids: Sequence[int]) -> slice:
        """Return the tokens of the user's last turn; of a plain text all tokens."""
        at = _found(ids, self._opening)
        if at is None:
            return slice(0, len(ids))
        start = at + len(self._opening)
        end = _found(ids, self._closing)
        return slice(start, end if end is not None and end > start else len(ids))

    def told(self, ids: Sequence[int], text: str) -> list[int]:
        """Return a rendered chat with a text added to its system message; where it has none, the
        text stands before the last question. Before a plain text it is a sentence."""
        if not self.chat(ids):
            return self._model.encode(f"{text} {self._model.decode(ids)}")
        if self._system and list(ids[: len(self._system[0])]) == self._system[0]:
            start, end = self._system
            at = _first(ids, end, len(start))
            if at is not None:
                said = f"\n{text}" if at > len(start) else text
                return [*ids[:at], *self._model.encode_answer(said), *ids[at:]]
        at = self.question(ids).start
        return [*ids[:at], *self._model.encode_answer(f"{text}\n\n"), *ids[at:]]

    def chat(self, ids: Sequence[int]) -> bool:
        """Whether these are a rendered chat's tokens."""
        return _found(ids, self._opening) is not None

    def last(self, ids: Sequence[int]) -> int:
        """Return the index of the last token before the answer; of a plain text, and where
        only the end of an opening is there, the last one."""
        at = _found(ids, self._closing)
        return len(ids) - 1 if at is None else at + len(self._closing) - 1


def _second_turn(model: ChatModel) -> str:
    """Return what a template writes between an answer and the next question."""
    turns = [("user", "\x01"), ("assistant", "\x02"), ("user", "\x03")]
    rendered = model.tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False
    )
    return str(rendered).partition("\x02")[2].partition("\x03")[0]


def _common_end(one: str, other: str) -> str:
    """Return the longest text that both end with."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    alike = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
    return one[len(one) - alike :]


def _first(ids: Sequence[int], wanted: Sequence[int], begin: int) -> int | None:
    """Return where ``wanted`` stands first in ``ids`` from ``begin`` on."""
    ends = range(begin, len(ids) - len(wanted) + 1)
    return next((at for at in ends if list(ids[at : at + len(wanted)]) == list(wanted)), None)


def _found(ids: Sequence[int], wanted: Sequence[int]) -> int | None:
    """Return where ``wanted`` stands last in ``ids``."""
    width = len(wanted)
    starts = range(len(ids) - width, -1, -1)
    return next((s for s in starts if width and list(ids[s : s + width]) == list(wanted)), None)


class Runtime:
    """One edit's hooks on a model. Made with ``attach``; not for use by several models.

    Args:
        shown: the model's view.
        read: the site at whose output prompts are looked at.
        choose: decides on a prompt; its decision stands for the row's later tokens.
        sites: where decisions take effect, above ``read``.
        effect: what they do there.
        last: finds a prompt's last token where a forward holds tokens after it too.
        side: "output", or "input" for what goes into the module that is read; it may then be
            one of ``sites``.
        paced: let what acts be (choice, place in the answer).
    """

    def __init__(
        self,
        shown: ModelView,
        read: Site,
        choose: Choose,
        sites: Sequence[Site],
        effect: Effect,
        last: Begin = last_token,
        side: str = "output",
        paced: bool = False,
    ) -> None:
        self._shown, self._read_at, self._sites = shown, read, tuple(sites)
        self._choose, self._effect, self._last = choose, effect, last
        self._side, self._paced = side, paced
        self.active = True
        self.choices: dict[int, Hashable | None] = {}
        self._prompts: dict[int, int] = {}
        self._announced: Pass | None = None
        self._now: Pass | None = None
        self._beginning: tuple[list[int], torch.Tensor] | None = None
        self._acting: dict[Hashable, torch.Tensor] = {}

    def attach(self) -> Callable[[], None]:
        """Attach to the model; return the function that detaches."""
        chat = self._shown.chat
        decoder: nn.Module = self._shown.decoder
        read = self._shown.module(self._read_at.layer, self._read_at.part)
        hooks = [
            chat.model.register_forward_pre_hook(self._note, with_kwargs=True),
            decoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            decoder.register_forward_hook(self._leave),
            read.register_forward_hook(self._read),
        ]
        for site in self._sites:
            module = self._shown.module(site.layer, site.part)
            hooks.append(module.register_forward_hook(self._act(site)))
        chat.runtimes.append(self)

        def detach() -> None:
            for hook in hooks:
                hook.remove()
            chat.runtimes[:] = [other for other in chat.runtimes if other is not self]

        return detach

    def coming(
        self, rows: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, prompt: bool
    ) -> None:
        """Take note of the next forward (``generation.Attached``)."""
        width = ids.shape[1]
        before = mask.shape[1] - width if prompt else 0
        real, length = mask[:, -width:].bool(), mask.bool().sum(1)
        self._announced = Pass(tuple(rows), ids, real, prompt, before, length)

    def _note(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What nobody announced: the decoder of a model that sees pictures gets no ids."""
        self._announced = self._announced or _plain(args, kwargs)

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._now, self._announced = self._announced or _plain(args, kwargs), None
        self._acting = {}
        if self._now is not None and not self._now.prompt:
            self._acting = self._places(self._now)

    def _leave(self, *_: object) -> None:
        self._now = None
        self._acting = {}

    def _read(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        now, states = self._now, args[0] if self._side == "input" else first(output)
        if not self.active or now is None or not now.prompt or states.shape[:2] != now.real.shape:
            return
        states = states.detach()
        if not now.rows:
            self._beginning = (_ids(now, 0), states[0])
            return
        known, earlier = self._beginning if now.before and self._beginning else ([], None)
        for at, key in enumerate(now.rows):
            seen = states[at][now.real[at]]
            whole = seen if earlier is None else torch.cat([earlier.to(seen), seen])
            self.choices[key] = self._choose([*known, *_ids(now, at)], whole)
        self._acting = self._places(now)

    def _places(self, now: Pass) -> dict[Hashable, torch.Tensor]:
        """Return by what acts the (B, T) tokens at which it does."""
        found: dict[Hashable, torch.Tensor] = {}
        for at, key in enumerate(now.rows):
            choice = self.choices.get(key)
            if choice is None:
                continue
            columns = now.real[at].nonzero()[:, 0]
            if now.prompt:
                ids = _ids(now, at) or [0] * len(columns)
                columns = columns[self._last(ids) :]
            whole = 0 if now.length is None else int(now.length[at])
            if now.prompt:
                self._prompts[key] = whole - len(columns) + 1
            first_place = whole - len(columns) - self._prompts.get(key, whole) + 1
            for place, column in enumerate(columns.tolist(), first_place):
                acting = (choice, place) if self._paced else choice
                where = found.setdefault(acting, torch.zeros_like(now.real))
                where[at, column] = True
        return found

    def _act(self, site: Site) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            given = first(output)
            places = self._acting if self.active else {}
            if not any(where.shape == given.shape[:2] for where in places.values()):
                return None
            made = given.clone()
            for choice, where in places.items():
                at = where.to(given.device)
                made[at] = self._effect(site, choice, args[0][at], given[at]).to(made.dtype)
            return (made, *output[1:]) if isinstance(output, tuple) else made

        return hook


@contextlib.contextmanager
def silent(model: ChatModel) -> Iterator[None]:
    """Let what is attached to the model do nothing for the length of a ``with`` block: the
    model is the one whose weights these are."""
    before = [(runtime, runtime.active) for runtime in model.runtimes]
    try:
        for runtime, _ in before:
            runtime.active = False
        yield
    finally:
        for runtime, active in before:
            runtime.active = active


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pass | None:
    """What a forward is that nobody announced."""
    ids = args[0] if args else kwargs.get("input_ids")
    shape: Any = ids if ids is not None else kwargs.get("inputs_embeds")
    if shape is None:
        return None
    past = kwargs.get("past_key_values")
    before = 0 if past is None else int(past.get_seq_length())
    width = shape.shape[1]
    mask = kwargs.get("attention_mask")
    real = torch.ones(shape.shape[:2], dtype=torch.bool, device=shape.device)
    length = real.sum(1) + before
    if isinstance(mask, torch.Tensor) and mask.ndim == 2:
        real, length = mask[:, -width:].bool(), mask.bool().sum(1)
    return Pass(tuple(range(len(shape))), ids, real, prompt=not before, length=length)


def _ids(now: Pass, row: int) -> list[int]:
    return [] if now.ids is None else now.ids[row][now.real[row]].tolist()
