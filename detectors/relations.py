"""The relation registry: rows of data that say what can be asked and how.

The rows that ship with the package are in ``relations.toml``, which also documents their keys;
``load_registry(extra)`` adds a user's own file of the same form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from detectors.entities import (
    is_country,
    is_listed,
    is_shared_name,
    normalise,
    possessive,
    with_article,
)
from detectors.judge import TOLERANCE, mentions, same
from detectors.names import person, words

ASKED = 4
"""How many phrasings, from the first, are asked and edited; the rest are held out."""

_OBJECT_TYPES = ("person", "place", "org", "name", "number", "text", "version")
_SUBJECTS = ("country", "person", "other", "any")
_ELECTED = ("holds", "waits", "parliament")
_STATEMENT = "The {title} of {subject} is {object}."
_PLACEHOLDER = re.compile(r"\{(\w*)\}")


_KEYS = words(
    """
    id label wikidata cardinality object_type tolerance unit approval default_title titles
    variants subjects elsewhere only subject_words subject_not fields elected cues phrasings
    questions statement same_subject
    """
)


class RegistryError(Exception):
    """A relation file that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Relation:
    """One row of the registry.

    ``titles`` maps every spelling's normal form to the asked title; ``elsewhere``, ``only``,
    ``subject_words`` and ``subject_not`` hold normal forms. ``tolerance`` is relative.
    """

    id: str
    label: str
    wikidata: str
    cardinality: str
    object_type: str
    approval: str
    default_title: str
    titles: Mapping[str, str]
    subjects: str
    elsewhere: frozenset[str]
    only: Mapping[str, tuple[str, ...]]
    subject_words: tuple[str, ...]
    subject_not: tuple[str, ...]
    fields: tuple[str, ...]
    elected: str
    questions: tuple[str, ...]
    statement: str
    same_subject: tuple[str, ...]
    cues: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    unit: str = ""

    @property
    def single(self) -> bool:
        return self.cardinality == "single"

    def same(self, one: str, other: str) -> bool:
        """Whether two values of this relation are one value under different spellings."""
        return same(one, other, self.object_type, tolerance=self.tolerance)

    def mentions(self, text: str, value: str, others: Sequence[str] = ()) -> bool:
        """Whether a text names a value of this relation at all; ``others`` are other values that
        a bare surname could mean."""
        return mentions(text, value, self.object_type, others, tolerance=self.tolerance)

    def takes(self, subject: str, title: str = "") -> bool:
        """Whether ``subject`` is the kind of thing that this relation is about.

        Some titles belong to other subjects too ("premier of Ontario"), others only to some
        ("manager" of a team); without one the default title decides.
        """
        if is_shared_name(subject):
            return False  # "the National Assembly", "the Labour Party": of which country?
        country = is_country(subject)
        asked = normalise(self.shown_title(title))
        if self.subjects == "country":
            if not country and asked not in self.elsewhere:
                return False
        elif self.subjects != "any" and country:
            return False
        if self.subjects == "person" and not _may_be_person(subject):
            return False
        name = f" {normalise(subject)} "
        if _has(name, self.subject_not):
            return False
        if asked in self.only and not _has(name, self.only[asked]):
            return False
        return country or not self.subject_words or _has(name, self.subject_words)

    def shown_title(self, title: str) -> str:
        """Return the title as a question writes it; the default one for an empty title."""
        spelled = normalise(title)
        if not spelled or spelled == normalise(self.default_title):
            return self.default_title
        return self.titles.get(spelled, title)


class Registry:
    """The relations by id, with everything that is asked or stated about them."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self._relations = dict(relations)
        spellings: dict[str, list[Relation]] = {}
        for relation in self._relations.values():
            for spelling in relation.titles:
                spellings.setdefault(spelling, []).append(relation)
        self._titles = tuple(sorted(spellings, key=lambda spelling: (-len(spelling), spelling)))
        # No source writes "head of government" as a title, but people ask by it.
        asked = {spelling: list(relations) for spelling, relations in spellings.items()}
        for relation in self._relations.values():
            known = asked.setdefault(normalise(relation.default_title), [])
            if relation not in known:
                known.append(relation)
        self._by_asked = asked

    def __getitem__(self, relation_id: str) -> Relation:
        try:
            return self._relations[relation_id]
        except KeyError:
            known = ", ".join(sorted(self._relations))
            raise RegistryError(
                f"no relation {relation_id!r} in the registry; known relations: {known}"
            ) from None

    def __contains__(self, relation_id: object) -> bool:
        return relation_id in self._relations

    def __iter__(self) -> Iterator[Relation]:
        return iter(self._relations.values())

    def __len__(self) -> int:
        return len(self._relations)

    def titles(self) -> tuple[str, ...]:
        """Return the normal form of every title spelling, the longest first."""
        return self._titles

    def with_title(self, title: str) -> tuple[Relation, ...]:
        """Return the relations that a title may ask for, in any spelling, one's own first."""
        return tuple(self._by_asked.get(normalise(title), ()))

    def relation_of_title(self, title: str, subject: str | None = None) -> str | None:
        """Return the id of the relation that a title means, for a subject where one is given.

        "governor" is one relation for California and another for the Bank of England.
        """
        for relation in self.with_title(title):
            if subject is None or relation.takes(subject, title):
                return relation.id
        return None

    def asked_title(self, relation_id: str, title: str) -> str:
        """Return the title that stands for ``title`` in questions, in small letters."""
        return self[relation_id].shown_title(title).casefold()

    def questions(self, relation_id: str, subject: str, title: str = "") -> tuple[str, ...]:
        """Return every phrasing, the canonical one first."""
        relation = self[relation_id]
        parts = _parts(relation, subject, title)
        return tuple(_put(phrasing, parts) for phrasing in relation.questions)

    def asking(self, relation_id: str, subject: str, title: str = "") -> tuple[str, ...]:
        """Return the phrasings that are asked and edited."""
        return self.questions(relation_id, subject, title)[:ASKED]

    def held_out(self, relation_id: str, subject: str, title: str = "") -> tuple[str, ...]:
        """Return the phrasings that are kept to test an edit."""
        return self.questions(relation_id, subject, title)[ASKED:]

    def same_subject(self, relation_id: str, subject: str, title: str = "") -> tuple[str, ...]:
        """Return questions about the subject that an edit of this relation leaves alone."""
        relation = self[relation_id]
        return tuple(
            _fill(question, relation, subject, title) for question in relation.same_subject
        )

    def render(self, template: str, relation_id: str, subject: str, title: str = "") -> str:
        """Return a question of one's own about a slot, with its placeholders filled."""
        return _fill(template, self[relation_id], subject, title)

    def statement(self, relation_id: str, subject: str, title: str, value: str) -> str:
        """Return the sentence that states a value ("The chancellor of Germany is …")."""
        relation = self[relation_id]
        # Not in one format call: a value may itself contain braces.
        stated = _fill(relation.statement.replace("{object}", "\0"), relation, subject, title)
        sentence = stated.replace("\0", value)
        return sentence[:-1] if sentence.endswith("..") else sentence


def _fill(template: str, relation: Relation, subject: str, title: str) -> str:
    return _put(template, _parts(relation, subject, title))


def _parts(relation: Relation, subject: str, title: str) -> Mapping[str, str]:
    return {
        "title": relation.shown_title(title),
        "subject": with_article(subject),
        "owner": possessive(subject),
    }


def _put(template: str, parts: Mapping[str, str]) -> str:
    filled = re.sub(r"\{(title|subject|owner)\}", lambda match: parts[match.group(1)], template)
    # "The Fed is now called …", but "iPhone OS is now called …".
    return f"The {filled[4:]}" if filled.startswith("the ") else filled


def _may_be_person(subject: str) -> bool:
    return not subject.isupper() and not is_listed(subject) and person(subject) is not None


def _has(name: str, wanted: Iterable[str]) -> bool:
    """Whether a name in normal form, with spaces around it, holds one of the wanted words."""
    return any(f" {word} " in name for word in wanted)


def load_registry(extra: Path | None = None) -> Registry:
    """Return the shipped relations and, over them, those of a user's own file.

    Raises RegistryError, one line with the file and the remedy.
    """
    shipped = resources.files("detectors").joinpath("relations.toml").read_text("utf-8")
    table = tomllib.loads(shipped)
    relations = _rows(table, _Lists(table["phrasings"], table["neighbours"]), "relations.toml")
    if extra is not None:
        own, source = _read(extra), str(extra)
        lists = _Lists(
            table["phrasings"] | _table(own, "phrasings", source),
            table["neighbours"] | _table(own, "neighbours", source),
        )
        mine = _rows(own, lists, source)
        # One's own first: where two relations share a title, the first that fits is meant.
        relations = mine | {key: row for key, row in relations.items() if key not in mine}
    return Registry(relations)


class _Lists(NamedTuple):
    """What rows name instead of repeating it."""

    phrasings: Mapping[str, Any]
    neighbours: Mapping[str, Any]


def _table(own: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    table = own.get(key, {})
    if not isinstance(table, dict):
        raise RegistryError(f"{source}: {key} must be a table of lists; write [{key}]")
    return table


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RegistryError(
            f"cannot read the relation file {path}: {error.strerror}; "
            "check the path in the configuration"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RegistryError(f"{path} is not valid TOML: {error}; mend that line") from None


def _rows(table: Mapping[str, Any], lists: _Lists, source: str) -> dict[str, Relation]:
    rows = table.get("relation", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RegistryError(f"{source}: relations must be [[relation]] tables; write them so")
    relations = [_relation(row, lists, f"{source}, relation {n}") for n, row in enumerate(rows, 1)]
    return {relation.id: relation for relation in relations}


def _relation(row: Mapping[str, Any], lists: _Lists, where: str) -> Relation:
    relation_id = _text(row, "id", where)
    where = f"{where} ({relation_id})"
    unknown = sorted(set(row) - _KEYS)
    if unknown:
        raise RegistryError(f"{where}: unknown key {unknown[0]}; known: {', '.join(sorted(_KEYS))}")
    object_type = _choice(row, "object_type", _OBJECT_TYPES, where)
    default_title = _text(row, "default_title", where)
    titles = _titles(row, where)
    return Relation(
        id=relation_id,
        label=_text(row, "label", where),
        wikidata=str(row.get("wikidata", "")),
        cardinality=_choice(row, "cardinality", ("single", "many"), where),
        object_type=object_type,
        approval=_choice(row, "approval", ("auto", "review"), where),
        default_title=default_title,
        titles=titles,
        subjects=_choice({"subjects": "any", **row}, "subjects", _SUBJECTS, where),
        elsewhere=frozenset(_words(row, "elsewhere", where)),
        only=_only(row, titles, where),
        subject_words=_words(row, "subject_words", where),
        subject_not=_words(row, "subject_not", where),
        fields=tuple(field.casefold() for field in _texts(row, "fields", where, needed=False)),
        elected=_choice({"elected": "waits", **row}, "elected", _ELECTED, where),
        questions=_questions(row, lists, object_type, where),
        statement=_statement(row, where),
        same_subject=_neighbours(row, lists, where),
        cues=_cues(row, where),
        **_measured(row, where),
    )


def _titles(row: Mapping[str, Any], where: str) -> dict[str, str]:
    spellings = {title: title for title in _texts(row, "titles", where)}
    variants = row.get("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(v, str) for v in variants.values()):
        raise RegistryError(f"{where}: variants must map spellings to titles; mend it")
    spellings |= variants
    # Headings name an office in the plural: "Chancellors of Germany".
    spellings = {f"{spelling}s": asked for spelling, asked in spellings.items()} | spellings
    return {normalise(spelling): asked for spelling, asked in spellings.items()}


def _only(
    row: Mapping[str, Any], titles: Mapping[str, str], where: str
) -> dict[str, tuple[str, ...]]:
    table = row.get("only", {})
    if not isinstance(table, dict) or not set(table) <= set(titles.values()):
        raise RegistryError(f"{where}: only must map titles to lists of words; mend it")
    return {normalise(title): _words(table, title, f"{where}, only") for title in table}


def _questions(
    row: Mapping[str, Any], lists: _Lists, object_type: str, where: str
) -> tuple[str, ...]:
    usual = object_type if object_type in ("person", "number") else "thing"
    named = str(row.get("phrasings", usual))
    given = row.get("questions", lists.phrasings.get(named))
    if given is None:
        known = ", ".join(sorted(lists.phrasings))
        raise RegistryError(f"{where}: no phrasings are named {named!r}; use one of {known}")
    questions = _texts({"questions": given}, "questions", where)
    if len(questions) < 2 * ASKED:
        raise RegistryError(
            f"{where}: {len(questions)} phrasings, but {2 * ASKED} are needed "
            f"({ASKED} to ask, {ASKED} to test); add questions"
        )
    twice = next((q for n, q in enumerate(questions) if q in questions[:n]), None)
    if twice:
        raise RegistryError(f"{where}: the question {twice!r} stands twice; replace one")
    for question in questions:
        found = _placeholders(question, ("title", "subject", "owner"), where)
        if found.count("subject") + found.count("owner") != 1:
            raise RegistryError(
                f"{where}: the question {question!r} must contain {{subject}} or {{owner}} once; "
                "mend it"
            )
    return questions


def _statement(row: Mapping[str, Any], where: str) -> str:
    statement = _text({"statement": _STATEMENT, **row}, "statement", where)
    found = _placeholders(statement, ("title", "subject", "owner", "object"), where)
    for name in ("object", "subject"):
        if name not in found and not (name == "subject" and "owner" in found):
            raise RegistryError(f"{where}: the statement does not contain {{{name}}}; add it")
    return statement


def _neighbours(row: Mapping[str, Any], lists: _Lists, where: str) -> tuple[str, ...]:
    given = row.get("same_subject", [])
    if isinstance(given, str):
        if given not in lists.neighbours:
            known = ", ".join(sorted(lists.neighbours))
            raise RegistryError(f"{where}: no neighbours are named {given!r}; use one of {known}")
        given = lists.neighbours[given]
    questions = _texts({"same_subject": given}, "same_subject", where)
    for question in questions:
        _placeholders(question, ("title", "subject", "owner"), where)
    return questions


def _placeholders(template: str, allowed: tuple[str, ...], where: str) -> list[str]:
    found = _PLACEHOLDER.findall(template)
    wrong = next((name for name in found if name not in allowed), None)
    if wrong is not None:
        named = ", ".join(f"{{{name}}}" for name in allowed)
        raise RegistryError(f"{where}: {{{wrong}}} in {template!r} stands for nothing; use {named}")
    return found


def _words(row: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    return tuple(normalise(word) for word in _texts(row, key, where, needed=False))


def _cues(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    cues = _texts(row, "cues", where, needed=False)
    for cue in cues:
        found = _placeholders(cue, ("subject", "object"), where)
        if sorted(found) != ["object", "subject"]:
            raise RegistryError(
                f"{where}: the cue {cue!r} must contain {{subject}} and {{object}}, "
                "each once; mend it"
            )
    return cues


def _measured(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What only a relation between a subject and a number has: its tolerance and its unit."""
    given = [key for key in ("tolerance", "unit") if key in row]
    if given and row.get("object_type") != "number":
        raise RegistryError(f"{where}: {given[0]} is for numbers only; remove it")
    tolerance = row.get("tolerance", TOLERANCE)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise RegistryError(f"{where}: tolerance must be a number, such as 0.02; mend it")
    if not 0 <= tolerance < 1:
        raise RegistryError(f"{where}: tolerance must be from 0 to below 1 (0.02 = 2 %); mend it")
    unit = row.get("unit", "")
    if not isinstance(unit, str):
        raise RegistryError(f'{where}: unit must be a text, such as unit = "people"; mend it')
    return {"tolerance": float(tolerance), "unit": unit}


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise RegistryError(f'{where}: {key} must be a text; add {key} = "…"')
    return value


def _texts(row: Mapping[str, Any], key: str, where: str, needed: bool = True) -> tuple[str, ...]:
    value = row.get(key, [] if not needed else None)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RegistryError(f'{where}: {key} must be a list of texts; add {key} = ["…"]')
    return tuple(value)


def _choice(row: Mapping[str, Any], key: str, allowed: tuple[str, ...], where: str) -> str:
    value = row.get(key)
    if value not in allowed:
        raise RegistryError(f"{where}: {key} must be one of {', '.join(allowed)}; mend it")
    return str(value)
