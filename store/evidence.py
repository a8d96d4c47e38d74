"""What the documents say, searchable by meaning: a Chroma collection behind LangChain."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from store.errors import StoreError
from store.failpoints import reach
from store.records import Document

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.client import Client
    from langchain_core.documents import Document as Piece
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStoreRetriever

PASSAGE_LENGTH = 600  # characters: a few sentences, well within what small embedders read
PASSAGE_OVERLAP = 60  # characters

_BATCH = 128  # passages embedded and written at once


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of a document; ``score`` is its cosine similarity to the query, at most 1."""

    text: str
    document_id: str
    url: str
    title: str
    score: float


class Evidence:
    """Passages of documents, embedded once each. Close it, or use it as a context manager.

    ``client`` is any Chroma client (a server's, an in-memory one) and stays the caller's
    to close; without it the index lives in the folder ``path``. Raises StoreError when the
    index cannot be opened.
    """

    def __init__(
        self,
        path: Path | None,
        embeddings: Embeddings,
        client: ClientAPI | None = None,
        collection: str = "evidence",
    ) -> None:
        from langchain_chroma import Chroma

        if client is None and path is None:
            raise StoreError("evidence has no place; give it a folder or a Chroma client")
        self._place = str(path) if client is None else "on the Chroma server"
        with self._readable_errors():
            self._opened = _open(path) if client is None and path is not None else None
            self._chroma = Chroma(
                collection,
                embeddings,
                client=client or self._opened,
                collection_configuration={"hnsw": {"space": "cosine"}},
            )

    def add(self, documents: Iterable[Document]) -> int:
        """Index documents and return how many passages were new; known ones cost nothing.

        Raises StoreError when the embeddings are not those that the index was made with.
        """
        added = 0
        for batch in _batches(_pieces(documents)):
            with self._readable_errors():
                known = set(self._chroma.get(ids=list(batch), include=[])["ids"])
                new = [piece for id, piece in batch.items() if id not in known]
                if new:
                    self._chroma.add_documents(new)
            added += len(new)
        reach("evidence.added")
        return added

    def remove(self, document_ids: Collection[str]) -> None:
        """Drop the passages of documents; unknown ids are ignored."""
        if document_ids:
            with self._readable_errors():
                self._chroma.delete(where={"document_id": {"$in": sorted(document_ids)}})

    def search(self, query: str, k: int = 4) -> list[Passage]:
        """Return the ``k`` passages nearest to a query, best first."""
        with self._readable_errors():
            found = self._chroma.similarity_search_with_score(query, k=k)
        return [_passage(piece, distance) for piece, distance in found]

    def retriever(self, k: int = 4) -> VectorStoreRetriever:
        """Return the index as a LangChain retriever of ``k`` passages."""
        return self._chroma.as_retriever(search_kwargs={"k": k})

    def count(self) -> int:
        """Return the number of passages."""
        with self._readable_errors():
            return len(self._chroma.get(include=[])["ids"])

    def close(self) -> None:
        """Release the index where this object opened it."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Evidence:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        from chromadb.errors import ChromaError

        try:
            yield
        except (ChromaError, OSError) as error:
            reason = " ".join(str(error).split())
            remedy = (
                "it was made with other embeddings; configure those again or delete it to rebuild"
                if "dimension" in reason
                else "check its place, or delete it to rebuild"
            )
            raise StoreError(f"evidence index {self._place} failed ({reason}); {remedy}") from error


def _open(path: Path) -> Client:
    import chromadb
    from chromadb.config import Settings

    path.mkdir(parents=True, exist_ok=True)
    settings = Settings(anonymized_telemetry=False)
    return cast("Client", chromadb.PersistentClient(str(path), settings=settings))


def _pieces(documents: Iterable[Document]) -> Iterator[Piece]:
    """Cut documents into passages with ids that depend on nothing but the document."""
    from langchain_core.documents import Document as Piece
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        chunk_size=PASSAGE_LENGTH, chunk_overlap=PASSAGE_OVERLAP
    )
    for document in documents:
        metadata = {
            "document_id": document.id,
            "feed": document.feed,
            "url": document.url,
            "title": document.title,
            "published": document.published.isoformat() if document.published else "",
        }
        for number, text in enumerate(splitter.split_text(document.text)):
            yield Piece(text, id=f"{document.id}:{number}", metadata=metadata)


def _batches(pieces: Iterable[Piece]) -> Iterator[dict[str, Piece]]:
    """Yield pieces by id, some at a time; Chroma refuses an id that comes twice in a batch."""
    batch: dict[str, Piece] = {}
    for piece in pieces:
        assert piece.id is not None
        batch[piece.id] = piece
        if len(batch) == _BATCH:
            yield batch
            batch = {}
    if batch:
        yield batch


def _passage(piece: Piece, distance: float) -> Passage:
    meta = piece.metadata
    return Passage(
        piece.page_content, meta["document_id"], meta["url"], meta["title"], 1.0 - distance
    )
