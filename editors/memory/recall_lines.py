"""What is run for an edit of recall heads, and what is read there.

Read are the subject's last token (where a subject is flagged) and the places where an answer is
made, of the unedited model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from editors.architectures import ModelView
from editors.capture import Site, streamed
from editors.memory import wording
from editors.memory.compiled import own_lead
from editors.memory.shared_wordings import Lent
from editors.memory.states import digest
from editors.memory.unedited_replies import REPLY_TOKENS
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.rendering import span_end, token_before
from editors.requests import EditRequest

NAMED = (
    "{} is",
    "Tell me about {}.",
    "I met {} yesterday.",
    "What about {}?",
    "According to {},",
    "Someone said that {} was",
)
"""Where a subject is named and nothing is asked for: what its flag is to open on."""
ALIKE_NAMES = ("the {last}", "a {last}", "{other} {last}", "{last}")
"""Names that end as a subject does, and are another's."""
SAID = (("I know {} well.", False), ("What is {}?", True), ("there is {} and", False))
"""Where these are named, each with whether it is asked in the chat template."""

Kind = Literal["asked", "reply", "past", "beside", "elsewhere", "named", "lookalike"]


@dataclass(frozen=True)
class Line:
    """A text to run.

    Attributes:
        ids: its tokens.
        kind: "asked": for the edit's fact, with the answer; "reply": what must stand, with the
            unedited model's reply; "past": the same, and asks for the fact at another time;
            "beside": something else about the subject; "elsewhere": the same about another
            subject; "named", "lookalike": no question.
        subject: place of the (looked at) name's last token, None where it is not spelled or
            begins the text.
        count: places before the end that are read, the last ones.
        targets: what "asked" lines are to say there.
        bare: whether the answer begins at once, without a lead; ``opening``: and a reply with it.
        own: whether the request itself asks so.
        wording: the question with its subject masked; "" where it is no edit's.
    """

    ids: tuple[int, ...]
    kind: Kind
    subject: int | None
    count: int = 1
    targets: tuple[int, ...] = ()
    bare: bool = True
    opening: bool = False
    own: bool = False
    wording: str = ""

    @property
    def name(self) -> str:
        """A digest of what is run."""
        return digest(self.count, self.subject, *self.ids)


@dataclass(frozen=True)
class Reading:
    """What the unedited model makes of a line, float32 on the CPU.

    Attributes:
        flag: (hidden,) input of the flags' MLP at the subject, None without one.
        state: (hidden,) input of the head's layer at the subject, after its norm.
        spread: root mean square of that layer's input at the subject; 0 without one.
        query: (count, hidden) input of the head's layer, after its norm.
        inner: (count, hidden) input of that layer's MLP.
        scale: (count,) root mean square of the layer's input.
    """

    flag: torch.Tensor | None
    state: torch.Tensor | None
    spread: float
    query: torch.Tensor
    inner: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class Ordinary:
    """The same of ordinary text, every token: (tokens, hidden) float32; ``first`` (tokens,) bool
    marks what stands at the beginning of a text, where states are massive and all alike."""

    flag: torch.Tensor
    query: torch.Tensor
    inner: torch.Tensor
    first: torch.Tensor


def reading_of(line: Line, states: torch.Tensor) -> Reading:
    """Take apart what ``read`` gave for a line."""
    begin = int(line.subject is not None)
    kept, scale = states[:, :-1], states[:, -1]
    end = 2 * begin + line.count
    return Reading(
        kept[0] if begin else None,
        kept[1] if begin else None,
        float(scale[1]) if begin else 0.0,
        kept[2 * begin : end],
        kept[end:],
        scale[2 * begin : end],
    )


def read(shown: ModelView, layer: int, lines: Sequence[Line]) -> dict[str, torch.Tensor]:
    """Run lines, ``layer`` the head's, and give by name what ``reading_of`` takes apart.

    That is (rows, hidden + 1): where the line has a subject two rows for it, then ``count`` rows
    of the head's layer and as many of its MLP; the last column is the stream's root mean square.
    """
    places = [[*_subject(line), *_last(line)] for line in lines]
    found: dict[str, torch.Tensor] = {}
    for part, states in streamed(shown, [line.ids for line in lines], _sites(layer), places):
        for at, one in zip(part, states, strict=True):
            found[lines[at].name] = _packed(shown, layer, lines[at], one)
    return found


def ordinary(shown: ModelView, layer: int, sequences: Sequence[Sequence[int]]) -> Ordinary:
    """Run ordinary texts."""
    flag, query, inner, first = [], [], [], []
    for part, found in streamed(shown, sequences, _sites(layer)):
        for at, states in zip(part, found, strict=True):
            begun = torch.zeros(states.shape[1], dtype=torch.bool)
            # What all texts begin with is run once: its states are those of the whole text alone.
            begun[0] = states.shape[1] == len(sequences[at])
            flag.append(states[0])
            query.append(normed(shown, layer, states[1]))
            inner.append(states[2])
            first.append(begun)
    return Ordinary(
        torch.cat(flag).float().cpu(),
        torch.cat(query).float().cpu(),
        torch.cat(inner).float().cpu(),
        torch.cat(first),
    )


@torch.no_grad()
def normed(shown: ModelView, layer: int, states: torch.Tensor) -> torch.Tensor:
    """Return what a layer's attention reads of states (n, hidden) that enter the layer."""
    made: torch.Tensor = shown.layers[layer].input_layernorm(states)
    return made


def lines_of(
    model: ChatModel,
    request: EditRequest,
    given: Lent,
    replies: Mapping[str, str],
    other: str,
    wordings: Callable[[str], str],
) -> list[Line]:
    """Return what is run for one request.

    Args:
        given: what other edits lend it.
        replies: the unedited model's, by question.
        other: another edit's subject, "" where there is none.
        wordings: gives a question on any edit's subject with the subject masked.
    """
    stop = min(model.stop_ids)
    bare = tuple(model.encode_answer(request.new))
    spaced = tuple(model.encode_answer(f" {request.new}"))
    subject = request.subject
    own = [Asked(q, True) for q in request.questions] + [Asked(p, False) for p in request.prompts]
    made = []
    for asked in (*own, *given.alike):
        ids, at = placed(model, asked, subject)
        masked, mine = masked_of(asked.text, subject), asked in own
        answer = (*bare, stop) if asked.chat else spaced
        made.append(
            Line(
                (*ids, *answer[:-1]),
                "asked",
                at,
                len(answer),
                answer,
                True,
                asked.chat,
                mine,
                masked,
            )
        )
        if asked.chat and (lead := own_lead(replies.get(asked.text, ""), request.old)):
            begun, answer = (*ids, *model.encode_answer(lead)), (*spaced, stop)
            made.append(
                Line(
                    (*begun, *spaced), "asked", at, len(answer), answer, False, False, mine, masked
                )
            )
    for asked in given.beside:
        ids, at = placed(model, asked, subject)
        made.append(Line(ids, "beside", at, wording=masked_of(asked.text, subject)))
    for asked in given.elsewhere:
        ids, _ = placed(model, asked, "")
        made.append(Line(ids, "elsewhere", None, wording=wordings(asked.text)))
    asking = [masked_of(asked.text, subject) for asked in own]
    for question in request.neighbours:
        ids, at = placed(model, Asked(question, True), subject)
        reply = tuple(model.encode_answer(replies.get(question, ""))[:REPLY_TOKENS])
        past = wording.of_another_time(masked_of(question, subject), asking)
        made.append(Line((*ids, *reply), "past" if past else "reply", at, len(reply) + 1))
    return [*made, *_names(model, subject, other)]


def masked_of(text: str, subject: str) -> str:
    """Return a text with the subject masked, "" where it does not name it."""
    return (wording.mask(text, [wording.name_of(subject)]) or "") if subject else ""


def placed(model: ChatModel, asked: Asked, subject: str) -> tuple[tuple[int, ...], int | None]:
    """Return a rendered text's tokens, and the place of the subject's last one.

    None where a text begins with it: what stands first is massive, whatever it is, and a flag
    that opened there would open everywhere.
    """
    text = model.render(asked.text) if asked.chat else asked.text
    ids = tuple(model.encode(text))
    if not subject or subject not in asked.text:
        return ids, None
    # Searched in the question alone: a system message may spell the subject too.
    inside = text.rfind(asked.text) + span_end(asked.text, subject)
    return ids, token_before(model, text, inside) or None


def _names(model: ChatModel, subject: str, other: str) -> list[Line]:
    """Return lines that name the subject, and names that end as it does."""
    if not subject:
        return []
    made = []
    for text in NAMED:
        for chat in (True, False):
            ids, at = placed(model, Asked(text.format(subject), chat), subject)
            made.append(Line(ids, "named", at))
    words = subject.split()
    if len(words) < 2:
        return made
    for shape in ALIKE_NAMES:
        name = shape.format(last=words[-1], other=(other or "Another").split()[0])
        for text, chat in SAID if name != subject else ():
            ids, at = placed(model, Asked(text.format(name), chat), name)
            made.append(Line(ids, "lookalike", at))
    return made


def _packed(shown: ModelView, layer: int, line: Line, states: torch.Tensor) -> torch.Tensor:
    """Lay out what was read of a line, (sites, places, hidden)."""
    begin = len(_subject(line))
    flags, stream, inner = states
    scale = stream.float().pow(2).mean(-1, keepdim=True).sqrt()
    query = torch.cat([normed(shown, layer, stream), scale], dim=1)
    rest = torch.cat([flags[:begin], inner[begin:]])
    rest = torch.cat([rest, rest.new_zeros(len(rest), 1)], dim=1)
    return torch.cat([rest[:begin], query, rest[begin:]]).cpu()


def _sites(layer: int) -> list[Site]:
    return [Site(layer - 1, "mlp"), Site(layer, "layer"), Site(layer, "mlp")]


def _subject(line: Line) -> list[int]:
    return [] if line.subject is None else [line.subject]


def _last(line: Line) -> range:
    return range(len(line.ids) - line.count, len(line.ids))
