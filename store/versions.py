"""Model versions: immutable, content-addressed folders of tensors, and the aliases on them.

A version's id is the digest of its manifest, and the manifest holds the SHA-256 of the
tensors; so the id vouches for every byte. Tensors are kept as safetensors only, a format
that can hold no code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, known_ids, resolve, stamp
from store.errors import StoreError
from store.failpoints import reach
from store.files import Files
from store.ledger import Ledger
from store.records import Version, digest, dumps, from_json

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
TENSORS = "delta.safetensors"
BASE = "base"
"""The alias of the model without any version."""

_versions = sa.table("versions", *map(sa.column, ("seq", "id", "body")))
_aliases = sa.table("aliases", *map(sa.column, ("name", "version_id", "set_at")))


@dataclasses.dataclass(frozen=True)
class VersionDiff:
    """What it takes to come from one version to another: ids of edits, names of tensors
    and of settings."""

    edits_added: tuple[str, ...]
    edits_removed: tuple[str, ...]
    tensors_added: tuple[str, ...]
    tensors_removed: tuple[str, ...]
    tensors_changed: tuple[str, ...]
    settings_changed: tuple[str, ...]
    base_changed: bool


class Versions:
    """Versions under ``root``, known by their row in the database."""

    def __init__(
        self, database: Database, ledger: Ledger, root: Path, files: Files | None = None
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._files = files or Files()
        self.root = root

    def save(
        self,
        base_hash: str,
        editor: str,
        edit_ids: Iterable[str],
        tensors: Mapping[str, torch.Tensor],
        settings: Mapping[str, Any],
        created: datetime,
        conn: Connection | None = None,
    ) -> Version:
        """Keep a version; the same content again gives the version that is there.

        The folder is complete on disk under its name before the database row, the commit
        point, names it: a crash at any moment leaves a version whole or unknown. Raises
        StoreError when it cannot be written.
        """
        content = _content(base_hash, editor, edit_ids, tensors, settings)
        id, data = digest(content[MANIFEST].decode()), content[TENSORS]
        with self._readable_errors(f"version {id} cannot be written"):
            self._publish(id, content)
        reach("version.published")
        version = Version(
            id=id,
            base_hash=base_hash,
            editor=editor,
            edit_ids=tuple(sorted(edit_ids)),
            path=str(self.root / id),
            created=created,
            files=((TENSORS, hashlib.sha256(data).hexdigest()),),
            settings=json.loads(dumps(settings)),
        )
        with self._database.begin(conn) as own:
            if known_ids(own, _versions, [id]):
                return self.get(id, own)
            own.execute(_versions.insert().values(id=id, body=dumps(version)))
            self._ledger.append("version.saved", {"version": version}, created, own)
            reach("version.recorded")
        reach("version.committed")
        return version

    def load(self, version: Version | str) -> dict[str, torch.Tensor]:
        """Return a version's tensors, on the CPU, after checking every byte of its folder.

        Raises StoreError for an unknown version and for a folder that is not as saved.
        """
        from safetensors.torch import load

        id = version.id if isinstance(version, Version) else self.get(version).id
        return load(self._verified(id))

    def find(self, name: str) -> Version | None:
        """Return the version of an alias or a beginning of an id; None for the base model.

        An alias that stands for nothing stands for the base. Raises StoreError for no
        version or several.
        """
        if name in (BASE, "serving", "previous", "candidate"):
            return None if name == BASE else self.alias(name)
        return self.get(name)

    def diff(self, old: Version | None, new: Version | None) -> VersionDiff:
        """Compare two versions (None: the base model), byte by byte.

        Raises StoreError where one is not as it was saved.
        """
        before, after = (self._digests(version) for version in (old, new))
        carried, carries = (set(version.edit_ids if version else ()) for version in (old, new))
        was, now = ((version.settings if version else {}) for version in (old, new))
        return VersionDiff(
            edits_added=tuple(sorted(carries - carried)),
            edits_removed=tuple(sorted(carried - carries)),
            tensors_added=tuple(sorted(after.keys() - before.keys())),
            tensors_removed=tuple(sorted(before.keys() - after.keys())),
            tensors_changed=tuple(
                sorted(name for name in before.keys() & after if before[name] != after[name])
            ),
            settings_changed=tuple(
                sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
            )
            if old and new
            else (),
            base_changed=bool(old and new and old.base_hash != new.base_hash),
        )

    def get(self, prefix: str, conn: Connection | None = None) -> Version:
        """Return the version whose id begins so. Raises StoreError for none or several."""
        with self._database.read(conn) as own:
            id = resolve(own, _versions, prefix, "version")
            body = own.execute(sa.select(_versions.c.body).where(_versions.c.id == id)).scalar_one()
        return self._version(body)

    def ls(self) -> list[Version]:
        """Return all versions, oldest first."""
        with self._database.read() as conn:
            return self._all(conn)

    def alias(self, name: str, conn: Connection | None = None) -> Version | None:
        """Return the version that an alias stands for."""
        with self._database.read(conn) as own:
            id = own.scalar(sa.select(_aliases.c.version_id).where(_aliases.c.name == name))
            return None if id is None else self.get(id, own)

    def aliases(self) -> dict[str, str]:
        """Return the version ids by alias."""
        with self._database.read() as conn:
            rows = conn.execute(sa.select(_aliases).order_by(_aliases.c.name))
            return {row.name: row.version_id for row in rows}

    def set_alias(
        self, name: str, id: str | None, at: datetime, conn: Connection | None = None
    ) -> Version | None:
        """Let an alias stand for a version, or with None for nothing; return the version.

        When ``serving`` moves, ``previous`` keeps where it was, and stands for nothing where
        that was the base model. Raises StoreError for an unknown version.
        """
        with self._database.begin(conn) as own:
            version = None if id is None else self.get(id, own)
            before = self.alias(name, own)
            if version == before:
                return version
            self._point(name, version, at, own)
            if name == "serving":
                self._point("previous", before, at, own)
            body = {
                "name": name,
                "from": before.id if before else None,
                "to": version.id if version else None,
            }
            self._ledger.append("version.alias", body, at, own)
            reach("alias.moved")
        return version

    def collect(self, keep: int, keep_monthly: int, now: datetime) -> list[str]:
        """Remove the versions that :func:`outdated` names, and return their ids.

        The rows go first: a crash leaves no version that is known and not whole, only folders
        for :meth:`sweep`, which is done as well. Call it when no other program is saving.
        """
        with self._database.begin() as conn:
            found = self.outdated(keep, keep_monthly, now, conn)
            for id in found:
                conn.execute(_versions.delete().where(_versions.c.id == id))
                self._ledger.append("version.collected", {"id": id}, now, conn)
        reach("collect.forgotten")
        self.sweep()
        return found

    def outdated(
        self, keep: int, keep_monthly: int, now: datetime, conn: Connection | None = None
    ) -> list[str]:
        """Return the ids of the versions that ``collect`` would remove, oldest first."""
        with self._database.read(conn) as own:
            held = set(own.scalars(sa.select(_aliases.c.version_id)))
            return [v.id for v in outdated(self._all(own), held, keep, keep_monthly, now)]

    def sweep(self) -> list[str]:
        """Remove folders that no row names, left by a crash; return their names.

        Call it when no other program is saving.
        """
        if not self.root.is_dir():
            return []
        known = {version.id for version in self.ls()}
        orphans = sorted(path for path in self.root.iterdir() if path.name not in known)
        with self._readable_errors("what is left of removed versions cannot be removed"):
            for path in orphans:
                self._discard(path)
        return [path.name for path in orphans]

    def _point(self, name: str, version: Version | None, at: datetime, conn: Connection) -> None:
        conn.execute(_aliases.delete().where(_aliases.c.name == name))
        if version is not None:
            row = {"name": name, "version_id": version.id, "set_at": stamp(at)}
            conn.execute(_aliases.insert().values(row))

    def _all(self, conn: Connection) -> list[Version]:
        bodies = conn.scalars(sa.select(_versions.c.body).order_by(_versions.c.seq))
        return [self._version(body) for body in bodies]

    def _version(self, body: str) -> Version:
        version = from_json(Version, json.loads(body))
        return dataclasses.replace(version, path=str(self.root / version.id))  # homes can move

    def _publish(self, id: str, content: Mapping[str, bytes]) -> None:
        folder = self.root / id
        if folder.exists():
            try:
                self._verified(id)
                return
            except StoreError:
                self._discard(folder)  # what is damaged is mended by saving it again
        unfinished = self._files.temporary(self.root, ".unfinished-")
        try:
            for name, data in content.items():
                self._files.write(unfinished / name, data)
            reach("version.written")
            for name in content:
                self._files.sync(unfinished / name)
            self._files.sync(unfinished)
            reach("version.synced")
            self._files.rename(unfinished, folder)
            reach("version.renamed")
            self._files.sync(self.root)
        except OSError:
            with contextlib.suppress(OSError):  # the first failure is the one to be told
                self._files.remove(unfinished)
            raise

    def _discard(self, path: Path) -> None:
        """Remove what is under a name. The name goes first: what it stands for is whole or gone."""
        if not path.name.startswith("."):
            unwanted = self._files.temporary(self.root, ".removed-")
            self._files.rename(path, unwanted / path.name)
            self._files.sync(self.root)
            reach("collect.renamed")
            path = unwanted
        self._files.remove(path)

    def _digests(self, version: Version | None) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Return the type, the shape and the SHA-256 of each tensor of a version."""
        from safetensors import deserialize

        if version is None:
            return {}
        return {
            name: (view["dtype"], tuple(view["shape"]), hashlib.sha256(view["data"]).hexdigest())
            for name, view in deserialize(self._verified(version.id))
        }

    @contextlib.contextmanager
    def _readable_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = "free some space" if full else "check the disk and the folder's rights"
            raise StoreError(f"{what} in {self.root} ({error.strerror}); {remedy}") from error

    def _verified(self, id: str) -> bytes:
        """Return the bytes of a version's tensors after checking all of its folder.

        The bytes that were hashed are the bytes returned: nothing can change in between.
        """
        folder = self.root / id
        try:
            names = sorted(path.name for path in folder.iterdir())
            if names != sorted((MANIFEST, TENSORS)):
                raise StoreError(_damage(id, f"its folder holds {', '.join(names) or 'nothing'}"))
            manifest = (folder / MANIFEST).read_bytes().decode(errors="replace")
            data = (folder / TENSORS).read_bytes()
        except OSError as error:
            raise StoreError(_damage(id, f"{error.filename}: {error.strerror}")) from error
        if digest(manifest) != id:
            raise StoreError(_damage(id, f"{MANIFEST} was changed"))
        if json.loads(manifest)["files"] != {TENSORS: hashlib.sha256(data).hexdigest()}:
            raise StoreError(_damage(id, f"{TENSORS} was changed"))
        return data


def outdated(
    versions: Sequence[Version], held: set[str], keep: int, keep_monthly: int, now: datetime
) -> list[Version]:
    """Return the versions that need not be kept, oldest first. Pure.

    Kept are those in ``held`` (ids), the ``keep`` newest, and the newest of each of the last
    ``keep_monthly`` calendar months (UTC), the present one included.
    """
    by_age = sorted(versions, key=lambda version: version.created)  # equal ones stay in order
    kept = held | {version.id for version in by_age[len(by_age) - keep :]} if keep else set(held)
    present = _month(now)
    of_month = {_month(version.created): version.id for version in by_age}
    kept |= {id for month, id in of_month.items() if month > present - keep_monthly}
    return [version for version in by_age if version.id not in kept]


def version_id(
    base_hash: str,
    editor: str,
    edit_ids: Iterable[str],
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
) -> str:
    """Return the id under which :meth:`Versions.save` would keep all this; save nothing."""
    return digest(_content(base_hash, editor, edit_ids, tensors, settings)[MANIFEST].decode())


def _content(
    base_hash: str,
    editor: str,
    edit_ids: Iterable[str],
    tensors: Mapping[str, torch.Tensor],
    settings: Mapping[str, Any],
) -> dict[str, bytes]:
    """Return the files of a version by name; the manifest vouches for the tensors."""
    from safetensors.torch import save

    # Clones, because safetensors refuses tensors that share memory (tied weights).
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data = save(plain)
    manifest = dumps(
        {
            "format": 1,
            "base_hash": base_hash,
            "editor": editor,
            "edit_ids": sorted(edit_ids),
            "settings": settings,
            "files": {TENSORS: hashlib.sha256(data).hexdigest()},
        }
    )
    return {TENSORS: data, MANIFEST: manifest.encode()}


def _month(at: datetime) -> int:
    utc = at.astimezone(UTC)
    return 12 * utc.year + utc.month


def _damage(id: str, what: str) -> str:
    return f"version {id} is not as it was saved: {what}; rebuild it or promote another version"
