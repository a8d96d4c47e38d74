"""The served model and its facts in LangChain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from samples import NOW, an_edit
from workspaces import CHANCELLORS, holders, remembered, workspace

from agent.config import FeedEntry
from agent.cycle import run_once
from agent.langchain import CorrigendaChatModel, FactRetriever
from agent.progress import Silent
from agent.served import open_served
from agent.workspace import Workspace
from editors.model import ChatModel

MERZ = an_edit()
ASKED = "Who is the chancellor of Germany?"
OTHER = "Who is the president of France?"


@pytest.fixture
def ws(taught_model: ChatModel, tmp_path: Path) -> Iterator[Workspace]:
    holders(tmp_path / "archive", "Chancellors of Germany", CHANCELLORS)
    feed = FeedEntry(name="archive", url=str(tmp_path / "archive"), trusted=True)
    with workspace(tmp_path / "home", taught_model, [feed]) as opened:
        yield opened


def served(ws: Workspace, **settings: int) -> CorrigendaChatModel:
    model = CorrigendaChatModel(home=ws.home, **settings)
    vars(model)["_served"] = open_served(ws)
    return model


def test_an_answer_says_which_edit_it_used(ws: Workspace) -> None:
    remembered(ws, MERZ)
    model = served(ws)
    answer = model.invoke(ASKED)
    assert isinstance(answer, AIMessage)
    assert "Friedrich Merz" in answer.content
    assert answer.response_metadata["edit_ids"] == [MERZ.id]
    assert answer.response_metadata["version"] == "base"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    free = model.invoke(OTHER)
    assert free.content == ws.model.answer([OTHER])[0].text
    assert free.response_metadata["edit_ids"] == []


def test_it_is_a_link_of_a_chain_with_earlier_turns_and_stop_words(ws: Workspace) -> None:
    remembered(ws, MERZ)
    model = served(ws)
    turns = [
        SystemMessage("Be brief."),
        HumanMessage(OTHER),
        AIMessage("The president of France is Emmanuel Macron."),
        HumanMessage(ASKED),
    ]
    assert "Friedrich Merz" in model.invoke(turns).content
    chain = ChatPromptTemplate.from_template("{question}") | model | StrOutputParser()
    assert "Friedrich Merz" in chain.invoke({"question": ASKED})
    assert "Merz" not in model.invoke(ASKED, stop=["Merz"]).content
    assert served(ws, max_tokens=2).invoke(OTHER).response_metadata["finish_reason"] == "length"


def test_messages_that_a_chat_model_cannot_render_are_refused(ws: Workspace) -> None:
    with pytest.raises(ValueError, match="a tool message cannot be answered"):
        served(ws).invoke([HumanMessage("x"), ToolMessage("y", tool_call_id="1")])


def test_facts_are_found_for_now_and_for_a_day(ws: Workspace) -> None:
    run_once(ws, NOW, Silent())
    (ws.home / "corrigenda.toml").touch()
    (now, *_) = FactRetriever(home=ws.home).invoke("Who is Germany's chancellor?")
    assert now.page_content == "The chancellor of Germany is Friedrich Merz."
    assert now.metadata["valid_from"] == "2025-05-06"
    assert now.metadata["sources"]
    assert any("Friedrich Merz" in quote for quote in now.metadata["quotes"])
    (then, *_) = FactRetriever(home=ws.home, as_of="2015-06-30").invoke("And in Germany then?")
    assert then.metadata["object"] == "Angela Merkel"
    assert FactRetriever(home=ws.home).invoke("What is the weather like?") == []
    assert len(FactRetriever(home=ws.home, k=1).invoke("Germany")) == 1
