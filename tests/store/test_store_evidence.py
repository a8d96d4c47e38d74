"""Evidence is embedded once, found by meaning, and keeps its source beside it."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.embeddings import Embeddings
from store_samples import a_document

from store.errors import StoreError
from store.evidence import PASSAGE_LENGTH, Evidence


class WordCounts(Embeddings):
    """Bags of words hashed into a few buckets: deterministic, and near for shared words."""

    def __init__(self, size: int = 64) -> None:
        self.size = size
        self.embedded = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        vector = [0.01] * self.size
        for word in text.casefold().split():
            vector[zlib.crc32(word.strip(".,?").encode()) % self.size] += 1.0
        return vector


MERZ = a_document("https://news.example/merz", "Friedrich Merz is the chancellor of Germany.")
CARNEY = a_document("https://news.example/carney", "Mark Carney leads the cabinet in Ottawa.")


@pytest.fixture
def embeddings() -> WordCounts:
    return WordCounts()


@pytest.fixture
def evidence(tmp_path: Path, embeddings: WordCounts) -> Iterator[Evidence]:
    with Evidence(tmp_path / "evidence", embeddings) as opened:
        yield opened


def test_the_nearest_passage_comes_first_with_its_source(evidence: Evidence) -> None:
    assert evidence.add([MERZ, CARNEY]) == 2
    first, second = evidence.search("Who is the chancellor of Germany?", k=2)
    assert (first.text, first.document_id) == (MERZ.text, MERZ.id)
    assert (first.url, first.title) == (MERZ.url, MERZ.title)
    assert 1.0 >= first.score > second.score


def test_known_passages_are_not_embedded_again(evidence: Evidence, embeddings: WordCounts) -> None:
    evidence.add([MERZ])
    assert evidence.add([MERZ, CARNEY, CARNEY]) == 1
    assert embeddings.embedded == 2
    assert evidence.count() == 2


def test_a_long_document_is_cut_into_passages_that_fit(evidence: Evidence) -> None:
    text = " ".join(f"Sentence number {number} says something." for number in range(300))
    added = evidence.add([a_document(text=text, published=None)])
    assert added > len(text) // PASSAGE_LENGTH
    assert evidence.count() == added
    assert all(len(passage.text) <= PASSAGE_LENGTH for passage in evidence.search("number", k=9))


def test_the_index_survives_reopening(tmp_path: Path, embeddings: WordCounts) -> None:
    for _ in range(2):
        with Evidence(tmp_path / "evidence", embeddings) as evidence:
            evidence.add([MERZ])
    assert embeddings.embedded == 1


def test_a_retriever_gives_langchain_documents(evidence: Evidence) -> None:
    evidence.add([MERZ, CARNEY])
    (found,) = evidence.retriever(k=1).invoke("chancellor of Germany")
    assert found.metadata["url"] == MERZ.url


def test_an_empty_index_finds_nothing(evidence: Evidence) -> None:
    assert evidence.add([]) == 0
    assert evidence.search("anything") == []


def test_a_client_can_be_given(embeddings: WordCounts) -> None:
    import chromadb

    client = chromadb.EphemeralClient()
    with Evidence(None, embeddings, client=client, collection="given") as evidence:
        evidence.add([MERZ])
        assert client.get_collection("given").count() == 1


def test_other_embeddings_than_the_index_was_made_with_are_refused(
    tmp_path: Path, evidence: Evidence
) -> None:
    evidence.add([MERZ])
    with (
        Evidence(tmp_path / "evidence", WordCounts(size=32)) as other,
        pytest.raises(StoreError, match="made with other embeddings"),
    ):
        other.add([CARNEY])


def test_evidence_without_a_place_is_refused(embeddings: WordCounts) -> None:
    with pytest.raises(StoreError, match="give it a folder"):
        Evidence(None, embeddings)


def test_a_place_that_cannot_hold_an_index_is_named(tmp_path: Path, embeddings: WordCounts) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*failed"):
        Evidence(tmp_path / "file", embeddings)
