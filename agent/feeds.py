"""Feeds to documents: RSS and Atom over HTTP, folders of files, entities of Wikidata.

Everything passes through ``FeedLoader``, a LangChain document loader; ``poll`` turns what
it yields into the records of the house and says what to remember for the next poll. One
bad item is a note, one bad feed is a FeedError, and neither touches another feed.

Importing this module loads langchain-core and feedparser: import it where it is used.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import feedparser
from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document as LoadedDocument

from agent.documents import DocumentError, clean_text, decode, html_to_text, to_text
from agent.fetch import Fetched, FetchError, redact
from agent.wikidata import Page, Properties, from_text, pages, properties
from agent.wikidata_api import ENDPOINT, SCHEME, Endpoint, ids_of, pack, unpack
from detectors.relations import load_registry
from store.feeds import FeedState
from store.records import Document, digest

# Part of what a feed's digest is made of: raise it when the same bytes come to read
# differently, and every feed is read anew.
_READING = "1"
_MAX_FILE = 15 * 2**20  # bytes
_MAX_MARKUP = 300_000  # tags, or attributes, in one feed; a 4 MB feed of articles has 55,000
_PAGES_TIME = timedelta(minutes=5)  # for the linked pages of one poll
_FIRST_WAIT, _LONGEST_WAIT = 60.0, 86_400.0  # seconds
_MIMES = {
    ".html": "text/html",
    ".htm": "text/html",
    ".txt": "text/plain",
    ".md": "text/plain",
    ".pdf": "application/pdf",
    ".json": "application/json",
}
_FEED_FILES = frozenset({".xml", ".rss", ".atom"})
_MARKUP = re.compile(r"<[a-zA-Z/!]|&[#\w]+;")


class FeedError(Exception):
    """One line that names the feed and says what is wrong; ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.retry_after = retry_after


class Getter(Protocol):
    """What a feed needs of a fetcher (see ``agent.fetch.Fetcher``)."""

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched: ...


@dataclass(frozen=True)
class FeedConfig:
    """One source. ``url`` is http(s)://, file://, a path or "wikidata:Q183,Q30"; ``kind``
    ("rss", "folder" or "wikidata") follows from it unless given. ``include`` are globs below a
    folder."""

    name: str
    url: str
    kind: str = ""
    trusted: bool = False  # one claim from it is enough
    full_text: bool = False  # read the pages that items link to
    include: tuple[str, ...] = ("**/*",)
    max_items: int = 500  # items of a feed, files of a folder, or entities
    endpoint: str = ENDPOINT  # where the entities of a "wikidata:" feed are
    properties: Properties = ()  # what is read of entities; () = what the shipped relations need

    def __post_init__(self) -> None:
        web = self.url.lower().startswith(("http://", "https://"))
        known = "wikidata" if self.url.lower().startswith(SCHEME) else "rss" if web else "folder"
        object.__setattr__(self, "kind", self.kind or known)
        if self.kind not in ("rss", "folder", "wikidata"):
            raise ValueError(
                f"feed {self.name}: kind is {self.kind!r}; say 'rss', 'folder' or 'wikidata'"
            )


@dataclass(frozen=True)
class Poll:
    """What one poll brought. ``state`` is to be kept once the documents are."""

    documents: list[Document]
    state: FeedState
    notes: list[str]
    unchanged: bool


def poll(
    config: FeedConfig,
    fetcher: Getter,
    state: FeedState,
    now: Callable[[], datetime],
    seen: Callable[[str], bool] = lambda url: False,
) -> Poll:
    """Read a feed if it is due and has changed. Raises FeedError.

    ``seen`` tells whether the page at a URL has been read before; feeds with
    ``full_text`` do not fetch such a page again.
    """
    if state.not_before is not None and now() < state.not_before:
        moment = state.not_before.isoformat(timespec="seconds")
        return Poll([], state, [f"not polled before {moment}: {state.error}"], unchanged=True)
    loader = FeedLoader(config, fetcher, state, now, seen)
    try:
        documents = [to_record(document) for document in loader.lazy_load()]
    except (FeedError, FetchError) as error:
        raise FeedError(f"feed {config.name}: {error}", error.retry_after) from error
    return Poll(documents, loader.state, loader.notes, loader.unchanged)


def after_failure(
    state: FeedState, error: str, now: datetime, retry_after: float | None = None
) -> FeedState:
    """Return the state after a failed poll: the wait doubles from a minute to a day, and is
    never shorter than what the server asked for (up to a day)."""
    failures = state.failures + 1
    wait = max(_FIRST_WAIT * 2 ** min(failures - 1, 20), retry_after or 0.0)
    return dataclasses.replace(
        state,
        polled=now,
        failures=failures,
        error=error,
        not_before=now + timedelta(seconds=min(wait, _LONGEST_WAIT)),
    )


def item_dates(body: bytes, name: str) -> list[datetime | None]:
    """Return when each item of an RSS or Atom feed was published, in the feed's order.

    Raises FeedError, which calls the feed by ``name``.
    """
    return [_date(entry) for entry in _parse(decode(body, ""), name)]


def to_record(document: LoadedDocument) -> Document:
    """Return a loaded document as the record that is stored."""
    meta = document.metadata
    return Document(
        id=meta["id"],
        feed=meta["feed"],
        url=meta["source"],
        title=meta["title"],
        text=document.page_content,
        fetched=datetime.fromisoformat(meta["fetched"]),
        published=datetime.fromisoformat(meta["published"]) if meta["published"] else None,
        content_hash=meta["content_hash"],
        mime=meta["mime"],
        guid=meta["guid"],
    )


@dataclass(frozen=True)
class _Item:
    url: str
    guid: str
    title: str
    text: str
    published: datetime | None
    mime: str


class FeedLoader(BaseLoader):
    """Load one feed's documents.

    Once ``lazy_load`` is exhausted, ``state`` is what to remember, ``notes`` what was left
    out and why, and ``unchanged`` whether the source was as at the last poll (it then
    yields nothing).
    """

    def __init__(
        self,
        config: FeedConfig,
        fetcher: Getter,
        state: FeedState,
        now: Callable[[], datetime],
        seen: Callable[[str], bool] = lambda url: False,
    ) -> None:
        self.state = state
        self.notes: list[str] = []
        self.unchanged = False
        self._config = config
        self._fetcher = fetcher
        self._now = now
        self._seen = seen
        # A changed setting or reading makes the old validators worthless.
        self._reading = digest(
            _READING, config.url, str(config.full_text), str(config.max_items), *config.include,
            *(() if config.kind == "rss" else (config.endpoint, repr(config.properties))),
        )  # fmt: skip

    def lazy_load(self) -> Iterator[LoadedDocument]:
        """Yield documents, each once, in the order of the source. Raises FeedError, FetchError."""
        fetched = self._now().astimezone(UTC).isoformat()
        given: set[str] = set()
        sources = {"folder": self._folder, "rss": self._web, "wikidata": self._wikidata}
        for item in sources[self._config.kind]():
            words = " ".join(f"{item.title}\n{item.text}".split())
            content_hash = hashlib.sha256(words.encode()).hexdigest()
            identity = digest(self._config.name, item.url, content_hash)
            if identity in given:
                continue
            given.add(identity)
            yield LoadedDocument(
                page_content=item.text,
                metadata={
                    "id": identity,
                    "feed": self._config.name,
                    "source": item.url,
                    "title": item.title,
                    "published": item.published.isoformat() if item.published else "",
                    "fetched": fetched,
                    "content_hash": content_hash,
                    "mime": item.mime,
                    "guid": item.guid,
                },
            )

    def _remember(self, content: str, headers: Mapping[str, str]) -> None:
        self.state = FeedState(
            name=self._config.name,
            etag=headers.get("etag", ""),
            last_modified=headers.get("last-modified", ""),
            digest=content and f"{self._reading}:{content}",
            polled=self._now(),
        )

    def _same(self, content: str) -> bool:
        return self.state.digest == f"{self._reading}:{content}"

    # Feeds over HTTP

    def _web(self) -> Iterator[_Item]:
        config, state = self._config, self.state
        known = state.digest.startswith(f"{self._reading}:")
        got = self._fetcher.get(
            config.url,
            etag=state.etag if known else None,
            last_modified=state.last_modified if known else None,
        )
        content = state.digest.partition(":")[2]
        if not got.not_modified:
            content = hashlib.sha256(got.body).hexdigest()
        self.unchanged = got.not_modified or self._same(content)
        if self.unchanged:
            # A 304 need not repeat the validators.
            kept = {"etag": state.etag, "last-modified": state.last_modified}
            self._remember(content, {**kept, **got.headers})
            return
        if _host(got.final_url) != _host(got.url):
            self.notes.append(f"is answered by {redact(got.final_url)}: is its url still right?")
        items = self._entries(got.body, got.headers.get("content-type", ""), got.final_url)
        complete = True
        if config.full_text:
            complete = yield from self._pages(items, redact(got.final_url))
        else:
            yield from items
        # Where pages are left, the next poll must not take the feed for unchanged.
        self._remember(content if complete else "", got.headers if complete else {})

    def _pages(self, items: Iterator[_Item], home: str) -> Generator[_Item, None, bool]:
        """Yield items with the text of their pages; return whether time allowed for all."""
        until = self._now() + _PAGES_TIME
        for item in items:
            if item.url == home:  # the item links to no page of its own
                yield item
            elif not self._seen(item.url):
                if self._now() >= until:
                    self.notes.append("its pages answer slowly; the rest are left to the next poll")
                    return False
                yield self._with_page(item)
        return True

    def _with_page(self, item: _Item) -> _Item:
        try:
            got = self._fetcher.get(item.url)
            mime = got.headers.get("content-type", "")
            page = to_text(got.body, mime, got.final_url)
        except (FetchError, DocumentError) as error:
            self.notes.append(f"{error}; the feed's own text is used")
            return item
        return dataclasses.replace(
            item,
            text=page.text or item.text,
            published=item.published or page.published,
            mime=mime.partition(";")[0].strip().lower() or item.mime,
        )

    def _entries(self, body: bytes, mime: str, url: str) -> Iterator[_Item]:
        entries = _parse(decode(body, mime), url)
        if len(entries) > self._config.max_items:
            self.notes.append(f"only the first {self._config.max_items} of {len(entries)} items")
        for number, entry in enumerate(entries[: self._config.max_items], start=1):
            try:
                yield _item(entry, url)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self.notes.append(f"item {number} of {redact(url)} is left out: {error}")

    # Entities

    def _wikidata(self) -> Iterator[_Item]:
        config = self._config
        try:
            ids = ids_of(config.url)
        except ValueError as error:
            raise FeedError(str(error)) from error
        if len(ids) > config.max_items:
            self.notes.append(f"only the first {config.max_items} of {len(ids)} entities")
        known = self.state.digest.startswith(f"{self._reading}:")
        endpoint, until = Endpoint(config.endpoint, self._fetcher), self._now() + _PAGES_TIME
        wanted = self._properties()
        read = endpoint.read(
            ids[: config.max_items],
            unpack(self.state.etag) if known else {},
            wanted,
            lambda: self._now() < until,
        )
        self.notes += read.notes
        self.unchanged = not read.changed
        found, notes = pages(read.entities, read.labels, wanted, read.items)
        self.notes += notes
        yield from (_entity_item(page, endpoint.page(page.id)) for page in found)
        # The revisions read are this feed's validator: the rest is read at the next poll.
        validator = pack(read.revisions)
        self._remember(hashlib.sha256(validator.encode()).hexdigest(), {"etag": validator})

    def _properties(self) -> Properties:
        return self._config.properties or properties(load_registry())

    def _entities(self, body: bytes, path: Path) -> list[Page] | None:
        """Return the entities of a JSON file; None when it holds none."""
        if b'"labels"' not in body:
            return None
        found = from_text(decode(body, ""), self._properties())
        if found is None:
            return None
        self.notes += [f"{path.name}: {note}" for note in found[1]]
        return found[0]

    # Folders

    def _folder(self) -> Iterator[_Item]:
        content = hashlib.sha256()
        readable = []
        for name, path in self._files():
            if (body := self._read(path)) is not None:
                content.update(f"{name}\0{hashlib.sha256(body).hexdigest()}\n".encode())
                readable.append((name, path))
        self.unchanged = self._same(content.hexdigest())
        if not self.unchanged:
            for name, path in readable:
                yield from self._file(name, path)
        self._remember(content.hexdigest(), {})

    def _file(self, name: str, path: Path) -> Iterator[_Item]:
        body = self._read(path)
        if body is None:
            return
        suffix, url = path.suffix.lower(), path.as_uri()
        try:
            if suffix in _FEED_FILES:
                yield from self._entries(body, "", url)
            elif suffix == ".json" and (found := self._entities(body, path)) is not None:
                yield from (_entity_item(page, f"{url}#{page.id}") for page in found)
            else:
                read = to_text(body, _MIMES[suffix], url)
                yield _Item(url, name, read.title, read.text, read.published, _MIMES[suffix])
        except (FeedError, DocumentError) as error:
            self.notes.append(str(error))

    def _read(self, path: Path) -> bytes | None:
        try:
            if path.stat().st_size <= _MAX_FILE:
                return path.read_bytes()
            self.notes.append(f"{path} is larger than {_MAX_FILE} bytes; split it")
        except OSError as error:
            self.notes.append(f"{path} cannot be read ({error.strerror}); check its permissions")
        return None

    def _files(self) -> list[tuple[str, Path]]:
        """Return the readable files below the folder by relative name, in a stable order.

        Paths are resolved first, so that neither ``..`` nor a link leads outside.
        """
        start = _local_path(self._config.url)
        root = (start.parent if start.is_file() else start).resolve()
        if not root.is_dir():
            raise FeedError(f"{start} is no folder; create it or correct the feed's url")
        found: dict[str, Path] = {}
        for path in [start] if start.is_file() else self._matches(root):
            try:
                real = path.resolve()
                name = real.relative_to(root).as_posix()
            except (OSError, RuntimeError, ValueError):
                self.notes.append(f"{path} leads outside the folder {root} and is not read")
                continue
            readable = real.suffix.lower() in _MIMES or real.suffix.lower() in _FEED_FILES
            if readable and real.is_file() and not re.search(r"(^|/)\.", name):
                found[name] = real
        if len(found) > self._config.max_items:
            self.notes.append(f"only the first {self._config.max_items} of {len(found)} files")
        return sorted(found.items())[: self._config.max_items]

    def _matches(self, root: Path) -> Iterator[Path]:
        for pattern in self._config.include:
            try:
                yield from root.glob(pattern)
            except (ValueError, NotImplementedError) as error:
                raise FeedError(f"include has no usable pattern {pattern!r} ({error})") from error


def _entity_item(page: Page, url: str) -> _Item:
    # Without a date: when an entity was last touched says nothing of when its values began.
    return _Item(url, page.id, page.title, page.text, None, _MIMES[".json"])


def _local_path(url: str) -> Path:
    parts = urlsplit(url)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise FeedError(f"{url} is on another machine; mount it and give its path")
        return Path(url2pathname(parts.path))
    if "://" in url:
        raise FeedError(f"{redact(url)} is neither http(s)://, file:// nor a path; correct the url")
    return Path(url).expanduser()


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").removeprefix("www.")


def _parse(text: str, url: str) -> list[Any]:
    """Return a feed's entries. Raises FeedError for what is no feed or not safe to parse."""
    if _has_internal_subset(text):
        raise FeedError(f"{redact(url)} declares its own entities (DOCTYPE), which is not read")
    if text.count("<") > _MAX_MARKUP or text.count("=") > _MAX_MARKUP:
        raise FeedError(f"{redact(url)} has more than {_MAX_MARKUP} tags or attributes")
    try:
        parsed = feedparser.parse(
            io.BytesIO(text.encode("utf-8", "replace")),
            sanitize_html=False,  # only text is taken from it
            resolve_relative_uris=False,
            response_headers={"content-type": "application/xml; charset=utf-8"},
        )
    except Exception as error:  # its lenient parser fails in many ways on hostile input
        raise FeedError(f"{redact(url)} cannot be parsed ({type(error).__name__})") from error
    if not parsed.get("version") and not parsed.entries:
        raise FeedError(
            f"{redact(url)} is no RSS or Atom feed; give the address of the feed itself"
        )
    return list(parsed.entries)


def _has_internal_subset(text: str) -> bool:
    """Whether the document type declares things of its own (entities): no feed needs that,
    and a few lines of it can expand to gigabytes. Only the prolog is looked at, so that an
    article that quotes such a declaration still parses."""
    at = 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # matches the empty string
        closer = "?>" if text.startswith("<?", at) else "-->" if text.startswith("<!--", at) else ""
        if not closer:
            break
        end = text.find(closer, at)
        if end < 0:
            return False
        at = end + len(closer)
    declared = _DOCTYPE.match(text, at)
    return declared is not None and not text.startswith(">", declared.end())


_SPACE = re.compile(r"[\s\ufeff]*")
_DOCTYPE = re.compile(r"""<!doctype(?:[^\[>"']|"[^"]*"|'[^']*')*""", re.I)


def _item(entry: Any, base: str) -> _Item:
    title = " ".join(_visible(entry.get("title_detail")).split())
    details = [*entry.get("content", ()), entry.get("summary_detail")]
    fullest = max(details, key=lambda detail: len((detail or {}).get("value") or ""))
    body = _visible(fullest)
    if not title and not body:
        raise ValueError("it has neither title nor text")
    text = body if body.partition("\n")[0] == title else clean_text(f"{title}\n{body}")
    guid = clean_text(entry.get("id") or "")
    return _Item(
        url=_web_link(base, entry.get("link") or "") or _web_link("", guid) or redact(base),
        guid=guid,
        title=title or text.partition("\n")[0][:120],
        text=text,
        published=_date(entry),
        mime="text/html" if "html" in (fullest or {}).get("type", "") else "text/plain",
    )


def _visible(detail: Mapping[str, Any] | None) -> str:
    value = str((detail or {}).get("value") or "")
    return html_to_text(value) if _MARKUP.search(value) else clean_text(value)


def _web_link(base: str, link: str) -> str:
    link = urljoin(base, link.strip()) if link.strip() else ""
    return link if link.lower().startswith(("http://", "https://")) else ""


def _date(entry: Any) -> datetime | None:
    for field in ("published_parsed", "updated_parsed"):
        # `in` first: for a missing date feedparser answers with another one and a warning.
        if field in entry and (parts := entry[field]):
            try:
                return datetime(*parts[:6]).replace(tzinfo=UTC)
            except ValueError:
                continue
    return None
