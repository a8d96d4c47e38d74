"""Nearest texts: the newest of the equally near, none beside, a threshold that is measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import words

from editors.architectures import view
from editors.memory.similarity import SAME, Cached, Index, best, own_states
from editors.model import ChatModel
from editors.question_embeddings import Asked, embedder, embeddings

GERMANY, PERU, KENYA = (Asked(f"Who is the president of {x}?", True) for x in ("A", "Peru", "K"))
CAPITAL = Asked("What is the capital city of Peru?", True)
texts = st.lists(st.text("abcd ", min_size=1, max_size=12), min_size=1, max_size=5)


@given(texts, texts)
def test_an_entry_is_as_near_as_its_nearest_wording(stored: list[str], asked: list[str]) -> None:
    wordings = [[Asked(text, True), Asked(text[::-1], True)] for text in stored]
    questions = [Asked(text, True) for text in asked]
    made = Index(Cached(words), wordings).likeness(questions)
    assert made.shape == (len(asked), len(stored))
    for row, question in zip(made, questions, strict=True):
        for at, own in enumerate(wordings):
            alone = (words([question]) @ words(own).T).max()
            torch.testing.assert_close(row[at], alone)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6))
def test_the_best_is_the_newest_of_the_nearest(likeness: list[float]) -> None:
    at, near = best(torch.tensor(likeness), slack=0.0)
    assert near == max(likeness)
    assert max(likeness) not in likeness[at + 1 :]


def test_what_was_written_again_finds_the_newer_entry() -> None:
    index = Index(Cached(words), [[PERU], [KENYA], [PERU]])
    assert index.nearest([PERU, KENYA])[0][0] == 2
    assert index.match([PERU, KENYA], least=0.5) == [2, 1]


def test_a_question_nearer_to_a_neighbour_finds_nothing() -> None:
    asked = Asked("What is the capital of Peru?", True)
    open_to_all = Index(Cached(words), [[PERU]])
    beside = Index(Cached(words), [[PERU]], beside=[CAPITAL, PERU])
    assert open_to_all.match([asked], least=0.1) == [0]
    assert beside.match([asked], least=0.1) == [None]
    assert beside.match([PERU], least=0.1) == [0], "its own wording is never a neighbour's"


def test_an_empty_index_finds_nothing() -> None:
    index = Index(Cached(words), [])
    assert index.match([PERU], least=0.0) == [None]
    assert index.nearest([PERU]) == []
    assert index.likeness([PERU]).shape == (1, 0)
    assert index.calibrated([KENYA], 0.0) == SAME


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_threshold_lets_in_the_share_of_strangers_that_it_may(share: float) -> None:
    strangers = [Asked(f"What is the {w} of Peru?", True) for w in ("river", "lake", "hill")]
    index = Index(Cached(words), [[PERU]])
    least = index.calibrated(strangers, share)
    near = [cosine for _, cosine in index.nearest(strangers)]
    assert sum(one > least + 1e-6 for one in near) <= share * len(near)
    assert 0 < least < 1


def test_an_encoder_reads_a_kept_text_once_and_a_passing_one_is_not_kept() -> None:
    read: list[Asked] = []

    def counted(asked: object) -> torch.Tensor:
        read.extend(asked)  # type: ignore[arg-type]
        return words(asked)  # type: ignore[arg-type]

    cached = Cached(counted)
    assert cached([PERU, KENYA, PERU]).shape[0] == 3
    torch.testing.assert_close(cached.once([KENYA, CAPITAL, PERU]), words([KENYA, CAPITAL, PERU]))
    cached.once([CAPITAL])
    assert read == [PERU, KENYA, CAPITAL, CAPITAL]


def test_the_models_own_states_are_the_default_encoder(tiny_model: ChatModel) -> None:
    made = own_states(tiny_model, 0.3)([PERU, CAPITAL])
    shown = view(tiny_model)
    torch.testing.assert_close(made, embeddings(shown, [PERU, CAPITAL], embedder(shown, 1)))
