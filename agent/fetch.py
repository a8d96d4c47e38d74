"""The one way out to the network: a transport that checks where it connects.

Every byte a feed sends is hostile, and so is every address it points to. The name is
resolved once, the address is checked, and the connection goes to that very address, so
that a second look-up can not answer differently (DNS rebinding). Redirects are walked
one hop at a time under the same check. Size is capped while streaming, before and after
decompression, and a deadline bounds the whole of a fetch. Name resolution itself is the
system resolver's and keeps that resolver's own time-out.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import httpcore2
import httpx2

Resolver = Callable[[str], Sequence[str]]
"""A host name to its addresses as text; raises OSError where there are none."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SLICE = 64 * 1024
_KINDS = ("loopback", "link_local", "multicast", "unspecified", "private", "reserved")
# Special-purpose blocks (IANA registries) that `ipaddress` does not call private everywhere.
_SPECIAL = tuple(
    ipaddress.ip_network(block)
    for block in ("100.64.0.0/10", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "3fff::/20")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ALLOW = "set fetch.allow_private or fetch.allow_hosts to permit it"


class FetchError(Exception):
    """One line that names the URL, the cause and the remedy.

    ``status`` is the HTTP status where one was received; ``retry_after`` the seconds
    that a server asked us to wait.
    """

    def __init__(
        self,
        url: str,
        cause: str,
        remedy: str = "",
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        line = f"{redact(url)} {cause}" + (f"; {remedy}" if remedy else "")
        super().__init__(" ".join(line.split()))
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Fetched:
    """An answer. ``body`` is decompressed, header names are lower case, and both URLs
    are without credentials. ``final_url`` differs from ``url`` after redirects: whether
    to follow a feed that moved is the caller's decision."""

    url: str
    final_url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    not_modified: bool


class Fetcher:
    """Fetch documents over HTTP(S) from public addresses only.

    ``allow_private`` and ``allow_hosts`` ("host" or "host:port") lift the address check.
    ``max_bytes`` bounds the body before and after decompression; ``timeout`` (seconds)
    each connect and read, ``deadline`` (seconds) a whole fetch with its redirects.
    Safe to share between threads: nothing is kept from one fetch to the next, neither
    connections nor cookies, so leaving the ``with`` block has nothing to close.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        allow_hosts: Collection[str] = (),
        max_bytes: int = 15 * 2**20,
        timeout: float = 20.0,
        deadline: float = 60.0,
        max_redirects: int = 5,
        resolver: Resolver | None = None,
        clock: Callable[[], float] = time.monotonic,
        user_agent: str = "corrigenda",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._timeout = timeout
        self._seconds = deadline
        self._max_redirects = max_redirects
        self._guard = _Guard(allow_private, allow_hosts, resolver or _resolve)
        self._clock = clock
        self._user_agent = user_agent
        self._ssl_context = ssl_context or httpx2.create_ssl_context()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        """Fetch ``url``, conditionally if validators of an earlier answer are given.

        Raises FetchError for a refused address or redirect, a failed connection, a body
        over the cap, an exceeded time, and every status but 2xx and an expected 304.
        """
        conditions = {"if-none-match": etag, "if-modified-since": last_modified}
        headers = {name: value for name, value in conditions.items() if value}
        deadline = _Deadline(self._clock, self._seconds)
        transport = _Transport(self._guard, deadline, self._ssl_context)
        try:
            with self._client(transport) as client:
                return self._walk(client, url, headers, deadline)
        except _AddressError as error:
            raise FetchError(url, str(error), error.remedy) from error
        except (httpcore2.TimeoutException, TimeoutError) as error:
            raise FetchError(url, *self._late(deadline)) from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, zlib.error) as error:
            raise FetchError(
                url, f"could not be read ({error or type(error).__name__})", _CHECK
            ) from error
        except (httpx2.InvalidURL, httpx2.HTTPError, ValueError) as error:
            raise FetchError(url, f"is no usable URL ({error})", "correct it") from error

    def _client(self, transport: httpx2.BaseTransport) -> httpx2.Client:
        return httpx2.Client(
            transport=transport,
            trust_env=False,  # neither proxies nor .netrc of whoever runs the daemon
            timeout=self._timeout,
            headers={"user-agent": self._user_agent, "accept-encoding": "gzip"},
        )

    def _walk(
        self, client: httpx2.Client, url: str, headers: Mapping[str, str], deadline: _Deadline
    ) -> Fetched:
        target = _web_url(url)
        for _ in range(self._max_redirects + 1):
            with client.stream("GET", target, headers=dict(headers)) as response:
                location = response.headers.get("location")
                if response.status_code in _REDIRECTS and location:
                    target = next_hop(target, location)
                    continue
                return self._answer(url, target, response, deadline)
        raise FetchError(
            url,
            f"redirects more than {self._max_redirects} times",
            "use the address it leads to",
        )

    def _answer(
        self, url: str, target: httpx2.URL, response: httpx2.Response, deadline: _Deadline
    ) -> Fetched:
        status = response.status_code
        asked = response.request.headers
        conditional = "if-none-match" in asked or "if-modified-since" in asked
        not_modified = conditional and status == HTTPStatus.NOT_MODIFIED
        if not not_modified and not 200 <= status < 300:
            raise FetchError(
                url,
                f"answered {status} {response.reason_phrase}",
                _REMEDIES.get(status, "check the address or try again later"),
                status=status,
                retry_after=_retry_after(response.headers),
            )
        return Fetched(
            url=_without_userinfo(url),
            final_url=_without_userinfo(str(target)),
            status=status,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=b"" if not_modified else self._body(url, response, deadline),
            not_modified=not_modified,
        )

    def _body(self, url: str, response: httpx2.Response, deadline: _Deadline) -> bytes:
        """Read a body in slices, stopping at the cap on either side of decompression."""
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise FetchError(url, f"is sent as {encoding!r}, which was not asked for", _CHECK)
        chunks: Iterable[bytes] = self._capped(url, response.iter_raw(_SLICE), deadline)
        if "gzip" in encoding:
            chunks = self._capped(url, _gunzip(chunks), deadline)
        return b"".join(chunks)

    def _capped(self, url: str, chunks: Iterable[bytes], deadline: _Deadline) -> Iterator[bytes]:
        size = 0
        for chunk in chunks:
            deadline.bound(None)  # decompression takes time too
            size += len(chunk)
            if size > self.max_bytes:
                raise FetchError(
                    url, f"is larger than {self.max_bytes} bytes", "raise fetch.max_bytes"
                )
            yield chunk

    def _late(self, deadline: _Deadline) -> tuple[str, str]:
        if deadline.expired:
            return f"took longer than {self._seconds:g} s", "raise fetch.deadline"
        return f"did not answer within {self._timeout:g} s", "raise fetch.timeout"


_CHECK = "check the address or try again later"
_REMEDIES = {
    401: "put user:password@ into the feed's URL",
    403: "the server refuses us: take another feed",
    404: "correct the address",
    410: "the document is gone: remove it",
    429: "poll it less often",
}


def redact(url: str) -> str:
    """Return a URL without user, password and secret-looking query values, for messages."""
    return re.sub(
        r"(?i)([?&][^=&#]*(?:token|key|secret|pass|auth|sig)[^=&#]*=)[^&#\s]+",
        r"\1...",
        _without_userinfo(url),
    )


def next_hop(current: httpx2.URL, location: str) -> httpx2.URL:
    """Return where a redirect leads; credentials stay only within the same origin.

    Raises FetchError where it leaves http(s) or falls from https back to http.
    """
    target = _web_url(str(current.join(location)))
    if current.scheme == "https" and target.scheme == "http":
        raise FetchError(
            str(current), f"redirects from https down to {redact(str(target))}", _CHECK
        )
    origin = (current.scheme, current.host, current.port)
    if origin != (target.scheme, target.host, target.port):
        return target.copy_with(username=None, password=None)
    return target.copy_with(username=current.username, password=current.password)


def kind_of(address: Address) -> str | None:
    """Return what keeps an address from being a public one ("private", ...), or None.

    An IPv4 address carried inside an IPv6 one (mapped, 6to4, NAT64) counts as itself.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return kind_of(inner)
    for kind in _KINDS:
        if getattr(address, f"is_{kind}"):
            return kind.replace("_", "-")
    outside = address.version == 6 and address not in _GLOBAL_UNICAST
    if outside or any(address in block for block in _SPECIAL if block.version == address.version):
        return "special-purpose"
    return None


class _AddressError(Exception):
    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


class _Deadline:
    """The moment a whole fetch must be over, as a bound on each wait."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def expired(self) -> bool:
        return self._clock() >= self._end

    def bound(self, timeout: float | None) -> float:
        left = self._end - self._clock()
        if left <= 0:
            raise TimeoutError
        return left if timeout is None else min(timeout, left)


class _Guard:
    """Decides which addresses may be connected to."""

    def __init__(self, allow_private: bool, allow_hosts: Collection[str], resolver: Resolver):
        self._allow_private = allow_private
        self._allow_hosts = frozenset(host.lower().rstrip(".") for host in allow_hosts)
        self._resolver = resolver

    def addresses(self, host: str, port: int) -> list[Address]:
        """Return the addresses of ``host``, all of them checked; one bad one refuses all."""
        found = self._look_up(host)
        if not self._lifted(host, port):
            for address in found:
                if kind := kind_of(address):
                    through = "" if host == str(address) else f"{host}, which resolves to "
                    place = f"leads to {through}the {kind} address {address}"
                    raise _AddressError(place, _ALLOW)
        return found

    def _look_up(self, host: str) -> list[Address]:
        try:
            return [ipaddress.ip_address(host)]
        except ValueError:
            pass
        # "2130706433", "0x7f.1": resolvers read these as addresses that no one wrote plainly.
        if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.lower().rstrip(".").rpartition(".")[2]):
            raise _AddressError(
                f"spells an address in an unusual way ({host})", "write four decimal numbers"
            )
        try:
            found = [ipaddress.ip_address(text) for text in self._resolver(host)]
        except (OSError, UnicodeError) as error:
            raise _AddressError(
                f"could not be found: {host} does not resolve", "check the name and the network"
            ) from error
        if not found:
            raise _AddressError(f"could not be found: {host} has no address", "check the name")
        return found

    def _lifted(self, host: str, port: int) -> bool:
        name = host.lower().rstrip(".")
        names = {name, f"{name}:{port}", f"[{name}]", f"[{name}]:{port}"}
        return self._allow_private or not names.isdisjoint(self._allow_hosts)


class _Backend(httpcore2.NetworkBackend):
    """Connects to the checked address itself; the name stays in Host, SNI and certificate."""

    def __init__(self, guard: _Guard, deadline: _Deadline) -> None:
        self._guard = guard
        self._deadline = deadline
        self._sockets = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception | None = None
        for address in self._guard.addresses(host, port):
            try:
                stream = self._sockets.connect_tcp(
                    str(address),
                    port,
                    self._deadline.bound(timeout),
                    local_address,
                    socket_options,
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        assert failure is not None  # the guard returns at least one address
        raise failure


class _Stream(httpcore2.NetworkStream):
    """A stream whose every wait ends at the deadline, so that dripping bytes do not help."""

    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.bound(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.bound(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.bound(timeout))
        return _Stream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Transport(httpx2.BaseTransport):
    """The guarded seam: an httpx2 transport over a pool that lives for one fetch."""

    def __init__(self, guard: _Guard, deadline: _Deadline, context: ssl.SSLContext) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=context, network_backend=_Backend(guard, deadline)
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._pool.handle_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=b"",
                extensions=request.extensions,
            )
        )
        return httpx2.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


def _resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _web_url(url: str) -> httpx2.URL:
    parsed = httpx2.URL(url)
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FetchError(url, "is no http(s) address", "feeds are fetched over http and https")
    return parsed


def _without_userinfo(url: str) -> str:
    return re.sub(r"(?<=//)[^/?#]*@", "", url, count=1)


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip members in slices of bounded size; raises zlib.error if cut short."""
    inflater = None
    members = 0
    for chunk in chunks:
        while chunk:
            if inflater is None:
                if members and not chunk.startswith(b"\x1f"):
                    return  # padding after the last member
                inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
                members += 1
            yield inflater.decompress(chunk, _SLICE)
            chunk = inflater.unconsumed_tail
            if inflater.eof:
                chunk, inflater = inflater.unused_data, None
    if inflater is not None:
        yield inflater.flush()
        if not inflater.eof:
            raise zlib.error("the compressed body ends early")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return a Retry-After header in seconds; a date counts from the answer's own Date."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        wait = _moment(value) - _moment(headers.get("date", ""))
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())


def _moment(value: str) -> datetime:
    moment = parsedate_to_datetime(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
