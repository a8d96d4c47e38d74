"""Which remembered fact a prompt asks for, if any.

A prompt is in scope of a fact when it names the fact's subject (by any of its names) and asks
for the same as one of the fact's wordings does. Names are looked up word by word, so that the
cost does not grow with the number of facts; what is asked is compared with the subject masked, by
sentence embeddings and a trained head (``relation_match``), and only where a subject was
found. Words that speak of another time, of a longer name, or that deny, put a prompt out of scope
(``wording``). A question about the object of a fact ("the wife of the chancellor of Germany") is
asked again with the object in its place, at most four times (after MeLLo, Zhong et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from editors.memory import wording

if TYPE_CHECKING:
    import torch

    from editors.memory.relation_match import Embed, RelationMatch

HOPS = 4
Parse = Callable[[str], str | None]
"""Question → key of the slot that it asks for, or None where it is of no known form."""


@dataclass(frozen=True)
class Fact:
    """What is remembered.

    Attributes:
        id: of its edit.
        names: of the subject, the usual one first.
        wordings: questions and prompts that ask for it.
        new, former: its object now, and earlier ones.
        statement: the sentence that states it; contains ``new``.
        key: of its slot: a newer fact of the same slot replaces it.
    """

    id: str
    names: tuple[str, ...]
    wordings: tuple[str, ...]
    new: str
    statement: str
    former: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class Match:
    """What a prompt comes to.

    Attributes:
        fact: whose object answers it; None where only its words stand for an object.
        hops: facts whose objects took the place of their names, in order.
        asked: the prompt as it is to be asked, the objects in place.
        sure: the probability that ``fact`` is meant.
    """

    fact: Fact | None
    asked: str
    hops: tuple[Fact, ...] = ()
    sure: float = 1.0

    @property
    def used(self) -> tuple[Fact, ...]:
        """Return all facts that the answer rests on."""
        return (*self.hops, self.fact) if self.fact else self.hops


@dataclass(frozen=True)
class Meaning:
    """Compares what wordings ask.

    Attributes:
        embed: sentence embeddings; ``head`` gives what was trained on them. Both are loaded when
            they are first needed.
        threshold: least probability that a prompt asks for a fact, to be in its scope.
        heard: least one at which it may ask for it, so that edited weights are to answer it.
    """

    embed: Embed
    head: Callable[[], RelationMatch]
    threshold: float = 0.2
    heard: float = 0.02


@dataclass
class _Entry:
    fact: Fact
    wordings: tuple[str, ...]  # masked
    phrases: tuple[str, ...]
    vectors: torch.Tensor | None = None  # (wordings, width) float16


@dataclass
class Scope:
    """Facts by what asks for them.

    Attributes:
        meaning: compares wordings; None: only the very wordings of a fact are in its scope.
        parse: knows some questions by their form. What it reads as a slot is that slot's and no
            other's.
    """

    meaning: Meaning | None = None
    parse: Parse | None = None
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _names: dict[tuple[str, ...], list[str]] = field(default_factory=lambda: defaultdict(list))
    _longest: int = 0

    def add(self, facts: Iterable[Fact]) -> None:
        """Remember facts; a later one of a slot takes the place of an earlier one."""
        for fact in facts:
            if fact.key and fact.key in self._keys:
                self.remove(self._keys[fact.key])
            self.remove(fact.id)
            entry = _Entry(fact, _masked(fact), _phrases(fact))
            self._entries[fact.id] = entry
            if fact.key:
                self._keys[fact.key] = fact.id
            for name in _names(fact):
                self._names[name].append(fact.id)
                self._longest = max(self._longest, len(name))

    def remove(self, fact_id: str) -> None:
        """Forget a fact; does nothing where it is not remembered."""
        entry = self._entries.pop(fact_id, None)
        if entry is None:
            return
        if self._keys.get(entry.fact.key) == fact_id:
            del self._keys[entry.fact.key]
        for name in _names(entry.fact):
            self._names[name].remove(fact_id)
            if not self._names[name]:
                del self._names[name]

    def of_slot(self, key: str) -> Fact | None:
        """Return what is remembered of a slot."""
        known = self._keys.get(key)
        return self._entries[known].fact if known else None

    def facts(self) -> list[Fact]:
        """Return what is remembered, oldest first."""
        return [entry.fact for entry in self._entries.values()]

    def named(self, prompts: Sequence[str]) -> list[bool]:
        """Return whether each prompt names a fact's subject, in whatever words it asks."""
        return [
            any(self._known(span) for span in self._spans(prompt)) if self._entries else False
            for prompt in prompts
        ]

    def heard(self, prompts: Sequence[str]) -> list[bool]:
        """Return whether each prompt may ask for a fact, if in words that hardly do: more than are
        in scope, and far fewer than name a subject. Without embeddings, all that name one."""
        if self.meaning is None:
            return self.named(prompts)
        return [match is not None for match in self._match(prompts, self.meaning.heard)]

    def match(self, prompts: Sequence[str]) -> list[Match | None]:
        """Return what each prompt comes to; None: it is out of every fact's scope."""
        return self._match(prompts, self.meaning.threshold if self.meaning else 1.0)

    def _match(self, prompts: Sequence[str], least: float) -> list[Match | None]:
        """Return what each prompt comes to, if a fact is meant at least so surely."""
        found: list[Match | None] = [None] * len(prompts)
        if not self._entries:
            return found
        asked = dict(enumerate(prompts))
        hops: dict[int, tuple[Fact, ...]] = dict.fromkeys(asked, ())
        for _ in range(HOPS):
            direct = self._direct(list(asked.values()), least)
            onward = {}
            for (at, text), hit in zip(asked.items(), direct, strict=True):
                if hit is not None:
                    found[at] = Match(hit[0], text, hops[at], hit[1])
                elif (step := self._hop(text)) is not None:
                    hops[at] = (*hops[at], step[0])
                    onward[at] = step[1]
                    found[at] = Match(None, step[1], hops[at])
            asked = onward
            if not asked:
                break
        return found

    def _direct(self, prompts: Sequence[str], least: float) -> list[tuple[Fact, float] | None]:
        """Return the fact whose object each prompt asks for, and how sure that is."""
        found: list[tuple[Fact, float] | None] = [None] * len(prompts)
        open_: list[tuple[int, str, list[_Entry]]] = []
        for at, prompt in enumerate(prompts):
            key = self.parse(prompt) if self.parse else None
            if key is not None:
                fact = self.of_slot(key)
                found[at] = (fact, 1.0) if fact else None
                continue
            for text, entries in self._named(prompt):
                same = [entry for entry in entries if _spelled_alike(text, entry)]
                if same:
                    found[at] = (same[-1].fact, 1.0)
                    break
                if self.meaning is not None:
                    open_.append((at, text, entries))
        open_ = [one for one in open_ if found[one[0]] is None]
        for at, fact, sure in self._meant(open_, least):
            best = found[at]
            if best is None or sure > best[1]:
                found[at] = (fact, sure)
        return found

    def _meant(
        self, asked: Sequence[tuple[int, str, list[_Entry]]], least: float
    ) -> list[tuple[int, Fact, float]]:
        """Compare by meaning: (prompt, masked text, facts of the subject) each."""
        if not asked or self.meaning is None:
            return []
        self._embed([entry for _, _, entries in asked for entry in entries])
        vectors, head = self.meaning.embed([text for _, text, _ in asked]), self.meaning.head()
        hits = []
        for vector, (at, _, entries) in zip(vectors, asked, strict=True):
            for entry in entries:
                if entry.vectors is not None:
                    sure = float(head.alike(vector, entry.vectors.float()).max())
                    if sure >= least:
                        hits.append((at, entry.fact, sure))
        return hits

    def _named(self, prompt: str) -> list[tuple[str, list[_Entry]]]:
        """Return the prompt with each known subject that it names masked, and the facts of that
        subject whose wordings the prompt's words allow."""
        found = wording.words(prompt)
        last = len(found)
        hits: list[tuple[int, int, list[str]]] = []
        for first in range(last):
            for end in range(min(last, first + self._longest), first, -1):
                ids = self._known(tuple(word.text for word in found[first:end]))
                if ids:
                    hits.append((found[first].start, found[end - 1].end, ids))
                    break  # the longest name that begins here
        named = []
        for start, stop, ids in hits:
            if any(a <= start and stop <= b and (a, b) != (start, stop) for a, b, _ in hits):
                continue  # part of a longer known name
            text = wording.masked(prompt, start, stop)
            longer = wording.beside(prompt, start, stop)
            entries = [
                entry
                for entry in (self._entries[one] for one in ids)
                if _spelled_alike(text, entry)
                or (
                    (not longer or any(longer in wording.fold(w) for w in entry.wordings))
                    and not wording.of_another_time(text, entry.wordings)
                    and not wording.denies(text, entry.wordings)
                    and not wording.within(prompt, entry.phrases)
                )
            ]
            if entries:
                named.append((text, entries))
        return named

    def _known(self, name: tuple[str, ...]) -> list[str] | None:
        """Return the facts of a subject, named with a final "s" too many as well."""
        known = self._names.get(name)
        if known is None and len(name[-1]) > 3 and name[-1].endswith("s"):
            known = self._names.get((*name[:-1], name[-1][:-1]))
        return known

    def _hop(self, prompt: str) -> tuple[Fact, str] | None:
        """Return the fact whose object a prompt asks about, and the prompt about that object."""
        ids = {
            one
            for name, some in self._names_in(prompt)
            for one in some
            if self._entries[one].phrases and name
        }
        for one in sorted(ids):
            entry = self._entries[one]
            span = wording.within(prompt, entry.phrases)
            if span is not None:
                return entry.fact, f"{prompt[: span[0]]}{entry.fact.new}{prompt[span[1] :]}"
        return None

    def _names_in(self, prompt: str) -> list[tuple[tuple[str, ...], list[str]]]:
        return [(name, self._names[name]) for name in self._spans(prompt) if name in self._names]

    def _spans(self, prompt: str) -> Iterator[tuple[str, ...]]:
        """Yield every run of words in a prompt that is as long as a name may be."""
        found = [word.text for word in wording.words(prompt)]
        for first in range(len(found)):
            for end in range(first + 1, min(len(found), first + self._longest) + 1):
                yield tuple(found[first:end])

    def _embed(self, entries: Iterable[_Entry]) -> None:
        """Embed the wordings of facts that were never compared yet."""
        entries = [entry for entry in {id(e): e for e in entries}.values() if entry.vectors is None]
        flat = [text for entry in entries for text in entry.wordings]
        if self.meaning is None or not flat:
            return
        vectors = self.meaning.embed(flat).half()
        parts = vectors.split([len(entry.wordings) for entry in entries])
        for entry, part in zip(entries, parts, strict=True):
            entry.vectors = part.clone()


def _names(fact: Fact) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(n for n in map(wording.name_of, fact.names) if n))


def _masked(fact: Fact) -> tuple[str, ...]:
    """Return the fact's wordings with its subject masked; those that do not name it are left
    out. Its statement up to the object is one of them."""
    lead = fact.statement.partition(fact.new)[0].strip() if fact.new else ""
    names = _names(fact)
    made = (wording.mask(text, names) for text in (*fact.wordings, lead))
    return tuple(dict.fromkeys(text for text in made if text))


def _phrases(fact: Fact) -> tuple[str, ...]:
    return wording.noun_phrases(fact.statement, fact.new, fact.names[0]) if fact.names else ()


def _spelled_alike(text: str, entry: _Entry) -> bool:
    """Whether a masked text is one of the fact's wordings, up to case and punctuation."""
    asked = [word.text for word in wording.words(text)]
    return any(asked == [w.text for w in wording.words(known)] for known in entry.wordings)
