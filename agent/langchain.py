"""corrigenda in LangChain: the served model as a chat model, its facts as a retriever.

::

    model = CorrigendaChatModel(home="corrigenda")
    model.invoke("Who is the chancellor of Germany?").response_metadata["edit_ids"]
    FactRetriever(home="corrigenda", as_of="2015-06-30").invoke("Who is Germany's chancellor?")
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.retrievers import BaseRetriever

from agent.served import Served, aliases_of, open_served
from agent.workspace import Workspace
from detectors.questions import parse_question
from editors.memory import wording
from store.records import Fact

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class CorrigendaChatModel(BaseChatModel):
    """The model of a home folder as it is served: weights, and the memory tier over them.

    Answers say in ``response_metadata`` which edits they used and which version answered.

    Attributes:
        home: folder of configuration and state.
        max_tokens: cap of an answer; None: as configured.
    """

    home: Path
    max_tokens: int | None = None

    @property
    def _llm_type(self) -> str:
        return "corrigenda"

    @cached_property
    def _served(self) -> Served:
        return open_served(Workspace.open(self.home))

    def refresh(self) -> None:
        """Serve the edits and the version that are in force now."""
        vars(self).pop("_served", None)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        served = self._served
        turns = [{"role": _role(one), "content": str(one.text)} for one in messages]
        with served.weights_for([turn["content"] for turn in turns]) as model:
            rendered = model.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            prompts = [model.encode(rendered)]
            matches = served.tier.matches(model, prompts)
            tokens = self.max_tokens or served.max_new_tokens
            (made,) = served.tier.continued(model, prompts, matches, tokens)
            text = _until(model.decode(made.tokens).strip(), stop or [])
        (match,) = matches
        told = {
            "edit_ids": [fact.id for fact in match.used] if match else [],
            "model_name": model.name,
            "version": served.version.id if served.version else "base",
            "finish_reason": "stop" if made.stopped else "length",
        }
        used = {"input_tokens": len(prompts[0]), "output_tokens": len(made.tokens)}
        message = AIMessage(
            text,
            response_metadata=told,
            usage_metadata={**used, "total_tokens": sum(used.values())},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


class FactRetriever(BaseRetriever):
    """What sources say about the subjects that a question names, as LangChain documents.

    Attributes:
        home: folder of configuration and state.
        as_of: a day (2015, 2015-06 or 2015-06-30): what held then; None: what holds now.
        k: facts at most; those that the question asks for come first.
    """

    home: Path
    as_of: str | None = None
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        with Workspace.open(self.home) as ws:
            day = self.as_of or ws.now().date().isoformat()
            facts = ws.store.facts.as_of(None, day)
            aliases = aliases_of(sorted({fact.subject for fact in facts}))
            asked = parse_question(query, ws.registry, aliases)
            names = {wording.name_of(name): subject for name, subject in aliases.items()}
            named = _named(query, names)
            wanted = [fact for fact in facts if fact.subject in named]
            wanted.sort(key=lambda fact: asked is None or fact.slot.key != asked.slot.key)
            return [_document(ws, fact) for fact in wanted[: self.k]]


def _named(query: str, names: dict[tuple[str, ...], str]) -> set[str]:
    """Return the subjects that a query names."""
    words = [word.text for word in wording.words(query)]
    longest = max(map(len, names), default=0)
    spans = (
        tuple(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, min(start + longest, len(words)) + 1)
    )
    return {names[span] for span in spans if span in names}


def _document(ws: Workspace, fact: Fact) -> Document:
    title = next(iter(fact.titles), "") or ws.registry[fact.relation].default_title
    claims = [claim for id in fact.claim_ids if (claim := ws.store.claims.get(id))]
    documents = [ws.store.documents.get(claim.document_id) for claim in claims]
    return Document(
        ws.registry.statement(fact.relation, fact.subject, title, fact.object),
        id=fact.id,
        metadata={
            "subject": fact.subject,
            "relation": fact.relation,
            "object": fact.object,
            "valid_from": fact.valid_from,
            "valid_until": fact.valid_until,
            "quotes": [claim.quote for claim in claims],
            "sources": list(dict.fromkeys(one.url for one in documents if one)),
        },
    )


def _role(message: BaseMessage) -> str:
    if message.type not in _ROLES:
        raise ValueError(f"a {message.type} message cannot be answered: give system, human and ai")
    return _ROLES[message.type]


def _until(text: str, stops: Sequence[str]) -> str:
    """Return a text up to the first of the stop sequences."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
