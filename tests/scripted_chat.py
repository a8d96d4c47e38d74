"""Chat models that answer what a test tells them to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import Field


class FreeText(BaseChatModel):
    """Answers with whatever ``reply`` makes of the messages; keeps what it was sent."""

    reply: Callable[[list[BaseMessage]], str]
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **more: Any
    ) -> ChatResult:
        self.seen.append(messages)
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(content=self.reply(messages)))]
        )


class Structured(FreeText):
    """Takes a JSON schema as a real server does; what does not parse comes back raw."""

    schemas: list[dict[str, Any]] = Field(default_factory=list)

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **more: Any
    ) -> Runnable[Any, Any]:
        assert include_raw
        self.schemas.append(schema)

        def answer(messages: list[BaseMessage]) -> dict[str, Any]:
            raw = self.invoke(messages)
            try:
                parsed = json.loads(str(raw.text))
            except ValueError as error:
                return {"raw": raw, "parsed": None, "parsing_error": error}
            return {"raw": raw, "parsed": parsed, "parsing_error": None}

        return RunnableLambda(answer)


def always(answer: Any) -> Callable[[list[BaseMessage]], str]:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    return lambda messages: text


def saying(*items: Any) -> Structured:
    """A model that gives these statements for every piece."""
    return Structured(reply=always({"claims": list(items)}))
