"""Write the database that the present schema gives, for the tests of all later schemas.

    PYTHONPATH=.:tests/store python tests/store/make_fixture.py

Run it once when a schema is released, and commit the file; never write one anew.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from store_samples import NOW, a_claim, a_document, a_verdict, after, an_edit, former, same_name

from store.feeds import FeedState
from store.library import Store
from store.migrations import MIGRATIONS
from store.records import EditState, Reply

FIXTURES = Path(__file__).parent / "fixtures"


def fill(store: Store) -> None:
    """Put something into every table."""
    document = a_document()
    claims = [
        a_claim("Friedrich Merz", "2025-05-06", document_id=document.id),
        former("Olaf Scholz", "2021-12-08", "2025-05-06", document_id=document.id),
    ]
    with store.begin() as conn:
        store.documents.add(document, conn)
        store.facts.assimilate(claims, same_name, NOW, conn=conn)
    store.facts.assimilate([a_claim("Jane Doe", "2026-11-01")], same_name, after(days=1))
    store.verdicts.add(a_verdict("stale"))
    for number, state in enumerate((EditState.REMEMBERED, EditState.REJECTED, None)):
        edit = an_edit(f"edit {number}")
        store.edits.add(edit)
        if state:
            store.edits.move(edit.id, state, after(minutes=number))
    store.edits.lease("worker", NOW)
    import torch

    tensors = {"model.layers.0.mlp.gate_proj.rows": torch.arange(4.0)}
    version = store.versions.save("base", "compiled", [], tensors, {"steps": 40}, NOW)
    store.versions.set_alias("serving", version.id, NOW)
    store.feeds.put(FeedState("feed", etag='"1"', polled=NOW))
    store.runs.add("cycle", NOW, {"documents": 1})
    reply = Reply("Who is the chancellor of Germany?", "Angela Merkel.", -0.1, 4, ("Merkel.",))
    store.replies.put({("base", "settings", reply.question): reply}, NOW)


def write(path: Path) -> None:
    """Write a filled database as one small file."""
    with tempfile.TemporaryDirectory() as home:
        with Store(Path(home)) as store:
            fill(store)
        with closing(sqlite3.connect(Path(home) / "corrigenda.db", isolation_level=None)) as conn:
            for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA page_size = 512", "VACUUM"):
                conn.execute(statement)
        path.write_bytes((Path(home) / "corrigenda.db").read_bytes())


if __name__ == "__main__":
    FIXTURES.mkdir(exist_ok=True)
    write(FIXTURES / f"schema_{len(MIGRATIONS)}.db")
