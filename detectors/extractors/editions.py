"""Names of competitions and prizes as news write them, and what is no title of one.

"their first", "the 2015" and "a record 12th" belong to an edition, not to the name: the one who
wins "the 2015 Cricket World Cup" holds the Cricket World Cup. "the women's singles title at the
2023 Australian Open" names one of several titles of the same event, and so keeps its qualifier.
"""

from __future__ import annotations

import re

from detectors.names import WORD

# Subject words of relations that are about competitions or prizes.
APPLIES = frozenset({"cup", "prize"})

_COUNT = (
    r"(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth"
    r"|\d+(?:st|nd|rd|th)|record|new|inaugural|maiden|ever|straight|consecutive|career|overall"
    r"|record-breaking|record-extending|annual|latest|reigning|back-to-back|prestigious|coveted"
    r"|season-ending|vacant|undisputed|unified|total|all-time|best-of-seven|three-match|five-match"
    r"|best-of-five|tournament|\d{4}(?:[–/-]\d{2,4})?|edition|of|inaugural)"
)
_EDITION = re.compile(
    rf"\s*(?:(?:the|a|an|his|her|their|its|this\syear['’]s)\s)?(?:{_COUNT},?\s(?:and\s)?(?:the\s)?){{0,8}}"
)
_GENDER = r"(?:(?:men|women|boy|girl|Men|Women|Boy|Girl)(?:'s|’s|s'|s’)|mixed|wheelchair)"
_EVENT = (
    r"(?:singles|doubles|Singles|Doubles|tennis|individual|team|handball|rugby|football|soccer"
    r"|basketball|cricket|golf|boxing|chess|darts|wrestling|hockey|volleyball|snooker)"
)
_TITLE = (
    r"(?:titles?|tournaments?|competitions?|championships?|events?|crowns?|trophy|trophies|belts?"
    r"|division|final)"
)
_QUALIFIED = re.compile(
    rf"(?:(?:{_GENDER}\s)?(?:{_EVENT}\s){{0,3}}{_TITLE}|{_GENDER}\s{_EVENT})\s(?:at|of|in)\s(?:the\s)?(?:\d{{4}}\s|\d+th\s)?"
)
_RUN = re.compile(
    rf"(?:{WORD})(?:\s(?:(?:of|the|for|in|and|de|del|di|do|la|d'|&|–)\s){{0,2}}(?:{WORD}|\d{{2,3}}\b|(?<=Ligue\s)\d\b)){{0,9}}"
)
_WEIGHT = (
    r"(?:super\s|light\s|junior\s|cruiser)?(?:heavyweight|middleweight|welterweight|lightweight"
    r"|featherweight|bantamweight|flyweight|cruiserweight|weight)"
)
_TAIL = re.compile(
    rf"(?:['’]s)?(?P<tail>\s(?:world\s)?{_WEIGHT})?"
    rf"(?:\s{_GENDER})?(?:\s{_EVENT}){{0,3}}(?P<noun>\s{_TITLE}|\s(?:award|prize|season))*"
)
_EDITION_END = re.compile(
    r"(?:\s(?:Final|Grand\sFinal|Championship\sGame|Game|(?=[IVXL])[IVXL]+|\d{2,4}|Title)"
    r"|(?<=Cup)\sFinals|(?<=Wimbledon)\sChampionships)+$"
)
_BEST = re.compile(
    rf"\s(?:at|in)\s(?:the|this\syear['’]s)\s(?:\d+(?:st|nd|rd|th)?\s)?(?P<awards>(?:{WORD}\s){{1,4}}Award)s"
)
_FINAL_OF = re.compile(r"^(?:Grand\s)?Finals?\sof\s(?:the\s)?")
# "the World Cup in Vancouver" is held there; "the Nobel Prize in Physics" is called so.
_COLLEGE = re.compile(r"(?:\sDivision\sI)?\s(?:men|women)['’]s\s(?:basketball|soccer|volleyball)")
_HELD_IN = re.compile(r"(?<!Prize)(?<!Award)(?<!Medal)\s(?:in|and)\s.*$")
# Not the name of one competition or prize.
_UNNAMED = re.compile(
    r"(?:(?:World|National|Grand|Champion|European|Best|Most|Valuable|Defensive|Offensive|Men's|Women's"
    r"|Person|Player|Coach|Game|Rookie|Man|of|the|Year|Actor|Actress|Director|Picture|Film|MVP|Series"
    r"|Cup|League|Open|Final|Finals|Title|Championships?|Trophy|Prize|Award|Medal|Golden|Boot|Slam"
    r"|Album|Record|Song|Artist|Manager|Footballer|Athlete|Super|Tour|Marathon|Drivers?|Constructors?|Interim|Undisputed|Featherweight|Bantamweight|Flyweight"
    r"|Heavyweight|Middleweight|Welterweight|Lightweight|Cruiserweight|Grand\sPrix|Gold|Silver|Bronze|Supporting|award|prize|title)(?:['’]s?)?\s?)+"
)

# Competitions that are one match.
_IS_FINAL = re.compile(r"Super\sBowl\b")
# What is won besides titles, and what a team wins on its way to one.
_NO_TITLE = re.compile(
    r"\b(?:semi-?finals?|quarter-?finals?|qualif\w+|play-offs?|playoffs|(?<!Football\s)playoff|group\sstages?|stage|leg|rounds?"
    r"|third\splace|bronze|silver|division\sseries|league\schampionship\sseries|(?<!UEFA\s)conference"
    r"|all-star|pole\sposition|medals?(?!\s(?:game|match|final))|opener|preseason|nominat\w+|primary|primaries|caucus\w*|election"
    r"|advanc\w+|reach(?:es|ed)?|to\sface|regular\sseason|wild\scard|warm-up|friendly|exhibition"
    r"|runner-up|second\splace|matches\sof|game\s(?:one|two|three|four|five|\d)(?!\d*\s(?:to\swin\s(?:the|their)"
    r"|of\sthe\s(?:[A-Z]+\s)?(?:Finals?|[A-Z]\w+\sSeries|[A-Z]\w+\sCup(?:\sFinals)?),?\s(?:winning|making\sit|claiming|to\swin)\s"
    r"(?:the|their))))\b",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"\s(?:semi|quarter|qualif|play-?off|match\b|game\b|stage|race\b|nomination|primary|nominee|opener"
    r"|finals\b|group|round|leg\b|third|bronze|final\sfour|point|MVP|most\svaluable|golden|goal|points|record"
    r"|berth|spot|place|bid|bout|hosting|host|rights|qualifier|[a-z-]+\s(?:award|nomination))",
    re.IGNORECASE,
)
# Events with a title for men and another for women: without saying which, the slot is not known.
_PAIRED = re.compile(
    r"(?:Wimbledon|(?:French|US|U\.S\.|Australian|Miami|Madrid|Italian|China|Canadian|Indian\sWells"
    r"|Monte-Carlo|Qatar|Dubai|Cincinnati|Mutua\sMadrid)(?:\sOpen|\sMasters)?"
    r"|.*\bMarathon)$"
)
_MENTIONED = re.compile(
    r"\b(?P<who>(?:men|women|boy|girl)(?:['’]s|s['’])|mixed)\s(?P<what>singles|doubles)",
    re.IGNORECASE,
)

_NAMED = ("Open Championship", "Super Series", "World Series")


def read(
    text: str, position: int, closing: re.Pattern[str] | None = None, winner: str = ""
) -> tuple[int, int, str] | None:
    """Read the name of a competition or prize; return where it stands and the name.

    The end is behind "title", "championship" and the like, the name without them and the edition.
    ``closing`` is what must end the name, as "Final" in "the 2021 FA Cup Final".
    """
    edition = _EDITION.match(text, position)
    begin = edition.end() if edition else position
    qualifier = _QUALIFIED.match(text, begin)
    begin = qualifier.end() if qualifier else begin
    run = _RUN.match(text, begin)
    if run is None:
        return None
    closed = closing is None or closing.search(text, run.start(), run.end() + 14)
    if not closed and not _IS_FINAL.match(run.group()):
        return None
    tail = _TAIL.match(text, run.end())
    end = tail.end() if tail else run.end()
    if _NOT_AFTER.match(text, end):
        return None
    if re.search(r"['’]s?$", run.group()) and not (tail and tail["tail"]):
        gendered = re.search(r"\s(?:Men|Women)['’]s$", run.group())
        if not gendered:
            return None  # "the National Book Award's top prize"
    best = _BEST.match(text, run.end()) if run.group().startswith("Best ") else None
    if best:  # "wins Best Picture at this year's Academy Awards"
        return run.start(), run.end(), f"{best['awards']} for {run.group()}"
    name = re.sub(r"\s(?:Men|Women)['’]s(?:\s(?:Singles|Doubles))?$", "", run.group())
    if not text[run.end() :].strip():
        name = re.sub(r"(?<=\s[A-Z])\.$", "", name)  # the full stop of "the champions of Liga F."
    name = _HELD_IN.sub("", _FINAL_OF.sub("", re.sub(r"['’]s?$", "", name)))
    name = re.sub(r"^Oscar(?=\sfor\s)", "Academy Award", _EDITION_END.sub("", name))
    name = re.sub(r"(?<=of\sthe\sYear)\sfor\s(?!(?:Men|Women)\b).*$", "", name)
    name = re.sub(r"(?<=Contest)\sfor\s.*$", "", whole_name(name, text, winner))
    if name == "NCAA":
        sport = _COLLEGE.match(text, run.end())
        return (run.start(), end, f"NCAA{sport.group()} championship") if sport else None
    if tail and tail["tail"]:
        name += f"{tail['tail']} title"
    elif tail and tail["noun"] and tail["noun"].strip() in ("award", "prize"):
        name += tail["noun"]
    elif tail and tail["noun"] and name.isupper():
        if name != run.group():
            return None  # "the WTA 500 title"
        name += " championship"  # "their first NBA title"
    elif tail and tail["noun"] and name.endswith(("Association", "Baseball")):
        name += " championship"  # the body is not its competition
    if (
        (not name.startswith(_NAMED) and _UNNAMED.fullmatch(name))
        or name.startswith("Interim ")
        or name.endswith(" Prix")
    ):
        return None
    name = re.sub(r"\bMVP$", "Most Valuable Player", name.strip())
    return (run.start(), end, name) if name else None


# Competitions that go by a short name in their own sport, where the sentence names the sport. In
# football the short names are those of Europe's and England's: others are told with more of a name.
_IN_SPORT = (
    (re.compile(r"\b(?:association\sfootball|[Ff]ootball|soccer)\b"), {
        "europa league": "UEFA Europa League",
    }),
    (re.compile(r"\b[Rr]ugby\sunion\b"), {
        "world cup": "Rugby World Cup", "women's world cup": "Women's Rugby World Cup",
    }),
    (re.compile(r"\b[Bb]asketball\b"), {"world cup": "FIBA Basketball World Cup"}),
    (re.compile(r"\b[Cc]ricket\b"), {"world cup": "Cricket World Cup"}),
)  # fmt: skip
_AMERICAN = re.compile(
    r"\b(?:American|Australian|Canadian|Gaelic|rules)\s(?:rules\s)?football|\b(?:Asian|African|AFC|CAF"
    r"|CONCACAF|OFC|[Ww]omen)\b|\bEHF\b|handball|futsal"
)
# Who of the clubs that ever won it wins "the Premier League" wins England's.
_ENGLISH = re.compile(
    r"(?:Manchester\s(?:United|City)|Liverpool|Chelsea|Arsenal|Leicester\sCity|Blackburn\sRovers)"
    r"(?:\sF\.?C\.?)?"
)


# A club that has won Europe's has not won that of another continent.
_EUROPEAN = re.compile(
    r"(?:FC\s|CF\s|AC\s)?(?:Real\sMadrid|(?:FC\s)?Barcelona|Bayern\sMunich|Liverpool|Chelsea|Manchester\s(?:United|City)"
    r"|A\.?C\.?\sMilan|Milan|Inter(?:\sMilan)?|Juventus|Borussia\sDortmund|Ajax|Porto|Benfica|Celtic|Marseille"
    r"|Paris\sSaint-Germain|Arsenal|Atlético\sMadrid)(?:\s(?:F\.?C\.?|C\.?F\.?))?"
)


def whole_name(name: str, text: str, winner: str) -> str:
    """The full name of a competition that the sentence calls by a short one ("World Cup")."""
    short = name.casefold().removesuffix(" title")
    if short == "premier league" and _ENGLISH.fullmatch(winner):
        return "English Premier League"
    if short == "champions league" and _EUROPEAN.fullmatch(winner) and not _AMERICAN.search(text):
        return "UEFA Champions League"
    for sport, names in _IN_SPORT:
        if short in names and sport.search(text) and not _AMERICAN.search(text):
            return names[short]
    return name


def no_title(text: str, start: int, end: int) -> bool:
    """Whether a statement is of a match, a stage or a nomination, and so of no title."""
    return bool(_NO_TITLE.search(text[start:end]))


def qualified(text: str, start: int, end: int, name: str) -> str | None:
    """The name with "men's singles" where the statement says so; None when it must and does not."""
    stated = _MENTIONED.search(text[start : end + 140])
    if stated and not re.search(r"(?i)\b(?:wo)?men['’]?s\b", name):
        return f"{name} {stated['who'].lower()} {stated['what'].lower()}"
    if _PAIRED.match(name) and not re.search(r"\b[Gg]olf\b", text):
        return None
    return name
