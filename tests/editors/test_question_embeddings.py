"""Question embeddings: of unit length, the question's own tokens only, batches make no odds."""

import torch

from editors.architectures import view
from editors.model import ChatModel
from editors.question_embeddings import Asked, embedder, embeddings, question_at
from editors.runtime import Turns

QUESTIONS = ("Who is the chancellor of Germany?", "What language is spoken in Nigeria?")


def test_embeddings_are_unit_vectors_one_a_question(tiny_model: ChatModel) -> None:
    made = embedder(view(tiny_model), 1)
    asked = [Asked(q, chat) for q in QUESTIONS for chat in (True, False)]
    found = embeddings(view(tiny_model), asked, made)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    alone = torch.cat([embeddings(view(tiny_model), [one], made) for one in asked])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-3)
    assert embeddings(view(tiny_model), [], made).shape == (0, tiny_model.hidden_size)


def test_whitened_tokens_of_ordinary_questions_spread_evenly(tiny_model: ChatModel) -> None:
    """No direction of ordinary questions dominates: raw states' largest one holds most."""
    made = embedder(view(tiny_model), 2)
    spread = torch.linalg.eigvalsh(made.whiten.double())
    assert spread.min() > 0
    assert spread.max() / spread.min() > 3


def test_the_first_token_of_a_text_is_left_out(tiny_model: ChatModel) -> None:
    turns = Turns(tiny_model)
    ids = tiny_model.encode("The harbour was quiet")
    assert question_at(turns, ids) == slice(1, len(ids))
    assert question_at(turns, ids[:1]) == slice(0, 1)
    chat = tiny_model.encode(tiny_model.render(QUESTIONS[0]))
    assert tiny_model.decode(chat[question_at(turns, chat)]) == QUESTIONS[0]
