"""All repositories over one home folder."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection

from store.claims import Claims
from store.database import open_database, sqlite_url
from store.documents import Documents
from store.edits import Edits
from store.facts import Facts
from store.feeds import Feeds
from store.ledger import Ledger
from store.replies import Replies
from store.runs import Runs
from store.verdicts import Verdicts
from store.versions import Versions


class Store:
    """What lasts, opened. Use it as a context manager, or close it.

    ``home`` holds ``corrigenda.db`` and ``versions/``; ``url`` names another database.
    Raises StoreError when either cannot be used.
    """

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.home = home
        self.database = open_database(url or sqlite_url(home / "corrigenda.db"))
        self.ledger = Ledger(self.database)
        self.documents = Documents(self.database)
        self.claims = Claims(self.database)
        self.facts = Facts(self.database, self.claims, self.ledger)
        self.verdicts = Verdicts(self.database)
        self.edits = Edits(self.database, self.ledger)
        self.versions = Versions(self.database, self.ledger, home / "versions")
        self.feeds = Feeds(self.database)
        self.runs = Runs(self.database)
        self.replies = Replies(self.database)

    def begin(self) -> AbstractContextManager[Connection]:
        """Run one transaction over several repositories: hand its connection to each call."""
        return self.database.begin()

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
