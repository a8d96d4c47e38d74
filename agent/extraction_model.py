"""The language model that reads documents, from the configuration: off unless asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agent.config import Config, ConfigError

if TYPE_CHECKING:
    from detectors.extractors.llm import LlmExtractor
    from detectors.relations import Registry

# A server of one's own wants none, the client library always wants one.
_NO_KEY = "none"
_SENSITIVE = frozenset({"spouse"})  # excluded by default, whether a registry has them or not


def extractor_of(config: Config, registry: Registry) -> LlmExtractor | None:
    """Return the extractor that ``[extract]`` describes, None when it is off.

    No connection is made here; ``LlmExtractor.extract`` raises ModelUnavailable when the
    server does not answer.

    Raises:
        ConfigError: the extra is not installed, the address is none, or an excluded relation
            is not in the registry.
    """
    section = config.extract
    if not section.llm:
        return None
    address = urlsplit(section.llm_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ConfigError(
            f"extract.llm_url {section.llm_url!r:.80} is no http(s) address; "
            'write it like "http://127.0.0.1:8080/v1"'
        )
    unknown = sorted(set(section.exclude) - {relation.id for relation in registry} - _SENSITIVE)
    if unknown:
        raise ConfigError(
            f"extract.exclude: no relation {unknown[0]!r}; `corrigenda relations ls` lists them"
        )
    try:
        from langchain_openai import ChatOpenAI
    except ImportError:
        raise ConfigError(
            "extract.llm needs the package langchain-openai; install corrigenda[llm], "
            "or set extract.llm = false"
        ) from None
    from pydantic import SecretStr

    from detectors.extractors.llm import LlmExtractor

    model = ChatOpenAI(
        model=section.llm_model,
        base_url=section.llm_url,
        api_key=SecretStr(section.llm_api_key or _NO_KEY),
        temperature=0.0,
        timeout=section.timeout,
        max_completion_tokens=section.max_tokens,
        max_retries=1,
        cache=False,
    )
    return LlmExtractor(
        model,
        registry,
        excluded=frozenset(section.exclude),
        structured=section.structured,
        statements=section.max_statements,
        name=f"{section.llm_model} at {address.hostname}",
    )
