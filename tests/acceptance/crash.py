"""Kill the program at random moments and at every named place; show that nothing is lost.

    PYTHONPATH=.:tests python tests/acceptance/crash.py --kills 500

Each round brings a piece of news and then runs a whole turn, cycle and night, on a tiny real
model with a real database, a real evidence index and real version folders. The turn runs in
a child that is killed: at a failpoint, or at a random moment. After every kill the home is
looked over; after some rounds a turn is left to end, and what is there then must be what a
program that was never killed comes to. Prints one line of JSON; exit code 1 for a violation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import chromadb.api.client
import chromadb.api.rust  # noqa: F401  likewise
import langchain_chroma  # noqa: F401  likewise
import langchain_text_splitters  # noqa: F401  likewise
import sqlalchemy as sa
import torch
from langchain_core.vectorstores import InMemoryVectorStore, VectorStoreRetriever
from samples import REGISTRY, SLOTS, HashedWords
from toy_model import CORPUS, random_model, teach
from workspaces import LENIENT

from agent.config import (
    Config,
    ConsolidationConfig,
    FeedEntry,
    ModelConfig,
    TrustConfig,
    VersionsConfig,
)
from agent.cycle import poll_feeds, run_once
from agent.nightly import nightly
from agent.progress import Silent
from agent.workspace import Workspace
from editors.model import ChatModel
from store.errors import StoreError
from store.failpoints import FAILPOINTS, VARIABLE
from store.library import Store
from store.records import ACTIVE_STATES, Document, EditState

ROUNDS = 40  # in one home; then another begins, so that a long run stays as fast as a short one
FIRST = ("Ada", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Irina", "Jonas")
LAST = ("Lindqvist", "Marquez", "Novak", "Okafor", "Petrov", "Quispe", "Rossi", "Schmidt")


class World:
    """What happens outside: one change of an office a round, told by a new file of the feed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.holders: dict[str, str] = {}
        self._rounds = 0
        folder.mkdir()
        for number, (subject, _, title, holder) in enumerate(SLOTS):  # what the model knows
            self._tell(f"former-{number}", 1970 + number, holder, title, subject)

    def go_on(self) -> None:
        number = self._rounds
        self._rounds += 1
        subject, _, title, _ = SLOTS[number % len(SLOTS)]
        name = f"{FIRST[number % len(FIRST)]} {LAST[number // len(FIRST) % len(LAST)]}"
        self._tell(f"{number:03}", 1980 + number, name, title, subject)
        self.holders[subject] = name

    def _tell(self, file: str, year: int, name: str, title: str, subject: str) -> None:
        page = (
            f'<html><head><meta name="date" content="{year}-05-06"><title>News</title></head>'
            f"<body><p>{name} is sworn in as {title} of {subject}.</p></body></html>"
        )
        (self.folder / f"{file}.html").write_text(page, encoding="utf-8")


class NoIndex:
    """Evidence that keeps nothing: the real index starts threads, which do not go with forking."""

    def add(self, documents: Sequence[Document]) -> int:
        return 0

    def remove(self, document_ids: Sequence[str]) -> None:
        pass

    def retriever(self, k: int = 4) -> VectorStoreRetriever:
        return InMemoryVectorStore(HashedWords()).as_retriever()

    def close(self) -> None:
        pass


class Program:
    """The program on one home; each turn runs in a child of its own."""

    def __init__(self, home: Path, model: ChatModel, world: World) -> None:
        self.home = home
        self.world = world
        self._model = model
        self.acknowledged: dict[int, str] = {}  # digests of ledger entries by number
        home.mkdir()
        statistics = home / "statistics.txt"
        statistics.write_text("\n".join(CORPUS * 20), encoding="utf-8")
        self._config = Config(
            feeds=(FeedEntry(name="news", url=str(world.folder), trusted=True),),
            model=ModelConfig(max_new_tokens=16),
            # One feed brings hundreds of changes in an hour.
            trust=TrustConfig(edits_per_source_per_day=100_000, edits_per_night=100_000),
            consolidation=ConsolidationConfig(statistics=str(statistics), **LENIENT),
            versions=VersionsConfig(keep=2, keep_monthly=0),
        )

    def open(self) -> Workspace:
        ws = Workspace(self.home, self._config)
        given = {"model": self._model, "base_hash": self._model.base_hash}
        ws.__dict__.update(given, embeddings=HashedWords())
        return ws

    def warm_up(self) -> None:
        """Have a turn in this process, so that what is loaded once is there for the children."""
        with self.open() as ws:
            ws.__dict__["evidence"] = NoIndex()
            run_once(ws, ws.now(), Silent())
            nightly(ws, ws.now(), Silent())

    def turn(self, failpoint: str = "", kill_after: float | None = None) -> tuple[int, float]:
        """Run a cycle and a night in a child; return its wait status and its seconds."""
        reader, writer = os.pipe()
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.environ[VARIABLE] = failpoint
            os._exit(self._work(writer))
        os.close(writer)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reader, encoding="ascii") as lines:
            whole = [line.split() for line in lines if line.endswith("\n")]
        _, status = os.waitpid(child, 0)
        self.acknowledged.update((int(seq), seal) for seq, seal in whole)
        return status, time.monotonic() - started

    def _work(self, writer: int) -> int:
        def acknowledge(connection: sqlite3.Connection, _record: object) -> None:
            """Tell what is committed, as a user would be told, once it is."""
            found = connection.execute("SELECT entries, digest FROM ledger_head").fetchone()
            os.write(writer, f"{found[0]} {found[1]}\n".encode() if found[0] else b"")

        try:
            with self.open() as ws:
                sa.event.listen(ws.store.database.engine, "checkin", acknowledge)
                run_once(ws, ws.now(), Silent())
                nightly(ws, ws.now(), Silent())
            return 0
        except BaseException:
            traceback.print_exc()
            return 1


def violations(program: Program) -> Iterator[str]:
    """Yield what must never be seen, at whatever moment the program was killed."""
    with Store(program.home) as store:
        if damage := store.database.check():
            yield f"database: {damage}"
        if (bad := store.ledger.verify()) is not None:
            yield f"ledger entry {bad} is not as it was written"
        entries = {entry.seq: entry.digest for entry in store.ledger.entries()}
        for seq, seal in program.acknowledged.items():
            if entries.get(seq) != seal:
                yield f"ledger entry {seq} was acknowledged and is lost"
        versions = {version.id: version for version in store.versions.ls()}
        for version in versions.values():
            try:
                store.versions.load(version)
            except StoreError as error:
                yield str(error)
        for name, id in store.versions.aliases().items():
            if id not in versions:
                yield f"alias {name} stands for {id}, which is unknown"
        edits = {edit.id: edit for edit in store.edits.ls()}
        for version in versions.values():
            slots = [edits[id].slot.key for id in version.edit_ids if id in edits]
            if len(slots) != len(version.edit_ids):
                yield f"version {version.id} carries edits that are unknown"
            if len(set(slots)) != len(slots):
                yield f"version {version.id} carries a slot twice"
        active = [edit.slot.key for edit in edits.values() if edit.state in ACTIVE_STATES]
        if len(set(active)) != len(active):
            yield "a slot has two active edits"
        serving = store.versions.alias("serving")
        carried = set(serving.edit_ids) if serving else set()
        for edit in edits.values():
            if edit.state is EditState.CONSOLIDATED and edit.id not in carried:
                yield f"edit {edit.id} is consolidated, but not in the version that is served"
        claims = {claim.id for claim in store.claims.ls()}
        documents = {document.id for document in store.documents.ls()}
        if any(set(fact.claim_ids) - claims for fact in store.facts.ls()):
            yield "a fact rests on a claim that is lost"
        if any(claim.document_id not in documents for claim in store.claims.ls()):
            yield "a claim's document is lost"


def unfinished(program: Program, scratch: Path) -> Iterator[str]:
    """Yield what is missing or left over once a turn has ended undisturbed."""
    with Store(program.home) as store:
        answered = {e.subject: e.new for e in store.edits.ls(*ACTIVE_STATES)}
        if answered != program.world.holders:
            yield f"answered is {answered}, but the news are {program.world.holders}"
        if waiting := store.edits.ls(EditState.QUEUED, EditState.PARKED, EditState.PROPOSED):
            yield f"{len(waiting)} edits wait or are parked: {waiting[0].reason}"
        serving = store.versions.alias("serving")
        active = {edit.id for edit in store.edits.ls(*ACTIVE_STATES)}
        if serving is None or set(serving.edit_ids) != active:
            yield "the version that is served does not carry every active edit"
        known = {version.id for version in store.versions.ls()}
        left = {path.name for path in store.versions.root.iterdir()} - known
        if left:
            yield f"left over in the versions' folder: {', '.join(sorted(left))}"
        if len(known) > 3:  # two newest, and a candidate or previous one
            yield f"{len(known)} versions are kept"
        facts, documents = store.facts.digest(), {d.id for d in store.documents.ls()}
    yield from _in_child(lambda: _evidence_lost(program, documents))
    control = Program(scratch, program._model, program.world)
    if _in_child(lambda: _facts_of(control)) != [facts]:
        yield "the facts are not those of a program that was never killed"


def _facts_of(control: Program) -> list[str]:
    with control.open() as ws:
        poll_feeds(ws, ws.now(), Silent())
        return [ws.store.facts.digest()]


def _evidence_lost(program: Program, documents: set[str]) -> list[str]:
    with program.open() as ws:
        found = {passage.document_id for passage in ws.evidence.search("sworn in", k=1000)}
    return [f"{len(documents - found)} documents have no evidence"] if documents - found else []


def _in_child(work: Callable[[], list[str]]) -> list[str]:
    """Run in a child, because of the index's threads."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:
        text = lines.read()
    os.waitpid(child, 0)
    return json.loads(text or '["a child failed"]')


def crash(kills: int, seed: int) -> dict[str, Any]:
    """Do so many kills and return what came of them."""
    torch.set_num_threads(1)
    chance = random.Random(seed)
    answers = {
        question: REGISTRY.statement(relation, subject, title, holder)
        for subject, relation, title, holder in SLOTS
        for question in REGISTRY.questions(relation, subject, title)
    }
    model = teach(random_model(), answers)
    found: list[str] = []
    done, reached, places = 0, set[str](), list(FAILPOINTS)
    with tempfile.TemporaryDirectory() as scratch:
        world = World(Path(scratch, "feed"))
        world.go_on()
        Program(Path(scratch, "home"), model, world).warm_up()
        for home in range(-(-kills // ROUNDS)):
            folder = Path(scratch, str(home))
            folder.mkdir()
            program = Program(folder / "home", model, World(folder / "feed"))
            seconds = 0.0
            # All is corrected once while no weights are changed, and there are enough versions for
            # every place to lie on the way.
            for news in (len(SLOTS), 1, 1):
                for _ in range(news):
                    program.world.go_on()
                status, seconds = program.turn()
                found += [f"a turn failed with {status}"] if status else []
            for _ in range(min(ROUNDS, kills - done)):
                program.world.go_on()
                # Places first, then mostly moments.
                place = places.pop(0) if places else chance.choice([*FAILPOINTS, *[""] * 32])
                if place:
                    status, _ = program.turn(failpoint=place)
                else:
                    moment = chance.uniform(0, seconds)
                    status, _ = program.turn(kill_after=moment)
                    # What was over by then is shorter than was thought.
                    seconds = moment if status == 0 else seconds
                killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                if place and killed:
                    reached.add(place)
                elif place or not (killed or status == 0):
                    found.append(f"a turn to be killed at {place or 'a moment'} gave {status}")
                done += killed
                found += [f"{place or 'a moment'}: {what}" for what in violations(program)]
            status, _ = program.turn()
            found += [f"the last turn failed with {status}"] if status else []
            found += [*violations(program), *unfinished(program, folder / "control")]
    return {
        "kills": done,
        "failpoints": sorted(reached),
        "violations": found,
        "seed": seed,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    outcome = crash(options.kills, options.seed)
    print(json.dumps({**outcome, "seconds": round(time.monotonic() - started, 1)}))
    sys.exit(1 if outcome["violations"] else 0)
