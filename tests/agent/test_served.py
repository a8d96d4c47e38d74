"""What a user is answered by: base weights, the serving version, the memory tier."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from samples import NOW, REGISTRY, an_edit
from toy_model import logits
from workspaces import GERMANY, NIGERIA, ScriptedModel, workspace

import agent.served
from agent.served import (
    ServedAsker,
    active_edits,
    aliases_of,
    collect_replies,
    open_served,
    slot_by_question,
)
from agent.workspace import Workspace
from editors.deltas import MlpExpansion
from editors.model import ChatModel, ModelError
from store.records import Edit, EditState, Reply, Slot, Version

MERZ = an_edit()
ASKED = "Who is the chancellor of Germany?"


@pytest.fixture
def ws(taught_model: ChatModel, tmp_path: Path) -> Iterator[Workspace]:
    with workspace(tmp_path / "home", taught_model) as opened:
        yield opened


def remembered(ws: Workspace, edit: Edit) -> None:
    ws.store.edits.add(edit)
    ws.store.edits.move(edit.id, EditState.REMEMBERED, NOW)


def served_version(ws: Workspace, base_hash: str = "") -> Version:
    """Serve a version whose neuron disturbs every answer."""
    noise = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(0))
    delta = MlpExpansion(2, noise[0], noise[1], torch.full((64, 1), 3.0))
    version = ws.store.versions.save(
        base_hash or ws.base_hash, "compiled", ["e1"], delta.tensors(), {}, NOW
    )
    ws.store.versions.set_alias("serving", version.id, NOW)
    return version


@pytest.mark.parametrize(
    ("question", "key"),
    [
        (ASKED, "germany|head_of_government"),
        ("who's germany's chancellor", "germany|head_of_government"),
        (
            "Who is the current chancellor of the Federal Republic of Germany?",
            "germany|head_of_government",
        ),
        ("Who was the chancellor of Germany in 2015?", None),
        ("What is the capital of Germany?", "germany|capital"),
        ("Who is the wife of the chancellor of Germany?", None),
        ("Hello", None),
        ("", None),
    ],
)
def test_the_scope_is_the_slot_that_a_question_asks_for(question: str, key: str | None) -> None:
    assert slot_by_question(REGISTRY, ["Germany"])(question) == key


def test_every_name_of_a_subject_leads_to_the_one_it_is_filed_under() -> None:
    names = aliases_of(["United Kingdom", "Gotham"])
    assert names["united kingdom"] == names["uk"] == "United Kingdom"
    assert names["gotham"] == "Gotham"


def test_only_edits_in_force_are_served(ws: Workspace) -> None:
    states = [EditState.PROPOSED, EditState.QUEUED, EditState.REJECTED, EditState.SUPERSEDED]
    for number, state in enumerate(states):
        ws.store.edits.add(an_edit(id=f"e{number}", state=state))
    assert active_edits(ws) == []
    remembered(ws, MERZ)
    assert [edit.id for edit in active_edits(ws)] == [MERZ.id]
    served = open_served(ws)
    assert served.version is None
    (inside, outside) = served.answer([ASKED, "Who is the president of France?"])
    assert (inside.edit_id, outside.edit_id) == (MERZ.id, None)
    assert "Friedrich Merz" in inside.text
    assert outside.text == "The president of France is Emmanuel Macron."


def test_a_serving_versions_weights_answer_and_are_gone_afterwards(ws: Workspace) -> None:
    bare = logits(ws.model, [ASKED])
    served_version(ws)
    served = open_served(ws)
    with served.weights_only() as model:
        assert not logits(model, [ASKED]).equal(bare)
    assert logits(ws.model, [ASKED]).equal(bare)
    served.answer([ASKED])
    assert logits(ws.model, [ASKED]).equal(bare)


def test_a_version_with_a_reverted_edit_does_not_serve(ws: Workspace) -> None:
    ws.store.edits.add(MERZ)
    ws.store.edits.move(MERZ.id, EditState.REMEMBERED, NOW)
    noise = torch.zeros(1, 64)
    delta = MlpExpansion(2, noise, noise, noise.T.contiguous())
    version = ws.store.versions.save(ws.base_hash, "compiled", [MERZ.id], delta.tensors(), {}, NOW)
    ws.store.versions.set_alias("serving", version.id, NOW)
    assert open_served(ws).version == version
    ws.store.edits.move(MERZ.id, EditState.REVERTED, NOW)
    assert open_served(ws).version is None


def test_a_version_of_another_base_model_is_refused(ws: Workspace) -> None:
    served_version(ws, base_hash="00" * 32)
    with pytest.raises(ModelError, match=r"made for another base model; set model\.path back"):
        open_served(ws)


def test_the_identity_changes_with_whatever_answers_a_slot(ws: Workspace) -> None:
    slot, other = MERZ.slot, Slot("France", "head_of_state")
    seen = [open_served(ws).identity(slot)]
    remembered(ws, MERZ)
    seen.append(open_served(ws).identity(slot))
    untouched = open_served(ws).identity(other)
    assert untouched == seen[0]
    served_version(ws)
    seen.append(open_served(ws).identity(slot))
    assert len(set(seen)) == 3
    assert open_served(ws).identity(other) == untouched
    assert all(identity.startswith(ws.base_hash[:12]) for identity in seen)


def test_the_detectors_ask_the_served_model_with_their_own_cap(ws: Workspace) -> None:
    remembered(ws, MERZ)
    asker = ServedAsker(open_served(ws), max_new_tokens=3)
    (reply,) = asker.ask(["Who is the president of France?"])
    assert asker.model == ws.model.name
    assert len(ws.model.encode_answer(reply.text)) <= 3
    assert open_served(ws).max_new_tokens == ws.config.model.max_new_tokens


PHRASINGS = REGISTRY.asking("head_of_government", "Germany", "chancellor")
OTHER = "Who is the president of France?"
BESIDE = "What is the capital of Germany?"


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Workspace]:
    script = {GERMANY: "Angela Merkel", NIGERIA: "Bola Tinubu"}
    with workspace(tmp_path / "scripted", ScriptedModel(script)) as opened:
        yield opened


def ask(ws: Workspace, *questions: str, samples: tuple[int, ...] = ()) -> list[Reply]:
    return list(ServedAsker(open_served(ws), max_new_tokens=8).ask(questions, samples))


def test_a_restart_asks_nothing_twice_and_gives_the_same_answers(
    ws: Workspace, tmp_path: Path
) -> None:
    first = ask(ws, *PHRASINGS, OTHER, samples=(3, 0, 0, 0, 0))
    ws.store.close()
    silent = ScriptedModel({})
    silent.base_hash = ws.base_hash
    with workspace(tmp_path / "home", silent) as again:
        done: list[int] = []
        asker = ServedAsker(open_served(again), 8, done.append)
        assert list(asker.ask([*PHRASINGS, OTHER], (3, 0, 0, 0, 0))) == first
        assert (silent.asked, sum(done)) == ([], 5)


def test_a_question_that_two_slots_share_is_asked_once(scripted: Workspace) -> None:
    first, second = ask(scripted, ASKED, ASKED)
    assert first == second
    assert scripted.model.asked == [ASKED]


def test_other_settings_are_asked_anew(scripted: Workspace) -> None:
    (plain,) = ask(scripted, ASKED)
    (drawn,) = ask(scripted, ASKED, samples=(2,))
    ServedAsker(open_served(scripted), max_new_tokens=9).ask([ASKED])
    assert (len(plain.samples), len(drawn.samples)) == (0, 2)
    assert scripted.model.asked == [ASKED] * 3


def test_an_edit_of_one_slot_leaves_the_answers_of_the_others(scripted: Workspace) -> None:
    ask(scripted, ASKED, OTHER)
    remembered(scripted, MERZ)
    scripted.model.asked.clear()
    new, other = ask(scripted, ASKED, OTHER, samples=())
    assert scripted.model.asked == [ASKED]
    assert (new.text, other.text) == (MERZ.statement, "I do not know.")


def test_nothing_is_drawn_where_an_edit_answers(ws: Workspace) -> None:
    remembered(ws, MERZ)
    told, free = ask(ws, ASKED, OTHER, samples=(3, 3))
    assert (len(told.samples), len(free.samples)) == (0, 3)


def test_another_version_is_asked_anew_and_the_earlier_one_known_when_it_is_back(
    ws: Workspace,
) -> None:
    remembered(ws, MERZ)
    base = ask(ws, BESIDE)
    version = served_version(ws)
    disturbed = ask(ws, BESIDE)
    assert disturbed != base
    ws.store.versions.set_alias("serving", None, NOW)
    asked = ws.store.replies.count()
    assert ask(ws, BESIDE) == base
    ws.store.versions.set_alias("serving", version.id, NOW)
    assert ask(ws, BESIDE) == disturbed
    assert ws.store.replies.count() == asked == 2


def test_a_question_that_names_no_edited_subject_is_the_unedited_weights(ws: Workspace) -> None:
    remembered(ws, MERZ)
    base = ask(ws, OTHER)
    (before,) = open_served(ws).answer([OTHER])
    served_version(ws)
    assert ask(ws, OTHER) == base
    assert ws.store.replies.count() == 1  # another version, and nothing to ask anew
    after = open_served(ws).answer([BESIDE, OTHER, ASKED])
    assert after[1] == before
    assert after[0].text != ws.model.answer([BESIDE])[0].text
    assert after[2].edit_id == MERZ.id


def test_what_was_answered_before_a_crash_is_not_asked_again(
    scripted: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent.served, "ASKED_AT_ONCE", 2)
    answer = scripted.model.answer

    def dying(questions: list[str], **more: object) -> list[Reply]:
        if PHRASINGS[2] in questions:
            raise KeyboardInterrupt
        return answer(questions, **more)

    monkeypatch.setattr(scripted.model, "answer", dying)
    with pytest.raises(KeyboardInterrupt):
        ask(scripted, *PHRASINGS)
    monkeypatch.setattr(scripted.model, "answer", answer)
    scripted.model.asked.clear()
    assert len(ask(scripted, *PHRASINGS)) == 4
    assert scripted.model.asked == list(PHRASINGS[2:])


def test_answers_of_what_serves_no_more_are_collected(ws: Workspace) -> None:
    remembered(ws, MERZ)
    ask(ws, BESIDE)
    served_version(ws)
    ask(ws, BESIDE)
    ask(ws, ASKED)
    assert collect_replies(ws) == 0
    ws.store.edits.move(MERZ.id, EditState.REVERTED, NOW)
    ws.store.replies.put({("00" * 6 + "+base", "s", "q"): Reply("q", "x", -1.0)}, NOW)
    ws.store.replies.put({(f"{ws.base_hash[:12]}+gone", "s", "q"): Reply("q", "x", -1.0)}, NOW)
    assert collect_replies(ws) == 3
    assert ws.store.replies.count() == 2
