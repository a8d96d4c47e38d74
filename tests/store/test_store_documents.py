"""Documents, and which of them were replaced at their address."""

from store_samples import GERMANY, a_claim, a_document

from store.library import Store
from store.records import Slot


def test_the_versions_of_a_page_come_in_the_order_in_which_they_were_kept(store: Store) -> None:
    texts = ("first", "second", "third")
    for text in texts:
        store.documents.add(a_document(text=text))
    store.documents.add(a_document("https://news.example/2", "other"))
    store.documents.add(a_document(text="of another feed", id="x", feed="another"))
    found = store.documents.versions("feed", "https://news.example/1")
    assert tuple(document.text for document in found) == texts
    assert store.documents.latest("feed", "https://news.example/1") == found[-1]
    assert store.documents.versions("feed", "https://nowhere.example") == []


def test_the_slots_that_replaced_pages_speak_of_are_found(store: Store) -> None:
    old, new = a_document(text="old"), a_document(text="new")
    alone = a_document("https://news.example/2", "alone")
    for document in (old, new, alone):
        store.documents.add(document)
    slots = {"Germany": old, "France": new, "Peru": alone}
    store.claims.add(
        a_claim("A B", subject=subject, document_id=document.id)
        for subject, document in slots.items()
    )
    assert store.documents.slots_of_old_versions() == {GERMANY.key}
    peru = Slot("Peru", GERMANY.relation).key
    assert store.documents.slots_of_old_versions([alone.id]) == {GERMANY.key, peru}
