"""How one mention of an office is read, and what news sentences tell apart about it."""

import time
from datetime import UTC, datetime

import pytest

from detectors.extractors import patterns
from detectors.extractors.offices import Office, find_offices, title_pattern
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PUBLISHED = datetime(2025, 12, 9, 15, tzinfo=UTC)
REGISTRY = load_registry()
TITLES = title_pattern(REGISTRY)


def _offices(text: str) -> list[Office]:
    return find_offices(text, TITLES)


def _claims(text: str) -> list[Claim]:
    document = Document("d", "feed", "u", "", text, NOW, PUBLISHED, "h")
    claims = patterns.extract(document, REGISTRY, NOW)
    assert all(text[claim.start : claim.end] == claim.quote for claim in claims)
    return claims


def _said(text: str) -> list[tuple[str, str, str, str]]:
    return [(c.subject, c.relation, c.object, c.role.value) for c in _claims(text)]


MENTIONS = [
    ("the 14th president of the Republic of Chile", "Chile"),
    ("Japan's first female prime minister", "Japan"),
    ("the United Kingdom's Home Secretary", "United Kingdom"),
    ("a Lebanese foreign minister", "Lebanon"),
    ("New Zealand justice minister", "New Zealand"),
    ("the new Greek prime minister", "Greece"),
    ("UK Independence Party leader", "UK Independence Party"),
    ("Brothers of Italy leader", "Brothers of Italy"),
    ("governor of the Mexican state of Yucatán", "Yucatán"),
    ("CEO of American artificial intelligence developer OpenAI", "OpenAI"),
    ("chairman of the UK's Environment Agency", "Environment Agency"),
    ("mayor of Paris (Texas)", "Paris, Texas"),
    ("mayor of Little Rock, Arkansas", "Little Rock, Arkansas"),
    ("mayor of Rome, Virginia Raggi, said", "Rome"),
    ("leader of the UK Independence Party (UKIP)", "UK Independence Party"),
    ("president of Armenia Armen Sarkissian", "Armenia"),
    ("governor of Oregon John Kitzhaber", "Oregon"),
    ("chair of the Arizona Republican Party Jeff DeWit", "Arizona Republican Party"),
    ("the new England national football team manager", "England national football team"),
    ("Liberal Party of Australia leader", "Liberal Party of Australia"),
    ("the first Communist mayor of Santiago", "Santiago"),
    ("governor of the Japanese capital Tokyo", "Tokyo"),
    ("premier of the central German state of Thuringia", "Thuringia"),
    ("chief of the defence staff of the French Armed Forces", "France"),
    ("prime minister of the Syrian transitional government", "Syria"),
    ("Dutch minister of justice and Security", "Netherlands"),
    ("mayor of San Francisco Ed Lee", "San Francisco"),
    ("mayor of London, England", "London"),
    ("president of Greece in the Hellenic Parliament", "Greece"),
    ("the country's president", None),
    ("president of the Senate", None),
]


@pytest.mark.parametrize(("text", "subject"), MENTIONS)
def test_a_mention_says_of_what_it_is_the_office(text: str, subject: str | None) -> None:
    (office,) = _offices(text)
    assert office.subject == subject


@pytest.mark.parametrize(
    "text",
    [
        "the Australian state's new premier",
        "Deputy Governor of California",
        "the shadow foreign minister of Japan",
        "Crown Prince of Norway",
        "vice-president",
        "the president of the of",
        "chancellorship",
    ],
)
def test_what_is_another_office_is_no_mention(text: str) -> None:
    assert [o for o in _offices(text) if o.subject] == []


def test_marks_before_the_title_are_kept_apart() -> None:
    text = "the former president of Chile, the acting mayor of Rome, Peru's next prime minister"
    former, acting, coming = _offices(text)
    assert (former.former, former.acting, former.coming) == (True, False, False)
    assert (acting.former, acting.acting, acting.coming) == (False, True, False)
    assert (coming.former, coming.acting, coming.coming) == (False, False, True)


def test_offices_joined_by_and_share_their_subject() -> None:
    one, other = _offices("CEO and chairman of Wells Fargo")
    assert one.subject == other.subject == "Wells Fargo"


def test_a_letter_that_grows_in_small_print_does_not_shift_the_span() -> None:
    text = "İİİ: president of Chile"
    (office,) = _offices(text)
    assert text[office.start : office.end] == "president of Chile"


PEOPLE = [
    ("Sir Keir Starmer becomes Prime Minister of Japan.", "Keir Starmer"),
    ("Economist Jane Doe becomes Prime Minister of Japan.", "Jane Doe"),
    ("French Minister of Labour Jane Doe becomes Prime Minister of Japan.", "Jane Doe"),
    ("Foreign Affairs Minister Jane Doe becomes Prime Minister of Japan.", "Jane Doe"),
    ("On Monday Jane Doe becomes Prime Minister of Japan.", "Jane Doe"),
    ("Jane Doe (LDP) becomes Prime Minister of Japan.", "Jane Doe"),
    ("Jane Doe of the Liberal Democratic Party becomes Prime Minister of Japan.", "Jane Doe"),
    ("Jane Doe, the leader of the ruling party, becomes Prime Minister of Japan.", "Jane Doe"),
    ("The son of President John Roe, Jim Doe, becomes Prime Minister of Japan.", "Jim Doe"),
    ("Jane Doe is elected party chief and becomes Prime Minister of Japan.", "Jane Doe"),
    ("Jane Doe meets the emperor, becoming Prime Minister of Japan.", "Jane Doe"),
    ("Voters choose Jane Doe. Doe is sworn in as Prime Minister of Japan.", "Jane Doe"),
    ("Bart De Wever waits. De Wever is sworn in as Prime Minister of Japan.", "Bart De Wever"),
    (
        "Minister for International Development Jane Doe becomes Prime Minister of Japan.",
        "Jane Doe",
    ),
    ("Jane Doe becomes the first woman to become Prime Minister of Japan.", "Jane Doe"),
    ("Japan's new Prime Minister Jane Doe takes office.", "Jane Doe"),
]


@pytest.mark.parametrize(("text", "name"), PEOPLE)
def test_the_subject_of_the_sentence_is_the_person(text: str, name: str) -> None:
    assert ("Japan", "head_of_government", name, "current") in _said(text)


ELECTED = [
    ("Jane Doe is elected president of Chile.", "future"),
    ("Jane Doe defeats John Roe to become the next president of Chile.", "future"),
    ("Jane Doe wins election to Chile's presidency.", "future"),
    ("Voters in Chile elect Jane Doe as president.", "future"),
    ("The Bundestag elects Jane Doe as chancellor.", "current"),
    ("Jane Doe is elected prime minister of Japan by parliament.", "current"),
    ("Jane Doe is elected prime minister of Japan.", "future"),
    ("Jane Doe is elected leader of Fine Gael.", "current"),
    ("Jane Doe is elected speaker of the House of Commons of Canada.", "current"),
]


@pytest.mark.parametrize(("text", "role"), ELECTED)
def test_being_elected_is_holding_or_waiting_as_the_office_has_it(text: str, role: str) -> None:
    assert [claim.role.value for claim in _claims(text)] == [role]


def test_a_day_without_a_year_is_the_one_nearest_to_the_news() -> None:
    (claim,) = _claims("Jane Doe will take office as president of Chile on 11 March.")
    assert (claim.role, claim.valid_from, claim.dated_by) == (
        ClaimRole.FUTURE,
        "2026-03-11",
        "text",
    )
    (claim,) = _claims("Jane Doe was sworn in as president of Chile on December 7.")
    assert (claim.role, claim.valid_from) == (ClaimRole.CURRENT, "2025-12-07")


def test_the_day_of_something_else_does_not_date_the_office() -> None:
    text = "Jane Doe is sworn in as president of Chile after the election on 16 November."
    (claim,) = _claims(text)
    assert (claim.valid_from, claim.dated_by) == ("2025-12-09", "published")


SPELLS = [
    ("Jane Doe, who was president of Chile from 2010 to 2014, dies.", "2010", "2014"),
    ("Jane Doe served as president of Chile until 2019.", None, "2019"),
    ("Jane Doe, who served as president of Chile between 2010 and 2014, writes.", "2010", "2014"),
]


@pytest.mark.parametrize(("text", "start", "end"), SPELLS)
def test_a_past_spell_is_a_former_holder_with_the_days_of_the_text(
    text: str, start: str | None, end: str
) -> None:
    (claim,) = _claims(text)
    assert (claim.role, claim.valid_from, claim.valid_until, claim.dated_by) == (
        ClaimRole.FORMER,
        start,
        end,
        "text",
    )


def test_a_spell_that_goes_on_is_a_current_holder_since_then() -> None:
    (claim,) = _claims("Jane Doe has been president of Chile since 2019.")
    assert (claim.role, claim.valid_from, claim.dated_by) == (ClaimRole.CURRENT, "2019", "text")


def test_an_office_before_the_name_is_not_the_one_that_is_given() -> None:
    text = "Austrian president John Roe appoints foreign minister Jane Doe as acting chancellor."
    (claim,) = _claims(text)
    assert (claim.subject, claim.relation, claim.object) == (
        "Austria",
        "head_of_government",
        "Jane Doe",
    )
    assert claim.acting


def test_a_relative_clause_about_a_predecessor_is_background() -> None:
    text = "Jane Doe, who succeeded John Roe as president of Chile, visits Peru."
    (claim,) = _claims(text)
    assert (claim.object, claim.role, claim.dated_by) == ("John Roe", ClaimRole.FORMER, "none")


def test_husbands_and_other_ties_of_persons_are_no_offices() -> None:
    assert _claims("Jane Doe becomes the wife of John Roe.") == []
    assert _claims("John Roe's wife Jane Doe resigns.") == []


def test_reading_news_is_faster_than_any_feed() -> None:

    texts = [text for text, _ in PEOPLE] * 20
    start = time.process_time()
    for text in texts:
        _claims(text)
    assert len(texts) / (time.process_time() - start) > 150
