"""The drift report: complete, self-contained, and inert whatever a feed or model wrote."""

import dataclasses
import enum
import errno
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.charts import retention_chart
from agent.report import (
    Answer,
    Baseline,
    Correction,
    FeedInput,
    FeedStatus,
    Held,
    QueueRow,
    ReportData,
    ReportError,
    SideEffects,
    Source,
    Status,
    VerdictRow,
    link,
    load_report,
    marked,
    percent,
    ratio,
    render_html,
    render_json,
    summary,
    write_report,
)
from agent.retested import EditRate, KindRate, RetentionRun
from editors.metrics import wilson
from store.records import EditState, ProbeKind, VerdictKind

NIGHT = datetime(2026, 11, 9, 2, 30, tzinfo=UTC)


def correction(number: int, subject: str, title: str, old: str, new: str) -> Correction:
    return Correction(
        edit_id=f"edit{number}",
        subject=subject,
        title=title,
        question=f"Who is the {title} of {subject}?",
        old=old,
        new=new,
        state=EditState.CONSOLIDATED,
        before=Answer(f"The {title} of {subject} is {old}.", False),
        after_memory=Answer(f"The {title} of {subject} is {new}.", True),
        after_weights=Answer(f"The {title} is {new}.", True) if number % 2 else None,
        sources=(
            Source("Profiles", f"https://example.org/{number}", "2026-01", f"{new} (in office)"),
        ),
        path=(f"4 of 4 phrasings name {old}", f"current value: {new}"),
    )


CORRECTIONS = (
    correction(1, "Germany", "chancellor", "Angela Merkel", "Friedrich Merz"),
    correction(2, "United Kingdom", "monarch", "Elizabeth II", "Charles III"),
    correction(3, "Côte d’Ivoire", "prime minister", "", "Robert Beugré Mambé"),
)


def run(label: str, passed: int, asked: int = 40, floor: float = 0.8) -> RetentionRun:
    share = wilson(passed, asked)
    return RetentionRun(
        label=label,
        at=NIGHT,
        pass_rate=share,
        floor=floor,
        triggered=share.low < floor,
        leaks=wilson(1, 20),
        kinds=(KindRate(ProbeKind.PARAPHRASE, share),),
        edits=(EditRate("edit1", "Germany · chancellor", passed * 11 // asked, 11),),
    )


def report(**changes: Any) -> ReportData:
    return dataclasses.replace(
        ReportData(
            title="Night of 9 November",
            created=NIGHT,
            model="SmolLM2-135M-Instruct",
            model_hash="9f2c71aa03de4b66",
            base="base0001",
            serving="serving1",
            candidate="candid01",
            status=Status.PROMOTED,
            reasons=("every test passed",),
            feeds=(
                FeedInput("World news", "https://example.org/rss", FeedStatus.FAILED, 0, "timeout"),
                FeedInput("Profiles", "/srv/profiles", FeedStatus.OK, 16),
            ),
            documents=30,
            claims=214,
            slots=61,
            held=(Held("List of everything", "asserts 51 changes at once"),),
            verdict_counts={"KEEP": 31, "STALE": 9},
            verdicts=(
                VerdictRow(
                    "Germany",
                    "head_of_government",
                    "chancellor",
                    "Angela Merkel",
                    "Friedrich Merz",
                    VerdictKind.STALE,
                    ("4 of 4 phrasings name Angela Merkel",),
                ),
                VerdictRow("Fiji", "capital", "", "", None, VerdictKind.UNSUPPORTED, ("no fact",)),
            ),
            corrections=CORRECTIONS,
            pending=(QueueRow("wait1", "Venezuela", "president", "Chávez", "Rodríguez", "acting"),),
            rejected=(QueueRow("no1", "Atlantis", "king", "", "Neptune", "no such place"),),
            retention=(run("healthy", 40), run("after a harmful batch", 14), run("repaired", 39)),
            side_effects=SideEffects(wilson(22, 24), wilson(23, 24), 1.006, 3, 362_880),
            baselines=(
                Baseline("Unedited model", wilson(0, 3), wilson(1, 12), wilson(9, 12), None, 12),
            ),
            timings={"read": 4.25, "ask": 58.0},
            notes=("World news could not be read",),
        ),
        **changes,
    )


class Page(HTMLParser):
    """What a browser would see: elements, attributes, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("td", "th", "li", "dd", "p"):
            self.pieces.append(" ")  # these stand apart on the page
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def hrefs(self) -> list[str]:
        return [value for _, name, value in self.attributes if name == "href"]


def poisoned(value: Any, poison: str) -> Any:
    """Replace every free text within a record, enums and numbers aside."""
    if isinstance(value, enum.Enum):
        return value
    if isinstance(value, str):
        return poison
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value,
            **{
                field.name: poisoned(getattr(value, field.name), poison)
                for field in dataclasses.fields(value)
            },
        )
    if isinstance(value, tuple):
        return tuple(poisoned(item, poison) for item in value)
    if isinstance(value, Mapping) and "KEEP" not in value:
        return {f"{poison}{i}": item for i, item in enumerate(value.values())}
    return value


def test_a_written_report_reads_back_equal(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path / "nights" / "one")
    assert load_report(paths.json) == report()
    assert load_report(paths.json.parent) == report()
    assert json.loads(paths.json.read_text("utf-8"))["schema"] == "corrigenda.report/1"


def test_both_files_are_all_that_is_left_in_the_folder(tmp_path: Path) -> None:
    paths = write_report(report(), tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([paths.html, paths.json])


def test_every_correction_is_told_with_its_answers_source_and_path() -> None:
    text = Page(render_html(report())).text
    for edit in CORRECTIONS:
        assert edit.question in text
        for told in (edit.before.text, edit.sources[0].quote, edit.path[0], edit.edit_id):
            assert told in text
    assert "for Angela Merkel read Friedrich Merz" in text


def test_feeds_notes_queue_baselines_and_timings_are_told() -> None:
    text = Page(render_html(report())).text
    for told in (
        "World news ✗ failed 0 timeout",
        "/srv/profiles",
        "List of everything asserts 51 changes at once",
        "World news could not be read",
        "Venezuela · president",
        "Atlantis · king",
        "Unedited model",
        "× 1.006",
        "3 tensors, 362,880 parameters",
        "58.0 s",
        "30 documents, 214 claims, 61 slots.",
    ):
        assert told in text.replace("\xa0", " "), told


@pytest.mark.parametrize("status", Status)
def test_a_night_without_any_data_still_makes_a_page(status: Status) -> None:
    bare = ReportData("Empty", NIGHT, "model", "", "base", "base", None, status)
    text = Page(render_html(bare)).text
    assert status.capitalize() in text
    assert "No correction was made." in text
    assert status.upper() in summary(bare)


def test_the_page_needs_no_script_and_fetches_nothing() -> None:
    html = render_html(report())
    page = Page(html)
    assert not {"script", "iframe", "link", "img", "object", "embed", "base"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name in ("src", "srcset", "action")]
    assert not re.search(r"url\(|@import", html)
    sources = {edit.sources[0].url for edit in CORRECTIONS} | {"https://example.org/rss"}
    assert set(page.hrefs()) == sources


def test_the_page_forbids_everything_but_its_own_style() -> None:
    page = Page(render_html(report()))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", policy) in page.attributes


@pytest.mark.parametrize(
    "poison",
    [
        "<script>alert(1)</script>",
        "\"><svg onload=alert(1)><img src=x onerror='alert(1)'>",
        "' onmouseover='alert(1)",
        "javascript:alert(1)",
        "</style></title><script>alert(1)</script>",
        "{{ 7 * 7 }}{% raw %}",
    ],
)
def test_hostile_text_in_any_field_stays_text(poison: str) -> None:
    clean = Page(render_html(report()))
    page = Page(render_html(poisoned(report(), poison)))
    assert set(page.tags) <= set(clean.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.hrefs() == []
    assert page.text.count(poison) > 30


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "//evil.example",
        "https:evil",
        "http://[bad",
        "",
    ],
)
def test_only_web_addresses_become_links(url: str) -> None:
    assert link(url) == ""


def test_a_web_address_becomes_a_link_that_tells_the_site_nothing() -> None:
    assert link("https://example.org/a?b=c#d") == "https://example.org/a?b=c#d"
    page = Page(render_html(report()))
    rels = [value for tag, name, value in page.attributes if (tag, name) == ("a", "rel")]
    assert len(rels) == len(page.hrefs())
    assert all("noreferrer" in rel for rel in rels)


def test_credentials_in_addresses_reach_neither_file(tmp_path: Path) -> None:
    feed = FeedInput(
        "Paid wire",
        "https://me:canary1@wire.example/rss?page=2&api_key=canary2&x=1",
        FeedStatus.FAILED,
        0,
        "GET https://me:canary1@wire.example/rss?access_token=canary3 timed out",
    )
    paths = write_report(report(feeds=(feed,)), tmp_path)
    for file in (paths.html, paths.json):
        assert "canary" not in file.read_text("utf-8")
    kept = load_report(paths.json).feeds[0].url
    assert kept == "https://wire.example/rss?page=2&api_key=…&x=1"


def test_text_that_utf8_cannot_carry_is_kept_in_the_json_and_harmless_in_the_page(
    tmp_path: Path,
) -> None:
    broken = report(notes=("half a pair \ud83d here",))
    paths = write_report(broken, tmp_path)
    assert load_report(paths.json) == broken
    assert "half a pair" in paths.html.read_bytes().decode("utf-8")


def test_a_collapsed_model_is_reported_in_valid_json() -> None:
    for value, told in ((float("inf"), "× over 1,000"), (float("nan"), "not measured")):
        collapsed = report(side_effects=SideEffects(None, None, value))
        assert told in Page(render_html(collapsed)).text
        record = json.loads(render_json(collapsed), parse_constant=pytest.fail)
        assert record["side_effects"]["ppl_ratio"] != 1


def svg(html: str) -> ElementTree.Element:
    found = re.search(r"<svg.*?</svg>", html, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def test_heights_in_the_picture_are_proportional_to_the_shares() -> None:
    runs = (run("half", 20, floor=0.25), run("all", 40), run("none", 0))
    picture = svg(render_html(report(retention=runs)))
    # The grid lines of 0 % and 100 % are the scale that everything is read against.
    grid = sorted(float(line.attrib["y1"]) for line in picture.findall("line"))
    top, bottom = grid[0], grid[-1]

    def share(y: float) -> float:
        return (bottom - y) / (bottom - top)

    whiskers = picture.findall("g/line[@class='whisker']")
    assert len(whiskers) == len(runs)
    for whisker, one in zip(whiskers, runs, strict=True):
        assert share(float(whisker.attrib["y1"])) == pytest.approx(one.pass_rate.high, abs=1e-4)
        assert share(float(whisker.attrib["y2"])) == pytest.approx(one.pass_rate.low, abs=1e-4)
    line = picture.find("path[@class='line']").attrib["d"]
    points = [float(pair.split(",")[1]) for pair in line[1:].split("L")]
    assert [share(y) for y in points] == pytest.approx([0.5, 1, 0])
    floor = picture.find("path[@class='floor']").attrib["d"]
    heights = [float(y) for y in re.findall(r"[V,]([\d.]+)", floor)]
    assert [share(y) for y in heights] == pytest.approx([0.25, 0.25, 0.8, 0.8])


def test_a_run_below_its_floor_has_another_shape_not_only_another_colour() -> None:
    picture = svg(render_html(report()))
    shapes = [group.find("*[@class='point']").tag for group in picture.findall("g")]
    assert shapes == ["circle", "path", "circle"]


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=1, max_size=40))
def test_every_point_lies_inside_the_picture_and_runs_go_left_to_right(
    measured: list[tuple[int, float]],
) -> None:
    chart = retention_chart([run("x", passed, 50, floor) for passed, floor in measured])
    assert chart
    assert [mark.x for mark in chart.marks] == sorted({mark.x for mark in chart.marks})
    for mark in chart.marks:
        assert chart.left < mark.x < chart.right < chart.width
        assert chart.top <= mark.high <= mark.y <= mark.low <= chart.bottom < chart.height


def test_no_runs_make_no_picture() -> None:
    assert retention_chart(()) is None
    assert "<svg" not in render_html(report(retention=()))


def test_the_matrix_marks_each_correction_in_each_run_without_colour() -> None:
    first = dataclasses.replace(run("first", 40), edits=(EditRate("e1", "Germany", 11, 11),))
    second = dataclasses.replace(
        run("second", 20),
        edits=(EditRate("e1", "Germany", 5, 11), EditRate("e2", "Japan", 0, 11)),
    )
    text = Page(render_html(report(retention=(first, second)))).text
    assert "Germany ✓ 11/11 ◐ 5/11" in text
    assert "Japan not asked ✗ 0/11" in text


def test_of_very_many_corrections_the_page_shows_the_weakest() -> None:
    edits = tuple(EditRate(f"e{n}", f"No{n} it", 10 - (n == 437), 10) for n in range(500))
    text = Page(
        render_html(report(retention=(dataclasses.replace(run("all", 40), edits=edits),)))
    ).text
    assert text.index("No437 it ◐ 9/10") < text.index("No0 it ✓ 10/10")
    assert "No98 it" in text
    assert "No99 it" not in text
    assert "and 400 more" in text


def test_a_month_of_nights_fits_one_picture() -> None:
    nights = tuple(
        dataclasses.replace(run(f"night {day}", 40 - day), at=NIGHT + timedelta(days=day))
        for day in range(30)
    )
    html = render_html(report(retention=nights))
    assert len(svg(html).findall("g")) == 30
    assert "30 · night 29" in Page(html).text


def test_replies_show_the_old_and_the_new_value_within_them() -> None:
    assert marked(
        "It was angela merkel, now Friedrich Merz.", "Angela Merkel", "Friedrich Merz"
    ) == [
        ("It was ", ""),
        ("angela merkel", "old"),
        (", now ", ""),
        ("Friedrich Merz", "new"),
        (".", ""),
    ]
    assert marked("Charles III", "Charles", "Charles III") == [("Charles III", "new")]
    assert marked("I do not know (yet).", "", "(yet") == [
        ("I do not know ", ""),
        ("(yet", "new"),
        (").", ""),
    ]
    assert marked("", "a", "b") == []


@given(st.text(max_size=60), st.text(max_size=5), st.text(max_size=5))
def test_marking_a_reply_never_changes_its_words(text: str, old: str, new: str) -> None:
    assert "".join(part for part, _ in marked(text, old, new)) == text


def test_percent_keeps_none_and_all_for_themselves() -> None:
    shown = [percent(share).removesuffix("\u202f%") for share in (0, 0.001, 0.5, 0.999, 1)]
    assert shown == ["0", "1", "50", "99", "100"]


def test_ratios_are_told_as_factors() -> None:
    assert [ratio(1.0061), ratio(None), ratio(1e9)] == ["× 1.006", "not measured", "× over 1,000"]


def test_the_summary_says_the_night_in_a_few_plain_lines() -> None:
    lines = summary(report()).splitlines()
    assert lines[1] == "PROMOTED"
    assert len(lines) <= 16
    told = "\n".join(lines).replace("\u202f", " ")
    for part in (
        "30 documents from 2 feeds (1 failed), 214 claims about 61 slots",
        "KEEP 31 · STALE 9",
        "3: 3 right from memory, 2 from the weights alone",
        "Germany, chancellor: Angela Merkel → Friedrich Merz",
        "1 edit for your approval",
        "after a harmful batch 35 % (BELOW ITS FLOOR)",
        "92 % of other answers as before, perplexity × 1.006",
    ):
        assert part in told, part


def test_the_summary_cannot_steer_a_terminal() -> None:
    told = summary(poisoned(report(), "\x1b[2J\x9b31m\u202eevil\nline " + "x" * 500))
    assert all(line.isprintable() or "\u202f" in line for line in told.splitlines())
    assert not set("\x1b\x9b\u202e") & set(told)
    assert max(map(len, told.splitlines())) <= 160


def test_a_full_disk_leaves_the_report_before_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_report(report(), tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReportError, match="No space left on device; free space there"):
        write_report(report(title="Later"), tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert load_report(paths.json).title == "Night of 9 November"


def test_a_folder_that_cannot_be_is_named_in_the_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ReportError, match=re.escape(str(blocked))):
        write_report(report(), blocked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "has schema None"),
        ('{"schema": "corrigenda.report/2"}', "reads 'corrigenda.report/1'"),
        ('{"schema": "corrigenda.report/1"}', "lacks or garbles a field"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_a_remedy(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(ReportError, match=message) as caught:
        load_report(file)
    assert str(file) in str(caught.value)
    assert "corrigenda run --once" in str(caught.value)


def test_a_missing_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no report at"):
        load_report(tmp_path)
