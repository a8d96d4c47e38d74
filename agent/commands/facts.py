"""facts and check: what sources say, and what the model says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from agent.commands import output
from agent.commands.output import asked
from agent.commands.shell import AsJson, Limit, group, shell

if TYPE_CHECKING:
    from agent.workspace import Workspace
    from store.records import Fact, Slot

app = group("What sources say, with dates and quotes.")
top = group("Ask.")

_COLUMNS = {
    "slot": lambda fact: asked(next(iter(fact.titles), ""), fact.relation, fact.subject),
    "value": lambda fact: fact.object,
    "from": lambda fact: fact.valid_from,
    "until": lambda fact: fact.valid_until or ("former" if fact.former else ""),
    "claims": lambda fact: len(fact.claim_ids),
}
_EMPTY = "no facts yet; `corrigenda run --once` reads the feeds"


@app.command("ls", epilog="Example: corrigenda facts ls --slot germany")
def ls(
    ctx: typer.Context,
    slot: Annotated[str, typer.Option(help="Only slots whose name contains this text.")] = "",
    limit: Limit = 1000,
    as_json: AsJson = False,
) -> None:
    """List every known value, by slot and then by time."""
    with shell(ctx).open() as ws:
        facts = [fact for fact in ws.store.facts.ls() if _named(fact, slot)][:limit]
    empty = f"no facts about {slot!r}; `corrigenda facts ls` lists all" if slot else _EMPTY
    output.listing(facts, _COLUMNS, as_json, empty)


@app.command("show", epilog="Example: corrigenda facts show Germany chancellor")
def show(
    ctx: typer.Context,
    subject: Annotated[str, typer.Argument(help="Who or what it is about.")],
    relation: Annotated[str, typer.Argument(help='A relation or a title, as in "chancellor".')],
    as_json: AsJson = False,
) -> None:
    """Show one slot's history with the quotes it rests on."""
    from agent.config import ConfigError

    with shell(ctx).open() as ws:
        slot = _slot(ws, subject, relation)
        facts = ws.store.facts.history(slot) if slot else []
        if not facts:
            raise ConfigError(
                f"nothing is known about {relation} of {subject}; `corrigenda facts ls` lists all"
            )
        output.listing(facts, _COLUMNS | {"known since": _known_since}, as_json, _EMPTY)
        if as_json:
            return
        for fact in facts:
            for id in fact.claim_ids:
                if claim := ws.store.claims.get(id):
                    document = ws.store.documents.get(claim.document_id)
                    print(f"\n“{output.plain(claim.quote)}”")
                    print(f"  {output.plain(document.url if document else claim.document_id)}")


@app.command("as-of", epilog="Example: corrigenda facts as-of 2020-06-30 --slot germany")
def as_of(
    ctx: typer.Context,
    date: Annotated[str, typer.Argument(help="A day: 2020-06-30, or 2020-06, or 2020.")],
    slot: Annotated[str, typer.Option(help="Only slots whose name contains this text.")] = "",
    known_on: Annotated[
        str, typer.Option(help="By what was known at the end of this day (UTC); else now.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List what held on a day, by all that is known now or was known on another day."""
    from datetime import UTC, datetime, time

    for day in filter(None, (date, known_on)):
        if not _is_day(day) or (day == known_on and len(day) < len("2020-06-30")):
            raise typer.BadParameter(f"{day!r} is no day; write one like 2020-06-30")
    known = datetime.combine(datetime.fromisoformat(known_on), time.max, UTC) if known_on else None
    with shell(ctx).open() as ws:
        facts = [fact for fact in ws.store.facts.as_of(None, date, known) if _named(fact, slot)]
    output.listing(facts, _COLUMNS, as_json, f"nothing is known to have held on {date}")


@top.command(epilog='Example: corrigenda check "Who is the chancellor of Germany?"')
def check(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="A question that fits one of the relations.")],
    as_json: AsJson = False,
) -> None:
    """Compare what the model believes with what sources say.

    Prints the verdict, the rules that led to it, the sources, and the answer as served.
    """
    from agent.check import check as compare

    with shell(ctx).open() as ws:
        found = compare(ws, question, ws.now())
    if as_json:
        output.dump(found)
        return
    output.details(
        [
            ("question", found.question),
            ("verdict", found.kind),
            ("model believes", found.believed or "nothing stable"),
            ("sources say", found.current or "nothing"),
            ("served answer", found.served),
            ("by edit", found.edit_id),
        ]
    )
    for heading, lines in (
        ("because", found.path),
        ("sources", [f"“{s.quote}” {s.name}, {s.date} {s.url}" for s in found.sources]),
    ):
        print(f"\n{heading}") if lines else None
        for line in lines:
            print(f"  {output.plain(line)}")


def _named(fact: Fact, text: str) -> bool:
    name = " ".join([asked("", fact.relation, fact.subject), *fact.titles, fact.slot.key])
    return text.casefold() in name.casefold()


def _known_since(fact: Fact) -> str:
    return output.moment(fact.recorded_from)


def _slot(ws: Workspace, subject: str, relation: str) -> Slot | None:
    """Return the known slot that a person means by a name of it and a relation or title."""
    from detectors.entities import normalise, subject_aliases

    meant = ws.registry.relation_of_title(relation, subject) or relation
    wanted = normalise(subject)
    for slot in ws.store.facts.slots():
        names = [slot.subject, *subject_aliases(slot.subject)]
        if slot.relation.casefold() == meant.casefold() and wanted in map(normalise, names):
            return slot
    return None


def _is_day(text: str) -> bool:
    from datetime import date

    if not re.fullmatch(r"\d{4}(-\d\d){0,2}", text):
        return False
    try:
        date.fromisoformat((text + "-01-01")[:10])
    except ValueError:
        return False
    return True
