"""Replay the stored daily versions of one feed through `corrigenda run --once`.

    python tests/acceptance/replay_feed.py FOLDER [--home DIR] [--limit N]

FOLDER holds one file a poll (``*.rss``, or a ``.tar.xz`` of them), named so that sorting
gives their order. A loopback server serves them one after the other at one address; each is
polled twice by a fresh process with the real model. Prints a JSON line a poll: what came,
seconds, peak memory, and whether the second poll left the store as it was; then a summary of
what was found. Exit code 1 when a second poll changed anything.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from store.library import Store
from store.records import VerdictKind, dumps


class OneFeed(ThreadingHTTPServer):
    """Serves ``body`` at every address, with an entity tag."""

    body = b""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: OneFeed

    def do_GET(self) -> None:
        tag = f'"{hashlib.sha256(self.server.body).hexdigest()[:16]}"'
        known = self.headers.get("If-None-Match") == tag
        self.send_response(304 if known else 200)
        self.send_header("ETag", tag)
        self.send_header("Content-Type", "application/rss+xml")
        self.send_header("Content-Length", "0" if known else str(len(self.server.body)))
        self.end_headers()
        if not known:
            self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def versions(folder: Path, scratch: Path) -> list[Path]:
    """Return the feed's versions in order, unpacking archives into ``scratch``."""
    for archive in sorted(folder.glob("*.tar.xz")):
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
    return sorted([*folder.glob("*.rss"), *scratch.rglob("*.rss")], key=lambda path: path.name)


def run_once(home: Path) -> tuple[int, float, float, str]:
    """Run one cycle in a process of its own: exit code, seconds, peak MiB, standard error."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "--home", str(home), "run", "--once"],
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        told = errors.read()
    return process.returncode, time.monotonic() - started, usage.ru_maxrss / 1024, told


def state(home: Path) -> dict[str, object]:
    """Return what a poll of an unchanged feed must leave as it is."""
    with Store(home) as store:
        return {
            "documents": store.documents.count(),
            "claims": store.claims.count(),
            "facts": store.facts.digest(),
            "verdicts": len(store.verdicts.ls(latest_only=False)),
            "edits": hashlib.sha256(dumps(store.edits.ls()).encode()).hexdigest()[:12],
            "ledger": store.ledger.head(),
        }


def found(home: Path) -> dict[str, object]:
    """Return what the replay found."""
    with Store(home) as store:
        return {
            "documents": store.documents.count(),
            "claims": store.claims.count(),
            "slots": len(store.facts.slots()),
            "verdicts": store.verdicts.counts(),
            "stale": [
                f"{v.title} of {v.subject}: {v.believed} -> {v.current}"
                for v in store.verdicts.ls(VerdictKind.STALE)
            ],
            "wrong": [
                f"{v.title} of {v.subject}: {v.believed} -> {v.current}"
                for v in store.verdicts.ls(VerdictKind.WRONG)
            ],
            "edits": [f"{e.statement} [{e.state}: {e.reason}]" for e in store.edits.ls()],
            "ledger_bad_row": store.ledger.verify(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--home", type=Path, help="state folder (default: a temporary one)")
    parser.add_argument("--limit", type=int, help="poll only the first N versions and the last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = options.home or Path(scratch) / "home"
        home.mkdir(parents=True, exist_ok=True)
        polls = versions(options.folder, Path(scratch))
        if options.limit:
            polls = [*polls[: options.limit], polls[-1]]
        server = OneFeed()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        (home / "corrigenda.toml").write_text(
            f'[fetch]\nallow_hosts = ["127.0.0.1:{port}"]\n\n'
            f'[[feeds]]\nname = "replayed"\nurl = "http://127.0.0.1:{port}/feed.xml"\n',
            encoding="utf-8",
        )
        changed = 0
        for path in polls:
            server.body = path.read_bytes()
            code, seconds, peak, errors = run_once(home)
            after = state(home)
            code_again, seconds_again, peak_again, _ = run_once(home)
            idempotent = state(home) == after
            changed += not idempotent
            line = {
                "version": path.name,
                "bytes": len(server.body),
                "exit": code,
                "seconds": round(seconds, 1),
                "peak_mib": round(peak),
                "documents": after["documents"],
                "claims": after["claims"],
                "again": {
                    "exit": code_again,
                    "seconds": round(seconds_again, 1),
                    "peak_mib": round(peak_again),
                    "unchanged": idempotent,
                },
            }
            if code:
                line["error"] = errors.strip()[-300:]
            print(json.dumps(line), flush=True)
        server.shutdown()
        print(json.dumps({"polls": len(polls), "changed_by_repoll": changed} | found(home)))
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
