"""The ledger chains its entries, and shows where it was tampered with."""

import pytest
from store_samples import NOW, after

from store.library import Store
from store.records import EditState


@pytest.fixture
def written(store: Store) -> Store:
    for number in range(1, 7):
        store.ledger.append("test", {"number": number}, after(minutes=number))
    return store


def tamper(store: Store, *statements: str) -> None:
    with store.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement)


def test_entries_come_back_as_they_were_written(written: Store) -> None:
    entries = list(written.ledger.entries())
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [entry.body["number"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert entries[2].at == after(minutes=3)
    assert [entry.previous for entry in entries[1:]] == [entry.digest for entry in entries[:-1]]
    assert written.ledger.head() == entries[-1]
    assert written.ledger.verify() is None


def test_entries_can_be_read_from_a_number_on_and_by_kind(written: Store) -> None:
    written.ledger.append("other", {"state": EditState.QUEUED, "at": NOW}, NOW)
    assert [entry.seq for entry in written.ledger.entries(start=5)] == [5, 6, 7]
    (other,) = written.ledger.entries(kind="other")
    assert other.body == {"state": "queued", "at": NOW.isoformat()}


def test_an_empty_ledger_is_sound(store: Store) -> None:
    assert store.ledger.verify() is None
    assert store.ledger.head() is None


@pytest.mark.parametrize(
    ("statement", "bad"),
    [
        ("""UPDATE ledger SET body = '{"number":9}' WHERE seq = 4""", 4),
        ("""UPDATE ledger SET body = '{"number": 4}' WHERE seq = 4""", 4),  # one space more
        ("UPDATE ledger SET at = '2020-01-01T00:00:00+00:00' WHERE seq = 2", 2),
        ("UPDATE ledger SET kind = 'other' WHERE seq = 6", 6),
        ("UPDATE ledger SET previous = digest WHERE seq = 5", 5),
        ("DELETE FROM ledger WHERE seq = 3", 3),
        ("DELETE FROM ledger WHERE seq = 1", 1),
        ("DELETE FROM ledger WHERE seq = 6", 6),
        ("DELETE FROM ledger WHERE seq > 2", 3),
        ("DELETE FROM ledger", 1),
        ("UPDATE ledger_head SET entries = 5", 6),
        ("UPDATE ledger_head SET digest = 'no'", 6),
        ("DELETE FROM ledger_head", 1),
    ],
)
def test_tampering_is_found_at_the_first_bad_entry(
    written: Store, statement: str, bad: int
) -> None:
    tamper(written, statement)
    assert written.ledger.verify() == bad


def test_swapped_entries_are_found(written: Store) -> None:
    tamper(
        written,
        "UPDATE ledger SET seq = 100 WHERE seq = 2",
        "UPDATE ledger SET seq = 2 WHERE seq = 5",
        "UPDATE ledger SET seq = 5 WHERE seq = 100",
    )
    assert written.ledger.verify() == 2


def test_an_entry_forged_at_the_end_is_found(written: Store) -> None:
    tamper(
        written,
        "INSERT INTO ledger SELECT 7, at, kind, body, digest, digest FROM ledger WHERE seq = 6",
    )
    assert written.ledger.verify() == 7


def test_a_failed_transaction_leaves_no_gap(written: Store) -> None:
    def fail() -> None:
        with written.begin() as conn:
            written.ledger.append("test", {"number": 7}, NOW, conn)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert written.ledger.append("test", {"number": 7}, NOW).seq == 7
    assert written.ledger.verify() is None
