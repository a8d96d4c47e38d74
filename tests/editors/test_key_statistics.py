"""Key statistics against moments that are computed the direct way."""

import itertools
import json
from pathlib import Path

import pytest
import torch

from editors.key_statistics import MIN_TOKENS, KeyStatistics, everyday_chat, key_statistics
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import mlp_inputs

TEXTS = ["The harbour was quiet in the early morning. " * 40, "Who is there? " * 60]


def moments(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = torch.stack([torch.outer(x, x) for x in inputs.double()]).mean(0)
    return total, inputs.double().mean(0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_moment_and_mean_weigh_text_and_chat_as_asked(tiny_model: ChatModel, share: float) -> None:
    found = key_statistics(tiny_model, TEXTS, 1, max_tokens=600, window=100, chat_weight=share)
    ids = [token for text in TEXTS for token in tiny_model.encode(text)][:600]
    first = len(tiny_model.encode(TEXTS[0]))
    # Windows do not reach over the end of a text.
    cuts = sorted({*range(0, first, 100), *range(first, 600, 100), 600})
    windows = [ids[a:b] for a, b in itertools.pairwise(cuts)]
    chat = everyday_chat(tiny_model)
    text_moment, text_mean = moments(mlp_inputs(tiny_model, windows, 1))
    chat_moment, chat_mean = moments(mlp_inputs(tiny_model, chat, 1))
    torch.testing.assert_close(
        found.moment, (1 - share) * text_moment + share * chat_moment, atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        found.mean, (1 - share) * text_mean + share * chat_mean, atol=1e-4, rtol=1e-4
    )
    assert found.tokens == 600 + sum(map(len, chat))
    assert (found.layer, found.moment.dtype) == (1, torch.float64)


def test_too_little_text_is_refused_with_the_setting_to_mend(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match=rf"{MIN_TOKENS} tokens .*consolidation\.statistics"):
        key_statistics(tiny_model, ["Too short."], 1)
    with pytest.raises(EditorError, match="got 0"):
        key_statistics(tiny_model, [], 1)


def test_statistics_survive_the_way_through_their_tensors(tiny_model: ChatModel) -> None:
    found = key_statistics(tiny_model, TEXTS, 2, max_tokens=500)
    back = KeyStatistics.from_tensors(found.tensors())
    assert (back.layer, back.tokens) == (2, found.tokens)
    assert back.moment.equal(found.moment)
    assert back.mean.equal(found.mean)


def test_everyday_chat_is_kept_for_a_model(tiny_model: ChatModel, tmp_path: Path) -> None:
    first = everyday_chat(tiny_model, tmp_path)
    assert first == everyday_chat(tiny_model)
    (path,) = (tmp_path / "everyday_chat").iterdir()
    question = "Who painted the Mona Lisa?"
    path.write_text(json.dumps(json.loads(path.read_text()) | {question: "Kept."}))
    again = everyday_chat(tiny_model, tmp_path)
    kept = tiny_model.encode(tiny_model.render(question)) + tiny_model.encode_answer("Kept.")
    assert kept in again
    assert sum(one != two for one, two in zip(first, again, strict=True)) <= 1
