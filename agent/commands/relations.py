"""relations: what can be asked, and what a text says of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import AsJson, group, shell

if TYPE_CHECKING:
    from detectors.relations import Registry, Relation
    from store.records import Claim, Document

app = group("What can be asked: offices, owners, capitals, numbers and the rest.")

Own = Annotated[
    Path | None,
    typer.Option("--relations", help="A TOML file with relations of your own; else the config's."),
]


@app.command("ls", epilog="Example: corrigenda relations ls --json")
def ls(ctx: typer.Context, relations: Own = None, as_json: AsJson = False) -> None:
    """List the relations, those of one's own first."""
    output.listing(
        [_row(relation) for relation in _registry(ctx, relations)],
        {
            "relation": lambda row: row["id"],
            "wikidata": lambda row: row["wikidata"],
            "values": lambda row: f"{row['cardinality']} {row['object_type']}",
            "of": lambda row: row["subjects"],
            "edits": lambda row: row["approval"],
            "titles": lambda row: _brief(row["titles"]),
        },
        as_json,
        "no relations",
    )


@app.command("show", epilog="Example: corrigenda relations show head_of_government")
def show(
    ctx: typer.Context,
    relation_id: Annotated[str, typer.Argument(metavar="ID", help="A relation's id.")],
    relations: Own = None,
    as_json: AsJson = False,
) -> None:
    """Show one relation: how it is asked, stated, found in a text and compared."""
    row = _row(_registry(ctx, relations)[relation_id])
    if as_json:
        output.dump(row)
        return
    lists = {key: value for key, value in row.items() if isinstance(value, (list, dict))}
    output.details((key, value) for key, value in row.items() if key not in lists)
    for key, values in lists.items():
        if values:
            print(f"{key}:")
        for value in values.items() if isinstance(values, dict) else values:
            print(f"  {output.plain(' = '.join(value) if isinstance(value, tuple) else value)}")


@app.command("test", epilog="Example: corrigenda relations test article.txt --published 2025-05-06")
def try_it(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A text, HTML, PDF or JSON file; - reads a text.")],
    title: Annotated[str, typer.Option(help="The document's title; else the file's own.")] = "",
    published: Annotated[
        str, typer.Option(help="When it was published; else what it says, or today.")
    ] = "",
    relations: Own = None,
    as_json: AsJson = False,
) -> None:
    """Show what a text claims, keeping nothing: each claim with its span and dates."""
    from detectors.extractors import extract

    now = datetime.now(UTC)
    registry = _registry(ctx, relations)
    document = _document(file, title, published, now)
    claims = extract(document, registry, now)
    if as_json:
        for claim in claims:
            output.dump(claim)
        return
    for claim in claims:
        _print(claim, registry)
    if not claims:
        print("nothing found: no sentence or field states a value that a relation asks for")


def _registry(ctx: typer.Context, own: Path | None) -> Registry:
    if own is not None:
        from detectors.relations import load_registry

        return load_registry(own)
    with shell(ctx).open() as ws:
        return ws.registry


def _document(file: str, title: str, published: str, now: datetime) -> Document:
    from agent.documents import parse_date, to_text
    from store.records import Document, digest

    if file == "-":
        body, name = sys.stdin.buffer.read(), "stdin.txt"
    else:
        path = Path(file).expanduser()
        if not path.is_file():
            raise typer.BadParameter(f"no file {file}; give a document, or - for a text")
        body, name = path.read_bytes(), path.name
    day = parse_date(published) if published else None
    if published and day is None:
        raise typer.BadParameter(f"{published!r} is no date; write it as 2025-05-06")
    found = to_text(body, "text/plain" if file == "-" else "", name)
    content = digest(found.text)
    return Document(
        id=content,
        feed="test",
        url=name,
        title=title or found.title,
        text=found.text,
        fetched=now,
        published=day or found.published or now,
        content_hash=content,
    )


def _print(claim: Claim, registry: Registry) -> None:
    asked = claim.title or registry[claim.relation].label
    acting = ", acting" if claim.acting else ""
    spell = " ".join(
        f"{word} {day}"
        for word, day in (("from", claim.valid_from), ("until", claim.valid_until))
        if day
    )
    dated = f"{spell} (by the {_SAID.get(claim.dated_by, claim.dated_by)})" if spell else "undated"
    head = f"{asked} of {claim.subject}: {claim.object}  [{claim.role.value}{acting}]"
    print(output.plain(head))
    print(f"    {claim.relation}, {dated}, found by {claim.extractor}")
    print(f"    {claim.start}-{claim.end}: {output.plain(claim.quote)}")


_SAID = {"text": "text", "published": "publication date"}


def _row(relation: Relation) -> dict[str, Any]:
    """A relation as JSON: every key of the registry's rows, with its value in force."""
    return {
        "id": relation.id,
        "label": relation.label,
        "wikidata": relation.wikidata,
        "cardinality": relation.cardinality,
        "object_type": relation.object_type,
        "tolerance": relation.tolerance if relation.object_type == "number" else None,
        "unit": relation.unit,
        "approval": relation.approval,
        "subjects": relation.subjects,
        "elected": relation.elected,
        "default_title": relation.default_title,
        "statement": relation.statement,
        "titles": list(dict.fromkeys(relation.titles.values())),
        "spellings": dict(relation.titles),
        "questions": list(relation.questions),
        "fields": list(relation.fields),
        "cues": list(relation.cues),
        "elsewhere": sorted(relation.elsewhere),
        "only": {title: ", ".join(words) for title, words in relation.only.items()},
        "subject_words": list(relation.subject_words),
        "subject_not": list(relation.subject_not),
        "same_subject": list(relation.same_subject),
    }


def _brief(titles: Iterable[str]) -> str:
    shown = ", ".join(titles)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
