"""A language model among the extractors, for one cycle: within its budget, and done without when it
does not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from agent.config import ConfigError
from agent.extraction_model import extractor_of
from agent.progress import Progress
from agent.workspace import Workspace
from detectors.extractors import wikidata
from store.records import Claim, Document

if TYPE_CHECKING:
    from detectors.extractors.llm import LlmExtractor


class Reader:
    """Reads documents with the configured model; ``problem`` says why it stopped, if it did."""

    def __init__(self, extractor: LlmExtractor | None, budget: int, problem: str = "") -> None:
        self._extractor = extractor
        self._left = budget
        self.problem = problem
        self.dropped: Counter[str] = Counter()

    @classmethod
    def of(cls, ws: Workspace) -> Reader:
        """Return the reader that the configuration asks for; one that reads nothing when off."""
        budget = ws.config.extract.max_documents_per_cycle
        try:
            return cls(extractor_of(ws.config, ws.registry), budget)
        except ConfigError as error:
            return cls(None, 0, str(error))

    def read(
        self, documents: Sequence[Document], now: datetime, progress: Progress
    ) -> dict[str, list[Claim]]:
        """Return the claims by document id, of the newest documents that the budget allows."""
        plain = [document for document in documents if not wikidata.reads(document)]
        chosen = sorted(plain, key=lambda d: d.published or d.fetched, reverse=True)[: self._left]
        found: dict[str, list[Claim]] = {}
        if self._extractor is None or not chosen:
            return found
        from detectors.extractors.llm import ModelUnavailable

        with progress.stage("reading with a language model", len(chosen)) as advance:
            for document in chosen:
                try:
                    extraction = self._extractor.extract(document, now)
                except ModelUnavailable as error:
                    self._extractor, self.problem = None, str(error)
                    break
                self._left -= 1
                self.dropped.update(extraction.dropped)
                found[document.id] = list(extraction.claims)
                advance()
        return found

    def notes(self) -> list[str]:
        """Return what a person should know of this cycle's reading, a line each."""
        lines = [f"extract.llm: {self.problem}"] if self.problem else []
        if self.dropped:
            reasons = ", ".join(f"{count} {why}" for why, count in self.dropped.most_common())
            lines.append(f"extract.llm: statements that the document does not bear out: {reasons}")
        return lines
