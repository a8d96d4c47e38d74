"""The relation registry: rows of data that say what can be asked and how.

The rows that ship with the package are in ``relations.toml``, which also documents their keys;
``load_registry(extra)`` adds a user's own file of the same form.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from detectors.entities import is_country, normalise, possessive, with_article

ASKED = 4
"""How many phrasings, from the first, are asked and edited; the rest are held out."""

_OBJECT_TYPES = ("person", "place", "org", "number", "text")
_SUBJECTS = ("country", "other", "any")
_ELECTED = ("holds", "waits", "parliament")


class RegistryError(Exception):
    """A relation file that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Relation:
    """One row of the registry. ``titles`` maps every spelling's normal form to the asked title."""

    id: str
    label: str
    wikidata: str
    cardinality: str
    object_type: str
    approval: str
    default_title: str
    titles: Mapping[str, str]
    subjects: str
    subject_words: tuple[str, ...]
    subject_not: tuple[str, ...]
    fields: tuple[str, ...]
    elected: str
    questions: tuple[str, ...]
    statement: str
    same_subject: tuple[str, ...]

    @property
    def single(self) -> bool:
        return self.cardinality == "single"

    def takes(self, subject: str) -> bool:
        """Whether ``subject`` is the kind of thing that this relation is about."""
        if self.subjects != "any" and is_country(subject) != (self.subjects == "country"):
            return False
        words = f" {normalise(subject)} "
        if any(f" {normalise(word)} " in words for word in self.subject_not):
            return False
        return not self.subject_words or any(
            f" {normalise(word)} " in words for word in self.subject_words
        )

    def shown_title(self, title: str) -> str:
        """Return the title as a question writes it; the default one for an empty title."""
        return self.titles.get(normalise(title), title) if title else self.default_title


class Registry:
    """The relations by id, with everything that is asked or stated about them."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self._relations = dict(relations)
        spellings: dict[str, list[Relation]] = {}
        for relation in self._relations.values():
            for spelling in relation.titles:
                spellings.setdefault(spelling, []).append(relation)
        self._by_title = spellings

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
        return tuple(sorted(self._by_title, key=lambda spelling: (-len(spelling), spelling)))

    def relation_of_title(self, title: str, subject: str | None = None) -> str | None:
        """Return the id of the relation that a title means, for a subject where one is given.

        "governor" is one relation for California and another for the Bank of England.
        """
        for relation in self._by_title.get(normalise(title), ()):
            if subject is None or relation.takes(subject):
                return relation.id
        return None

    def asked_title(self, relation_id: str, title: str) -> str:
        """Return the title that stands for ``title`` in questions, in small letters."""
        return self[relation_id].titles.get(normalise(title), title).casefold()

    def questions(self, relation_id: str, subject: str, title: str = "") -> tuple[str, ...]:
        """Return every phrasing, the canonical one first."""
        relation = self[relation_id]
        return tuple(_fill(phrasing, relation, subject, title) for phrasing in relation.questions)

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
    parts = {
        "title": relation.shown_title(title),
        "subject": with_article(subject),
        "owner": possessive(subject),
    }
    return re.sub(r"\{(title|subject|owner)\}", lambda match: parts[match.group(1)], template)


def load_registry(extra: Path | None = None) -> Registry:
    """Return the shipped relations and, over them, those of a user's own file.

    Raises RegistryError, one line with the file and the remedy.
    """
    shipped = resources.files("detectors").joinpath("relations.toml").read_text("utf-8")
    table = tomllib.loads(shipped)
    phrasings = table["phrasings"]
    relations = _rows(table, phrasings, "relations.toml")
    if extra is not None:
        own = _read(extra)
        relations |= _rows(own, phrasings | own.get("phrasings", {}), str(extra))
    return Registry(relations)


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


def _rows(
    table: Mapping[str, Any], phrasings: Mapping[str, Any], source: str
) -> dict[str, Relation]:
    rows = table.get("relation", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RegistryError(f"{source}: relations must be [[relation]] tables; write them so")
    relations = [
        _relation(row, phrasings, f"{source}, relation {n}") for n, row in enumerate(rows, 1)
    ]
    return {relation.id: relation for relation in relations}


def _relation(row: Mapping[str, Any], phrasings: Mapping[str, Any], where: str) -> Relation:
    relation_id = _text(row, "id", where)
    where = f"{where} ({relation_id})"
    titles = _texts(row, "titles", where)
    default_title = _text(row, "default_title", where)
    variants = row.get("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(v, str) for v in variants.values()):
        raise RegistryError(f"{where}: variants must map spellings to titles; mend it")
    listed = phrasings.get(str(row.get("phrasings", "")))
    questions = _texts({"questions": row.get("questions", listed)}, "questions", where)
    if len(questions) < 2 * ASKED:
        raise RegistryError(
            f"{where}: {len(questions)} phrasings, but {2 * ASKED} are needed "
            f"({ASKED} to ask, {ASKED} to test); add questions"
        )
    statement = _text(row, "statement", where)
    if "{object}" not in statement:
        raise RegistryError(f"{where}: the statement does not contain {{object}}; add it")
    spellings = {title: title for title in titles} | variants
    # Headings name an office in the plural: "Chancellors of Germany".
    spellings = {f"{spelling}s": asked for spelling, asked in spellings.items()} | spellings
    return Relation(
        id=relation_id,
        label=_text(row, "label", where),
        wikidata=str(row.get("wikidata", "")),
        cardinality=_choice(row, "cardinality", ("single", "many"), where),
        object_type=_choice(row, "object_type", _OBJECT_TYPES, where),
        approval=_choice(row, "approval", ("auto", "review"), where),
        default_title=default_title,
        titles={normalise(spelling): asked for spelling, asked in spellings.items()},
        subjects=_choice({"subjects": "any", **row}, "subjects", _SUBJECTS, where),
        subject_words=_texts(row, "subject_words", where, needed=False),
        subject_not=_texts(row, "subject_not", where, needed=False),
        fields=tuple(field.casefold() for field in _texts(row, "fields", where, needed=False)),
        elected=_choice({"elected": "waits", **row}, "elected", _ELECTED, where),
        questions=questions,
        statement=statement,
        same_subject=_texts(row, "same_subject", where, needed=False),
    )


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
