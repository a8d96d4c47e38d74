"""Which documents are independent of each other."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import a_document

from detectors.sources import independent, likeness, publisher, upstreams
from store.records import Document

LONG = "word " * 400
STORIES = (
    "Rain fell on the capital all day while the deputies counted the votes one by one.",
    "The new minister, a teacher from the north, spoke for eleven minutes and left by train.",
    "Nobody in the harbour had expected the decision, and the ships stayed where they were.",
)


def story(number: int, text: str = "", **more: str) -> Document:
    site = more.pop("url", f"https://site{number}.test/1")
    return a_document(
        text or STORIES[number], url=site, feed=more.pop("feed", f"f{number}"), **more
    )


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.smh.com.au/x", "smh.com.au"),
        ("https://a.b.city.kobe.jp/x", "city.kobe.jp"),
        ("https://anna.github.io/x", "github.io"),
        ("https://bela.blogspot.com/x", "blogspot.com"),
        ("https://WWW.Example.ORG./x", "example.org"),
        ("https://news.paper.unknown/x", "paper.unknown"),
        ("https://[::1]/x", "feed"),
        ("https://[broken/x", "feed"),
        ("file:///srv/pages/x.html", "feed"),
    ],
)
def test_the_publisher_is_the_registrable_domain(url: str, site: str) -> None:
    """Sites that share a free host are one: whoever has one of them can have twenty."""
    assert publisher(a_document("x", url=url, feed="feed")) == site


@pytest.mark.parametrize(
    ("text", "agency"),
    [
        ("BERLIN (Reuters) - A change.", "reuters"),
        ("A change, the Associated Press reported.", "ap"),
        ("LIMA, AP — A change.", "ap"),
        ("LIMA (AP) A change.", "ap"),
        ("A change.\nSource: Xinhua", "xinhua"),
        ("A change. dpa/afp", "dpa"),
        ("A change. DPA/AFP", "afp"),
        ("By Anna Adler, AP\nA change.", "ap"),
        ("A change was made — AFP", "afp"),
        ("SYDNEY, Australian Associated Press: A change.", "aap"),
        ("A change.\nSource: Ministry of Finance", "ministry of finance"),
        ("Originally published in The Daily Planet\nA change.", "daily planet"),
    ],
)
def test_a_credit_names_the_upstream(text: str, agency: str) -> None:
    assert agency in upstreams(a_document(text))


@pytest.mark.parametrize(
    "text",
    [
        "A change in AP, a state of India, was expected.",
        "She joined the PA in 1999. He drove to Harrisburg.",
        "The Tass river froze; the TT races began.",
        "Nothing at all.",
        f"{LONG}\nReuters is an agency founded in 1851.\n{LONG}",
    ],
)
def test_a_name_where_no_credit_stands_is_no_upstream(text: str) -> None:
    assert upstreams(a_document(text)) == frozenset()


def test_the_line_of_a_claim_is_looked_at_in_a_long_page() -> None:
    line = "Anna Adler becomes mayor of Ulm. (AFP)"
    page = a_document(f"{LONG}\n{line}\n{LONG}")
    start = page.text.index(line)
    assert upstreams(page) == frozenset()
    assert upstreams(page, [(start, start + 10)]) == {"afp"}


def test_an_agencys_own_site_and_one_that_credits_it_are_one_source() -> None:
    own = story(0, url="https://www.reuters.com/world/1")
    other = story(1, f"(Reuters) - {STORIES[1]}")
    assert len(independent([own, other])) == 1
    assert len(independent([own, story(1)])) == 2


def test_a_long_quotation_in_common_makes_one_story() -> None:
    said = "“We have never had a better team to lead this house into its next decade.”"
    assert len(independent([story(n, f"{STORIES[n]} {said}") for n in range(3)])) == 1
    assert len(independent([story(n, f"{STORIES[n]} “Never again.”") for n in range(3)])) == 3


def test_a_feed_that_supplies_the_words_is_one_source_whatever_its_addresses() -> None:
    items = [story(n, feed="wire") for n in range(3)]
    assert len(independent(items)) == 3  # a folder of saved pages
    assert len(independent(items, channels={"wire"})) == 1


def test_feeds_put_last_are_chosen_only_for_want_of_others() -> None:
    one = story(0, feed="new")
    other = story(1, url="https://site0.test/2", feed="known")
    for order in itertools.permutations([one, other]):
        (chosen,) = independent(order, last={"new"})
        assert chosen.feed == "known"


documents = st.lists(
    st.builds(
        lambda text, site, feed: story(0, text, url=f"https://{site}.test/1", feed=feed),
        st.text("abcde ", min_size=1).map(" ".join),
        st.sampled_from("abc"),
        st.sampled_from("xyz"),
    ),
    min_size=1,
    max_size=8,
)


@given(documents=documents, extra=documents)
def test_independence_asks_for_different_sites_and_is_never_lost_on_copies(
    documents: list[Document], extra: list[Document]
) -> None:
    chosen = independent(documents)
    assert chosen
    assert len({publisher(d) for d in chosen}) == len(chosen)
    assert all(likeness(a.text, b.text) < 0.5 for a, b in itertools.combinations(chosen, 2))
    assert independent([*documents, *documents[::-1]]) == chosen
    one_feed = independent([*documents, *extra], channels="xyz")
    assert len({d.feed for d in one_feed}) == len(one_feed)
