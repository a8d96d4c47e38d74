"""Names of people: what looks like one in a text, and how one is shown."""

from __future__ import annotations

import re

from detectors.entities import country_of, normalise


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set: how this package writes word lists."""
    return frozenset(text.split())


PARTICLES = words(
    """
    al bin bint da das de del della den der di do dos du e el ibn la le san ter ul ur van von y zu
    """
)
"""Words inside a name that are written small."""

HONORIFICS = words(
    """
    acting admiral air amir archbishop bishop brig brigadier capt captain cardinal caretaker ceo
    chairman chairperson chairwoman chancellor chief col colonel crown dame dato datuk deputy dr
    emir emperor empress excellency former gen general governor grand her highness his hon
    honourable incumbent interim judge justice king lady lieutenant lord lt maj majesty major
    marshal marshall mayor minister monarch mp mr mrs ms outgoing pope premier president prime
    prince princess prof professor queen ratu representative rev royal senator sheik sheikh sir sr
    sri sultan tan the transitional vice
    """
)
"""Words before a name that are not the name (normal forms)."""

# Words that show that a capitalised run is an office, a body or a group, not a person.
_NO_PERSON = words(
    """
    administrator alliance army assembly bank board cabinet campaign candidate captains chamber
    church city club co coalition commission commissioner committee company congress council court
    democrat election elections force forces front government group house junta kingdom leader
    leaders league minister ministers ministry movement office officer opposition parliament party
    people police prefect regent regents republic republican school secretary senate socialist
    speaker spokesman spokesperson state states taliban team troops union university vacant
    """
)

DESCRIPTORS = words(
    """
    activist actor actress ambassador attorney author banker billionaire boxer businessman
    businesswoman candidate centrist commander communist conservative councillor councilman
    councilwoman cyclist diplomat director driver economist emeritus environmentalist ex first
    former-president golfer grandmaster host hosts human independent journalist labor labour lawyer
    leftist liberal mayor-elect mep nationalist newcomer nominee opposition philanthropist
    politician president-elect progressive quarterback republican retired rider rights second
    singer social supervisor then treasurer veteran wildlife writer
    """
)
"""Capitalised words before a name that say what a person is, not who."""

# Words that end an office before a name ("Foreign Affairs Minister Jane Doe").
_OFFICE_ENDS = words(
    """
    commissioner commander democrat director leader minister officer republican secretary
    socialist speaker spokesman spokesperson spokeswoman
    """
)
BODIES = words(
    """
    Academy Agency Association Authority Bank Board Commission Committee Corporation Council
    Federation Fund Institute Krai Library Museum Oblast Organisation Organization Party Province
    State Union University
    """
)
"""Words that end the name of a body: what follows in the same run is another name."""
REGIONS = frozenset(
    name.replace("_", " ")
    for name in words(
        """
        Alabama Alaska Alberta Arizona Arkansas Bavaria British_Columbia California Catalonia
        Colorado Connecticut Delaware Florida Hawaii Idaho Illinois Indiana Iowa Kansas Kentucky
        London Louisiana Maine Manitoba Maryland Massachusetts Michigan Minnesota Mississippi
        Missouri Montana Moscow Nebraska Nevada New_Hampshire New_Jersey New_Mexico
        New_South_Wales New_York North_Carolina North_Dakota Nova_Scotia Ohio Oklahoma Ontario
        Oregon Pennsylvania Quebec Queensland Rhode_Island Scotland South_Carolina South_Dakota
        Tasmania Tennessee Texas Tokyo Utah Vermont Virginia Wales West_Virginia Wisconsin Wyoming
        """
    )
)
"""Regions and cities that are no countries, before the name of a holder ("Ohio Jane Doe")."""
PORTFOLIOS = words(
    """
    Affairs Agriculture Culture Defence Defense Development Economy Education Employment Energy
    Environment Finance Health Industry Information Infrastructure Interior Internal
    International Justice Labor Labour Parliament Reform Science Security Sports State Technology
    Telecommunications Family Families Welfare Social Women Innovation Immigration Housing
    Fisheries Forestry Climate Communications Research Population Tourism Trade Transport
    Transportation Youth
    """
)
"""What ministers are ministers of, as capitalised before a name."""
OPENERS = words(
    """
    after also although amid and as at because before but by during earlier finally following for
    from if in later meanwhile monday tuesday wednesday thursday friday saturday sunday on since
    that then though today tonight under upon when while with yesterday
    """
)
"""Words that open a sentence before a name ("In March Jane Doe")."""

_ROMAN = re.compile(r"(?=[IVX])X{0,2}(?:IX|IV|V?I{0,3})")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
_SUFFIX = re.compile(r",?\s+(Jr|Sr)\b\.?", re.IGNORECASE)

UPPER = "".join(chr(code) for code in range(0x41, 0x1F00) if chr(code).isupper())
_PARTICLE = "(?:" + "|".join(sorted(PARTICLES, key=len, reverse=True)) + ")"
WORD = (
    rf"(?:(?:Jr|Sr|St|Mt)\.|(?:[{UPPER}]\.)+|(?:(?:al|el|an|as|ad|ar|ash|d|l)[-'’])?"
    rf"[{UPPER}ʻ‘][\w'’ʻ‘.-]*(?<![.,]))"
)
"""One capitalised word, an initial, or "Jr."."""
NAME = rf"{WORD}(?:\s(?:{_PARTICLE}\s){{0,2}}{WORD}){{0,6}}"
"""A run of capitalised words with the particles between them."""


def strip_titles(name: str) -> str:
    """Drop honorifics and offices before a name ("King Charles III" -> "Charles III").

    The last word is always kept: it is all there is of the name.
    """
    words = name.split()
    while len(words) > 1 and normalise(words[0]) in HONORIFICS:
        # A numeral or "Jr." alone is no name, and "Sheikh Hasina" is one name.
        rest = " " + words[1]
        if len(words) == 2 and (_ROMAN.fullmatch(words[1]) or _SUFFIX.fullmatch(rest)):
            break
        if len(words) == 2 and words[0] == "Sheikh":
            break
        words = words[1:]
    return " ".join(words)


def display_name(raw: str) -> str:
    """Return a person's name as running text spells it.

    Reference works write surnames in capitals ("Friedrich MERZ", "XI Jinping"); nicknames in
    quotation marks, brackets and ranks around the name are dropped.
    """
    name = re.sub(r"\([^)]*\)|\"[^\"]*\"|“[^”]*”", " ", raw)
    suffix = _SUFFIX.search(name)
    name = _SUFFIX.sub("", name).split(",")[0]
    words = strip_titles(" ".join(name.split())).split()
    shown = [_recase(word, words[index - 1] if index else "") for index, word in enumerate(words)]
    if suffix:
        shown.append(suffix.group(1).capitalize() + ".")
    return " ".join(shown)


def _recase(word: str, before: str) -> str:
    if _INITIALS.fullmatch(word) or (before and _ROMAN.fullmatch(word)):
        return word
    if before and word.isupper() and word.casefold() in PARTICLES:
        # A surname that begins with it keeps the capital: "Van der Bellen", "De Wever".
        opens = word in ("VAN", "DE") and not before.isupper()
        return word.capitalize() if opens else word.casefold()
    return "-".join(_recase_part(part) for part in word.split("-"))


def _recase_part(part: str) -> str:
    if len(part) < 2 or not part.isupper():
        return part
    if len(part) == 2 and not set(part) & set("AEIOUY"):
        return part  # initials: "JD Vance", "KP Sharma Oli"
    if part[1] in "'’" and len(part) > 2:  # O'NEILL
        return part[:2] + part[2:].capitalize()
    return part.capitalize()


def person(raw: str) -> str | None:
    """Return a person's name from a capitalised run, or None when it does not read as one.

    Offices, honorifics and demonyms before the name are dropped ("Austrian president Alexander
    Van der Bellen").
    """
    words = " ".join(raw.split()).strip(" ,;:").split()
    owners = [n for n, word in enumerate(words[:-1], 1) if re.search(r"['’]s$", word)]
    words = words[owners[-1] :] if owners else words  # "Senate's President Ilie Bolojan"
    ends = [n for n, word in enumerate(words[:-2], 1) if normalise(word) in _OFFICE_ENDS]
    words = words[ends[-1] :] if ends else words  # "Foreign Affairs Minister Jane Doe"
    while len(words) > 1:
        if len(words) > 2 and country_of(" ".join(words[:2])):
            words = words[2:]  # "Costa Rican Vice President Rebeca Grynspan"
        elif words[0] == "Sheikh" and len(words) == 2:
            break  # "Sheikh Hasina" is one name
        elif country_of(words[0]) or normalise(words[0]) in HONORIFICS:
            words = words[1:]
        elif len(words) > 2 and normalise(words[0]) in DESCRIPTORS:
            words = words[1:]  # "Economist Jane Doe"
        else:
            break
    # The full stop of a sentence is not one of a numeral ("Harald V.").
    name = display_name(re.sub(r"(?<=\s[IVX])\.$", "", " ".join(words)))
    parts = normalise(name).split()
    if not parts or len(parts) > 10 or any(char.isdigit() for char in name):
        return None
    if any(part in _NO_PERSON for part in parts) or (not name[0].isalpha() and name[0] not in "ʻ‘"):
        return None
    titled = parts[0] in HONORIFICS and not (words[0] == "Sheikh" and len(parts) == 2)
    return None if titled or "and" in parts else name
