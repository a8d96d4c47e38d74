"""feeds: what is read."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.commands import output
from agent.commands.shell import DEGRADED, AsJson, group, shell

app = group("What is read: RSS/Atom addresses and folders of documents.")

Name = Annotated[str, typer.Argument(help="A feed's name, as `feeds ls` shows it.")]


@app.command("ls", epilog="Example: corrigenda feeds ls --json")
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the configured feeds and how their last poll went."""
    from agent.fetch import redact
    from store.feeds import FeedState
    from store.records import to_json

    with shell(ctx).open() as ws:
        states = {state.name: state for state in ws.store.feeds.ls()}
        rows = [
            {
                **feed.model_dump(mode="json"),
                "url": redact(feed.url),
                "state": to_json(states.get(feed.name, FeedState(feed.name))),
            }
            for feed in ws.config.feeds
        ]
    output.listing(
        rows,
        {
            "name": lambda row: row["name"],
            "address": lambda row: row["url"],
            "trusted": lambda row: "yes" if row["trusted"] else "",
            "last poll": lambda row: (row["state"]["polled"] or "never")[:16].replace("T", " "),
            "error": lambda row: row["state"]["error"],
        },
        as_json,
        "no feeds yet; add one with `corrigenda feeds add URL`",
    )


@app.command("add", epilog="Example: corrigenda feeds add https://example.org/feed.xml --trusted")
def add(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Address of an RSS/Atom feed, or a folder.")],
    name: Annotated[str, typer.Option(help="What to call it; else its host or folder.")] = "",
    trusted: Annotated[
        bool, typer.Option("--trusted", help="One claim of it is enough for a correction.")
    ] = False,
) -> None:
    """Add a feed to corrigenda.toml; the rest of the file stays as it is."""
    from agent.commands.feed_file import add_feed, located, named, read_config, write_config
    from agent.config import load_config

    home = shell(ctx).home
    text = read_config(home)
    taken = [feed.name for feed in load_config(home).feeds]
    feed = {"name": name or named(url, taken), "url": located(url)}
    path = write_config(home, add_feed(text, feed | ({"trusted": True} if trusted else {})))
    shell(ctx).say(f"added feed {feed['name']} to {path}; `corrigenda feeds test` tries it")


@app.command("rm", epilog="Example: corrigenda feeds rm example.org")
def rm(ctx: typer.Context, name: Name) -> None:
    """Remove a feed from corrigenda.toml; what was read from it stays."""
    from agent.commands.feed_file import read_config, remove_feed, write_config

    home = shell(ctx).home
    path = write_config(home, remove_feed(read_config(home), name))
    shell(ctx).say(f"removed feed {name} from {path}")


@app.command("test", epilog="Example: corrigenda feeds test example.org")
def try_them(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="One feed's name; else all are tried.")] = "",
    as_json: AsJson = False,
) -> None:
    """Read feeds as if for the first time, keeping nothing. Exit code 3 where one fails."""
    from agent.config import ConfigError
    from agent.doctor import try_feed
    from agent.feeds import FeedError

    failed = False
    with shell(ctx).open() as ws:
        chosen = [feed for feed in ws.config.feeds if name in ("", feed.name)]
        if name and not chosen:
            known = ", ".join(feed.name for feed in ws.config.feeds) or "none"
            raise ConfigError(f"no feed is named {name!r}; known feeds: {known}")
        for feed in chosen:
            result = {"name": feed.name, "documents": 0, "newest": "", "notes": [], "error": ""}
            try:
                found = try_feed(feed, ws)
            except FeedError as error:
                failed = True
                result["error"] = str(error)
            else:
                result["documents"] = len(found.documents)
                result["notes"] = found.notes
                result["newest"] = found.documents[0].title if found.documents else ""
            if as_json:
                output.dump(result)
                continue
            said = result["error"] or f"{result['documents']} documents; first: {result['newest']}"
            print(output.plain(f"{feed.name}: {said}"))
            for note in found.notes if not result["error"] else ():
                print(f"  {output.plain(note)}")
    if not as_json and not chosen:
        print("no feeds yet; add one with `corrigenda feeds add URL`")
    if failed:
        raise typer.Exit(DEGRADED)
