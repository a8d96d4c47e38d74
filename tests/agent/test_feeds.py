"""Feeds and folders: what becomes a document, what a note, what an error."""

import dataclasses
import html
import itertools
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agent.feeds import FeedConfig, FeedError, FeedLoader, Poll, after_failure, poll
from agent.fetch import Fetched, Fetcher, FetchError
from store.feeds import FeedState

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
URL = "https://news.example/feed"
CONFIG = FeedConfig("news", URL)
NEW = FeedState("news")


def now() -> datetime:
    return NOW


def rss(*items: str) -> bytes:
    inner = "".join(f"<item>{item}</item>" for item in items)
    head = '<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel><title>News</title>'
    return f"{head}{inner}</channel></rss>".encode()


def item(number: int, text: str = "Something happened.", **fields: str) -> str:
    link = f"<link>https://news.example/{number}</link><guid>g{number}</guid>"
    extra = "".join(f"<{name}>{value}</{name}>" for name, value in fields.items())
    return f"<title>Item {number}</title>{link}{extra}<description>{text}</description>"


class Pages:
    """An in-memory fetcher: URL to body, headers or error."""

    def __init__(self, pages: dict[str, bytes | Exception], **headers: str) -> None:
        self.pages = pages
        self.headers = headers
        self.asked: list[tuple[str, str | None]] = []
        self.final_url = ""

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        self.asked.append((url, etag))
        body = self.pages[url]
        if isinstance(body, Exception):
            raise body
        if etag and etag == self.headers.get("etag"):
            return Fetched(url, url, 304, {}, b"", not_modified=True)
        return Fetched(url, self.final_url or url, 200, self.headers, body, not_modified=False)


def read(body: bytes, state: FeedState = NEW, **settings: object) -> Poll:
    config = dataclasses.replace(CONFIG, **settings) if settings else CONFIG
    return poll(config, Pages({URL: body}), state, now)


def test_an_item_becomes_a_document() -> None:
    text = html.escape("<p>Chile <b>votes</b>.</p><ul><li>A</li></ul>")
    [document] = read(rss(item(1, text, pubDate="Wed, 11 Mar 2026 10:00:00 +0100"))).documents
    assert document.feed == "news"
    assert document.url == "https://news.example/1"
    assert document.guid == "g1"
    assert document.title == "Item 1"
    assert document.text == "Item 1\nChile votes.\nA"
    assert document.published == datetime(2026, 3, 11, 9, tzinfo=UTC)
    assert document.fetched == NOW
    assert document.mime == "text/html"


def test_the_fullest_of_summary_and_content_is_read() -> None:
    atom = (
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>t</title><entry><title>T</title>'
        '<id>urn:1</id><link href="/a"/><updated>2026-02-03T04:05:06Z</updated>'
        "<summary>short</summary><content type='html'>&lt;p&gt;much longer text&lt;/p&gt;</content>"
        "</entry></feed>"
    )
    [document] = read(atom.encode()).documents
    assert document.text == "T\nmuch longer text"
    assert document.url == "https://news.example/a"
    assert document.published == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_an_item_without_a_date_has_none() -> None:
    [document] = read(rss(item(1, pubDate="some day"))).documents
    assert document.published is None


def test_the_same_item_is_the_same_document_whatever_else_churns() -> None:
    first = read(rss(item(1, pubDate="Wed, 11 Mar 2026 10:00:00 GMT"))).documents[0]
    churned = item(1, "Something  happened. ", pubDate="Thu, 12 Mar 2026 10:00:00 GMT")
    again = read(rss(churned.replace("<guid>g1<", "<guid>other<"))).documents[0]
    changed = read(rss(item(1, "Something else happened."))).documents[0]
    assert again.id == first.id
    assert again.content_hash == first.content_hash
    assert changed.id != first.id
    assert changed.url == first.url


def test_repeated_items_are_given_once() -> None:
    assert len(read(rss(item(1), item(2), item(1), item(2))).documents) == 2


def test_a_malformed_item_is_a_note_and_the_rest_is_read() -> None:
    got = read(rss("<link>https://news.example/0</link>", item(1)))
    assert [document.title for document in got.documents] == ["Item 1"]
    assert got.notes == [f"item 1 of {URL} is left out: it has neither title nor text"]


def test_a_feed_that_is_not_well_formed_is_read_as_far_as_it_goes() -> None:
    assert len(read(rss(item(1), item(2, "R & D < 3"), item(3))[:-20]).documents) == 3


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
def test_links_that_are_not_web_addresses_are_dropped(link: str) -> None:
    [document] = read(rss(f"<title>T</title><link>{link}</link>")).documents
    assert document.url == URL


def test_only_so_many_items_are_taken() -> None:
    got = read(rss(*map(item, range(5))), max_items=3)
    assert len(got.documents) == 3
    assert got.notes == ["only the first 3 of 5 items"]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><head><title>Hello</title></head><body><p>x</p></body></html>", b"{}", b"\0\1"],
)
def test_what_is_no_feed_is_one_clear_line(body: bytes) -> None:
    with pytest.raises(FeedError, match=r"^feed news: \S+/feed is no RSS or Atom feed"):
        read(body)


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "prolog",
    [
        LAUGHS,
        f"<!-- <rss> -->\n{LAUGHS}",
        '<!DOCTYPE x SYSTEM "a>b" [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!doctype x PUBLIC "-//x" "http://evil.example/x.dtd" [\n]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_entity_declarations_are_refused_before_parsing(prolog: str, encoding: str) -> None:
    text = f'<?xml version="1.0"?>{prolog}<rss version="2.0"><channel>&b;</channel></rss>'
    with pytest.raises(FeedError, match="DOCTYPE"):
        read(text.encode(encoding))


def test_a_plain_doctype_and_a_quoted_one_are_harmless() -> None:
    netscape = b'<!DOCTYPE rss PUBLIC "-//N//DTD RSS 0.91//EN" "http://x.example/rss.dtd">'
    quoted = item(1, "<![CDATA[In XML, <!DOCTYPE x [<!ENTITY a 'b'>]> declares.]]>")
    body = rss(quoted).replace(b"?><rss", b"?>" + netscape + b"<rss")
    assert len(read(body).documents) == 1


def test_a_hundred_thousand_ampersands_are_no_attack() -> None:
    [document] = read(rss(item(1, "&amp;" * 100_000))).documents
    assert document.text.count("&") == 100_000


@pytest.mark.parametrize("body", [b"<a>" * 400_000, b"<rss " + b"x='1' " * 400_000 + b">"])
def test_a_flood_of_markup_is_refused_at_once(body: bytes) -> None:
    began = time.perf_counter()
    with pytest.raises(FeedError, match="more than 300000 tags"):
        read(body)
    assert time.perf_counter() - began < 1.0


def test_deep_nesting_is_read_in_time() -> None:
    began = time.perf_counter()
    deep = "<div>" * 30_000 + "bottom" + "</div>" * 30_000
    assert read(rss(item(1, deep))).documents[0].text.endswith("bottom")
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize("encoding", ["punycode", "utf-7", "hex", "no-such", "idna"])
def test_odd_encodings_are_no_way_in(encoding: str) -> None:
    body = rss(item(1)).replace(b'"utf-8"', f'"{encoding}"'.encode())
    assert len(read(body).documents) == 1


def test_an_unchanged_feed_gives_nothing_twice() -> None:
    body = rss(item(1))
    first = read(body)
    again = read(body, first.state)
    assert (first.unchanged, again.unchanged) == (False, True)
    assert again.documents == []
    assert again.state == first.state


def test_a_304_is_unchanged_and_keeps_the_validators() -> None:
    pages = Pages({URL: rss(item(1))}, etag='"7"')
    first = poll(CONFIG, pages, NEW, now)
    again = poll(CONFIG, pages, first.state, now)
    assert pages.asked == [(URL, None), (URL, '"7"')]
    assert again.unchanged
    assert (again.state.etag, again.state.digest) == ('"7"', first.state.digest)


def test_changed_settings_make_a_feed_be_read_anew() -> None:
    pages = Pages({URL: rss(item(1), item(2))}, etag='"7"')
    first = poll(CONFIG, pages, NEW, now)
    again = poll(dataclasses.replace(CONFIG, max_items=1), pages, first.state, now)
    assert not again.unchanged
    assert pages.asked[-1] == (URL, None)


def test_a_feed_that_answers_from_elsewhere_is_noted() -> None:
    pages = Pages({URL: rss(item(1))})
    pages.final_url = "https://www.news.example/feed"
    assert poll(CONFIG, pages, NEW, now).notes == []
    pages.final_url = "https://taken.example/feed"
    [note] = poll(CONFIG, pages, NEW, now).notes
    assert "https://taken.example/feed" in note


def test_a_failed_fetch_is_a_feed_error_with_its_wait() -> None:
    failure = FetchError(URL, "answered 503", status=503, retry_after=90.0)
    with pytest.raises(FeedError, match=r"^feed news: .* answered 503") as failed:
        poll(CONFIG, Pages({URL: failure}), NEW, now)
    assert failed.value.retry_after == 90.0


def test_waits_double_up_to_a_day_and_honour_the_server() -> None:
    state, waits = NEW, []
    for _ in range(14):
        state = after_failure(state, "down", NOW)
        assert state.not_before is not None
        waits.append((state.not_before - NOW).total_seconds())
    assert waits[:4] == [60.0, 120.0, 240.0, 480.0]
    assert waits[-1] == 86_400.0
    asked = after_failure(NEW, "down", NOW, retry_after=7_200.0)
    assert asked.not_before == NOW + timedelta(hours=2)
    endless = after_failure(NEW, "down", NOW, retry_after=1e12)
    assert endless.not_before == NOW + timedelta(days=1)


def test_a_feed_is_not_polled_before_its_wait_is_over_and_recovers_after() -> None:
    failed = after_failure(NEW, "down", NOW)
    pages = Pages({URL: rss(item(1))})
    early = poll(CONFIG, pages, failed, now)
    assert (early.documents, early.state, pages.asked) == ([], failed, [])
    assert early.notes == ["not polled before 2026-03-01T12:01:00+00:00: down"]
    later = poll(CONFIG, pages, failed, lambda: NOW + timedelta(minutes=2))
    assert len(later.documents) == 1
    assert (later.state.failures, later.state.error, later.state.not_before) == (0, "", None)


PAGE = b"<html><body><p>The whole story, told at its own length.</p></body></html>"
FULL = dataclasses.replace(CONFIG, full_text=True)


def test_full_text_reads_the_linked_page_and_falls_back_to_the_feed() -> None:
    gone = FetchError("https://news.example/2", "answered 404")
    pages = Pages(
        {
            URL: rss(item(1), item(2)),
            "https://news.example/1": PAGE,
            "https://news.example/2": gone,
        }
    )
    got = poll(FULL, pages, NEW, now)
    assert got.documents[0].text == "The whole story, told at its own length."
    assert got.documents[1].text == "Item 2\nSomething happened."
    assert got.notes == ["https://news.example/2 answered 404; the feed's own text is used"]


def test_full_text_fetches_no_page_twice() -> None:
    pages = Pages({URL: rss(item(1), item(2)), "https://news.example/2": PAGE})
    got = poll(FULL, pages, NEW, now, seen=lambda url: url.endswith("/1"))
    assert [document.url for document in got.documents] == ["https://news.example/2"]


def test_slow_pages_are_left_to_the_next_poll() -> None:
    urls = [f"https://news.example/{number}" for number in range(5)]
    pages = Pages({URL: rss(*map(item, range(5))), **dict.fromkeys(urls, PAGE)}, etag='"1"')
    minutes = itertools.count()
    read_urls: set[str] = set()
    state, polls = NEW, 0
    while not state.digest:
        got = poll(
            FULL,
            pages,
            state,
            lambda: NOW + timedelta(minutes=2 * next(minutes)),
            seen=read_urls.__contains__,
        )
        read_urls |= {document.url for document in got.documents}
        state, polls = got.state, polls + 1
    assert read_urls == set(urls)
    assert polls > 1


def test_the_loader_is_a_langchain_loader() -> None:
    loader = FeedLoader(CONFIG, Pages({URL: rss(item(1))}), NEW, now)
    [document] = loader.load()
    assert document.page_content == "Item 1\nSomething happened."
    assert document.metadata["source"] == "https://news.example/1"
    assert all(isinstance(value, str) for value in document.metadata.values())


# Folders


def folder(path: Path, **settings: object) -> FeedConfig:
    return FeedConfig("docs", str(path), **settings)


def poll_folder(config: FeedConfig, state: FeedState | None = None) -> Poll:
    return poll(config, Pages({}), state or FeedState("docs"), now)


def fill(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "b.html").write_text("<title>B page</title><p>Body of B.</p>")
    (root / "sub" / "a.json").write_text('{"name": "A", "capital": {"text": "X"}}')
    (root / "c.txt").write_text("C title\n\nBody of C.")
    (root / "d.rss").write_bytes(rss(item(1), item(2)))
    (root / "e.bin").write_bytes(b"\0")
    (root / ".hidden.txt").write_text("not read")


def test_a_folder_gives_its_files_in_a_stable_order(tmp_path: Path) -> None:
    fill(tmp_path)
    got = poll_folder(folder(tmp_path))
    assert [document.title for document in got.documents] == [
        "B page",
        "C title",
        "Item 1",
        "Item 2",
        "A",
    ]
    assert got.documents[-1].url == (tmp_path / "sub" / "a.json").resolve().as_uri()
    assert got.documents[-1].mime == "application/json"
    assert got.documents[-1].text == "name: A\ncapital: X"
    assert got.documents[-1].published is None
    assert got.notes == []


def test_a_folder_is_unchanged_until_a_content_changes(tmp_path: Path) -> None:
    fill(tmp_path)
    first = poll_folder(folder(tmp_path))
    (tmp_path / "b.html").touch()
    same = poll_folder(folder(tmp_path), first.state)
    assert (same.unchanged, same.documents) == (True, [])
    (tmp_path / "c.txt").write_text("C title\n\nAnother body.")
    changed = poll_folder(folder(tmp_path), same.state)
    old = {document.id for document in first.documents}
    assert [d.title for d in changed.documents if d.id not in old] == ["C title"]


def test_include_selects_files(tmp_path: Path) -> None:
    fill(tmp_path)
    got = poll_folder(folder(tmp_path, include=("*.html", "sub/*.json")))
    assert [document.title for document in got.documents] == ["B page", "A"]


@pytest.mark.parametrize("pattern", ["", "/etc/*"])
def test_an_include_that_is_no_pattern_is_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(FeedError, match="no usable pattern"):
        poll_folder(folder(tmp_path, include=(pattern,)))


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("SECRET")
    (inside / "ok.txt").write_text("fine")
    (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "up").symlink_to(tmp_path)
    (inside / "loop.txt").symlink_to(inside / "loop.txt")
    got = poll_folder(folder(inside, include=("**/*", "../*.txt", "up/*.txt")))
    assert [document.text for document in got.documents] == ["fine"]
    assert any("leads outside" in note for note in got.notes)


def test_one_bad_file_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "b.xml").write_text("<no-feed/>")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.txt").write_text("fine")
    with (tmp_path / "e.txt").open("wb") as big:
        big.truncate(16 * 2**20)
    got = poll_folder(folder(tmp_path))
    assert [document.text for document in got.documents] == ["fine"]
    for name, note in zip(("e.txt", "a.pdf", "b.xml", "c.json"), got.notes, strict=True):
        assert name in note


def test_a_file_url_and_a_single_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "feed one.xml"
    path.write_bytes(rss(item(1), item(2)))
    for url in (path.as_uri(), tmp_path.as_uri(), str(path)):
        assert len(poll_folder(FeedConfig("docs", url)).documents) == 2


@pytest.mark.parametrize("url", ["/no/such/dir", "gopher://x/y", "file://server/share", "data:x"])
def test_an_address_that_cannot_be_read_is_named(url: str) -> None:
    with pytest.raises(FeedError, match=r"^feed docs: "):
        poll_folder(FeedConfig("docs", url))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="say 'rss', 'folder' or 'wikidata'"):
        FeedConfig("docs", URL, kind="atom")


# The real thing


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Serve one body at a time from a loopback server with ETags; return its URL."""
    current = {"body": b""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            etag = f'"{hash(current["body"])}"'
            same = self.headers.get("If-None-Match") == etag
            body = b"" if same else current["body"]
            self.send_response(304 if same else 200)
            self.send_header("ETag", etag)
            self.send_header("Content-Type", "application/rss+xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(body: bytes) -> str:
        current["body"] = body
        return f"http://127.0.0.1:{server.server_address[1]}/feed"

    yield publish
    server.shutdown()
    server.server_close()


def test_a_feed_is_polled_over_http(serve: Callable[[bytes], str]) -> None:
    config = FeedConfig("news", serve(rss(item(1))))
    fetcher = Fetcher(allow_hosts=["127.0.0.1"])
    first = poll(config, fetcher, NEW, now)
    again = poll(config, fetcher, first.state, now)
    serve(rss(item(1), item(2)))
    grown = poll(config, fetcher, again.state, now)
    assert [len(got.documents) for got in (first, again, grown)] == [1, 0, 2]
    assert grown.documents[0].id == first.documents[0].id


def test_a_real_feed_of_four_megabytes_is_read_within_bounds(
    serve: Callable[[bytes], str],
) -> None:
    archive = next((SHARED / "feed_replay_current_events").glob("*.tar.xz"), None)
    if archive is None:
        pytest.skip("no real feed at hand")
    with tarfile.open(archive) as tar:
        largest = max(tar.getmembers(), key=lambda member: member.size)
        packed = tar.extractfile(largest)
        assert packed is not None
        body = packed.read()
    config = FeedConfig("events", serve(body))
    fetcher = Fetcher(allow_hosts=["127.0.0.1"])
    began = time.perf_counter()
    got = poll(config, fetcher, FeedState("events"), now)
    assert time.perf_counter() - began < 10.0  # measured: 0.6 s
    assert len(got.documents) == 199
    assert got.notes == []
    assert all(document.published for document in got.documents)
    assert not any("current-events-main" in document.text for document in got.documents)
    tracemalloc.start()
    again = poll(config, fetcher, got.state, now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert again.unchanged
    assert peak < 20 * 2**20


def feed_files(archive: Path) -> Iterator[bytes]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith((".xml", ".rss", ".atom")):
                packed = tar.extractfile(member)
                assert packed is not None
                yield packed.read()


def test_every_feed_of_a_public_corpus_is_read_or_refused_in_one_line() -> None:
    archives = sorted((SHARED / "feed_corpus").glob("*.tar.xz"))
    if not archives:
        pytest.skip("no feed corpus at hand")
    bodies = [body for archive in archives for body in feed_files(archive)]
    lines = []
    for body in bodies:
        try:
            read(body)
        except FeedError as error:
            lines.append(str(error))
    assert len(bodies) > 2_000
    assert len(lines) < 50
    assert not any("\n" in line for line in lines)
