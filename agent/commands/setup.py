"""Setting up: init, doctor, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import DEGRADED, FAILED, AsJson, group, shell

app = group("Set up.")
config = group("Look at the configuration.")


@app.command(epilog="Example: corrigenda init --model ~/models/my-chat.gguf --feed ~/articles")
def init(
    ctx: typer.Context,
    model: Annotated[
        str, typer.Option(help="A GGUF file or a Hugging Face folder; else the bundled model.")
    ] = "",
    feed: Annotated[
        list[str] | None,
        typer.Option(help="Address of an RSS/Atom feed, or a folder; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a first corrigenda.toml, with every key explained."""
    from agent.commands.feed_file import add_feed, located, named, toml, write_config
    from agent.config import FILE_NAME, TEMPLATE, ConfigError

    home = shell(ctx).home
    if (home / FILE_NAME).exists() and not force:
        raise ConfigError(f"{home / FILE_NAME} is there already; --force replaces it")
    text = TEMPLATE
    if model:
        path = Path(model).expanduser().absolute()
        if not path.exists():
            raise ConfigError(
                f"model {path} does not exist; give a GGUF file or a Hugging Face folder"
            )
        if path.is_file():
            from editors.gguf.convert import checked

            checked(path)
        text = text.replace("[model]\n", f"[model]\npath = {toml(str(path))}\n", 1)
    names: list[str] = []
    for url in feed or []:
        names.append(named(url, names))
        text = add_feed(text, {"name": names[-1], "url": located(url)})
    path = write_config(home, text)
    shell(ctx).say(f"wrote {path}")
    shell(ctx).say("next: `corrigenda doctor`, then `corrigenda run --once`")


@app.command(epilog="Example: corrigenda doctor --feeds")
def doctor(
    ctx: typer.Context,
    feeds: Annotated[
        bool, typer.Option("--feeds", help="Also try every feed, over the network.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look whether everything is there. Exit code 0: all well, 3: degraded, 1: broken."""
    from agent.doctor import Level, examine, worst

    checks = examine(shell(ctx).home, feeds)
    if as_json:
        for check in checks:
            output.dump(check)
    else:
        rows = [[c.level, c.name, output.plain(c.detail)] for c in checks]
        for check, line in zip(checks, output.aligned(rows), strict=True):
            print(line)
            if check.remedy:
                print(f"      → {output.plain(check.remedy)}")
    codes = {Level.OK: 0, Level.WARN: DEGRADED, Level.FAIL: FAILED}
    raise typer.Exit(codes[worst(checks)])


@config.command("show", epilog="Example: corrigenda config show")
def show(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show every key with the value in force, wherever it comes from; passwords are left out."""
    from agent.config import Config, load_config

    values = _without_secrets(load_config(shell(ctx).home).model_dump(mode="json"))
    if as_json:
        output.dump(values)
        return
    defaults = dict(_flat(Config().model_dump(mode="json")))
    output.details(
        (key, f"{value!r}{'' if defaults.get(key) == value else '   (set)'}")
        for key, value in _flat(values)
    )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            pairs += _flat(value, f"{name}.")
        elif key == "feeds":
            for number, feed in enumerate(value):
                pairs += _flat(feed, f"feeds[{number}].")
        else:
            pairs.append((name, value))
    return pairs


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    from agent.fetch import redact

    feeds = [{**feed, "url": redact(feed["url"])} for feed in values["feeds"]]
    return {**values, "feeds": feeds, "database": redact(values["database"])}
