"""Who says it: publishers, the agencies they credit, and which documents are independent. Pure.

Being told often is not being told independently. Two documents are independent only when all of
these differ: the publisher (registrable domain), the upstream (a wire agency or a named source
that both credit), the text (no near copy, no long quotation in common) and, where the feed itself
supplies the words, the feed: whoever writes a feed can put any address under an item.

What cannot be told from the words alone: two sites that put one release into their own words
and name no source look like two reporters.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from detectors.entities import normalise
from store.records import Document

Span = tuple[int, int]

_NEAR = 0.5  # share of word runs from which two texts count as one story
_RUN = 4  # words
_QUOTED = 8  # words of a quotation that two reporters do not share by chance
_EDGE = 400  # characters at either end of a text, where credits stand
_A_FEED = 5  # documents of one feed that are compared: no two of them count anyway
# Second labels under which names are registered ("example.co.uk"), for endings unknown to the
# list of public suffixes.
_SECOND = frozenset({"ac", "co", "com", "edu", "gob", "gov", "gouv", "net", "or", "org"})

# Agencies whose reports others print: id, names that mean nothing else, names that are credits
# only where credits stand ("AP" is also a state of India), own domains.
_AGENCIES: tuple[tuple[str, str, str, str], ...] = (
    ("reuters", "Reuters", "", "reuters.com"),
    ("ap", "Associated Press", "AP", "apnews.com ap.org"),
    ("afp", "Agence France-Presse|Agence France Presse", "AFP", "afp.com"),
    ("dpa", "Deutsche Presse-Agentur", "dpa DPA", "dpa.com dpa-international.com"),
    ("apa", "Austria Presse Agentur", "APA", "apa.at"),
    ("efe", "Agencia EFE", "EFE", "efe.com"),
    ("ansa", "Agenzia ANSA", "ANSA", "ansa.it"),
    ("lusa", "Agência Lusa|Lusa News Agency", "Lusa", "lusa.pt"),
    ("anp", "Algemeen Nederlands Persbureau", "ANP", "anp.nl"),
    ("belga", "Belga News Agency", "Belga", "belga.be"),
    ("tt", "Tidningarnas Telegrambyrå", "TT", "tt.se"),
    ("ntb", "Norsk Telegrambyrå", "NTB", "ntb.no"),
    ("ritzau", "Ritzau", "", "ritzau.dk ritzau.com"),
    ("stt", "Suomen Tietotoimisto", "STT", "stt.fi"),
    ("pap", "Polska Agencja Prasowa", "PAP", "pap.pl"),
    ("ctk", "Česká tisková kancelář", "ČTK CTK", "ctk.cz ctk.eu"),
    ("mti", "Magyar Távirati Iroda", "MTI", "mti.hu"),
    ("agerpres", "Agerpres|AGERPRES", "", "agerpres.ro"),
    ("tanjug", "Tanjug", "", "tanjug.rs"),
    ("hina", "", "HINA Hina", "hina.hr"),
    ("tass", "TASS", "", "tass.com tass.ru"),
    ("interfax", "Interfax", "", "interfax.com interfax.ru"),
    ("ria", "RIA Novosti|Sputnik News", "", "ria.ru sputniknews.com"),
    ("ukrinform", "Ukrinform", "", "ukrinform.net ukrinform.ua"),
    ("anadolu", "Anadolu", "", "aa.com.tr"),
    ("xinhua", "Xinhua", "", "xinhuanet.com news.cn"),
    ("kyodo", "Kyodo", "", "kyodonews.net kyodonews.jp"),
    ("jiji", "Jiji Press", "Jiji", "jiji.com"),
    ("yonhap", "Yonhap", "", "yna.co.kr"),
    ("kcna", "Korean Central News Agency", "KCNA", "kcna.kp"),
    ("bernama", "Bernama|BERNAMA", "", "bernama.com"),
    ("antara", "", "Antara ANTARA", "antaranews.com"),
    ("pti", "Press Trust of India", "PTI", "ptinews.com"),
    ("ani", "Asian News International", "ANI", "aninews.in"),
    ("ians", "Indo-Asian News Service", "IANS", "ians.in"),
    ("irna", "Islamic Republic News Agency", "IRNA", "irna.ir"),
    ("mena", "Middle East News Agency", "MENA", "mena.org.eg"),
    ("spa", "Saudi Press Agency", "SPA", "spa.gov.sa"),
    ("nan", "News Agency of Nigeria", "NAN", "nannews.ng"),
    ("pana", "Panapress", "", "panapress.com"),
    ("cp", "Canadian Press", "CP", "thecanadianpress.com"),
    ("pa", "PA Media|Press Association", "PA", "pa.media"),
    ("aap", "Australian Associated Press", "AAP", "aap.com.au"),
    ("upi", "United Press International", "UPI", "upi.com"),
    ("bloomberg", "Bloomberg News", "Bloomberg", "bloomberg.com"),
    ("dowjones", "Dow Jones Newswires", "", "dowjones.com"),
    ("prnewswire", "PR Newswire|PRNewswire", "", "prnewswire.com prnewswire.co.uk"),
    ("businesswire", "Business Wire|BUSINESS WIRE", "", "businesswire.com"),
    ("globenewswire", "GlobeNewswire|GLOBE NEWSWIRE", "", "globenewswire.com"),
    ("einpresswire", "EIN Presswire", "", "einpresswire.com"),
)
_NAMED = {name: id for id, names, _, _ in _AGENCIES for name in names.split("|") if name}
_SHORT = {code: id for id, _, codes, _ in _AGENCIES for code in codes.split()}
_SITES = {site: id for id, _, _, sites in _AGENCIES for site in sites.split()}
# The longest first: "Australian Associated Press" is not the Associated Press.
_NAMES = re.compile(
    rf"\b(?:{'|'.join(re.escape(name) for name in sorted(_NAMED, key=len, reverse=True))})\b"
)
# Where a short name is a credit: "(AP)", "(dpa/AFP)"; "BERLIN, AP —"; "By A. Writer, AP";
# "dpa/afp"; "… — AFP" at the end of a line.
_CREDITS = re.compile(
    r"\((?P<round>[^()\n]{2,60})\)"
    r"|^(?P<dateline>[^\n.]{1,60}?)(?=\s?[—–]|\s-\s)"
    r"|^\W{0,3}(?:sources?|by|via|credit|with(?:\sinputs?\sfrom)?|agencies)\b:?(?P<line>[^\n]{2,80})"
    r"|\b(?P<pair>\w{2,12}(?:/\w{2,12})+)\b"
    r"|(?:[—–]|\s-)\s?(?P<end>[^\n—–]{2,30})$",
    re.IGNORECASE | re.MULTILINE,
)
_CITED = re.compile(
    r"^\W{0,3}(?:sources?|original\ssource|via"
    r"|(?:this\s(?:article|story|text)\s(?:was\s)?)?(?:originally|first)\s(?:published|appeared)"
    r"(?:\s(?:by|in|on|at))?)\s?:?\s(?P<name>[^\n]{2,60})$",
    re.IGNORECASE | re.MULTILINE,
)
_QUOTATION = re.compile(r"[“\"„]([^”\"“„\n]{30,600})[”\"“]")


def publisher(document: Document) -> str:
    """Return who published a document: its registrable domain, or the feed for local files.

    Sites on a shared host ("a.github.io", "b.github.io") are one publisher: anyone can have
    twenty of them in an hour.
    """
    try:
        host = (urlsplit(document.url).hostname or "").casefold().rstrip(".")
    except ValueError:
        host = ""
    if not host or "." not in host or _is_address(host):
        return document.feed
    from tld import get_fld  # its list of public suffixes is part of the package

    registered = get_fld(f"https://{host}", fail_silently=True, search_private=False)
    if registered:
        return str(registered)
    labels = host.split(".")
    # "example.co.uk" is registered as three labels, "news.example.com" as two.
    size = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND else 2
    return ".".join(labels[-size:])


def upstreams(document: Document, spans: Sequence[Span] = ()) -> frozenset[str]:
    """Return whose report a document repeats: agencies and sources it credits.

    Looked for where credits stand, which is in the title, at both ends of the text and in the
    lines around ``spans`` (of claims): an agency named elsewhere on a long page is no credit.
    """
    found = set()
    site = _SITES.get(publisher(document))
    if site:
        found.add(site)
    for zone in zones(document, spans):
        found |= {_NAMED[name] for name in _NAMES.findall(zone)}
        for match in _CREDITS.finditer(zone):
            words = re.findall(r"\w+", match[match.lastgroup or 0])
            found |= {_SHORT[word] for word in words if word in _SHORT}
            if match.lastgroup == "pair":  # "dpa/afp": written so, it can be nothing else
                found |= {_SHORT[w.upper()] for w in words if w.upper() in _SHORT}
        found |= {normalise(match["name"]) for match in _CITED.finditer(zone)}
    return frozenset(found - {""})


def independent(
    documents: Sequence[Document],
    channels: Collection[str] = (),
    spans: Mapping[str, Sequence[Span]] | None = None,
    last: Collection[str] = (),
) -> list[Document]:
    """Return documents no two of which share a publisher, an upstream or, nearly, a text.

    ``channels`` are the feeds that supply the words under their addresses: each is one source,
    whatever the addresses. ``spans`` gives, by document id, where the claims stand; documents
    of the feeds ``last`` are chosen only after all others.
    """
    kept: dict[str, list[Document]] = {}
    distinct = {document.id: document for document in documents}.values()
    for document in sorted(distinct, key=lambda d: (d.fetched, d.id), reverse=True):
        of_feed = kept.setdefault(f"{document.feed}\n{publisher(document)}", [])
        if len(of_feed) < _A_FEED:
            of_feed.append(document)
    chosen: list[tuple[Document, frozenset[str], _Text]] = []
    few = [document for found in kept.values() for document in found]
    for document in sorted(few, key=lambda d: (d.feed in last, d.id)):
        origins = _origins(document, channels, (spans or {}).get(document.id, ()))
        if any(origins & other for _, other, _ in chosen):
            continue
        text = _Text(document.text)
        if not any(text.one_story(other) for _, _, other in chosen):
            chosen.append((document, origins, text))
    return [document for document, _, _ in chosen]


def zones(document: Document, spans: Sequence[Span] = ()) -> Iterator[str]:
    """Yield where a text speaks of itself: its title, its ends, and the lines around ``spans``."""
    text = document.text
    yield document.title
    if len(text) <= 3 * _EDGE:
        yield text
        return
    yield text[:_EDGE]
    yield text[-_EDGE:]
    for start, end in spans:
        first = text.rfind("\n", 0, start) + 1
        until = text.find("\n", end)
        yield text[max(first, start - _EDGE) : min(len(text) if until < 0 else until, end + _EDGE)]


def likeness(one: str, other: str) -> float:
    """Return the share (0..1) of the shorter text's word runs that the other has too."""
    return _shared(word_runs(one), word_runs(other))


def word_runs(text: str) -> set[tuple[str, ...]]:
    """Return all runs of four words of a text, in normal form."""
    words = normalise(text).split()
    return {tuple(words[n : n + _RUN]) for n in range(len(words) - _RUN + 1)}


def _origins(
    document: Document, channels: Collection[str], spans: Sequence[Span]
) -> frozenset[str]:
    own = {f"site {publisher(document)}"}
    if document.feed in channels:
        own.add(f"feed {document.feed}")
    return frozenset(own | {f"wire {name}" for name in upstreams(document, spans)})


class _Text:
    """A text made ready to be compared with others."""

    def __init__(self, text: str) -> None:
        self.runs = word_runs(text)
        self.whole = normalise(text)
        quoted = (normalise(match[1]) for match in _QUOTATION.finditer(text))
        self.quotations = {quote for quote in quoted if len(quote.split()) >= _QUOTED}

    def one_story(self, other: _Text) -> bool:
        if not self.runs or not other.runs:
            return self.whole == other.whole
        if self.quotations & other.quotations:
            return True
        # Of the shorter text: a copy with a longer tail is a copy.
        return _shared(self.runs, other.runs) >= _NEAR


def _shared(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    return len(first & second) / min(len(first), len(second)) if first and second else 0.0


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
