"""Same value or not, and what an answer says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.answers import named, read
from detectors.judge import mentions, same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("XI Jinping", "Xi Jinping"),
        ("Hugo Chavez", "Hugo Chávez Frías"),
        ("Abe Shinzo", "Shinzō Abe"),
        ("George W. Bush", "George Walker Bush"),
        ("Joe Biden", "Joseph R. Biden Jr."),
        ("Bongbong Marcos", "Ferdinand Marcos Jr."),
        ("Mohammed bin Zayed Al Nahyan", "Muhammad bin Zayid Al Nuhayyan"),
        ("Delcy Rodríguez", "Delcy Eloína Rodríguez Gómez"),
        ("Queen Elizabeth II", "Elizabeth II"),
        ("King Philippe", "Philippe of Belgium"),
        ("Volodymyr Zelensky", "Volodymyr Zelenskyy"),
        ("Matamela Cyril Ramaphosa", "Cyril Ramaphosa"),
        ("Merkel", "Angela Merkel"),
        ("Lula", "Luiz Inácio Lula da Silva"),
    ],
)
def test_spellings_of_one_person_are_the_same(one: str, other: str) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("George W. Bush", "George H. W. Bush"),
        ("George W. Bush", "George Herbert Walker Bush"),
        ("Elizabeth II", "Charles III"),
        ("Elizabeth I", "Elizabeth II"),
        ("Kim Jong Un", "Kim Jong Il"),
        ("Park Chung-hee", "Park Geun-hye"),
        ("Jerry Brown", "Jerry Moran"),
        ("Angela Merkel", "Friedrich Merz"),
        ("Mojtaba Khamenei", "Ali Khamenei"),
        ("Ferdinand Marcos Sr.", "Ferdinand Marcos Jr."),
        ("Angela", "Angela Merkel"),
        ("", "Angela Merkel"),
        ("", ""),
    ],
)
def test_different_people_are_not_the_same(one: str, other: str) -> None:
    assert not same(one, other)
    assert not same(other, one)


NAMES = st.lists(
    st.sampled_from(["Anna", "Ben", "Çelik", "D.", "van", "Smith", "III", "Jr.", "O'Hara"]),
    max_size=4,
).map(" ".join)


@given(NAMES, NAMES)
def test_sameness_is_symmetric(one: str, other: str) -> None:
    assert same(one, other) == same(other, one)


@given(NAMES.filter(bool))
def test_every_name_is_the_same_as_itself_in_capitals(name: str) -> None:
    assert same(name, name.upper())


@pytest.mark.parametrize(
    ("one", "other", "object_type", "expected"),
    [
        ("Washington", "Washington, D.C.", "place", True),
        ("York", "New York", "place", False),
        ("Kyiv", "Kiev", "place", False),
        ("Apple Inc.", "Apple", "org", True),
        ("Meta Platforms", "Facebook", "org", True),
        ("331.9 million", "332,000,000", "number", True),
        ("331 million", "350 million", "number", False),
        ("many", "350 million", "number", False),
        ("Blue", "blue", "text", True),
        ("Blue", "Blues", "text", False),
        ("Croatian kuna", "kuna", "text", True),
        ("euros", "euro", "text", True),
        ("Japanese yen (JPY)", "yen", "text", True),
        ("Zimbabwean dollar", "US dollar", "text", False),
        ("Manchester City", "Manchester United", "org", False),
        ("FC Barcelona", "Barcelona", "org", True),
        ("Real", "Real Madrid", "org", False),
        ("Kuwait", "Kuwait City", "place", True),
        ("Carlsen", "Magnus Carlsen", "name", True),
        ("Madrid", "Real Madrid", "name", False),
        ("AC Milan", "Inter Milan", "name", False),
        ("Apple", "Apple Inc.", "name", True),
    ],
)
def test_other_kinds_of_values_are_compared_by_their_own_rules(
    one: str, other: str, object_type: str, expected: bool
) -> None:
    assert same(one, other, object_type) is expected


def test_a_surname_alone_names_a_value_only_where_no_other_shares_it() -> None:
    assert mentions("It was Bush again.", "George W. Bush")
    assert not mentions("It was Bush again.", "George W. Bush", others=["George H. W. Bush"])
    assert mentions("It was George W. Bush.", "George W. Bush", others=["George H. W. Bush"])
    assert not mentions("Barbara Bush was there.", "George W. Bush")


def test_small_letters_and_other_kinds_are_found_in_a_text() -> None:
    assert mentions("i think barack obama won", "Barack Obama")
    assert mentions("It lies near Paris, they say.", "Paris", "place")
    assert mentions("About 1.4 billion people.", "1,410,000,000", "number")
    assert not mentions("The parish is small.", "Paris", "place")


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ("The Chancellor of Germany is Angela Merkel, the head of the cabinet.", "Angela Merkel"),
        ("The monarch of the United Kingdom is Queen Elizabeth II.", "Elizabeth II"),
        ("The Governor of California is Governor Jerry Brown. He is the 54th.", "Jerry Brown"),
        ("The President of Venezuela, Hugo Chavez, is the President.", "Hugo Chavez"),
        ("China's President Xi Jinping is the current president of the PRC.", "Xi Jinping"),
        ("The president is the president, who is currently Shinzo Abe.", "Shinzo Abe"),
        ("The person who is currently the president is Donald Trump.", "Donald Trump"),
        ("As of 2023, the prime minister of Japan is Fumio Kishida.", "Fumio Kishida"),
        ("Sure! The chancellor is Olaf Scholz.", "Olaf Scholz"),
        ('It is President Benigno "Batang" Ramos.', "Benigno Ramos"),
        ("Angela Merkel", "Angela Merkel"),
        ("King Harald V. He was crowned in 1991.", "Harald V"),
        ("barack obama", "Barack Obama"),
        ("**Angela Merkel**, who took office in 2005", "Angela Merkel"),
        # generic, evasive, past
        ("The President of Italy is the head of state of Italy.", ""),
        ("The CEO of Apple is not officially known.", ""),
        ("The Queen is the Sovereign of the United Kingdom.", ""),
        ("I do not know.", ""),
        ("Angela Merkel was the chancellor of Germany.", ""),
        ("", ""),
    ],
)
def test_the_head_of_an_answer_is_what_it_names(answer: str, name: str) -> None:
    assert named(answer) == name


def test_the_head_of_an_answer_about_a_place_is_a_place() -> None:
    assert named("The capital of Australia is Sydney, a big city.", "place") == "Sydney"
    assert named("Washington, D.C.", "place") == "Washington"
    assert named("The capital is the seat of the state.", "place") == ""


HOLDERS = ["Angela Merkel", "Olaf Scholz", "Friedrich Merz"]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("The chancellor is Olaf Scholz, who succeeded Angela Merkel.", ("Olaf Scholz",)),
        ("Scholz.", ("Olaf Scholz",)),
        ("The chancellor is Helmut Kohl. Angela Merkel is a physicist.", ()),
        ("The chancellor is not Angela Merkel.", ()),
        ("The office, after Angela Merkel, is vacant.", ()),
        ("The former chancellor Angela Merkel lives in Berlin.", ()),
        ("The head of the cabinet, Chancellor Angela Merkel.", ("Angela Merkel",)),
        ("the office of many duties, led by Friedrich Merz", ("Friedrich Merz",)),
        ("", ()),
    ],
)
def test_only_the_holder_that_an_answer_names_is_read(answer: str, found: tuple[str, ...]) -> None:
    assert read(answer, HOLDERS) == found


def test_a_name_that_may_mean_two_values_is_read_as_both() -> None:
    values = ["George W. Bush", "George H. W. Bush", "Bill Clinton"]
    assert read("The president is George Bush.", values) == tuple(values[:2])


@given(st.text(max_size=80))
def test_any_answer_can_be_read(answer: str) -> None:
    assert set(read(answer, HOLDERS)) <= set(HOLDERS)
    assert isinstance(named(answer, "place"), str)
