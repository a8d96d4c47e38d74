"""Documents, claims, verdicts, feed states and runs come back as they were kept."""

from pathlib import Path

from store_samples import GERMANY, NOW, a_claim, a_document, a_verdict, after

from store.feeds import FeedState
from store.library import Store
from store.records import Belief, Reply, Slot, VerdictKind


def test_a_document_is_kept_once_and_comes_back_whole(store: Store) -> None:
    document = a_document(text="Zażółć gęślą jaźń — 日本", published=None)
    assert store.documents.add(document)
    assert not store.documents.add(document)
    assert store.documents.get(document.id) == document
    assert store.documents.get("unknown") is None
    assert store.documents.count() == 1


def test_the_latest_document_of_an_address_is_the_last_one_added(store: Store) -> None:
    first, second = a_document(text="first text"), a_document(text="second text")
    other_feed = a_document(text="elsewhere", feed="other")
    for document in (first, second, other_feed):
        store.documents.add(document)
    assert store.documents.latest("feed", first.url) == second
    assert store.documents.latest("feed", "https://news.example/none") is None
    assert store.documents.ls() == [other_feed, second, first]
    assert store.documents.ls(limit=1, feed="feed") == [second]


def test_claims_are_kept_once(store: Store) -> None:
    merz = a_claim("Friedrich Merz", "2025-05-06", document_id="d1")
    carney = a_claim("Mark Carney", "2025-03-14", subject="Canada", document_id="d2")
    assert store.claims.add([merz, carney, merz]) == 2
    assert store.claims.add([merz]) == 0
    assert store.claims.add([]) == 0
    assert store.claims.get(merz.id) == merz
    assert store.claims.ls(slot=Slot("  GERMANY ", "head of government")) == [merz]
    assert store.claims.ls(document_id="d2") == [carney]
    assert store.claims.ls() == [merz, carney]
    assert store.claims.count() == 2


def test_many_claims_at_once_are_no_trouble(store: Store) -> None:
    claims = [a_claim(f"Person {number}") for number in range(2500)]
    assert store.claims.add(claims) == 2500
    assert store.claims.add(claims) == 0


def test_the_last_verdict_of_a_slot_counts(store: Store) -> None:
    belief = Belief("Germany", GERMANY.relation, (Reply("Q?", "Merkel.", -0.1),), "m", NOW, 1.0)
    stale = a_verdict("1", VerdictKind.STALE, belief=belief)
    keep = a_verdict("2", VerdictKind.KEEP)
    wrong = a_verdict("3", VerdictKind.WRONG, subject="Canada")
    for verdict in (stale, keep, wrong):
        assert store.verdicts.add(verdict)
    assert not store.verdicts.add(stale)
    assert store.verdicts.get(stale.id) == stale
    assert store.verdicts.latest(GERMANY) == keep
    assert store.verdicts.latest(Slot("France", GERMANY.relation)) is None
    assert store.verdicts.ls() == [keep, wrong]
    assert store.verdicts.ls(VerdictKind.STALE) == []
    assert store.verdicts.ls(VerdictKind.STALE, latest_only=False) == [stale]


def test_verdict_counts_name_every_kind(store: Store) -> None:
    assert store.verdicts.counts() == dict.fromkeys([kind.value for kind in VerdictKind], 0)
    store.verdicts.add(a_verdict("1", VerdictKind.STALE))
    store.verdicts.add(a_verdict("2", VerdictKind.KEEP))
    assert store.verdicts.counts()["STALE"] == 0
    assert store.verdicts.counts(latest_only=False)["STALE"] == 1


def test_a_feed_state_is_replaced(store: Store) -> None:
    assert store.feeds.get("news") is None
    store.feeds.put(FeedState("news", etag='"1"', polled=NOW))
    failed = FeedState("news", etag='"1"', failures=2, error="timed out", not_before=after(hours=1))
    store.feeds.put(failed)
    store.feeds.put(FeedState("blog"))
    assert store.feeds.get("news") == failed
    assert store.feeds.ls() == [FeedState("blog"), failed]


def test_runs_are_numbered_and_the_last_comes_first(store: Store) -> None:
    first = store.runs.add("cycle", NOW, {"documents": 3, "at": NOW})
    second = store.runs.add("cycle", after(hours=1), {"documents": 0})
    store.runs.add("retention", NOW, {})
    assert [run.id for run in store.runs.ls("cycle")] == [second, first]
    assert len(store.runs.ls()) == 3
    assert len(store.runs.ls(limit=2)) == 2
    latest = store.runs.latest("cycle")
    assert latest is not None
    assert (latest.at, latest.body) == (after(hours=1), {"documents": 0})
    assert store.runs.ls("cycle")[1].body["at"] == NOW.isoformat()
    assert store.runs.latest("consolidation") is None


def test_what_was_kept_survives_reopening(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.claims.add([a_claim("Friedrich Merz")])
    with Store(tmp_path) as store:
        assert store.claims.ls() == [a_claim("Friedrich Merz")]
