"""The guarded fetcher against a real loopback server and hostile look-ups."""

import contextlib
import gzip
import ipaddress
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from agent.fetch import Fetcher, FetchError, kind_of, next_hop, redact


class Server:
    """A loopback HTTP server whose paths are handled by plain functions."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.accepted = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                outer.accepted += 1
                super().setup()

            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append((self.path, headers))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.routes[self.path](self)  # the client may hang up early

            def log_message(self, *args: object) -> None:
                pass

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        if context is not None:
            self._httpd.socket = context.wrap_socket(self._httpd.socket, server_side=True)
        self.port = self._httpd.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, path: str, body: bytes = b"", status: int = 200, **headers: str) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            handler.wfile.write(body)

        self.routes[path] = answer

    def stop(self) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.stop()


def fetcher_for(server: Server, **settings: object) -> Fetcher:
    settings.setdefault("allow_hosts", [server.host])
    return Fetcher(**{"timeout": 2.0, "deadline": 5.0, **settings})


def test_a_document_comes_back_with_its_headers(server: Server) -> None:
    server.serve("/feed", b"<rss/>", ETag='"1"', Content_Type="application/rss+xml")
    with fetcher_for(server) as fetcher:
        got = fetcher.get(server.url + "/feed")
    assert (got.status, got.body, got.not_modified) == (200, b"<rss/>", False)
    assert got.headers["etag"] == '"1"'
    assert server.requests[0][1]["accept-encoding"] == "gzip"


def test_validators_are_sent_and_a_304_is_reported(server: Server) -> None:
    server.serve("/feed", status=304)
    got = fetcher_for(server).get(server.url + "/feed", etag='"1"', last_modified="yesterday")
    assert got.not_modified
    assert got.body == b""
    sent = server.requests[0][1]
    assert (sent["if-none-match"], sent["if-modified-since"]) == ('"1"', "yesterday")


def test_a_304_that_was_not_asked_for_is_an_error(server: Server) -> None:
    server.serve("/feed", status=304)
    with pytest.raises(FetchError, match="304"):
        fetcher_for(server).get(server.url + "/feed")


REFUSED = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:10.0.0.1]",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "[2002:7f00:1::]",
    "[2002:a00:1::]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b:1::1]",
    "[2001::1]",
    "[2001:db8::1]",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "localhost",
    "localhost.",
]


def test_no_spelling_of_an_address_that_is_not_public_is_connected_to(server: Server) -> None:
    fetcher = Fetcher(timeout=1.0, deadline=2.0)
    for host in REFUSED:
        with pytest.raises(FetchError) as refused:
            fetcher.get(f"http://{host}:{server.port}/feed")
        assert "did not answer" not in str(refused.value), host
        assert "could not be read" not in str(refused.value), host
    assert server.accepted == 0


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"],
)
def test_public_addresses_pass(address: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) is None


def test_the_message_names_the_address_and_the_remedy() -> None:
    fetcher = Fetcher(resolver=lambda host: ["10.0.0.1"])
    with pytest.raises(FetchError) as refused:
        fetcher.get("http://intranet.example/feed")
    assert str(refused.value) == (
        "http://intranet.example/feed leads to intranet.example, which resolves to the private "
        "address 10.0.0.1; set fetch.allow_private or fetch.allow_hosts to permit it"
    )


@pytest.mark.parametrize("settings", [{"allow_private": True}, {"allow_hosts": ["127.0.0.1"]}])
def test_settings_lift_the_check(server: Server, settings: dict[str, object]) -> None:
    server.serve("/", b"ok")
    assert (
        fetcher_for(server, **{"allow_hosts": (), **settings}).get(server.url + "/").body == b"ok"
    )


def test_an_allowed_port_allows_no_other_port(server: Server) -> None:
    fetcher = Fetcher(allow_hosts=[f"127.0.0.1:{server.port + 1}"])
    with pytest.raises(FetchError, match="loopback"):
        fetcher.get(server.url + "/")
    assert server.accepted == 0


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://x/", "data:text/plain,x", "ftp://x/", "x", "http://"]
)
def test_only_http_and_https_are_fetched(url: str) -> None:
    with pytest.raises(FetchError):
        Fetcher().get(url)


def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to(
    server: Server,
) -> None:
    server.serve("/", b"ok")
    asked: list[str] = []

    def rebinding(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    fetcher = fetcher_for(server, allow_hosts=["feeds.example"], resolver=rebinding)
    assert fetcher.get(f"http://feeds.example:{server.port}/").body == b"ok"
    assert asked == ["feeds.example"]
    assert server.requests[0][1]["host"] == f"feeds.example:{server.port}"


def test_one_private_address_among_public_ones_refuses_the_name(server: Server) -> None:
    fetcher = Fetcher(resolver=lambda host: ["8.8.8.8", "127.0.0.1"], timeout=1.0)
    with pytest.raises(FetchError, match=r"loopback address 127\.0\.0\.1"):
        fetcher.get(f"http://feeds.example:{server.port}/")
    assert server.accepted == 0


def test_the_next_address_is_tried_where_one_does_not_answer(server: Server) -> None:
    server.serve("/", b"ok")
    fetcher = fetcher_for(
        server, allow_hosts=["two.example"], resolver=lambda host: ["127.0.0.2", "127.0.0.1"]
    )
    assert fetcher.get(f"http://two.example:{server.port}/").body == b"ok"


def test_a_name_that_does_not_resolve_is_one_clear_line() -> None:
    def nowhere(host: str) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(FetchError, match=r"nowhere\.example does not resolve; check the name"):
        Fetcher(resolver=nowhere).get("http://nowhere.example/feed")


def test_a_redirect_to_a_private_address_is_refused(server: Server) -> None:
    inner = Server()
    server.serve("/", status=302, Location=inner.url + "/secret")
    try:
        with pytest.raises(FetchError, match="loopback"):
            fetcher_for(server).get(server.url + "/")
        assert inner.accepted == 0
    finally:
        inner.stop()


def test_a_redirect_is_followed_and_reported(server: Server) -> None:
    server.serve("/old", status=301, Location="/new?x=1")
    server.serve("/new?x=1", b"ok")
    got = fetcher_for(server).get(server.url + "/old")
    assert (got.url, got.final_url) == (server.url + "/old", server.url + "/new?x=1")


def test_the_sixth_redirect_is_one_too_many(server: Server) -> None:
    for hop in range(6):
        server.serve(f"/{hop}", status=302, Location=f"/{hop + 1}")
    server.serve("/6", b"ok")
    with pytest.raises(FetchError, match="redirects more than 5 times"):
        fetcher_for(server).get(server.url + "/0")
    assert fetcher_for(server).get(server.url + "/1").body == b"ok"


def test_a_redirect_from_https_to_http_is_refused() -> None:
    with pytest.raises(FetchError, match="from https down to http"):
        next_hop(httpx2.URL("https://a.example/feed"), "http://a.example/feed")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "javascript:alert(1)", "ftp://x/y"])
def test_a_redirect_to_another_scheme_is_refused(location: str) -> None:
    with pytest.raises(FetchError, match="is no http"):
        next_hop(httpx2.URL("http://a.example/feed"), location)


def test_credentials_reach_their_own_origin_only(server: Server) -> None:
    other = Server()
    other.serve("/end", b"ok")
    server.serve("/a", status=302, Location="/b")
    server.serve("/b", status=302, Location=other.url + "/end")
    try:
        fetcher = fetcher_for(server, allow_private=True)
        got = fetcher.get(f"http://ann:s3cret@{server.host}/a")
    finally:
        other.stop()
    assert [("authorization" in headers) for _, headers in server.requests] == [True, True]
    assert "authorization" not in other.requests[0][1]
    assert "s3cret" not in got.url + got.final_url


def test_secrets_are_not_repeated_in_messages(server: Server) -> None:
    server.serve("/a?api_key=s3cret&x=1", status=500)
    with pytest.raises(FetchError) as failed:
        fetcher_for(server).get(f"http://ann:s3cret@{server.host}/a?api_key=s3cret&x=1")
    assert "s3cret" not in str(failed.value)
    assert "x=1" in str(failed.value)
    assert redact("http://u:p@x@host/a@b") == "http://host/a@b"


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (404, {}, None),
        (429, {"Retry_After": "120"}, 120.0),
        (503, {"Retry_After": "soon"}, None),
    ],
)
def test_an_error_status_is_an_error_with_its_wait(
    server: Server, status: int, headers: dict[str, str], wait: float | None
) -> None:
    server.serve("/", status=status, **headers)
    with pytest.raises(FetchError) as failed:
        fetcher_for(server).get(server.url + "/")
    assert (failed.value.status, failed.value.retry_after) == (status, wait)


def test_a_retry_date_counts_from_the_servers_own_date(server: Server) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(503)
        handler.send_header("Date", "Wed, 21 Oct 2026 07:28:00 GMT")
        handler.send_header("Retry-After", "Wed, 21 Oct 2026 07:30:00 GMT")
        handler.end_headers()

    server.routes["/"] = answer
    with pytest.raises(FetchError) as failed:
        fetcher_for(server).get(server.url + "/")
    assert failed.value.retry_after == 120.0


def test_a_body_over_the_cap_is_stopped_while_it_streams(server: Server) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while sent < 200 * 2**20:
            sent += handler.wfile.write(b"x" * 65536)

    server.routes["/"] = endless
    with pytest.raises(FetchError, match=r"larger than 1048576 bytes; raise fetch\.max_bytes"):
        fetcher_for(server, max_bytes=2**20).get(server.url + "/")
    assert sent < 20 * 2**20  # what the socket buffers took beyond the cap


def test_a_gzip_body_is_unpacked_over_all_its_members(server: Server) -> None:
    body = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 10
    server.serve("/", body, Content_Encoding="gzip")
    assert fetcher_for(server).get(server.url + "/").body == b"one two"


def test_a_gzip_bomb_is_stopped_at_the_cap(server: Server) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(400)) + packer.flush()
    assert len(bomb) < 2**20
    server.serve("/", bomb, Content_Encoding="gzip")
    began = time.perf_counter()
    with pytest.raises(FetchError, match="larger than"):
        fetcher_for(server, max_bytes=2**20).get(server.url + "/")
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("br", b"x"), ("gzip", b"no gzip at all"), ("gzip", gzip.compress(b"x" * 999)[:-9])],
)
def test_a_body_that_cannot_be_unpacked_is_an_error(
    server: Server, encoding: str, body: bytes
) -> None:
    server.serve("/", body, Content_Encoding=encoding)
    with pytest.raises(FetchError):
        fetcher_for(server).get(server.url + "/")


def test_a_body_cut_short_is_an_error(server: Server) -> None:
    def short(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"x")

    server.routes["/"] = short
    with pytest.raises(FetchError, match="could not be read"):
        fetcher_for(server).get(server.url + "/")


def test_a_silent_server_runs_into_the_timeout(server: Server) -> None:
    server.routes["/"] = lambda handler: time.sleep(1.0)
    with pytest.raises(FetchError, match=r"did not answer within 0\.2 s"):
        fetcher_for(server, timeout=0.2).get(server.url + "/")


@pytest.mark.parametrize("where", ["headers", "body"])
def test_a_server_that_drips_runs_into_the_deadline(server: Server, where: str) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if where == "body" else b"X: "))
        for _ in range(40):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    server.routes["/"] = drip
    began = time.perf_counter()
    with pytest.raises(FetchError, match=r"longer than 0\.4 s; raise fetch\.deadline"):
        fetcher_for(server, timeout=0.3, deadline=0.4).get(server.url + "/")
    assert time.perf_counter() - began < 1.0


def test_the_environments_proxy_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/", b"ok")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert fetcher_for(server).get(server.url + "/").body == b"ok"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_is_checked_against_the_name_not_the_address(tmp_path: object) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=feeds.example -addext subjectAltName=DNS:feeds.example"
        f" -keyout {tmp_path}/key.pem -out {tmp_path}/cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(f"{tmp_path}/cert.pem", f"{tmp_path}/key.pem")
    server = Server(serving)
    server.serve("/", b"ok")
    settings = {
        "allow_private": True,
        "resolver": lambda host: ["127.0.0.1"],
        "ssl_context": ssl.create_default_context(cafile=f"{tmp_path}/cert.pem"),
    }
    try:
        fetcher = fetcher_for(server, **settings)
        assert fetcher.get(f"https://feeds.example:{server.port}/").body == b"ok"
        with pytest.raises(FetchError, match="could not be read"):
            fetcher.get(f"https://other.example:{server.port}/")
    finally:
        server.stop()
