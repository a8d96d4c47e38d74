"""The shapes of news sentences about offices, as regular expressions.

``shapes`` builds those that name an office from the registry's titles; the others are fixed. Names
are matched with their capitals, everything else in any case.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from detectors.names import NAME, UPPER, WORD

_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
PLAIN = (
    f"{_ORDINALS} the its their new newest next ever female woman male black muslim hindu sikh "
    "catholic jewish gay openly and youngest oldest acting interim caretaker transition "
    "transitional provisional country's nation's state's city's company's permanent full-time "
    "indigenous left-wing right-wing leftist conservative civilian latino hispanic asian american "
    "south african african-american directly-elected democratically"
).replace(" ", "|")
_MODS = rf"(?P<mods>(?:(?:(?i:{PLAIN})|\d+(?:st|nd|rd|th)|[{UPPER}][\w'’-]+),?\s){{0,8}}?)"
_OF = rf"\sof\s(?:the\s)?(?:(?:[{UPPER}][\w.]+\s)?(?:state|city|province|region)\sof\s(?:the\s)?)?"
SUBJECT = rf"(?:{WORD})(?:\s(?:(?:of|and|the|de|do|for|&)\s){{0,2}}(?:{WORD})){{0,7}}"
_ASIDE = (
    r"(?:,\s(?!who\b|that\b|said\b)[^,.;]{1,90},|\s\([^)]{1,40}\)"
    rf"|\s(?:of|from)\s(?:the\s)?(?:[a-z-]+\s){{0,2}}(?:{WORD})"
    rf"(?:\s(?:(?:and|for|of|the)\s)?(?:{WORD})){{0,5}}(?:\sparty)?)?"
)
_ADVERB = r"(?:(?:formally|officially|unanimously|also|then|later|now)\s)?"
_TERM = r"(?:\sfor\s(?:a|his|her|their)\s(?:[\w-]+\s){1,3}term(?:\sin\soffice)?)?"
_BY = r"(?:\sby\s(?:the\s)?[^,.;]{1,60}?)?"
_VERB = (
    rf"(?P<verb>{_ADVERB}(?:"
    rf"(?:(?:is|was|has\sbeen)\s)?{_ADVERB}"
    r"(?:sworn\s(?:in(?:to\soffice)?|as)|inaugurated|installed|crowned|appointed|named|elected|chosen"
    rf"|selected){_BY}{_TERM}(?:\sto\sbe|\sto\sserve\sas|\sas)?"
    r"|becomes|became|has\sbecome"
    r"|(?:takes|took|assumes|assumed|has\staken|has\sassumed)\s(?:the\s)?"
    r"(?:(?:oath\sof\s)?office|post|position|role)(?:\sas|\sof)?"
    r"|takes\sover\sas|took\sover\sas"
    r"|(?P<future>will|is\sset\sto|is\sdue\sto|is\sscheduled\sto)\s"
    r"(?:be\s(?:sworn\sin|inaugurated)(?:\sas)?|become|take\soffice\sas|take\sover\sas)))"
)
_APPOINTS = (
    r"(?<!\bis\s)(?<!\bwas\s)(?<!\bbeen\s)"
    r"(?P<verb>appoints|appointed|names|named|swears\sin|elects|selects|chooses|installs)"
)
_SUCCEEDS = r"(?P<verb>succeeds|succeeded|replaces|replaced|takes\sover\sfrom)"
_SMALL = r"(?:(?!(?:by|to|that|as|with|for|of)\s)[a-z][\w'’-]*\s){0,4}?"

TRIGGER = re.compile(
    r"sworn|inaugurat|install|crown|appoint|name[sd]\b|elect|chose|select|becom|became|take|took|"
    r"assum|succe|replac|swear|former",
    re.IGNORECASE,
)
# Before the statement, in its sentence: what makes it something else than plain news.
HEDGE = re.compile(
    r"\b(?:if|unless|whether|since|before|when|until|would|could|should|may|might|must"
    r"|reported(?:ly)?|alleged(?:ly)?|claim(?:s|ed|ing)?|says?|said|tells?|told|argu\w+|predict\w*|believ\w+|false\w*"
    r"|hoax|rumou?r\w*|satir\w*|parod\w*|fiction\w*|novel|film|movie|sitcom|episode|season|game"
    r"|anniversary|years?\sago|this\sday|history|imagin\w+|hypothe\w+|propos\w+|calls?\sfor|demand\w*"
    r"|not|never|no|den(?:y|ies|ied)|reject\w*|refus\w+|fail\w*|(?:un)?likely"
    r"|expect\w*|poised|hop(?:e|es|ing)"
    r"|plans?|planned|wants?|seeks?|self-(?:declared|proclaimed|styled)|rival|parallel|exile\w*"
    r"|opposition\sleader\sand|had|april\sfool\w*|mock|jokes?|dream\w*|pretend\w*|play(?:s|ed|ing))\b",
    re.IGNORECASE,
)
AFTER_HEDGE = re.compile(
    r"['’]s?\b|[- ]?(?:elect|designate)\b|\s(?:candidate|nominee|hopeful|in\shistory|in\sexile|"
    r"emeritus|pro\stempore|since|ever\sto|in\s(?:a|the|his|her)\s(?:\w+\s)?"
    r"(?:film|series|movie|play|novel|game|sketch|book))\b",
    re.IGNORECASE,
)
WAITS = re.compile(r"[- ](?:elect|designate)\b", re.IGNORECASE)
AGAIN = re.compile(
    r"\bre-?(?:elected|appoint)|\b(?:second|third|fourth|fifth|\d+\w\w|new|another)\s(?:[\w-]+\s)?term"
)
PARLIAMENT = re.compile(
    r"\b(?:parliament|bundestag|assembly|house\sof\srepresentatives|diet|congress|knesset|sejm|"
    r"senate|legislature|lawmakers|deputies|riigikogu|chamber|councill?ors|mps)\b",
    re.IGNORECASE,
)
# Bodies whose president is not the country's: "Japan's Democratic Party elects … as president".
NO_STATE = re.compile(
    r"\b(?:party|committee|federation|association|club|league|company|bank|university|olympic"
    r"|commission|board|movement|front|alliance|coalition|church|institute|confederation)\b",
    re.IGNORECASE,
)
TODAY = re.compile(
    r"\b(?:today|yesterday|on\s(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday))\b",
    re.IGNORECASE,
)
# Right before a capitalised run: it is the end of something longer.
INSIDE = re.compile(r"\b(?:of|for|and|in|at|the)\s*$|[&-]\s*$")
PAST = re.compile(rf"{_ADVERB}(?:was|became|took|assumed|appointed|named|succeeded|replaced)\b")
PREDECESSOR = re.compile(
    rf"\b(?:succeeding|replacing|to\s(?:succeed|replace)|taking\sover\sfrom|who\ssucceeds"
    rf"|(?:resignation|death|dismissal|removal|ouster|retirement)\sof)\s{_SMALL}(?P<name>{NAME})"
)


@dataclass(frozen=True)
class Shapes:
    takes: re.Pattern[str]
    appoints: re.Pattern[str]
    succeeds: re.Pattern[str]
    former: re.Pattern[str]
    former_after: re.Pattern[str]


@functools.lru_cache(maxsize=4)
def shapes(titles: tuple[str, ...]) -> Shapes:
    title = "(?P<title>(?i:" + "|".join(re.escape(t).replace(r"\ ", "[ -]") for t in titles) + "))"
    office = (
        rf"(?:(?:the|a|an)\s)?(?:(?P<owner>{SUBJECT})['’]s?\s)?{_MODS}{title}\b"
        rf"(?:\s\([^)]{{1,30}}\))?(?:{_OF}(?P<subject>{SUBJECT})|(?P<unread>\sof\s))?"
    )
    return Shapes(
        takes=re.compile(rf"(?P<name>{NAME}){_ASIDE}\s{_VERB}\s{office}"),
        appoints=re.compile(
            rf"(?P<agent>[^;]{{2,160}}?)\s{_APPOINTS}\s{_SMALL}(?P<name>{NAME})"
            rf"(?:,[^,.;]{{1,90}},)?\s(?:as\s|to\sbe\s|to\sserve\sas\s)?{office}"
        ),
        succeeds=re.compile(
            rf"(?P<name>{NAME}){_ASIDE}(?P<who>,\swho)?\s{_ADVERB}{_SUCCEEDS}\s{_SMALL}"
            rf"(?P<former>{NAME})\sas\s{office}"
        ),
        former=re.compile(
            rf"\b[Ff]ormer\s(?P<mods>(?:[{UPPER}][\w'’-]+\s){{0,2}}?){title}"
            rf"(?:{_OF}(?P<subject>{SUBJECT}))?(?:\s(?P<name>{NAME}))?"
        ),
        former_after=re.compile(
            rf"(?P<name>{NAME}),\s(?:a\s|the\s)?former\s{_MODS}{title}{_OF}(?P<subject>{SUBJECT})"
        ),
    )
