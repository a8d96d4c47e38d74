"""Configuration: one TOML file, flag > environment > file > default.

``CORRIGENDA_HOME`` moves everything (file, database, versions, evidence, caches);
without it platformdirs decides. Environment variables are ``CORRIGENDA_`` plus the
path of the key with ``__`` between its parts (``CORRIGENDA_MODEL__PATH``).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

FILE_NAME = "corrigenda.toml"
PREFIX = "CORRIGENDA_"


class ConfigError(Exception):
    """A configuration that cannot be used; names the file, the key and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    path: str = ""  # a GGUF file or a Hugging Face folder; empty = the bundled model
    device: str = "cpu"  # a torch device
    max_new_tokens: int = Field(48, ge=1, le=4096)  # cap of one answer, in tokens
    batch_size: int = Field(32, ge=1)  # questions generated together


class EmbeddingConfig(_Section):
    path: str = ""  # a hub id or folder; empty = the bundled all-MiniLM-L6-v2


class FetchConfig(_Section):
    allow_private: bool = False  # let feeds be on private networks
    allow_hosts: tuple[str, ...] = ()  # single hosts (or host:port) that may be private
    max_bytes: int = Field(15 * 2**20, ge=1024)  # of one response, also after decompression
    timeout: float = Field(20.0, gt=0)  # seconds to connect or between two reads
    deadline: float = Field(60.0, gt=0)  # seconds for one response in all


class WikidataConfig(_Section):
    # Whom feeds "wikidata:Q183,Q30" ask; a Wikibase of your own is as good.
    endpoint: str = Field("https://www.wikidata.org", pattern=r"^https?://[^\s?#]+$")


class FeedEntry(_Section):
    name: str = Field(min_length=1)
    url: str = Field(min_length=1)  # http(s) address of RSS/Atom, a local folder, wikidata:Q183,Q30
    trusted: bool = False  # one claim of a trusted feed is enough for an edit
    include: tuple[str, ...] = ("**/*",)  # files of a folder feed
    max_items: int = Field(500, ge=1)  # newest items looked at in one poll


class DetectConfig(_Section):
    phrasings: int = Field(4, ge=1, le=8)  # questions asked of each slot
    samples: int = Field(3, ge=0, le=16)  # drawn answers to the first of them; 0 = none
    relations: str = ""  # a TOML file with relations of your own, from the home folder on
    max_slots: int = Field(200, ge=1)  # slots asked in one cycle, newest facts first
    skip: tuple[str, ...] = ()  # relations of which facts are kept but the model is not asked


class ExtractConfig(_Section):
    llm: bool = False  # also let a language model read documents (its words are never trusted)
    llm_url: str = ""  # an OpenAI-compatible server, such as "http://127.0.0.1:8080/v1"
    llm_model: str = ""  # the model's name on that server
    llm_api_key: str = Field("", repr=False)  # better in CORRIGENDA_EXTRACT__LLM_API_KEY
    structured: bool = True  # the server holds answers to a JSON schema; false: free text
    timeout: float = Field(120.0, gt=0)  # seconds for one answer
    max_tokens: int = Field(1024, ge=64)  # of one answer
    max_statements: int = Field(8, ge=1)  # of one answer; fewer for a model that runs on
    max_documents_per_cycle: int = Field(50, ge=1)  # documents that the model reads, newest first
    exclude: tuple[str, ...] = ("spouse",)  # relations that the model is never asked about

    @model_validator(mode="after")
    def _complete(self) -> ExtractConfig:
        if self.llm and not (self.llm_url and self.llm_model):
            raise ValueError("llm = true needs llm_url and llm_model; set both")
        return self


class EditConfig(_Section):
    approval: Literal["auto", "review"] = "auto"  # "review": every edit waits for a person
    wrong: bool = False  # also propose edits for WRONG beliefs (never held, not stale)
    lease_seconds: float = Field(30.0, gt=0)  # how long a worker may be silent


class TrustConfig(_Section):
    """Limits of what is done without a person; over a limit a correction waits for one."""

    edits_per_source_per_day: int = Field(20, ge=0)  # automatic ones that rest on one feed
    edits_per_night: int = Field(200, ge=0)  # automatic ones in 24 hours
    quarantine_days: float = Field(3.0, ge=0)  # no automatic edit rests on newer web feeds alone
    changes_per_document: int = Field(25, ge=1)  # a document that changes more is set aside
    recheck_days: int = Field(0, ge=0)  # ask whether pages behind edits this young are gone; 0: no


class RetentionConfig(_Section):
    floor: float = Field(0.6, ge=0, le=1)  # lower 95 % bound under which consolidation starts
    sample: int = Field(60, ge=1)  # edits re-asked in a scheduled run


class ConsolidationConfig(_Section):
    # How edits are written: "recall" (closed form; the most wordings; for Llama and Mistral
    # alone), "compiled" (trained, all together; for every model with a gated MLP), "lookup"
    # (closed form; more wordings than "compiled", at a price in locality), or "auto": recall where
    # the model has room for it, compiled elsewhere.
    editor: Literal["auto", "recall", "compiled", "lookup"] = "auto"
    # What a night may take; what does not fit stays in the memory tier.
    minutes: float = Field(60.0, gt=0)
    growth: float = Field(0.2, gt=0)  # parameters added at most, as a share of the model's
    statistics: str = ""  # a text file or folder for key statistics; empty = bundled texts
    # What the gate asks of a candidate. A share is held by its 95 % bound, or by being perfect
    # (of few questions even a perfect share has a low bound); its floor 0 or ceiling 1 asks
    # nothing. How many of the edited questions are answered:
    accuracy_floor: float = Field(0.6, ge=0, le=1)
    # … of the edits that the weights answered until now:
    retention_floor: float = Field(0.6, ge=0, le=1)
    # How many answers in scope still name a former value (the unedited model: about 0.8); one
    # correction has six wordings, of which two may be missed:
    leak_ceiling: float = Field(0.75, ge=0, le=1)
    # … are empty, go round in circles, or give the new value and then do not stop within
    # model.max_new_tokens:
    broken_ceiling: float = Field(0.3, ge=0, le=1)
    # The share of an answer, up to its first change, that stays as it was, out of scope:
    locality_floor: float = Field(0.75, ge=0, le=1)
    # … on other questions about the edited subjects alone (few, so the bound is low):
    same_subject_floor: float = Field(0.25, ge=0, le=1)
    # Of the easy questions that the unedited model answers rightly, how many still are:
    ability_floor: float = Field(0.6, ge=0, le=1)
    # Of the forms that it keeps (a number only, a list, a refusal), how many still are:
    form_floor: float = Field(0.6, ge=0, le=1)
    # Words of all answers out of scope, after over before; outside this is a changed manner:
    length_floor: float = Field(0.8, ge=0, le=1)
    length_ceiling: float = Field(1.25, ge=1)
    # Perplexity of ordinary text, after over before:
    ppl_ceiling: float = Field(1.03, ge=1)


class VersionsConfig(_Section):
    keep: int = Field(14, ge=1)  # newest versions kept; what an alias stands for always is
    keep_monthly: int = Field(12, ge=0)  # months of which the newest version is kept too


class ScheduleConfig(_Section):
    poll: str = "*/30 * * * *"  # cron: fetch, detect, remember
    retention: str = "15 */6 * * *"  # cron: re-ask earlier edits
    nightly: str = "0 3 * * *"  # cron: consolidate, gate, promote, report
    timezone: str = "UTC"
    grace_seconds: int = Field(12 * 3600, ge=1)  # a job missed by less than this still runs


class Config(_Section):
    """Everything a user can set, with the defaults."""

    model: ModelConfig = ModelConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    fetch: FetchConfig = FetchConfig()
    wikidata: WikidataConfig = WikidataConfig()
    feeds: tuple[FeedEntry, ...] = ()
    detect: DetectConfig = DetectConfig()
    extract: ExtractConfig = ExtractConfig()
    edit: EditConfig = EditConfig()
    trust: TrustConfig = TrustConfig()
    retention: RetentionConfig = RetentionConfig()
    consolidation: ConsolidationConfig = ConsolidationConfig()
    versions: VersionsConfig = VersionsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    database: str = ""  # an SQLAlchemy URL; empty = SQLite in the home folder

    @field_validator("feeds")
    @classmethod
    def _names_differ(cls, feeds: tuple[FeedEntry, ...]) -> tuple[FeedEntry, ...]:
        names = [feed.name for feed in feeds]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two feeds are named {twice[0]!r}; give each its own name")
        return feeds


TEMPLATE = """\
# corrigenda: which model to keep up to date, and from what.
# Every key has a default; `corrigenda doctor` says what is in force.

[model]
# path = "/models/my-chat-model.gguf"     # a GGUF file or a Hugging Face folder
                                          # (default: the bundled SmolLM2-135M-Instruct)

[fetch]
# allow_private = false                   # feeds on private networks are refused

# One block a feed: an RSS/Atom address, a folder of HTML, text, PDF or JSON files, or entities
# ("wikidata:Q183,Q30", asked of [wikidata] endpoint = "https://www.wikidata.org").
# [[feeds]]
# name = "world-news"
# url = "https://example.org/feed.xml"
# trusted = false                         # true: one claim of it is enough for an edit

[extract]
# llm = false                             # true: a language model reads the documents too
# llm_url = "http://127.0.0.1:8080/v1"    # an OpenAI-compatible server
# llm_model = "my-model"

[edit]
# approval = "auto"                       # "review": every edit waits for `queue approve`

[trust]
# edits_per_source_per_day = 20           # automatic corrections that rest on one feed
# edits_per_night = 200                   # automatic corrections in 24 hours
# quarantine_days = 3                     # how long a new web feed alone is not enough

[schedule]
# poll = "*/30 * * * *"
# retention = "15 */6 * * *"
# nightly = "0 3 * * *"
# timezone = "UTC"

[versions]
# keep = 14                               # newest versions kept; what is served always is
# keep_monthly = 12                       # months of which the newest version is kept too
"""


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder that holds configuration and state."""
    environ = os.environ if environ is None else environ
    if environ.get("CORRIGENDA_HOME"):
        return Path(environ["CORRIGENDA_HOME"]).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("corrigenda")


def load_config(
    home: Path,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """Read ``home/corrigenda.toml`` (absent = defaults), environment, then overrides.

    ``overrides`` maps dotted keys to values (``{"model.path": "x.gguf"}``).

    Raises:
        ConfigError: not TOML, an unknown key, or a value out of range.
    """
    environ = os.environ if environ is None else environ
    path = home / FILE_NAME
    data: dict[str, Any] = {}
    if path.exists():
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    for name, value in environ.items():
        if name.startswith(PREFIX) and "__" in name:
            _put(data, name.removeprefix(PREFIX).lower().split("__"), value)
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(data, key.split("."), value)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known(first["loc"][:-1]))
            raise ConfigError(f"{path}: unknown key {where!r}; known here: {known}") from error
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path}: {where}: {message} (got {first['input']!r:.80})") from error


def _put(data: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        below = data.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"cannot set {'.'.join(parts)}: {part} is not a section")
        data = below
    data[parts[-1]] = value


def _known(loc: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Config
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        args = getattr(annotation, "__args__", ())
        model = args[0] if args else annotation  # type: ignore[assignment]  # tuple[Entry, ...]
    return sorted(model.model_fields)
