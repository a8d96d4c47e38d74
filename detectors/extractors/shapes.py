"""The shapes of news sentences about offices, as regular expressions.

They are matched on short pieces of a sentence, between a name, a verb and an office that were
found before, so that no sentence makes them slow. Names are matched with their capitals.
"""

from __future__ import annotations

import re

from detectors.names import NAME, UPPER, WORD, words

_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
PLAIN = words(
    f"{_ORDINALS} the a an its their his her new newest newly next ever only female woman male "
    "black muslim hindu sikh catholic jewish gay openly and or youngest oldest acting interim "
    "caretaker transition transitional provisional temporary country's nation's state's city's "
    "company's club's team's party's permanent full-time indigenous left-wing right-wing "
    "left-leaning leftist conservative centrist liberal independent civilian latino hispanic "
    "asian american south african african-american directly-elected "
    "former ex late previous outgoing incumbent current then longtime long-time federal "
    "non-white non-european european sole full executive first-ever sitting incoming "
    "democratically-elected popularly-elected center-right centre-right center-left centre-left "
    "far-right far-left pro-western pro-european pro-russian technocratic reformist populist "
    "nationalist separatist pro-independence millennial"
)
"""Words before an office that do not change which office it is (normal case, with hyphens)."""
PARTISAN = words(
    "communist democratic republican labour labor green socialist christian druze māori "
    "aboriginal arab kurdish tamil dalit social-democratic liberal conservative independent"
)
"""Words before an office that say of which party or people the holder is, unless a name goes on."""
ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
OTHER_OFFICE = words(
    "vice deputy assistant associate under shadow honorary crown lieutenant co lord junior "
    "regional auxiliary adjunct executive-vice sub vice-chair running former-vice senior "
    "presumptive presumed self-proclaimed self-declared would-be de-facto facto titular rival "
    "pretender nominal ceremonial ministerial unofficial goalkeeping parliamentary"
)
"""Words right before an office that make it another one, or none."""

_ON = r"on(?!\s(?:(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day|[JFMASOND][a-z]+\s\d))"
SUBJECT = rf"(?:{WORD})(?:\s(?:(?:of|and|the|de|do|for|&|in|{_ON})\s){{0,2}}(?:{WORD})){{0,7}}"
_KIND = r"(?:(?!(?:in|of|and|the|on|for|at|to)\b)[a-z-]+\s)?"
OF = re.compile(
    rf"\s(?:of|at)\s(?:(?:the|his|her)\s)?"
    rf"(?:{_KIND}(?:[{UPPER}][\w.]+\s){{0,2}}{_KIND}(?:state|city|province|region|republic|territory"
    rf"|community)\sof\s(?:the\s)?"
    rf"|(?:[{UPPER}][\w.-]+\s)?(?:[a-z-]+\s){{0,3}}(?:company|developer|firm|giant|maker|manufacturer|site"
    rf"|website|club|newspaper|magazine|network|carmaker|airline|retailer|platform|startup|party)\s"
    rf"|(?:[{UPPER}][\w.-]+\s)?capital(?:\scity)?\s(?!of\b)"
    rf"|(?:(?:largest|main)\s)?(?:largest|ruling|main|opposition|governing|far-right|far-left|centre-right|centre-left"
    rf"|right-wing|left-wing|right-leaning|left-leaning|populist|disputed|breakaway|then|unrecognized"
    rf"|partially)\s)?"
    rf"(?P<subject>{SUBJECT})|\sin\s(?:the\s)?(?P<country>{SUBJECT})|(?P<unread>\sof\s)"
)
NOTE = re.compile(r"\s\([^)]{1,30}\)")

_INSIDE_COMMAS = r"(?:[^,.;:]|(?<=\s[A-Z])\.|\.(?=\w)){1,110}"
_ASIDE = (
    rf"(?:,\s(?!said\b|that\b){_INSIDE_COMMAS},|\s\([^)]{{1,60}}\)|\s[–—]\s[^–—.;]{{1,90}}\s[–—]"
    rf"|\s(?:of|from|for)\s(?:the\s)?(?:[\w-]+\s){{0,3}}(?:{WORD})"
    rf"(?:\s(?:(?:and|for|of|the|in)\s){{0,2}}(?:{WORD})){{0,6}}"
    r"(?:\s\([^)]{1,20}\))?(?:\s(?:party|coalition|alliance))?)"
)
_ADVERBS = (
    r"(?:(?:[a-z]{3,}ly|also|then|later|now|again|himself|herself|both|today|once\sagain)\s)?"
)
ASIDE = re.compile(rf"(?:{_ASIDE}){{0,2}}\s{_ADVERBS}")
"""Between a person and the verb."""
WITH_CABINET = re.compile(
    rf"(?:{_ASIDE}){{0,2}}(?:,?\s(?:and|along\swith|together\swith)\s(?:his|her|the|all)\s"
    rf"(?:of\s(?:his|her)\s)?(?:[\w-]+\s){{0,2}}(?:cabinet|government|ministers),?)?\s{_ADVERBS}"
)
"""Between a person and the verb of a departure."""

TOGETHER = re.compile(r"\b(?:and|along\swith|together\swith)\s(?:his|her|the|all)\s")
"""Between a person and "resign": others leave with her."""

_HELP = rf"(?:(?:is|was|has\sbeen|gets|being)\s{_ADVERBS})?"
TAKES = re.compile(
    r"\b(?P<verb>"
    rf"(?P<passive>{_HELP}(?:sworn[\s-](?:in(?:to\soffice)?|as)|inaugurated|installed|crowned"
    r"|enthroned|proclaimed|(?:re-?)?appointed|(?:re)?named|(?:re-?)?elected|chosen|selected|voted(?:\sin)?|confirmed"
    r"|acclaimed|unveiled|announced|hired|picked|tapped|promoted))"
    r"|(?:becomes|became)\sthe\s(?:[\w-]+\s){1,6}to\s(?:be\s(?:sworn\sin|inaugurated|appointed|named"
    r"|installed|elected)|become|take\soffice|serve)"
    r"|becomes|became|has\sbecome|becoming"
    r"|(?:takes|took|assumes|assumed|has\staken|has\sassumed|taking|assuming)\s(?:the\s|his\s|her\s)?"
    r"(?:(?:oath\sof\s)?office|posts?|position|role|reins|helm|charge|over)"
    r"|(?:assumes|assumed)"
    r"|(?:begins|starts|began)\s(?:his|her)\s(?:[\w-]+\s)?(?:term|tenure|role|job)"
    r"|(?:accedes|ascends|succeeds)\sto\sthe\sthrone"
    r"|(?:wins|secures)\s(?:the\s|a\s)?(?:re-?)?election"
    r"|(?:begins|wins|secures)\s(?:a|his|her)\s(?:[\w-]+\s){1,2}(?:[\w-]+-year\s)?term"
    r"|(?:succeeds|replaces)\s(?:him|her)(?=\sas\s)"
    r"|is(?=\s(?:the\s)?new\s)"
    r"|(?P<future>(?:will|is\sset\sto|is\sdue\sto|is\sscheduled\sto)\s"
    r"(?:be\s(?:sworn\sin|inaugurated|installed|crowned)|become|take\soffice|take\sover"
    r"|assume\s(?:the\s)?(?:office|post|role|position)|serve)))\b"
)
BY = r"(?:\sby\s(?:the\s)?[^,.;]{1,90}?)?"
_TERM = (
    r"(?:\s(?:for|to|on)\s(?:a|an|his|her|their|the)\s(?:[\w-]+\s){1,4}?(?:term|time)"
    r"(?:\sin\soffice)?)?"
)
AS_OFFICE = re.compile(
    r"(?:\sunopposed|\sunanimously|\stoday|\syesterday|\sin\s[\w\s]{1,30}?)?"
    rf"{BY}{_TERM}"
    r"(?:\sto\sbe(?:come)?|\sto\sserve\sas|\sto\s(?:the\s)?(?:post|position|role)\sof|\sto|\sas|\sof"
    r"|\s(?:in|for)\s(?:the\s)?(?:post|position|role|office)\s(?:of|as))?\s"
)
"""Between the verb and the office."""
APPOINTS = re.compile(
    r"(?<!\bis\s)(?<!\bwas\s)(?<!\bbeen\s)(?<!\bare\s)(?<!\bbe\s)(?<!\bto\s)"
    r"\b(?P<verb>appoints?|appointed|names|named|swears\sin|swore\sin|elects?|selects?|chooses|chose"
    r"|installs|installed|picks|taps|hires|hired|confirms|votes\s(?:\d+[–-]\d+\s|unanimously\s)?to\s(?:confirm|appoint|elect)|promotes|nominates\sand\sappoints|unveils"
    r"|appointing|naming|electing)\b"
)
SMALL = (
    r"(?:(?:(?!(?:by|to|that|as|with|for|of|who|whose|after)\s)[a-z][\w'’-]*|U\.S\.|MP)\s){0,5}?"
)
SMALLS = re.compile(rf"\s{SMALL}")
PERSON_AS = re.compile(
    r"(?:,[^,.;]{1,90},|\s\([^)]{1,40}\)|\sof\s(?:the\s)?[^,.;]{1,50})?"
    r"\s(?:as\s|to\sbe\s|to\sbecome\s|to\sserve\sas\s|to\sthe\spost\sof\s|to\s)?"
)
AS_ONLY = re.compile(
    r"(?:,[^,.;]{1,90},|\s\([^)]{1,40}\))?\s(?:(?:from\s(?:office|(?:his|her)\s(?:post|position|role))\s)?as\s"
    r"|from\s(?:the\s)?(?:post|position|role)\sof\s)"
)
COMMA = re.compile(r",\s")
WHO = re.compile(r"(?:\s\([^)]{1,40}\))?,\swho\s")
ALONGSIDE = re.compile(
    r"\b(?:sworn\sin|inaugurated|takes\soffice|took\soffice|takes\sthe\soath)\b[^.;]{1,90}?,?\swith\s"
    rf"(?P<name>{NAME})\s(?:as|becoming|taking\soffice\sas)\s(?=(?:his|her|the|new)\s)"
)
"""Who takes another office at the same time."""
NOTHING = re.compile("")
SUCCEEDS = re.compile(
    r"\b(?P<verb>succeeds|succeeded|replaces|replaced|takes\sover\sfrom|took\sover\sfrom"
    r"|(?P<coming>will\s(?:succeed|replace|take\sover\sfrom))"
    r"|(?P<named>(?:is|was)\s(?:appointed|named|elected|chosen|selected|sworn\sin)\sto\s"
    r"(?:succeed|replace)))\b(?!\sby\b)"
)
_LEAVE = (
    r"resigns|resigned|(?P<plural>resign)|steps\s(?:down|aside)|stepped\s(?:down|aside)|stands\sdown|stood\sdown|quits?"
    r"|retires|retired|abdicates|abdicated"
    r"|announces\s(?:his|her)\s(?:immediate\s)?resignation"
    r"|announces\s(?:that\s)?(?:he|she)\s(?:is\sresigning|has\sresigned)"
    r"|(?:has|have)\s(?:resigned|stepped\sdown)"
    r"|(?:leaves|left|vacates)\s(?:office|(?:his|her|the)\s(?:post|position|role|job))"
    r"|dies|died|passes\saway|(?:is|was|has\sbeen|gets)\s(?:[a-z]+ly\s)?(?:assassinated|ousted"
    r"|deposed|overthrown|removed|dismissed|fired|sacked|toppled|voted\sout|relieved|unseated"
    r"|(?P<followed>replaced|succeeded)|impeached\sand\sremoved)"
)
LEAVES = re.compile(
    rf"\b(?P<verb>{_LEAVE})\b(?!(?<!resigns)(?<!steps\sdown)\sto\b|\s(?:will|would|the\sparty)\b)"
)
ANNOUNCES = re.compile(
    r"\b(?P<verb>announces|announced|confirms)\b[^.;]{0,60}?\b(?:will|plans\sto|intends\sto|intention\sto)\s"
    r"(?:be\s)?(?:resign|step(?:ping)?\sdown|stand\sdown|retire|leave\soffice)\b"
)
"""A departure to come: only its successor is news."""
_POST = (
    r"(?:\s(?:in|from|of)\s(?:his|her|their|its|the|both)\s(?:[\w-]+\s){0,2}?"
    r"(?:posts?|positions?|roles?|jobs?|office|duties|appointment|power)|\sfrom\s(?:office|power))?"
)
FROM_OFFICE = re.compile(rf"(?:\s(?:today|immediately))?{BY}{_POST}\s(?:both\s)?(?:as|from|of)\s")
"""Between the verb of a departure and the office."""
ELSEWHERE = re.compile(
    rf"{BY}{_POST}\s(?:as|from|of|his|her)\b(?!\s(?:office|power|the\s\w+\s(?:cabinet|government)|"
    r"(?:his|her|their|the)\s(?:posts?|positions?|role|office|job|duties|government|cabinet)\b"
    r"(?!\s(?:as|of)\b)|both\s(?:posi|offi|role|post)|a\b))"
)
"""After the verb of a departure: it is from something else than the office named before."""
DISMISSES = re.compile(
    r"(?<!\bis\s)(?<!\bwas\s)(?<!\bbeen\s)(?<!\bbe\s)(?<!\bto\s)"
    r"\b(?P<verb>dismisses|fires|sacks|removes|ousts|deposes|depose|overthrows|overthrow|topples"
    r"|relieves|reassigns)\b"
)
END_OF = re.compile(
    r"\b(?:[Aa]fter|[Ff]ollowing|[Uu]pon|accepts|accepted|accept)\s(?:the\s)?(?:[a-z]+\s){0,2}"
    r"(?:resignation|death|ouster|ousting|dismissal|removal|assassination|retirement|abdication)"
    r"\sof\s(?:the\s)?$"
)
INFINITIVE = re.compile(
    r"\b(?:defeats?|defeated|beats?|wins?|won|secures?|gains?|receives?)\b(?P<gap>[^.;]{1,150}?)"
    r"\b(?P<verb>to\s(?:become|win|be\selected(?:\sas)?)"
    r"|(?:and|,)\s(?:becomes|will\sbecome|is\sset\sto\sbecome|becoming))\b"
)
"""An election that the sentence tells, and what it makes of the winner."""

IN_OFFICE = re.compile(
    r"(?:takes|took)\soffice|(?:is|was)\s(?:formally\s|officially\s)?(?:sworn\sin|inaugurated)"
    r"(?:\sinto\soffice)?|(?:is|was)\s(?:re-?elected|elected(?=\s(?:for|to)\s(?:a|his|her)\s(?:[\w-]+\s){1,3}term))|(?:wins|secures)\s(?:a\s)?re-?election"
)
THEN = re.compile(
    r"\s*(?:$|[.,;]|\s(?:on|after|following|amid|today|during|with|defeating|(?:for|to)\s(?:a|his|her)"
    r"\s\w+(?:\s[\w-]+)?\sterm|for\s(?:a|his|her)\sfirst)\b)"
)
JOINED = re.compile(r"(?:\sand\s(?:[a-z]{3,}ly\s|also\s|then\s|later\s)?|(?P<comma>,\s))\Z")
"""Right before a verb that goes on about the subject of the verb before."""
PARTICIPLE = re.compile(r"becoming\b|taking\b|assuming\b")
FINITE = re.compile(
    rf"(?:{_ASIDE}){{0,2}}\s{_ADVERBS}(?:is|was|has|wins?|won|defeats?|defeated|[a-z]{{2,}}[^s\W]e?s|took|becomes?|became)\s"
)
"""After a person: the verb of which the person is the subject."""
SUCCESSOR = re.compile(
    rf"\b(?:(?:[Hh]e|[Ss]he|[Ww]ho|and)\s)?(?:is|was|being|(?P<be>will\sbe))\s(?:succeeded|replaced)\s(?:[a-z-]+\s){{0,2}}"
    rf"(?:as\s[^,.;]{{2,80}}?\s)?by\s"
    rf"{SMALL}(?P<by>{NAME})"
    rf"|(?P<next>{NAME})(?:,[^,.;]{{1,90}},)?\s(?P<will>will\s)?(?:succeeds?|replaces?)\s(?:him|her)\b"
    rf"|(?P<place>{NAME})(?:,[^,.;]{{1,90}},)?\s(?:takes|took)\s(?:his|her)\s(?:place|post|position)\b"
    rf"|\b(?:replaces|replacing|replaced)\s(?:him|her)\swith\s{SMALL}(?:[a-z]+,\s)?(?P<with>{NAME})"
    rf"|\b(?:appoints|names|chooses|selects)\s{SMALL}(?P<chosen>{NAME})(?:,[^,.;]{{1,90}},)?\sas\s"
    r"(?:his|her)\s(?:[a-z]+\s)?(?:successor|replacement)"
    rf"|(?P<made>{NAME})(?:,[^,.;]{{1,90}},)?\s(?:is|was)\s(?:named|appointed|sworn\sin|elected|chosen"
    r"|selected)\s(?:as\s)?(?:his|her)\s(?:[a-z]+\s)?(?:successor|replacement)"
    r"|(?P<taken>" + NAME + r")\sis\sappointed\sto\sthe\spost\b"
)
PREDECESSOR = re.compile(
    rf"\b(?:succeeding|replacing|to\s(?:succeed|replace)|taking\sover\sfrom|who\ssucceeds"
    rf"|(?:and|[Hh]e|[Ss]he)\s(?:succeeds|replaces)"
    rf"|(?:resignation|death|dismissal|removal|ouster|retirement)\sof)\s{SMALL}"
    rf"(?:[a-z]+,\s)?(?P<name>{NAME})"
)
SPELL = re.compile(
    r"(?:,\swho|,)?\s(?P<verb>was|served\sas|serves\sas|is|has\sbeen|had\sbeen|has\sserved\sas"
    r"|had\sserved\sas|has\sheld\soffice\sas)\s"
)
"""Between a person and an office of a dated spell ("who served as … from 2010 to 2014")."""

TRIGGER = re.compile(
    r"\b(?:sworn|swear|swore|inaugurat|install|crown|enthron|throne|proclaim|appoint|reappoint"
    r"|name[sd]\b|renamed|naming|elect|reelect|chose|select|voted|confirm|acclaim|unveil|announce"
    r"|hire[sd]|pick|tap[sp]|promot|becom|became|take|taking|took|assum|begins|starts|began|accede"
    r"|ascend|succe|replac|former|resign|step|st[ao]nds?\b|stood|quit|retire|abdicat|leaves|left"
    r"|vacates|die[sd]\b|passes|oust|depos|overthr|remov|dismiss|fire[sd]|sack|toppl|reliev|reassign"
    r"|unseat|assassin|death|wins?\b|winning|won\b|defeat|beats?\b|edges|secures|clinch|gains|new\s"
    r"|serve[sd]?\b|since|until|from\s\d)"
)
"""A sentence in small letters without any of these says nothing about taking or leaving."""
AFTER_HEDGE = re.compile(
    r"['’]s?\b|[-–‑ ]?(?:elect|designate)\b|\s(?:candidate|nominee|hopeful|title|trophy|season"
    r"|race|in\shistory|in\sexile|"
    r"emeritus|pro\stempore|since|ever\sto|in\s(?:a|the|his|her)\s(?:\w+\s)?"
    r"(?:film|series|movie|play|novel|game|sketch|book))\b",
    re.IGNORECASE,
)
WAITS = re.compile(r"[-–‑ ](?:elect|designate)\b", re.IGNORECASE)
AGAIN = re.compile(
    r"\bre-?(?:elect(?:ed|ion)|appoint)|\b(?:second|third|fourth|fifth|\d+\w\w|new|another|last)\s"
    r"(?:[\w-]+\s)?term"
)
PARLIAMENT = re.compile(
    r"\b(?:parliament|bundestag|assembly|house\sof\srepresentatives|diet|congress|knesset|sejm|"
    r"senate|legislature|lawmakers|deputies|riigikogu|chamber|councill?ors|mps|verkhovna\srada|taoiseach)\b",
    re.IGNORECASE,
)
# Bodies whose president is not the country's: "Japan's Democratic Party elects … as president".
NO_STATE = re.compile(
    r"\b(?:party|committee|federation|association|club|league|company|bank|university|olympic"
    r"|commission|board|movement|front|alliance|coalition|church|institute|confederation|team"
    r"|union|court|province|state\sof)\b",
    re.IGNORECASE,
)
INCUMBENT = re.compile(r"\b[Ii]ncumbent,?\s[^.;,]*$")
A_FIRST = re.compile(r"(?:\sin\s[^,.;]{1,50}?)?\s(?:ever\s)?to\s")
"""After "becomes the first president": a first of another kind, no appointment."""
# Right before a capitalised run: it is the end of something longer.
INSIDE = re.compile(r"\b(?:of|for|in|at|the|Government|'s|’s)\s*$|[&-]\s*$")
AND = re.compile(rf"[{UPPER}][\w.'’-]*\sand\s$")
PAST = re.compile(
    rf"{_ADVERBS}(?:was|became|took|assumed|appointed|named|elected|sworn|chosen|selected|inaugurated"
    r"|installed|crowned|hired|promoted|unveiled|picked|tapped|confirmed|proclaimed|voted|succeeded"
    r"|replaced|won|defeated|beat|resigned|stepped|stood|left|died|retired|abdicated|began|swore|chose|announced)\b"
)
ELECTION = re.compile(r"\b(?:elect\w*|chosen|selected|voted|defeats?|beats?|wins?|secures)\b")
GENERIC = words(
    "republic senate house parliament assembly congress state union board council government party "
    "opposition court supreme bank cabinet national of representatives commons deputies chamber "
    "the federation kingdom nation country territory knesset bundestag legislature lords"
)
"""A subject of such words alone does not say which one it is."""
OWNER = re.compile(rf"\s{NAME}(?<=['’]s)\s[\w]")
"""After an office: it is only told whose the thing is ("President Jane Doe's spokesman")."""
COMPANY_POSTS = (
    "ceo",
    "co-ceo",
    "chief executive",
    "chief executive officer",
    "chairman",
    "chair",
)
FOUNDER = re.compile(
    rf"(?P<body>{NAME})\s(?:co-?)?founder\s{NAME}(?:,[^,]{{1,90}},)?\s"
    r"(?:announces|resigns|steps|retires|is)\b"
)
# Their presidents preside over sittings: what others call a speaker.
CHAMBER = re.compile(r"^(?:\S+\s)?(?:Senate|Chamber|(?:National|Legislative)\sAssembly)\b")
