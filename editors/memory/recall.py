"""Recall heads: facts in the weights, looked up by subject and by what is asked of it.

Lookup neurons (``editors.memory.lookup``) open on the state in which an answer begins; there a
small model knows what is asked, and hardly of whom. Here the subject is caught where it is named,
and what is asked where the answer is made, and one attention head brings the two together:

- *Flags.* In the layer below, neurons open at an edited subject's last token and write a flag, in
  directions that the keys and values of the next layer's own heads do not read. A flag holds
  a key for each relation that is edited, and a code for the subject.
- *A head.* Its query is what is asked (a few dimensions that tell relations apart). It rests on the
  first token, whose value is nothing; only a flag whose key is asked for outweighs that. It
  then brings the subject's code.
- *Answers.* Neurons of the head's layer open where a subject's code has come in, each at its place
  of the answer, and write one token.

All of it is solved in closed form from states of the unedited model, and stays exact: the model's
own heads do not read flags in that layer, and what is written there changes no state that a gate
reads. Where no edited subject is named, or something else is asked of it, the model
computes what it did, but for what the layers above make of the flag itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from editors.architectures import ModelView, view
from editors.deltas import JointDelta, MlpExpansion, head_group
from editors.editor import Resources
from editors.key_statistics import everyday_chat, windows
from editors.memory import recall_answers, recall_flags, recall_head
from editors.memory import recall_solve as solve
from editors.memory.recall_lines import Line, Ordinary, lines_of, masked_of, ordinary, read
from editors.memory.recall_rows import Rows, rows_of
from editors.memory.relation_match import HEAD, load
from editors.memory.shared_wordings import lent_where_known, told_apart
from editors.memory.states import States, run
from editors.memory.unedited_replies import complete
from editors.model import ChatModel
from editors.question_embeddings import Asked, Embed
from editors.requests import EditorError, EditRequest

NAME = "recall"
_WINDOW = 256
_FITTING = ("llama", "mistral")
"""Architectures whose heads have neither biases nor norms of their own."""


@dataclass(frozen=True)
class RecallSettings:
    depth: float = 0.78  # share of the layers below the head's
    wordings: int = 8  # that an edit is lent by others which ask the same
    beside: int = 8  # questions on its subject that others lend it, to be left alone
    elsewhere: int = 8  # its own wordings on others' subjects: what is asked is the same
    alike: float = 0.8  # probability from which on two wordings ask the same
    pool: int = 200  # places of other edits that ask the same, to solve a filter on
    own_weight: float = 50.0  # weight of what a reading is to answer 1 on, together
    ridge: float = 0.02  # share of the mean diagonal added to the moments
    sharpness: float = 300.0  # how steeply gates open
    others: int = 24  # namings of other subjects that a flag is told from, the likest ones,
    others_weight: float = 0.1  # and their weight together
    flag_least: float = 0.75  # least threshold of a flag
    flag_most: float = 0.85  # largest, as a share of its weakest subject token's answer
    flag_ramp: float = 0.02  # above the threshold, where a flag is whole
    above_noise: float = 1.8  # size of a flag, in the largest of so many noises:
    noises: int = 10  # for each subject (``recall_solve.loudest``)
    present: float = 4.5  # deviations of the one dimension that tells of any flag
    rank: int = 48  # dimensions that relations are told apart by
    codes: int = 64  # most dimensions that subjects are told apart by
    steepness: float = 60.0  # of the head's choice between flag and rest
    match: float = 0.6  # what the rest weighs, where a flag that is meant has 1
    hush: float = 0.5  # how far below nothing a token without a flag is
    asked_least: float = 0.6  # least share of what its own wordings answer that a match takes
    asked_most: float = 0.65  # largest share of what the weakest of them answers
    asked_margin: float = 1.5  # of ``match``, that all of an edit's places answer at least
    code_size: float = 10.0  # of a code, in standard deviations of what stands there without
    code_weight: float = 0.8  # least, of the code in an answer's gate; its place has about 1
    place_margin: float = 0.6  # by which anything is too little to open a gate without a code
    beside_weight: float = 1.0  # of what else is asked, in the gate of what begins a reply
    opening_weight: float = 1.0  # of "a reply begins here", in the gate of what begins one
    place_least: float = 0.4  # least share of its place that an answer's gate takes
    place_most: float = 0.55  # largest share of its place that it takes
    strength: float = 8.0  # of a column, in norms of the state
    statistics_tokens: int = 8192  # of ordinary text


@dataclass
class RecallState:
    """What is constant: readings of ordinary text and of what was run for edits, replies of the
    unedited model by question."""

    ordinary: Ordinary
    embed: Embed | None = None
    states: States = field(default_factory=States)
    replies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recall(RecallSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> RecallState:
        """Run ordinary text and everyday chat.

        What is run for edits is kept in memory alone, unless the caller puts ``States`` with a
        folder into the state.
        """
        shown = view(model)
        layer = self._layer(shown)
        texts = windows(model, resources.texts, self.statistics_tokens, _WINDOW)
        chat = everyday_chat(model, resources.cache)
        return RecallState(ordinary(shown, layer, [*texts, *chat]), resources.embed)

    def fits(self, model: ChatModel) -> bool:
        """Whether a model has room for these heads, however many relations are edited."""
        try:
            layer = self._layer(view(model))
        except EditorError:
            return False
        attention: Any = model.layers[layer].self_attn
        read = attention.k_proj.out_features + attention.v_proj.out_features
        needed = min(self.rank, attention.head_dim - 2) + 1 + solve.LEAST_CODES
        return bool(model.hidden_size - read >= needed)

    def kept(self, model: ChatModel) -> str:
        """Return a name for what ``States`` of a model hold."""
        return f"{model.base_hash[:16]}-{self._layer(view(model))}"

    def edit(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> JointDelta:
        """Solve all requests together; ``model`` is the unedited one."""
        return self.within(model, state, requests)[0]

    def within(
        self,
        model: ChatModel,
        state: RecallState,
        requests: Sequence[EditRequest],
        step: Callable[[int, int], None] = lambda done, of: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[JointDelta, int]:
        """Solve as many of the requests, the first ones, as there is time for.

        Args:
            step: told how many requests' texts were run, of how many.
            stop: whether the time is over.

        Returns:
            What is added, and how many requests it carries.
        """
        shown = view(model)
        layer = self._layer(shown)
        if nameless := [request.id for request in requests if not request.subject]:
            raise EditorError(f"recall heads need the subject of edit {nameless[0]}")
        lines = self._lines(model, state, requests) if requests else []
        carried = run(state.states, lines, partial(read, shown, layer), step, stop)
        if not carried:
            return JointDelta(()), 0
        state.states.keep_only(line for some in lines for line in some)
        rows = rows_of(requests[:carried], lines[:carried], state.states)
        return self._weights(shown, layer, state, requests[:carried], rows), carried

    def settled(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> RecallState:
        return state

    def _layer(self, shown: ModelView) -> int:
        layer = max(int(self.depth * len(shown.layers)), 1)
        attention: Any = getattr(shown.layers[layer], "self_attn", None)
        biased = getattr(getattr(attention, "q_proj", None), "bias", None) is not None
        if shown.row.name not in _FITTING or biased or shown.window(layer):
            raise EditorError(
                f"recall heads need an attention without biases, norms or window of its own, and "
                f"{shown.chat.name} ({shown.row.name}) has another; use compiled memory"
            )
        return layer

    def _lines(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> list[list[Line]]:
        """Return by request what is run for it."""
        given = lent_where_known(
            requests,
            state.embed,
            alike=self.wordings,
            beside=self.beside,
            elsewhere=self.elsewhere,
        )
        complete(state.replies, model, requests)
        subjects = sorted({request.subject for request in requests})
        wordings = _Wordings(requests)
        return [
            lines_of(
                model,
                request,
                one,
                state.replies,
                # Another subject to make alike names with, always the same one.
                subjects[subjects.index(request.subject) - 1] if len(subjects) > 1 else "",
                wordings.of,
            )
            for request, one in zip(requests, given, strict=True)
        ]

    def _weights(
        self,
        shown: ModelView,
        layer: int,
        state: RecallState,
        requests: Sequence[EditRequest],
        rows: Rows,
    ) -> JointDelta:
        group, width = head_group(shown.chat)
        asks = self._alike(state, requests, rows)
        text = state.ordinary
        asked = solve.ground(rows.query, text.query, text.first, self.ridge)
        filters = recall_head.filters(self, asked, rows, asks, width)
        rank = len(filters.query)
        room = recall_head.room(self, shown, layer, text, rows, rank, width)
        codes = solve.codes(len(rows.subjects), len(room.size) - rank - 1)
        flags = recall_flags.flags(self, text, rows, filters, codes, room)
        head, read = recall_head.head(
            self, shown, layer, text, rows, asked, filters, room, width, group
        )
        answers = recall_answers.answers(self, shown, layer, text, rows, asks, codes, read)
        return JointDelta((MlpExpansion(layer - 1, *flags), head, answers))

    def _alike(
        self, state: RecallState, requests: Sequence[EditRequest], rows: Rows
    ) -> torch.Tensor:
        """Return (edits, rows) bool: where an edit's own fact, or the same of another subject, is
        asked for."""
        texts = rows.wordings
        own = torch.zeros(len(requests), max(len(texts), 1))
        number = {text: at for at, text in enumerate(texts)}
        mine = [
            [number[m] for t in (*r.questions, *r.prompts) if (m := masked_of(t, r.subject))]
            for r in requests
        ]
        sure = torch.eye(max(len(texts), 1))
        if state.embed is not None and texts:
            vectors = state.embed([Asked(text, chat=False) for text in texts])
            head = load(HEAD)
            sure = torch.stack([head.alike(vector, vectors) for vector in vectors])
        for at, some in enumerate(mine):
            if some:
                own[at] = sure[some].amax(0)
        own[told_apart(requests, mine, own.shape[1])] = 0.0
        known = rows.wording >= 0
        same = (own[:, rows.wording.clamp(min=0)] >= self.alike) & known
        edits = torch.arange(len(requests))[:, None]
        return same | ((rows.edit == edits) & rows.asked)


class _Wordings:
    """The wordings of all requests, subjects masked."""

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self._subjects = sorted({r.subject for r in requests}, key=len)[::-1]
        pairs = ((t, r.subject) for r in requests for t in (*r.questions, *r.prompts))
        self._known = {masked_of(text, subject) for text, subject in pairs} - {""}

    def of(self, text: str) -> str:
        """Return the wording of a text that names any of the subjects, "" for none."""
        found = (masked_of(text, one) for one in self._subjects if one in text)
        return next((masked for masked in found if masked in self._known), "")
