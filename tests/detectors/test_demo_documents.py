"""The demo's own documents: what the detectors find in them, and what they must not find."""

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from detectors.extractors import extract
from detectors.judge import same
from detectors.relations import load_registry
from detectors.verdict import decide
from store.records import Belief, Claim, ClaimRole, Document, Fact, Reply, Slot, VerdictKind
from store.timeline import assimilate

DATA = Path(__file__).parents[2] / "agent" / "demo_data"
NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()


class _Lines(HTMLParser):
    """The visible text, one block a line."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.lines, self._tag = "", [], ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._tag = tag

    def handle_data(self, data: str) -> None:
        if self._tag == "title":
            self.title += data.strip()
        elif data.strip():
            self.lines.append(data.strip())


def _document(name: str, title: str, text: str, published: datetime | None) -> Document:
    return Document(name, "demo", f"demo/{name}", title, text, NOW, published, name)


def _documents() -> list[Document]:
    documents = []
    for page in sorted((DATA / "holders").glob("*.html")):
        parser = _Lines()
        parser.feed(page.read_text("utf-8"))
        documents.append(_document(page.stem, parser.title, "\n".join(parser.lines), None))
    for item in ET.parse(DATA / "feed.xml").iter("item"):
        title, text = item.findtext("title", ""), item.findtext("description", "")
        published = parsedate_to_datetime(item.findtext("pubDate", ""))
        documents.append(_document(item.findtext("guid", ""), title, f"{title}\n{text}", published))
    return documents


@pytest.fixture(scope="module")
def claims() -> list[Claim]:
    return [claim for doc in _documents() for claim in extract(doc, REGISTRY, NOW)]


def _facts(claims: list[Claim], slot: Slot) -> list[Fact]:
    own = [claim for claim in claims if claim.slot.key == slot.key]
    return list(assimilate([], own, same, NOW, REGISTRY[slot.relation].single).insert)


STALE = [
    ("Germany", "head_of_government", "Angela Merkel", "Friedrich Merz"),
    ("United Kingdom", "head_of_state", "Queen Elizabeth II", "Charles III"),
    ("Japan", "head_of_government", "Shinzo Abe", "Sanae Takaichi"),
    ("Philippines", "head_of_state", "Rodrigo Duterte", "Ferdinand Marcos Jr."),
    ("Nigeria", "head_of_state", "Muhammadu Buhari", "Bola Tinubu"),
    ("Venezuela", "head_of_state", "Hugo Chavez", "Delcy Rodríguez"),
    ("Apple", "ceo", "Steve Jobs", "Tim Cook"),
    ("California", "governor", "Jerry Brown", "Gavin Newsom"),
]


@pytest.mark.parametrize(("subject", "relation", "believed", "current"), STALE)
def test_a_former_holder_of_the_lists_makes_a_belief_stale(
    claims: list[Claim], subject: str, relation: str, believed: str, current: str
) -> None:
    reply = Reply("Who?", f"The holder is {believed}. More follows.", -0.1)
    belief = Belief(subject, relation, (reply,) * 4, "m", NOW, 1.0)
    facts = _facts(claims, Slot(subject, relation))
    decision = decide(belief, facts, "2026-03-01", REGISTRY[relation])
    assert decision.kind is VerdictKind.STALE, decision.path
    assert decision.current == current


@pytest.mark.parametrize(
    "guid",
    ["jobs-letter", "canada-election", "merz-washington", "ldp-leadership", "california-votes"],
)
def test_items_without_a_change_of_office_name_no_new_holder(
    claims: list[Claim], guid: str
) -> None:
    here = [claim for claim in claims if claim.document_id == f"demo-{guid}"]
    led = [claim.slot.subject for claim in here if claim.relation == "party_leader"]
    assert led == ["Liberal Democratic Party (Japan)"] * (guid == "ldp-leadership")
    own = [claim for claim in here if claim.relation != "party_leader"]
    assert all(claim.role is ClaimRole.FUTURE for claim in own)
    assert [claim.object for claim in own] == (["Gavin Newsom"] * (guid == "california-votes"))


def test_every_change_of_the_feed_is_found_with_its_predecessor(claims: list[Claim]) -> None:
    feed = [claim for claim in claims if claim.document_id.startswith("demo-")]
    found = {(claim.object, claim.role) for claim in feed}
    for new, old in [
        ("Friedrich Merz", "Olaf Scholz"),
        ("Charles III", "Elizabeth II"),
        ("Sanae Takaichi", "Shigeru Ishiba"),
        ("Ferdinand Marcos Jr.", "Rodrigo Duterte"),
        ("Bola Tinubu", "Muhammadu Buhari"),
        ("Delcy Rodríguez", "Nicolás Maduro"),
        ("Tim Cook", "Steve Jobs"),
        ("Gavin Newsom", "Jerry Brown"),
        ("Mark Carney", "Justin Trudeau"),
    ]:
        assert (new, ClaimRole.CURRENT) in found
        assert (old, ClaimRole.FORMER) in found


def test_every_line_of_every_holder_list_is_read(claims: list[Claim]) -> None:
    for page in (DATA / "holders").glob("*.html"):
        items = re.findall(r"<li>", page.read_text("utf-8"))
        own = [claim for claim in claims if claim.document_id == page.stem]
        assert len(own) == len(items), page.name


def test_the_two_spells_of_one_person_stay_two(claims: list[Claim]) -> None:
    spells = [
        (fact.valid_from, fact.valid_until)
        for fact in _facts(claims, Slot("Japan", "head_of_government"))
        if fact.object == "Shinzo Abe"
    ]
    assert spells == [("2006-09-26", "2007-09-26"), ("2012-12-26", "2020-09-16")]
