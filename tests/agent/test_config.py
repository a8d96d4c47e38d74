from __future__ import annotations

import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.commands.feed_file import (
    add_feed,
    located,
    named,
    read_config,
    remove_feed,
    write_config,
)
from agent.config import FILE_NAME, TEMPLATE, ConfigError, default_home, load_config

COMMENTED = """\
# ours
[edit]
approval = "review"  # careful

# the wire
[[feeds]]
name = "wire"
url = "https://wire.example/rss"
include = [
    "**/*.html",
]

# local papers
[[feeds]]
name = "papers"
url = "/srv/papers"  # mounted
# trusted = true

# at night
[schedule]
nightly = "0 4 * * *"
"""


def home_with(folder: Path, text: str) -> Path:
    (folder / FILE_NAME).write_text(text, encoding="utf-8")
    return folder


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    config = load_config(tmp_path, environ={})
    assert config.feeds == ()
    assert config.edit.approval == "auto"


def test_the_template_is_a_valid_file_that_sets_nothing(tmp_path: Path) -> None:
    assert load_config(home_with(tmp_path, TEMPLATE), environ={}) == load_config(
        tmp_path / "none", environ={}
    )


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    home = home_with(tmp_path, '[model]\npath = "file"\ndevice = "file"\nbatch_size = 1\n')
    environ = {"CORRIGENDA_MODEL__PATH": "environment", "CORRIGENDA_MODEL__DEVICE": "environment"}
    model = load_config(home, environ, {"model.path": "flag", "model.batch_size": None}).model
    assert (model.path, model.device, model.batch_size) == ("flag", "environment", 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\npth = 1\n", "unknown key 'model.pth'; known here: batch_size, device"),
        ("[model]\nbatch_size = 0\n", "model.batch_size"),
        ("[edit]\napproval = 'maybe'\n", "edit.approval"),
        ("[model\n", "is not valid TOML"),
        ("[[feeds]]\nname = 'a'\nurl = 'b'\n" * 2, "two feeds are named 'a'"),
        ("[[feeds]]\nname = 'a'\n", "feeds.0.url"),
    ],
)
def test_a_broken_file_is_refused_by_name_and_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(home_with(tmp_path, text), environ={})
    assert said in str(caught.value)
    assert FILE_NAME in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_config(tmp_path, environ={})


def test_the_home_follows_the_environment(tmp_path: Path) -> None:
    assert default_home({"CORRIGENDA_HOME": str(tmp_path)}) == tmp_path
    assert default_home({}).name == "corrigenda"


def test_adding_a_feed_leaves_the_rest_of_the_file_as_it_is() -> None:
    longer = add_feed(COMMENTED, {"name": "new", "url": "https://new.example", "trusted": True})
    assert longer.startswith(COMMENTED)
    assert tomllib.loads(longer)["feeds"][2] == {
        "name": "new",
        "url": "https://new.example",
        "trusted": True,
    }


def test_removing_a_feed_keeps_every_comment_outside_its_block() -> None:
    shorter = remove_feed(COMMENTED, "wire")
    assert [feed["name"] for feed in tomllib.loads(shorter)["feeds"]] == ["papers"]
    for comment in ("# ours", "# careful", "# the wire", "# local papers", "# mounted", "# at n"):
        assert comment in shorter


def test_removing_the_last_feed_keeps_the_section_after_it() -> None:
    shorter = remove_feed(remove_feed(COMMENTED, "papers"), "wire")
    assert tomllib.loads(shorter) == {
        "edit": {"approval": "review"},
        "schedule": {"nightly": "0 4 * * *"},
    }
    assert "\n\n\n" not in shorter


@pytest.mark.parametrize(
    "text",
    [
        'feeds = [{name = "a", url = "b"}]\n',  # not a block of its own
        '[[feeds]]\nname = "a"\nurl = """\n[[feeds]]\n"""\n[edit]\n',  # no header where it seems
    ],
)
def test_a_feed_that_cannot_be_cut_out_safely_is_left_to_a_person(text: str) -> None:
    with pytest.raises(ConfigError, match="remove it by hand"):
        remove_feed(text, "a")


def test_removing_an_unknown_feed_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known feeds: wire, papers"):
        remove_feed(COMMENTED, "wires")


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(name=TEXTS, url=TEXTS)
def test_any_name_and_address_survive_being_written_and_removed(name: str, url: str) -> None:
    longer = add_feed(TEMPLATE, {"name": name, "url": url})
    assert tomllib.loads(longer)["feeds"] == [{"name": name, "url": url}]
    assert remove_feed(longer, name).rstrip() == TEMPLATE.rstrip()


def test_a_text_that_is_no_configuration_replaces_nothing(tmp_path: Path) -> None:
    home = home_with(tmp_path, COMMENTED)
    with pytest.raises(ConfigError) as caught:
        write_config(home, "[model]\nnonsense = 1\n")
    assert str(home / FILE_NAME) in str(caught.value)
    assert read_config(home) == COMMENTED
    assert [path.name for path in home.iterdir()] == [FILE_NAME]


def test_a_new_file_is_its_owners_alone_and_an_old_one_keeps_its_rights(tmp_path: Path) -> None:
    path = write_config(tmp_path / "home", TEMPLATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    write_config(tmp_path / "home", COMMENTED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_feeds_are_named_after_their_host_or_folder() -> None:
    assert named("https://www.example.org/rss", []) == "example.org"
    assert named("https://example.org/other", ["example.org"]) == "example.org-2"
    assert named("/srv/papers", []) == "papers"


def test_a_relative_folder_is_written_as_it_is_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("papers") == str(tmp_path / "papers")
    assert located("https://example.org/rss") == "https://example.org/rss"
