"""Entities asked of an endpoint: what is asked, what is asked again, and what goes wrong."""

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from entity_json import APPLE, FRANCE, GERMANY, LABELS, Json, entity, names, statement
from samples import NOW, REGISTRY

from agent.commands.feed_file import located, named
from agent.config import Config, ConfigError, FeedEntry, FetchConfig, WikidataConfig, load_config
from agent.cycle import _feed
from agent.doctor import try_feed
from agent.feeds import FeedConfig, FeedError, Poll, poll
from agent.fetch import Fetched, Fetcher, FetchError
from agent.wikidata import properties
from agent.wikidata_api import ids_of, pack, unpack
from agent.workspace import Workspace
from detectors.extractors import wikidata
from store.feeds import FeedState

ENDPOINT = "https://data.example"
NEW = FeedState("facts")


class Store:
    """An in-memory endpoint behind the fetcher's interface; ``asked`` keeps (ids, props)."""

    def __init__(self, *entities: Json) -> None:
        self.entities: dict[str, Json] = {**LABELS, **{one["id"]: one for one in entities}}
        self.asked: list[tuple[list[str], str]] = []
        self.failing: dict[str, Exception] = {}

    def get(
        self, url: str, *, etag: str | None = None, last_modified: str | None = None
    ) -> Fetched:
        assert url.startswith(f"{ENDPOINT}/w/api.php?")
        body = json.dumps(self.answer(urlsplit(url).query)).encode()
        return Fetched(url, url, 200, {}, body, not_modified=False)

    def answer(self, query: str) -> Json:
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        assert asked["action"] == "wbgetentities"
        ids, props = asked["ids"].split("|"), asked["props"]
        assert len(ids) <= 50
        self.asked.append((ids, props))
        for id in ids:
            if "claims" in props and id in self.failing:
                raise self.failing[id]
            if int(id[1:]) > 10**9:
                info = f'Could not find an entity with the ID "{id}".'
                return {"error": {"code": "no-such-entity", "info": info, "id": id}}
        told = {id: self.entities.get(id, {"id": id, "missing": ""}) for id in ids}
        kept = {"id", "missing", *props.replace("info", "lastrevid").split("|")}
        return {
            "entities": {
                id: {k: v for k, v in one.items() if k in kept} for id, one in told.items()
            }
        }

    def questions(self, props: str) -> list[list[str]]:
        return [ids for ids, asked in self.asked if asked == props]


ALL = "info|labels|aliases|claims|sitelinks"


def read(store: Store, url: str = "wikidata:Q183", state: FeedState = NEW, **more: object) -> Poll:
    config = FeedConfig("facts", url, endpoint=ENDPOINT, **more)  # type: ignore[arg-type]
    return poll(config, store, state, lambda: NOW)


def test_every_entity_is_a_document() -> None:
    got = read(Store(GERMANY, FRANCE, APPLE), "wikidata:Q183, Q142,Q312")
    assert [(d.title, d.url, d.guid) for d in got.documents] == [
        ("Germany", f"{ENDPOINT}/wiki/Q183", "Q183"),
        ("France", f"{ENDPOINT}/wiki/Q142", "Q142"),
        ("Apple", f"{ENDPOINT}/wiki/Q312", "Q312"),
    ]
    claims = [c for d in got.documents for c in wikidata.extract(d, REGISTRY, NOW)]
    assert len(claims) == 22
    assert all(document.published is None for document in got.documents)
    assert (got.notes, got.unchanged) == ([], False)


def test_an_unchanged_revision_is_not_read_again() -> None:
    store = Store(GERMANY, FRANCE)
    first = read(store, "wikidata:Q183,Q142")
    store.asked.clear()
    again = read(store, "wikidata:Q183,Q142", first.state)
    assert store.asked == [(["Q183", "Q142"], "info|labels|sitelinks")]
    assert (again.documents, again.unchanged, again.state) == ([], True, first.state)


def test_only_the_entity_that_changed_is_read_again() -> None:
    store = Store(GERMANY, FRANCE)
    first = read(store, "wikidata:Q183,Q142")
    store.asked.clear()
    store.entities["Q142"] = {**FRANCE, "lastrevid": 5}
    again = read(store, "wikidata:Q183,Q142", first.state)
    assert store.questions(ALL) == [["Q142"]]
    # A bot's edit elsewhere: the same document, so nothing new for the store.
    assert [d.id for d in again.documents] == [first.documents[1].id]
    assert unpack(again.state.etag) == {"Q183": 17, "Q142": 5}


def test_a_changed_setting_reads_everything_anew() -> None:
    store = Store(GERMANY, FRANCE)
    first = read(store)
    wanted = (("P36", "capital"),)
    again = read(store, state=first.state, properties=wanted)
    assert not again.unchanged
    assert "P6" not in again.documents[0].text
    assert not read(store, "wikidata:Q183,Q142", first.state).unchanged


def test_a_store_that_tells_no_revisions_is_read_each_time() -> None:
    store = Store({name: value for name, value in GERMANY.items() if name != "lastrevid"})
    first = read(store)
    again = read(store, state=first.state)
    assert not again.unchanged
    assert [d.id for d in again.documents] == [d.id for d in first.documents]


def test_labels_are_asked_fifty_at_once() -> None:
    holders = {
        f"Q{10_000 + n}": f"Jane {chr(65 + n // 26)}{chr(97 + n % 26)} Doe" for n in range(120)
    }
    firm = entity("Q7", "Acme", {"P127": [statement(id) for id in holders]})
    store = Store(firm)
    store.entities |= names(**holders)
    [document] = read(store, "wikidata:Q7").documents
    assert [len(ids) for ids in store.questions("labels")] == [50, 50, 20]
    assert len(wikidata.extract(document, REGISTRY, NOW)) == 120


def test_entities_are_looked_at_fifty_at_once() -> None:
    firms = [entity(f"Q{n}", f"Firm {n}", {"P169": [statement("Q265852")]}) for n in range(1, 61)]
    store = Store(*firms)
    got = read(store, "wikidata:" + ",".join(one["id"] for one in firms))
    assert [len(ids) for ids in store.questions("info|labels|sitelinks")] == [50, 10]
    assert len(got.documents) == 60


def test_a_value_without_a_label_is_left_out_and_counted() -> None:
    store = Store(GERMANY)
    del store.entities["Q1124"], store.entities["Q64"]
    got = read(store)
    assert got.notes == ["Q183 (Germany): 2 values without an English label left out"]
    assert "Q1124 | preferred rank" in got.documents[0].text


def test_entities_that_do_not_exist_are_notes() -> None:
    got = read(Store(GERMANY), "wikidata:Q99999999999,Q404,Q183")
    assert [document.title for document in got.documents] == ["Germany"]
    assert sorted(got.notes) == [
        "Q404 does not exist; take it from the feed's url",
        "Q99999999999 does not exist; take it from the feed's url",
    ]


def test_a_merged_entity_is_read_under_its_new_id() -> None:
    store = Store(GERMANY)
    store.entities["Q5"] = GERMANY
    got = read(store, "wikidata:Q5")
    assert [document.guid for document in got.documents] == ["Q183"]
    assert got.notes == ["Q5 has become Q183; correct the feed's url"]


def test_an_entity_of_no_interest_is_a_note() -> None:
    nameless = {**entity("Q8", "x"), "labels": {}}
    got = read(Store(entity("Q64", "Berlin"), nameless), "wikidata:Q64,Q8")
    assert got.documents == []
    assert got.notes == ["Q64 says nothing of a known relation", "Q8 has no English label"]


def test_a_namesake_among_the_feeds_entities_is_left_out_even_when_only_one_changed() -> None:
    rows = {"P169": [statement("Q265852")]}
    one, other = (entity(id, "Acme", rows, article=None) for id in ("Q7", "Q8"))
    store = Store(one, other)
    first = read(store, "wikidata:Q7,Q8")
    store.entities["Q8"] = {**other, "lastrevid": 2}
    again = read(store, "wikidata:Q7,Q8", first.state)
    assert (first.documents, again.documents) == ([], [])
    assert again.notes == ["Q8 is left out: Q7 is Acme as well"]


def test_one_entity_that_cannot_be_read_is_a_note_and_is_asked_again() -> None:
    store = Store(GERMANY, FRANCE)
    store.failing["Q183"] = FetchError(ENDPOINT, "is larger than 9 bytes")
    got = read(store, "wikidata:Q183,Q142")
    assert [document.title for document in got.documents] == ["France"]
    assert got.notes == [f"{ENDPOINT} is larger than 9 bytes; it is asked again at the next poll"]
    store.failing.clear()
    again = read(store, "wikidata:Q183,Q142", got.state)
    assert [document.title for document in again.documents] == ["Germany"]


def test_an_endpoint_that_asks_to_wait_is_not_asked_on() -> None:
    store = Store(GERMANY, FRANCE)
    store.failing["Q183"] = FetchError(ENDPOINT, "answers 429", retry_after=30.0)
    with pytest.raises(FeedError, match=r"^feed facts: \S+ answers 429$") as caught:
        read(store, "wikidata:Q183,Q142")
    assert caught.value.retry_after == 30.0
    assert store.questions(ALL) == [["Q183"]]


def test_a_slow_endpoint_is_read_on_at_the_next_poll() -> None:
    store = Store(GERMANY, FRANCE)
    clock = iter([NOW + timedelta(minutes=3 * n) for n in range(50)])
    config = FeedConfig("facts", "wikidata:Q183,Q142", endpoint=ENDPOINT)

    def now() -> datetime:
        return next(clock)

    first = poll(config, store, NEW, now)
    assert [document.title for document in first.documents] == ["Germany"]
    assert first.notes == ["answers slowly; 1 entities are left to the next poll"]
    again = poll(config, store, first.state, now)
    assert [document.title for document in again.documents] == ["France"]


def test_only_so_many_entities_are_taken() -> None:
    got = read(Store(GERMANY, FRANCE), "wikidata:Q183,Q142", max_items=1)
    assert [document.title for document in got.documents] == ["Germany"]
    assert got.notes == ["only the first 1 of 2 entities"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "answers with no JSON object; check wikidata.endpoint"),
        (b"[]", "answers with no JSON object; check wikidata.endpoint"),
        (b"[" * 200_000, "answers with no JSON object; check wikidata.endpoint"),
        (b"{}", "gives no entities; check wikidata.endpoint"),
        (b'{"error": {"code": "maxlag", "info": "Waiting\\nfor x"}}', r"answer \(Waiting for x\)"),
        (b'{"error": {}}', r"refuses to answer \(no reason given\)"),
    ],
)
def test_what_is_no_answer_is_one_clear_line(body: bytes, said: str) -> None:
    class Odd(Store):
        def get(self, url: str, **conditions: str | None) -> Fetched:
            return Fetched(url, url, 200, {}, body, not_modified=False)

    with pytest.raises(FeedError, match=rf"^feed facts: {ENDPOINT} .*{said}$"):
        read(Odd())


@pytest.mark.parametrize("url", ["wikidata:", "wikidata:Germany", "wikidata:Q0", "wikidata:Q1;Q2"])
def test_an_address_that_names_no_entities_is_one_clear_line(url: str) -> None:
    with pytest.raises(FeedError, match=r"^feed facts: .* write it like 'wikidata:Q183,Q30'$"):
        read(Store(), url)


def test_ids_are_given_once_and_in_order() -> None:
    assert ids_of("wikidata:q30, Q183,Q30,") == ("Q30", "Q183")


def test_revisions_are_packed_and_unpacked() -> None:
    revisions = {"Q30": 4, "Q183": 17}
    assert unpack(pack(revisions)) == revisions
    assert unpack('W/"an etag of a server" Q1=x') == {}


# Settings


def test_the_endpoint_and_a_users_relations_reach_the_feed(tmp_path: Path) -> None:
    config = Config(wikidata=WikidataConfig(endpoint="http://wiki.internal:8080"))
    made = _feed(Workspace(tmp_path, config), FeedEntry(name="facts", url="wikidata:Q183"))
    assert (made.kind, made.url) == ("wikidata", "wikidata:Q183")
    assert made.endpoint == "http://wiki.internal:8080"
    assert made.properties == properties(REGISTRY)


@pytest.mark.parametrize("endpoint", ["www.wikidata.org", "file:///etc", "https://x?y", ""])
def test_an_endpoint_must_be_a_web_address(endpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"wikidata\.endpoint"):
        load_config(tmp_path, {}, {"wikidata.endpoint": endpoint})


def test_a_feed_of_entities_is_added_as_it_is() -> None:
    assert located("wikidata:Q183,Q30") == "wikidata:Q183,Q30"
    assert named("wikidata:Q183,Q30", ["wikidata"]) == "wikidata-2"


# Over HTTP


@pytest.fixture
def serve() -> Iterator[Callable[[Store], str]]:
    stores: list[Store] = []
    agents: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            agents.append(self.headers["User-Agent"])
            body = json.dumps(stores[-1].answer(urlsplit(self.path).query)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def start(store: Store) -> str:
        stores.append(store)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    server.shutdown()
    server.server_close()
    assert set(agents) <= {"corrigenda"}


def test_entities_are_polled_over_http(serve: Callable[[Store], str]) -> None:
    store = Store(GERMANY, FRANCE)
    config = FeedConfig("facts", "wikidata:Q183,Q142", endpoint=serve(store))
    fetcher = Fetcher(allow_hosts=["127.0.0.1"])
    first = poll(config, fetcher, NEW, lambda: NOW)
    again = poll(config, fetcher, first.state, lambda: NOW)
    assert [len(got.documents) for got in (first, again)] == [2, 0]
    assert again.unchanged


def test_a_private_endpoint_is_guarded_like_any_feed(serve: Callable[[Store], str]) -> None:
    config = FeedConfig("facts", "wikidata:Q183", endpoint=serve(Store(GERMANY)))
    with pytest.raises(FeedError, match=r"fetch\.allow_private"):
        poll(config, Fetcher(), NEW, lambda: NOW)


def test_a_feed_can_be_tried_from_the_keyboard(
    serve: Callable[[Store], str], tmp_path: Path
) -> None:
    config = Config(
        fetch=FetchConfig(allow_hosts=("127.0.0.1",)),
        wikidata=WikidataConfig(endpoint=serve(Store(APPLE))),
    )
    found = try_feed(FeedEntry(name="facts", url="wikidata:Q312"), Workspace(tmp_path, config))
    assert [document.title for document in found.documents] == ["Apple"]
    assert dataclasses.asdict(found.state)["etag"] == "Q312=9"
