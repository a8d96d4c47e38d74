"""Kept answers: a cache that finds exactly what was put in, and can be emptied by model."""

from store_samples import NOW, after

from store.library import Store
from store.records import Reply

MERKEL = Reply("Who is the chancellor of Germany?", "Angela Merkel.", -0.2, 4, ("Merz.", "Merkel."))
KEY = ("base+v1", "settings", MERKEL.question)


def test_an_answer_is_found_again_with_everything_it_had(store: Store) -> None:
    store.replies.put({KEY: MERKEL}, NOW)
    assert store.replies.get([KEY]) == {KEY: MERKEL}
    with Store(store.home) as again:
        assert again.replies.get([KEY]) == {KEY: MERKEL}


def test_another_model_other_settings_or_another_question_find_nothing(store: Store) -> None:
    store.replies.put({KEY: MERKEL}, NOW)
    model, settings, question = KEY
    others = [("base", settings, question), (model, "", question), (model, settings, "Who?")]
    assert store.replies.get(others) == {}
    assert store.replies.get([]) == {}


def test_the_first_answer_stays(store: Store) -> None:
    store.replies.put({KEY: MERKEL}, NOW)
    store.replies.put({KEY: Reply(MERKEL.question, "Olaf Scholz.", -0.1)}, after(days=1))
    assert store.replies.get([KEY]) == {KEY: MERKEL}
    assert store.replies.count() == 1


def test_many_answers_are_found_in_one_go(store: Store) -> None:
    many = {
        ("m", "s", f"Question {n}?"): Reply(f"Question {n}?", str(n), -1.0) for n in range(1200)
    }
    store.replies.put(many, NOW)
    assert store.replies.get([*many, KEY]) == many


def test_a_half_written_lot_is_not_kept(store: Store) -> None:
    try:
        with store.begin() as conn:
            store.replies.put({KEY: MERKEL}, NOW, conn)
            raise RuntimeError("power cut")
    except RuntimeError:
        pass
    assert store.replies.count() == 0


def test_the_answers_of_unwanted_models_are_dropped(store: Store) -> None:
    for model in ("base", "base+v1", "base+v2"):
        store.replies.put({(model, "s", q): Reply(q, "x", -1.0) for q in ("a", "b")}, NOW)
    assert store.replies.models() == ["base", "base+v1", "base+v2"]
    assert store.replies.collect(lambda model: model == "base+v1") == 4
    assert store.replies.models() == ["base+v1"]
    assert store.replies.collect(lambda model: True) == 0
    assert store.replies.count() == 2
