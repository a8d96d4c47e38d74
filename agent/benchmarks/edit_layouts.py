"""The layouts of knowledge-editing files, each read into the same record. Pure.

CounterFact (full and flat), zsRE, KnowEdit, WikiBigEdit, rows of changed facts, and a layout
of our own (``docs/editing-benchmark.md``). A layout is known by the keys of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.benchmarks.edit_statements import statement_for
from detectors.dates import parse_day
from detectors.entities import normalise
from detectors.judge import mentions

CLOZE = "cloze"
GIVEN = "given"
Row = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Prompt:
    """A question for the chat template, or (``chat`` false) a text for plain continuation."""

    text: str
    chat: bool


@dataclass(frozen=True)
class BenchProbe:
    """One prompt and any of the answers that are right (none: as the unedited model says).

    ``group`` tells kinds of locality apart ("neighbour", "same subject", …).
    """

    prompt: Prompt
    answers: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class EditRecord:
    """One fact to write, and what is asked about it.

    Attributes:
        id: where it stands in the file, or its own id.
        subject: as ``edit`` spells it.
        slot: subject and relation, folded; no two edits of a run share one. Where the file
            names no relation, the subject alone.
        kind: relation, or the prompt without its subject; records of a kind are near.
        edit: the prompt to edit on, with the accepted spellings of the new object.
        former: values that must no longer be given.
        statement: the fact as a sentence that contains ``new``.
        shape: how the statement was made: ``CLOZE``, ``GIVEN``, or a question's shape.
        since: when the value began, ISO 8601, or "".
    """

    id: str
    subject: str
    slot: str
    kind: str
    edit: BenchProbe
    former: tuple[str, ...]
    statement: str
    shape: str
    paraphrases: tuple[BenchProbe, ...] = ()
    locality: tuple[BenchProbe, ...] = ()
    portability: tuple[BenchProbe, ...] = ()
    since: str = ""

    @property
    def new(self) -> str:
        return self.edit.answers[0]


def layout_of(row: Row) -> str | None:
    """Return the name of the layout that a row has, by its keys."""
    keys = set(row)
    return next((name for name, (needed, _) in _LAYOUTS.items() if needed <= keys), None)


def read(layout: str, row: Row, place: str) -> EditRecord | str:
    """Return a row's record, or in a few words why it is no edit that can be scored.

    Raises KeyError, TypeError, ValueError or AttributeError where the row is malformed.
    """
    raw = _LAYOUTS[layout][1](row)
    text, new = raw.prompt.text, next(iter(raw.new), "")
    if not text or not new:
        return "no prompt or no new value"
    subject = _spelled(raw.subject, text)
    if not subject:
        return "the prompt does not spell its subject"
    if spells(text, raw.new):
        return "the prompt names the new value"
    if " before the current " in text:
        return "asks for a former value"
    if raw.statement:
        statement, shape = raw.statement, GIVEN
        if new not in statement:
            return "the statement does not contain the new value"
    elif raw.prompt.chat:
        statement, shape = statement_for(text, subject, new)
    else:
        statement, shape = f"{text} {new.rstrip('.')}.", CLOZE
        new = new.rstrip(".")
    if new not in statement:  # the statement dropped the object's own full stop
        new = new.rstrip(".")
    answers = (new, *(alias for alias in raw.new if alias != new))
    former = tuple(
        dict.fromkeys(
            old for old in raw.former if not names(new, [old]) and not spells(text, [old])
        )
    )
    fold = normalise(subject)
    return EditRecord(
        id=place,
        subject=subject,
        slot=f"{fold}|{normalise(raw.relation)}" if raw.relation else fold,
        kind=raw.relation or text.replace(subject, "{}"),
        edit=BenchProbe(raw.prompt, answers),
        former=former,
        statement=statement,
        shape=shape,
        paraphrases=_asked(raw.prompt, [BenchProbe(p, answers) for p in raw.paraphrases]),
        locality=_asked(raw.prompt, raw.locality),
        portability=_asked(raw.prompt, [p for p in raw.portability if p.answers]),
        since=_since(raw.since),
    )


def names(text: str, values: Sequence[str], others: Sequence[str] = ()) -> bool:
    """Whether a text names any of the values."""
    return any(mentions(text, value, "name", others) for value in values if value)


def spells(text: str, values: Sequence[str]) -> bool:
    """Whether a prompt contains any of the values word for word, so that to repeat the prompt
    would be to name it. Of answers, ``names`` judges."""
    words = f" {normalise(text)} "
    return any(f" {normalise(value)} " in words for value in values if value)


@dataclass(frozen=True)
class _Raw:
    """What a layout's row holds, before it is checked."""

    prompt: Prompt
    subject: str
    new: list[str]
    former: list[str]
    relation: str = ""
    statement: str = ""
    paraphrases: tuple[Prompt, ...] = ()
    locality: tuple[BenchProbe, ...] = ()
    portability: tuple[BenchProbe, ...] = ()
    since: str = ""


def _asked(edit: Prompt, probes: Sequence[BenchProbe]) -> tuple[BenchProbe, ...]:
    """Drop repeats, the edit prompt itself, and prompts that name their own answer."""
    found = {
        p.prompt: p
        for p in probes
        if p.prompt.text and p.prompt != edit and not spells(p.prompt.text, p.answers)
    }
    return tuple(found.values())


def _prompt(text: str) -> Prompt:
    """A text that ends with a question mark is a question; any other is continued."""
    text = " ".join(text.split())
    return Prompt(text, text.endswith("?"))


def _stated(probe: str | Row) -> Prompt:
    """A text, or an object whose key says how it is asked where its last sign does not
    ("Tell me who …")."""
    if isinstance(probe, str):
        return _prompt(probe)
    if "question" in probe:
        return Prompt(" ".join(probe["question"].split()), True)
    return _prompt(probe["prompt"])


def _question(text: str) -> Prompt:
    text = " ".join(text.removeprefix("nq question:").split())
    return Prompt(text if text.endswith("?") or not text else f"{text}?", True)


def _values(value: Any) -> list[str]:
    """Flatten an answer: a text, a list of aliases, or lists of them."""
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _values(item)]
    text = "" if value is None else " ".join(str(value).split())
    return [text] if text else []


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _spelled(subject: str, text: str) -> str:
    """Return the subject as the text spells it, or "" where it does not."""
    found = re.search(re.escape(subject), text, re.IGNORECASE) if subject else None
    return found.group() if found else ""


def _since(text: str) -> str:
    """Return a start as a day that sorts: "Dec2023", "2023-00-00" and "6 May 2025" alike."""
    spaced = re.sub(r"(?<=[A-Za-z])(?=\d)", " ", re.sub(r"-00\b", "", text))
    return parse_day(spaced) or ""


def _counterfact(row: Row) -> _Raw:
    asked = row["requested_rewrite"]
    ported = row.get("portability") or {}
    return _Raw(
        prompt=_prompt(asked["prompt"].replace("{}", asked["subject"])),
        subject=asked["subject"],
        new=_values(asked["target_new"]["str"]),
        former=_values(asked["target_true"]["str"]),
        relation=asked.get("relation_id", ""),
        paraphrases=tuple(map(_prompt, row.get("paraphrase_prompts", ()))),
        locality=tuple(
            BenchProbe(_prompt(text), group="neighbour")
            for text in row.get("neighborhood_prompts", ())
        ),
        portability=tuple(_ported(ported)),
    )


def _counterfact_flat(row: Row) -> _Raw:
    return _Raw(
        prompt=_prompt(row["prompt"]),
        subject=row["subject"],
        new=_values(row["target_new"]),
        former=_values(row.get("ground_truth")),
        paraphrases=tuple(map(_prompt, _texts(row.get("rephrase_prompt")))),
        locality=tuple(
            BenchProbe(_prompt(text), group="neighbour")
            for text in _texts(row.get("locality_prompt"))
        ),
    )


def _zsre(row: Row) -> _Raw:
    inverse = _texts(row.get("inverse question"))
    return _Raw(
        prompt=_question(row["src"]),
        subject=row["subject"],
        new=_values(row["alt"]),
        former=_values(row.get("answers")),
        paraphrases=tuple(map(_question, _texts(row.get("rephrase")))),
        locality=tuple(BenchProbe(_question(t), group="unrelated") for t in _texts(row.get("loc"))),
        portability=(
            *_ported(row.get("portability") or {}),
            *(BenchProbe(_question(text), (row["subject"],), "inverse") for text in inverse),
        ),
    )


def _knowedit(row: Row) -> _Raw:
    return _Raw(
        prompt=_prompt(row["prompt"]),
        subject=row["subject"],
        new=_values(row["target_new"]),
        former=_values(row.get("ground_truth")),
        paraphrases=tuple(map(_prompt, _texts(row.get("rephrase_prompt")))),
        locality=tuple(_grouped(row.get("locality") or {}, answered=False)),
        portability=tuple(_grouped(row.get("portability") or {}, answered=True)),
    )


def _wikibigedit(row: Row) -> _Raw:
    hops = zip(_texts(row.get("mhop")), _texts(row.get("mhop_ans")), strict=True)
    return _Raw(
        prompt=_question(row["update"]),
        subject=row["subject"],
        new=_values(row["ans"]),
        former=_values(row.get("old_ans")),
        paraphrases=tuple(
            _question(t) for key in ("rephrase", "personas") for t in _texts(row.get(key))
        ),
        locality=tuple(BenchProbe(_question(t), group="unrelated") for t in _texts(row.get("loc"))),
        portability=tuple(BenchProbe(_question(t), tuple(_values(a)), "hop") for t, a in hops),
    )


def _changed(row: Row) -> _Raw:
    held = [str(spell[0]) for spell in row.get("all_values") or ()]
    cloze = row.get("cloze")
    return _Raw(
        prompt=_prompt(row["question"]),
        subject=row["subject"],
        new=_values(row["new_value"]),
        former=[*_values(row["old_value"]), *held],
        relation=str(row.get("relation", "")),
        paraphrases=tuple(
            _prompt(t) for t in (*_texts(row.get("paraphrases")), *([cloze] if cloze else []))
        ),
        since=str(row.get("new_from", "")),
    )


def _own(row: Row) -> _Raw:
    chat = "question" in row
    asked = row["question"] if chat else row["prompt"]
    return _Raw(
        prompt=Prompt(asked, chat),
        subject=row["subject"],
        new=_values(row["new"]),
        former=_values(row.get("old")),
        relation=str(row.get("relation", "")),
        statement=str(row.get("statement", "")),
        paraphrases=tuple(map(_stated, _texts(row.get("paraphrases")))),
        locality=tuple(_grouped({"locality": row.get("locality") or ()}, answered=False)),
        portability=tuple(_grouped({"portability": row.get("portability") or ()}, answered=True)),
        since=str(row.get("since", "")),
    )


def _ported(row: Row) -> Iterator[BenchProbe]:
    """The one question of the portability sets of Yao et al. (2023)."""
    if row:
        yield BenchProbe(_prompt(row["New Question"]), tuple(_values(row["New Answer"])), "hop")


def _grouped(groups: Mapping[str, Any], answered: bool) -> Iterator[BenchProbe]:
    """Probes as KnowEdit nests them: group → prompts with their answers, or bare texts."""
    known = {"Relation_Specificity": "same subject", "Forgetfulness": "other values"}
    for group, probes in groups.items():
        label = known.get(group, group.replace("_", " ").casefold())
        for probe in probes:
            if isinstance(probe, str):
                yield BenchProbe(_prompt(probe), (), label)
                continue
            right = probe.get("answers", probe.get("ground_truth")) if answered else None
            yield BenchProbe(_stated(probe), tuple(_values(right)), probe.get("group", label))


# The first layout whose keys a row has is its own; those with rarer keys come first.
_LAYOUTS: dict[str, tuple[frozenset[str], Callable[[Row], _Raw]]] = {
    "counterfact": (frozenset({"requested_rewrite"}), _counterfact),
    "zsre": (frozenset({"subject", "src", "alt"}), _zsre),
    "wikibigedit": (frozenset({"subject", "update", "ans"}), _wikibigedit),
    "changed facts": (frozenset({"subject", "question", "old_value", "new_value"}), _changed),
    "knowedit": (frozenset({"subject", "prompt", "target_new", "locality"}), _knowedit),
    "counterfact flat": (frozenset({"subject", "prompt", "target_new"}), _counterfact_flat),
    "corrigenda": (frozenset({"subject", "question", "new"}), _own),
    "corrigenda cloze": (frozenset({"subject", "prompt", "new"}), _own),
}
LAYOUTS = tuple(dict.fromkeys(name.removesuffix(" cloze") for name in _LAYOUTS))
