"""The histories in the database: bitemporal, append-only, and the same for the same claims."""

from pathlib import Path
from random import Random

from store_samples import GERMANY, NOW, a_claim, after, former, same_name

from store.library import Store
from store.records import Claim, Slot

SCHOLZ = a_claim("Olaf Scholz", "2021-12-08", document_id="d1")
MERZ = a_claim("Friedrich Merz", "2025-05-06", document_id="d2", title="chancellor")
CARNEY = a_claim("Mark Carney", "2025-03-14", subject="Canada")


def told(store: Store, slot: Slot = GERMANY) -> list[tuple[str, str | None, str | None]]:
    return [(f.object, f.valid_from, f.valid_until) for f in store.facts.history(slot)]


def test_claims_become_facts_and_are_kept(store: Store) -> None:
    (fact,) = store.facts.assimilate([MERZ], same_name, NOW)
    assert (fact.object, fact.claim_ids, fact.titles) == (
        "Friedrich Merz",
        (MERZ.id,),
        ("chancellor",),
    )
    assert store.facts.history(GERMANY) == [fact]
    assert store.claims.get(MERZ.id) == MERZ


def test_claims_that_were_kept_before_count_as_well(store: Store) -> None:
    store.claims.add([SCHOLZ, MERZ])
    assert len(store.facts.assimilate([MERZ], same_name, NOW)) == 2
    assert len(store.facts.history(GERMANY)) == 2


def test_assimilating_again_changes_nothing(store: Store) -> None:
    store.facts.assimilate([SCHOLZ, MERZ], same_name, NOW)
    before = store.facts.ls(), store.ledger.head()
    assert store.facts.assimilate([MERZ, SCHOLZ], same_name, after(days=1)) == []
    assert (store.facts.ls(), store.ledger.head()) == before


def test_the_history_can_be_read_as_it_was_known(store: Store) -> None:
    store.facts.assimilate([SCHOLZ], same_name, NOW)
    store.facts.assimilate([MERZ], same_name, after(days=10))
    assert told(store) == [
        ("Olaf Scholz", "2021-12-08", "2025-05-06"),
        ("Friedrich Merz", "2025-05-06", None),
    ]
    (then,) = store.facts.history(GERMANY, known_on=after(days=5))
    assert (then.object, then.valid_until) == ("Olaf Scholz", None)
    assert then.recorded_until == after(days=10)
    assert store.facts.history(GERMANY, known_on=after(days=-1)) == []
    assert store.facts.history(GERMANY, known_on=after(days=10)) == store.facts.history(GERMANY)


def test_as_of_combines_both_times(store: Store) -> None:
    store.facts.assimilate([SCHOLZ, CARNEY], same_name, NOW)
    store.facts.assimilate([MERZ], same_name, after(days=10))

    def holders(slot: Slot | None, day: str, known_days: int | None = None) -> list[str]:
        known = None if known_days is None else after(days=known_days)
        return [fact.object for fact in store.facts.as_of(slot, day, known)]

    assert holders(GERMANY, "2026-01-01") == ["Friedrich Merz"]
    assert holders(GERMANY, "2026-01-01", known_days=5) == ["Olaf Scholz"]
    assert holders(GERMANY, "2022-01-01") == ["Olaf Scholz"]
    assert holders(None, "2026-01-01") == ["Mark Carney", "Friedrich Merz"]


def test_slots_are_told_apart_by_key_and_listed_once(store: Store) -> None:
    shouted = a_claim("Friedrich Merz", "2025-05-06", subject="GERMANY", document_id="d9")
    store.facts.assimilate([CARNEY, MERZ, shouted], same_name, NOW)
    assert store.facts.slots() == [Slot("Canada", GERMANY.relation), GERMANY]
    assert store.facts.count() == 2
    assert [fact.subject for fact in store.facts.ls(limit=1)] == ["Canada"]


def test_rows_are_closed_but_never_deleted_or_altered(store: Store) -> None:
    (first,) = store.facts.assimilate([SCHOLZ], same_name, NOW)
    store.facts.assimilate([MERZ], same_name, after(days=1))
    with store.database.read() as conn:
        rows = conn.exec_driver_sql("SELECT id, recorded_until FROM facts ORDER BY seq").all()
    assert len(rows) == 3
    assert rows[0] == (first.id, after(days=1).isoformat())
    assert [until for _, until in rows[1:]] == [None, None]


def test_a_change_is_noted_in_the_ledger(store: Store) -> None:
    (first,) = store.facts.assimilate([SCHOLZ], same_name, NOW)
    store.facts.assimilate([MERZ], same_name, after(days=1))
    entry = store.ledger.head()
    assert entry is not None
    assert entry.kind == "facts.changed"
    assert entry.body["closed"] == [first.id]
    assert [fact["object"] for fact in entry.body["inserted"]] == ["Olaf Scholz", "Friedrich Merz"]
    assert store.ledger.verify() is None


def test_many_valued_slots_keep_all_their_values(store: Store) -> None:
    claims = [a_claim("Belgium", "1958", subject="EU"), a_claim("Poland", "2004", subject="EU")]
    store.facts.assimilate(claims, same_name, NOW, single=False)
    assert told(store, claims[0].slot) == [("Belgium", "1958", None), ("Poland", "2004", None)]


def test_the_digest_depends_on_what_is_said_and_on_nothing_else(tmp_path: Path) -> None:
    def digest(claims: list[Claim], name: str, at_once: bool) -> str:
        with Store(tmp_path / name) as store:
            batches = [claims] if at_once else [[claim] for claim in claims]
            for number, batch in enumerate(batches):
                store.facts.assimilate(batch, same_name, after(hours=number))
            return store.facts.digest()

    def from_source(source: str) -> list[Claim]:
        return [
            former("Angela Merkel", "2005-11-22", "2021-12-08", document_id=source),
            a_claim("Olaf Scholz", "2021-12-08", document_id=source),
            a_claim("Friedrich Merz", "2025-05-06", document_id=source),
            former("Scholz", None, "2025-05-06", document_id=source),
            a_claim("Mark Carney", "2025-03-14", subject="Canada", document_id=source),
        ]

    claims = from_source("d1")
    expected = digest(claims, "once", at_once=True)
    for seed in range(3):
        shuffled = claims + from_source("syndicated")
        Random(seed).shuffle(shuffled)
        assert digest(shuffled, f"shuffled {seed}", at_once=False) == expected
    assert digest(claims[:-1], "less", at_once=True) != expected
