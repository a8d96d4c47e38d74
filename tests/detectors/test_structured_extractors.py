"""Structured documents: fields of profiles, and dated lists of holders."""

from datetime import UTC, datetime

import pytest

from detectors.extractors import extract, fields, holders
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()
BRANCH = "Government > Executive branch > "


def _document(title: str, text: str) -> Document:
    return Document("d", "feed", "u", title, text, NOW, None, "h")


def _field(subject: str, *lines: str) -> list[Claim]:
    document = _document(subject, "\n".join(lines))
    claims = fields.extract(document, REGISTRY, NOW)
    assert all(document.text[c.start : c.end] == c.quote for c in claims)
    return claims


@pytest.mark.parametrize(
    ("subject", "line", "expected"),
    [
        (
            "Germany",
            "head of government: Chancellor Friedrich MERZ (since 6 May 2025)",
            ("head_of_government", "chancellor", "Friedrich Merz", "2025-05-06"),
        ),
        (
            "Canada",
            "chief of state: King CHARLES III (since 8 September 2022); represented by Governor "
            "General Mary SIMON (since 26 July 2021)",
            ("head_of_state", "monarch", "Charles III", "2022-09-08"),
        ),
        (
            "Spain",
            "head of government: President of the Government of Spain (prime "
            "minister-equivalent) Pedro SANCHEZ PEREZ-CASTEJON (since 2 June 2018)",
            ("head_of_government", "prime minister", "Pedro Sanchez Perez-Castejon", "2018-06-02"),
        ),
        (
            "Ireland",
            "head of government: Taoiseach (Prime Minister) Michael MARTIN (since 23 January 2025)",
            ("head_of_government", "taoiseach", "Michael Martin", "2025-01-23"),
        ),
        (
            "Switzerland",
            "chief of state: President of the Swiss Confederation Guy PARMELIN (since 1 January "
            "2026)",
            ("head_of_state", "president", "Guy Parmelin", "2026-01-01"),
        ),
        (
            "Tajikistan",
            "chief of state: President Emomali RAHMON (since 16 November 1994; head of state and "
            "Supreme Assembly Chairman since 20 November 1992)",
            ("head_of_state", "president", "Emomali Rahmon", "1994-11-16"),
        ),
        (
            "Saudi Arabia",
            "head of government: Crown Prince and Prime Minister MUHAMMAD BIN SALMAN bin Abd "
            "al-Aziz Al Saud (since 27 September 2022)",
            (
                "head_of_government",
                "prime minister",
                "Muhammad bin Salman bin Abd al-Aziz Al Saud",
                "2022-09-27",
            ),
        ),
        (
            "France",
            "head of government: Sébastien LECORNU (since 10 September 2025)",
            ("head_of_government", "", "Sébastien Lecornu", "2025-09-10"),
        ),
        (
            "Thailand",
            "chief of state: King WACHIRALONGKON; also spelled Vajiralongkorn (since 1 December "
            "2016)",
            ("head_of_state", "monarch", "Wachiralongkon", "2016-12-01"),
        ),
        (
            "Syria",
            "chief of state: Ahmad al-Shara'; former President Bashar al-ASAD was overthrown by "
            "Islamist rebels on 8 December 2024",
            ("head_of_state", "", "Ahmad al-Shara'", None),
        ),
        (
            "American Samoa",
            "head of government: Governor Nikolao PULA (since 3 January 2025)",
            ("governor", "governor", "Nikolao Pula", "2025-01-03"),
        ),
        (
            "Gambia",
            "head of government: Vice President Mohammed JALLOW (since 23 February 2024)",
            ("vice_president", "vice president", "Mohammed Jallow", "2024-02-23"),
        ),
        (
            "Monaco",
            "head of government: Minister of State Christophe MIRMAND (since 21 July 2025)",
            ("head_of_government", "minister of state", "Christophe Mirmand", "2025-07-21"),
        ),
        (
            "Christmas Island",
            "head of government: Administrator Ms. Farzian ZAINAL (since 11 May 2023)",
            ("head_of_government", "administrator", "Farzian Zainal", "2023-05-11"),
        ),
        (
            "Albania",
            "chief of state: President of the Republic Bajram BEGAJ (since 24 July 2022)",
            ("head_of_state", "president", "Bajram Begaj", "2022-07-24"),
        ),
        (
            "Togo",
            "head of government: President of Council of Ministers Faure GNASSINGBE (since 3 May "
            "2025)",
            (
                "head_of_government",
                "president of the council of ministers",
                "Faure Gnassingbe",
                "2025-05-03",
            ),
        ),
        (
            "Bosnia and Herzegovina",
            "chief of state: Chairman of the Presidency Zeljko KOMSIC (chairman since 20 July "
            "2021; presidency member since 20 November 2018 - Croat seat); Sefik DZAFEROVIC",
            ("head_of_state", "chairman of the presidency", "Zeljko Komsic", "2021-07-20"),
        ),
        (
            "Libya",
            "chief of state: President, Presidential Council, Mohammed al-MANFI (since 2021)",
            ("head_of_state", "president of the presidential council", "Mohammed al-Manfi", "2021"),
        ),
        (
            "Burma",
            "head of government: Prime Minister, State Administration Council Chair, Sr. Gen. MIN "
            "AUNG HLAING (since 1 August 2021)",
            ("head_of_government", "prime minister", "Min Aung Hlaing", "2021-08-01"),
        ),
        (
            "Slovakia",
            "head of government: Prime Minister and Minister of Interior Ľudovít ÓDOR (since 15 "
            "May 2023); Deputy Prime Ministers Stefan HOLY, Veronika REMISOVA",
            ("head_of_government", "prime minister", "Ľudovít Ódor", "2023-05-15"),
        ),
        (
            "Switzerland",
            "chief of state: President of the Swiss Confederation Guy PARMELIN (since 1 January "
            "2021; Vice President Ignazio CASSIS (since 1 January 2021)",
            ("head_of_state", "president", "Guy Parmelin", "2021-01-01"),
        ),
        (
            "Turkey",
            "chief of state: President Recep Tayyip ERDOGAN (head of government since 9 July 2019; "
            "chief of state since 28 August 2014); note - a referendum",
            ("head_of_state", "president", "Recep Tayyip Erdogan", None),
        ),
        (
            "Tonga",
            "head of government: Prime Minister 'Akilisi POHIVA (since 30 December 2014)",
            ("head_of_government", "prime minister", "Akilisi Pohiva", "2014-12-30"),
        ),
        (
            "Iran",
            "chief of state: Supreme Leader Ali Hoseini-KHAMENEI (since 4 June 1989)",
            ("supreme_leader", "supreme leader", "Ali Hoseini-Khamenei", "1989-06-04"),
        ),
    ],
)
def test_the_first_holder_of_a_profile_field_is_claimed(
    subject: str, line: str, expected: tuple[str, str, str, str | None]
) -> None:
    (claim,) = _field(subject, BRANCH + line)
    assert (claim.relation, claim.title, claim.object, claim.valid_from) == expected
    assert claim.role is ClaimRole.CURRENT
    assert claim.dated_by == ("text" if expected[3] else "none")


@pytest.mark.parametrize(
    ("subject", "line"),
    [
        ("Macau", "chief of state: President of China XI Jinping (since 14 March 2013)"),
        ("Greenland", "chief of state: King FREDERIK X of Denmark (since 14 January 2024)"),
        ("Haiti", "chief of state: President (vacant)"),
        ("Gambia", "head of government: Assistant Prime Minister Jane DOE (since February 2024)"),
        ("Iraq", "head of government: Prime Minister-Designate Jane DOE (since 2022)"),
        ("Maldives", "chief of state: President-elect Mohamed MUIZZI (since 2023)"),
        ("Guinea", "head of government: formerly, Prime Minister Jane DOE (since 2021)"),
        ("Yemen", "head of government: Chairperson, Presidential Council Jane DOE (since 2022)"),
        (
            "San Marino",
            "chief of state: co-chiefs of state Captains Regent Matteo ROSSI and Lorenzo BUGLI "
            "(for the period 1 October 2025 - 31 March 2026)",
        ),
        ("Afghanistan", "chief of state: Taliban Leader HAYBATULLAH Akhundzada (since 2021)"),
        ("World", "chief of state: there are 27 countries with royal families in the world"),
        ("Acme", "head of government: Prime Minister Jane DOE (since 2020)"),
        ("Germany", "leader of the opposition: Jane DOE (since 2020)"),
    ],
)
def test_fields_that_name_no_holder_of_this_subject_give_none(subject: str, line: str) -> None:
    assert _field(subject, BRANCH + line) == []


def test_one_person_with_one_title_fills_one_slot() -> None:
    claims = _field(
        "Nigeria",
        BRANCH + "chief of state: President Bola Ahmed Adekunle TINUBU (since 29 May 2023)",
        BRANCH + "head of government: President Bola Ahmed Adekunle TINUBU (since 29 May 2023)",
    )
    assert [claim.relation for claim in claims] == ["head_of_state"]


def test_a_territory_has_no_head_of_state_of_its_own() -> None:
    assert (
        _field(
            "Guam",
            "Government > Dependency status: unincorporated organized territory of the US",
            BRANCH + "chief of state: President Donald J. TRUMP (since 20 January 2025)",
        )
        == []
    )


def test_an_interim_holder_is_marked() -> None:
    (claim,) = _field(
        "Venezuela",
        BRANCH + "chief of state: Interim President Delcy RODRÍGUEZ (since 5 January 2026)",
    )
    assert claim.acting
    assert claim.quote == "Interim President Delcy RODRÍGUEZ (since 5 January 2026)"


def test_an_information_box_and_a_capital_are_read() -> None:
    (ceo,) = _field("Apple Inc.", "CEO: Tim Cook (since 24 August 2011)")
    assert (ceo.subject, ceo.relation, ceo.object) == ("Apple", "ceo", "Tim Cook")
    (capital,) = _field("Fiji", "Government > Capital > name: Suva (on Viti Levu)")
    assert (capital.relation, capital.object, capital.quote) == ("capital", "Suva", "Suva")
    assert _field("Ivory Coast", "capital: Yamoussoukro (legislative), Abidjan (economic)") == []


def _listed(title: str, text: str) -> list[tuple[str, str, str, str | None, str | None]]:
    document = _document(title, text)
    claims = holders.extract(document, REGISTRY, NOW)
    assert all(text[claim.start : claim.end] == claim.quote for claim in claims)
    return [(c.subject, c.object, c.role.value, c.valid_from, c.valid_until) for c in claims]


@pytest.mark.parametrize(
    "line",
    [
        "Angela Merkel (22 November 2005 – 8 December 2021)",
        "Angela Merkel: 22 November 2005 – 8 December 2021",
        "Angela Merkel, 22 November 2005 to 8 December 2021",
        "8. Angela Merkel | 22 November 2005 | 8 December 2021",
        "• Angela Merkel — November 22, 2005 — December 8, 2021",
        "Angela Merkel (CDU) (2005-11-22 – 2021-12-08)",
    ],
)
def test_a_dated_line_below_a_list_title_is_a_former_holder(line: str) -> None:
    assert _listed("List of chancellors of Germany", line) == [
        ("Germany", "Angela Merkel", "former", "2005-11-22", "2021-12-08")
    ]


@pytest.mark.parametrize(
    "line", ["Bola Tinubu (29 May 2023 – present)", "Bola Tinubu: since 29 May 2023"]
)
def test_an_open_line_is_the_present_holder(line: str) -> None:
    assert _listed("Presidents of Nigeria", line) == [
        ("Nigeria", "Bola Tinubu", "current", "2023-05-29", None)
    ]


def test_a_heading_changes_the_office_and_another_heading_ends_it() -> None:
    text = (
        "Kings and queens of the United Kingdom\n"
        "Elizabeth II (6 February 1952 – 8 September 2022)\n"
        "Prime ministers of Japan\n"
        "Shinzo Abe (26 December 2012 – 16 September 2020)\n"
        "Deputy prime ministers\n"
        "Jane Doe (2001 – 2003)\n"
    )
    assert [row[:2] for row in _listed("Office holders", text)] == [
        ("United Kingdom", "Elizabeth II"),
        ("Japan", "Shinzo Abe"),
    ]


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Presidents of the Senate of France", "Jane Doe (2001 – 2003)"),
        ("News of Germany", "Jane Doe (2001 – 2003)"),
        ("Chancellors of Germany", "Jane Doe (born 1950)"),
        ("Chancellors of Germany", "Jane Doe: 2001 – 2003, 2005 – 2007"),
        ("Chancellors of Germany", "Jane Doe (2005 – 2001)"),
        ("Chancellors of Germany", "Labour Party (2001 – 2003)"),
    ],
)
def test_other_lists_and_unclear_lines_give_nothing(title: str, line: str) -> None:
    assert _listed(title, line) == []


def test_every_extractor_reads_and_the_claims_come_in_the_order_of_the_text() -> None:
    text = (
        "Presidents of Chile\n"
        "Gabriel Boric (11 March 2022 – present)\n"
        "capital: Santiago\n"
        "Jane Doe is sworn in as president of Chile on 27 February 2026.\n"
    )
    document = Document("d", "feed", "u", "Chile", text, NOW, NOW, "h")
    claims = extract(document, REGISTRY, NOW)
    assert [claim.extractor for claim in claims] == ["holders", "fields", "patterns"]
    assert len({claim.id for claim in claims}) == 3
    assert extract(document, REGISTRY, NOW) == claims
