"""Bytes to clean text: what a reader of a page, file or feed item would see.

One line of text is one block: a paragraph, a heading, a list item, a table row. The
extractors read dated lists of office holders line by line, so rows are kept whole. What a
reader would not see (scripts, comments, hidden elements, zero-width characters, special
tokens of chat models) does not reach the text.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

MAX_TEXT = 2_000_000
"""Characters of text kept from one document."""

_SUFFIXES = {".htm": "html", ".html": "html", ".xhtml": "html", ".pdf": "pdf", ".json": "json"}
_MAX_PAGES = 500
_MAX_ARTICLE_HTML = 2_000_000  # beyond this a page is read as it stands
_MAX_ARTICLE_LINES = 5_000
_MAX_ROW = 500  # a longer table row is page layout, not data

_MUTED = re.compile(
    "script|style|template|noscript|iframe|object|embed|svg|math|canvas|audio|video"
    "|select|textarea|button|input|datalist"
)
_MUTED_ON_PAGES = re.compile(f"{_MUTED.pattern}|nav|aside|footer")
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|caption|center|details|div|d[dlt]|fieldset"
    "|figcaption|figure|footer|form|h[1-6r]|header|legend|li|main|nav|ol|p|pre|section"
    "|summary|t(?:able|body|foot|head|[rdh])|ul"
)
_HIDDEN_CLASSES = frozenset(
    {"noprint", "reference", "mw-editsection", "sr-only", "visually-hidden", "screen-reader-text"}
)
_HIDDEN_STYLE = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:font-size|opacity)\s*:\s*0(?![.\d])", re.I
)
_DATE_NAMES = (
    "article:published_time",
    "og:published_time",
    "datepublished",
    "parsely-pub-date",
    "dc.date.issued",
    "dc.date",
    "citation_publication_date",
    "pubdate",
    "date",
)
# Control, zero-width, bidirectional and tag characters, variation selectors, surrogates.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e01ef]"
)
_SPECIAL_TOKEN = re.compile(
    r"<[|｜][^<>|｜]{1,64}[|｜]>|\[/?INST\]|<</?SYS>>|</?s>"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>",
    re.I,
)
# A letter and its accents: composing a whole text at once takes quadratic time on runs of marks.
_DECOMPOSED = re.compile("[^\\W\\d_][\u0300-\u036f\u3099\u309a]{1,4}")
_BULLET = re.compile(r"^(?:[-*+•·–]|#{1,6})\s+")
_YEAR = re.compile(r"\b[12]\d{3}\b")


class DocumentError(Exception):
    """One line that names the document and says why no text could be taken from it."""


@dataclass(frozen=True)
class Extracted:
    """``text`` has one block a line; ``published`` is aware UTC, None where not said."""

    title: str
    text: str
    published: datetime | None = None


def to_text(body: bytes, mime: str, url: str) -> Extracted:
    """Return the title, text and date of a document.

    ``mime`` is a Content-Type value, with or without parameters; a vague one is settled
    by the suffix of ``url`` and the first bytes. Raises DocumentError.
    """
    kind = _kind(body, mime, url)
    if kind == "pdf":
        found = _pdf(body, url)
    elif kind == "json":
        found = _json(decode(body, mime), url)
    elif kind == "html":
        found = _page(decode(body, mime), url)
    else:
        found = _plain(decode(body, mime), url)
    return Extracted(_line(found.title), found.text, found.published)


def html_to_text(fragment: str) -> str:
    """Return the visible text of an HTML fragment, one block a line."""
    if "<" not in fragment and "&" not in fragment:
        return clean_text(fragment)
    return clean_text("\n".join(line.text for line in _walk(fragment).lines))


def clean_text(text: str) -> str:
    """Normalise text: composed accents, single spaces, no empty lines, nothing invisible, no
    special tokens.

    At most MAX_TEXT characters are kept, cut at the end of a line.
    """
    text = _INVISIBLE.sub("", text)
    text = _DECOMPOSED.sub(lambda match: unicodedata.normalize("NFC", match.group()), text)
    text = _SPECIAL_TOKEN.sub(" ", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = "\n".join(line for line in lines if line)
    if len(text) > MAX_TEXT:
        text = text[:MAX_TEXT].rpartition("\n")[0] or text[:MAX_TEXT]
    return text


def decode(body: bytes, mime: str) -> str:
    """Decode by byte-order mark, declared charset, UTF-8, then Windows-1252; never fails."""
    for mark, name in _MARKS:
        if body.startswith(mark):
            return body.decode(name, "replace").removeprefix("\ufeff")
    declared = _charset(mime) or _charset(body[:2048].decode("latin-1"))
    # Latin-1 labels are often wrong; text that is valid UTF-8 hardly ever is by chance.
    names = ["utf-8"] if declared in (None, "iso8859-1", "cp1252", "ascii") else [declared]
    for name in [*names, "utf-8"]:
        try:
            return body.decode(name)
        except UnicodeError:
            continue
    return body.decode("cp1252" if names == ["utf-8"] else declared or "cp1252", "replace")


def parse_date(value: str) -> datetime | None:
    """Read an ISO 8601 or RFC 5322 date as aware UTC (no zone counts as UTC), else None."""
    value = value.strip().replace("/", "-")
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = parse(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, TypeError, OverflowError):
            continue
    return None


_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
# Codecs that are no charsets: slow on long input, or they decode escapes.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape", "utf-7"})


def _charset(text: str) -> str | None:
    match = re.search(r"(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]{1,40})", text, re.I)
    try:
        name = codecs.lookup(match.group(1)).name if match else ""
        "".encode(name or "ascii")  # LookupError for a codec that does not make text
    except (LookupError, ValueError):
        return None
    return name if name and name.replace("_", "-") not in _NO_CHARSETS else None


def _kind(body: bytes, mime: str, url: str) -> str:
    main = mime.partition(";")[0].strip().lower()
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    vague = main in ("", "application/octet-stream")
    if main == "application/pdf" or body.startswith(b"%PDF-"):
        return "pdf"
    if main == "application/json" or main.endswith("+json"):
        return "json"
    if "html" in main or main.endswith(("/xml", "+xml")):
        return "html"
    if (vague or main == "text/plain") and suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if main.startswith("text/") or (vague and b"\0" not in body):
        return "html" if vague and body.lstrip().startswith(b"<") else "text"
    raise DocumentError(f"{url} is of a kind that holds no text ({main or 'unknown'})")


def _stem(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).stem or urlsplit(url).netloc


def _line(text: str) -> str:
    return " ".join(clean_text(text).split())


# HTML


@dataclass
class _Line:
    text: str
    kind: str  # "block", "row" (list item or table row) or "field" (a named table row)


@dataclass
class _Cell:
    heading: bool
    lines: list[_Line] = field(default_factory=list)


class _Walk:
    """An lxml parser target that writes down visible blocks.

    Event-driven, so that depth of nesting costs nothing; libxml2 balances the tags.
    """

    def __init__(self, muted: re.Pattern[str]) -> None:
        self.lines: list[_Line] = []
        self.meta: dict[str, str] = {}
        self.title = ""
        self.heading = ""
        self._muted = muted
        self._mute = 0  # open elements since the one that is not shown
        self._pieces: list[str] = []
        self._rows: list[list[_Cell]] = []
        self._items = 0
        self._in_title = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._mute or self._muted.fullmatch(tag) or _hidden(attributes):
            self._mute += 1
            return
        if _BLOCK.fullmatch(tag):
            self._break()
        if tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].append(_Cell(tag == "th"))
        elif tag == "li":
            self._items += 1
        elif tag == "br":
            self._pieces.append(" ") if self._rows else self._break()
        elif tag == "meta":
            self._note(attributes)
        elif tag == "title":
            self._break()
            self._in_title = True

    def end(self, tag: str) -> None:
        if self._mute:
            self._mute -= 1
            return
        if tag == "title" and self._in_title:
            self.title = self.title or "".join(self._pieces)
            self._pieces = []
            self._in_title = False
        if tag == "h1":
            self.heading = self.heading or "".join(self._pieces)
        if _BLOCK.fullmatch(tag):
            self._break()
        if tag == "tr":
            self._sink(_row_lines(self._rows.pop()))
        elif tag == "li":
            self._items -= 1

    def data(self, text: str) -> None:
        if not self._mute:
            self._pieces.append(text)

    def close(self) -> _Walk:
        self._break()
        while self._rows:
            self._sink(_row_lines(self._rows.pop()))
        return self

    def _break(self) -> None:
        text = _BULLET.sub("", " ".join("".join(self._pieces).split()))
        self._pieces = []
        if text:
            self._sink([_Line(text, "row" if self._items else "block")])

    def _sink(self, lines: list[_Line]) -> None:
        if self._rows:
            row = self._rows[-1]
            if not row:
                row.append(_Cell(heading=False))
            row[-1].lines.extend(lines)
        else:
            self.lines.extend(lines)

    def _note(self, attributes: Mapping[str, str]) -> None:
        for kind in ("property", "name", "itemprop"):
            if (name := attributes.get(kind)) and (value := attributes.get("content")):
                self.meta.setdefault(name.lower(), value)


def _hidden(attributes: Mapping[str, str]) -> bool:
    return bool(attributes) and (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or _HIDDEN_STYLE.search(attributes.get("style", "")) is not None
        or not _HIDDEN_CLASSES.isdisjoint(attributes.get("class", "").split())
    )


def _row_lines(row: list[_Cell]) -> list[_Line]:
    """Return a table row as one line ("name: value", "a | b | c"), page layout as it was."""
    cells = [cell for cell in row if cell.lines]
    if sum(len(line.text) for cell in cells for line in cell.lines) > _MAX_ROW:
        return [line for cell in cells for line in cell.lines]
    texts = ["; ".join(line.text for line in cell.lines) for cell in cells]
    if len(cells) == 2 and cells[0].heading and not cells[1].heading:
        return [_Line(f"{texts[0].rstrip(': ')}: {texts[1]}", "field")]
    return [_Line(" | ".join(texts), "row")] if texts else []


def _walk(html: str, muted: re.Pattern[str] = _MUTED) -> _Walk:
    from lxml import etree

    body = html.replace("\0", "").encode("utf-8", "replace")
    walk = _Walk(muted)
    parser = etree.HTMLParser(target=walk, encoding="utf-8", huge_tree=True)
    parser.feed(body)
    parser.close()
    return walk


def _page(html: str, url: str) -> Extracted:
    whole = _walk(html, _MUTED_ON_PAGES)
    lines = _article(html, whole.lines) or whole.lines or _walk(html).lines
    return Extracted(
        _page_title(whole) or (lines[0].text if lines else _stem(url)),
        clean_text("\n".join(line.text for line in lines)),
        _published(html, whole.meta),
    )


def _page_title(page: _Walk) -> str:
    title = _line(page.meta.get("og:title") or page.title)
    heading = _line(page.heading)
    # "Mozilla - Wikipedia" under the heading "Mozilla": the site's name is no part of it.
    return heading if heading and (not title or title.startswith(heading)) else title


def _article(html: str, lines: list[_Line]) -> list[_Line]:
    """Keep the lines that trafilatura takes for the article, named fields and dated rows.

    Trafilatura tells articles from their surroundings well, but splits or drops the rows
    of lists and tables; so it only chooses among the lines that were read.
    """
    import trafilatura

    if len(html) > _MAX_ARTICLE_HTML or len(lines) > _MAX_ARTICLE_LINES:
        return lines
    try:
        article = trafilatura.extract(html, include_comments=False)
    except Exception:  # a page it cannot read, for whatever reason, is read as it stands
        return lines
    if not article:
        return lines
    letters = _letters(article)
    return [line for line in lines if _is_data(line) or _ends(line.text, letters)]


def _is_data(line: _Line) -> bool:
    dated = line.kind == "row" and len(line.text) <= _MAX_ROW and _YEAR.search(line.text)
    return line.kind == "field" or bool(dated)


def _ends(line: str, letters: str) -> bool:
    """Whether a line begins or ends as some place of the article does: inside it, the two
    may differ in footnote marks and hidden elements."""
    own = _letters(line)
    return own[:40] in letters or own[-40:] in letters


def _letters(text: str) -> str:
    """Return the text without footnote marks, spaces and punctuation."""
    return re.sub(r"\[[^\]\s]{1,4}\]|[\W_]+", "", text)


def _published(html: str, meta: Mapping[str, str]) -> datetime | None:
    """Return when a page says it was published.

    A page that is still revised a year later (an encyclopedia's) tells nothing about the
    day it began on, so its date is left open.
    """
    first = _first_date([meta.get(name) for name in _DATE_NAMES] + _linked("datePublished", html))
    last = _first_date([meta.get("article:modified_time"), *_linked("dateModified", html)])
    return None if first and last and last - first > timedelta(days=365) else first


def _linked(name: str, html: str) -> list[str | None]:
    found = re.search(rf'"{name}"\s*:\s*"([^"]{{8,40}})"', html)
    return [found.group(1)] if found else []


def _first_date(values: Iterable[Any]) -> datetime | None:
    return next((date for v in values if isinstance(v, str) and (date := parse_date(v))), None)


# Plain text and PDF


def _plain(text: str, url: str) -> Extracted:
    text = _unwrap(text.splitlines())
    first = text.partition("\n")[0]
    return Extracted(first if 0 < len(first) <= 120 else _stem(url), text)


def _unwrap(lines: Iterable[str]) -> str:
    """Join hard-wrapped lines, so that a sentence is not cut; short lines are rows and stay."""
    joined: list[str] = []
    open_ended = False
    for raw in lines:
        line = raw.strip()
        bullet = _BULLET.match(line)
        if open_ended and line and not bullet:
            joined[-1] += f" {line}"
        else:
            joined.append(_BULLET.sub("", line))
        open_ended = len(line) >= 60 and not line.endswith((".", "!", "?", ":", ";"))
    return clean_text("\n".join(joined))


def _pdf(body: bytes, url: str) -> Extracted:
    import pypdf

    lines: list[str] = []
    size = 0
    try:
        reader = pypdf.PdfReader(io.BytesIO(body))
        about = reader.metadata
        title = about.title if about else None
        made = about.creation_date if about else None
        for page in reader.pages[:_MAX_PAGES]:
            text = page.extract_text()
            lines += [*text.splitlines(), ""]
            size += len(text)
            if size > MAX_TEXT:
                break
    except Exception as error:  # pypdf raises nearly everything on a broken file
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DocumentError(f"{url} is no readable PDF ({cause}); save it anew") from error
    if made is not None:
        made = (made if made.tzinfo else made.replace(tzinfo=UTC)).astimezone(UTC)
    return Extracted(str(title or _stem(url)), _unwrap(lines), made)


# JSON


def _json(text: str, url: str) -> Extracted:
    if '"labels"' in text and (entities := _entities(text, url)):
        return entities
    try:
        data = json.loads(text)
    except RecursionError:
        raise DocumentError(f"{url} is JSON nested too deeply to read") from None
    except ValueError as error:
        raise DocumentError(f"{url} is no valid JSON ({error})") from error
    top = data if isinstance(data, dict) else {}
    published = _first_date(top.get(key) for key in ("published", "datePublished", "date"))
    return Extracted(_json_title(top, url), clean_text("\n".join(_fields(data))), published)


def _entities(text: str, url: str) -> Extracted | None:
    """Return the entities of a Wikidata-like store as one text; None when there are none."""
    from agent import wikidata
    from detectors.relations import load_registry

    found = wikidata.from_text(text, wikidata.properties(load_registry()))
    if found is None:
        return None
    pages, notes = found
    title = pages[0].title if len(pages) == 1 else _stem(url)
    if not pages:
        why = notes[0] if notes else "they say nothing of a known relation"
        raise DocumentError(f"{url} holds entities, but none to read: {why}")
    return Extracted(title, clean_text("\n".join(page.text for page in pages)))


def _json_title(top: Mapping[str, Any], url: str) -> str:
    """Return a country profile's country (or union), else the title or name, else the file's name.

    World Factbook profiles keep it at Government > Country name; those without a short
    form say "none" there.
    """
    government = top.get("Government")
    names = None
    if isinstance(government, dict):
        names = government.get("Country name") or government.get("Union name")
    if isinstance(names, dict):
        for form in ("conventional short form", "conventional long form"):
            value = names.get(form)
            name = _value(value.get("text") if isinstance(value, dict) else value)
            if name and name.casefold() != "none":
                return name
    return _value(top.get("title")) or _value(top.get("name")) or _stem(url)


def _fields(data: Any) -> Iterator[str]:
    """Yield ``path > to > field: value`` for each leaf, in document order."""
    stack: list[tuple[tuple[str, ...], Any]] = [((), data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend(((*path, _line(key)), inner) for key, inner in reversed(value.items()))
        elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
            numbered = list(enumerate(value, start=1))
            stack.extend(((*path, str(at)), inner) for at, inner in reversed(numbered))
        else:
            items = value if isinstance(value, list) else [value]
            text = "; ".join(filter(None, map(_value, items)))
            # {"capital": {"text": "Berlin"}} is a field "capital", not "capital > text".
            names = path[:-1] if len(path) > 1 and path[-1] == "text" else path
            if text:
                yield f"{' > '.join(names)}: {text}" if names else text


def _value(value: Any) -> str:
    """Return a leaf as one line: line breaks of HTML become semicolons."""
    if value is None or isinstance(value, dict | list):
        return ""
    if not isinstance(value, str):
        return json.dumps(value)
    lines = (line.rstrip(" ;") for line in html_to_text(value).splitlines())
    return "; ".join(filter(None, lines))
