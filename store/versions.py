"""Model versions: immutable, content-addressed folders of tensors, and the aliases on them.

A version's id is the digest of its manifest, and the manifest holds the SHA-256 of the
tensors; so the id vouches for every byte. Tensors are kept as safetensors only, a format
that can hold no code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, known_ids, resolve, stamp
from store.errors import StoreError
from store.ledger import Ledger
from store.records import Version, digest, dumps, from_json

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
TENSORS = "delta.safetensors"

_versions = sa.table("versions", *map(sa.column, ("seq", "id", "body")))
_aliases = sa.table("aliases", *map(sa.column, ("name", "version_id", "set_at")))


class Versions:
    """Versions under ``root``, known by their row in the database."""

    def __init__(self, database: Database, ledger: Ledger, root: Path) -> None:
        self._database = database
        self._ledger = ledger
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
        from safetensors.torch import save

        # Clones, because safetensors refuses tensors that share memory (tied weights).
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        data = save(plain)
        files = {TENSORS: hashlib.sha256(data).hexdigest()}
        manifest = dumps(
            {
                "format": 1,
                "base_hash": base_hash,
                "editor": editor,
                "edit_ids": sorted(edit_ids),
                "settings": settings,
                "files": files,
            }
        )
        id = digest(manifest)
        try:
            self._publish(id, {TENSORS: data, MANIFEST: manifest.encode()})
        except OSError as error:
            raise StoreError(
                f"version {id} cannot be written to {self.root} ({error.strerror}); "
                "free some space or check the folder's rights"
            ) from error
        version = Version(
            id=id,
            base_hash=base_hash,
            editor=editor,
            edit_ids=tuple(sorted(edit_ids)),
            path=str(self.root / id),
            created=created,
            files=tuple(files.items()),
            settings=json.loads(dumps(settings)),
        )
        with self._database.begin(conn) as own:
            if known_ids(own, _versions, [id]):
                return self.get(id, own)
            own.execute(_versions.insert().values(id=id, body=dumps(version)))
            self._ledger.append("version.saved", {"version": version}, created, own)
        return version

    def load(self, version: Version | str) -> dict[str, torch.Tensor]:
        """Return a version's tensors, on the CPU, after checking every byte of its folder.

        Raises StoreError for an unknown version and for a folder that is not as saved.
        """
        from safetensors.torch import load

        id = version.id if isinstance(version, Version) else self.get(version).id
        return load(self._verified(id))

    def get(self, prefix: str, conn: Connection | None = None) -> Version:
        """Return the version whose id begins so. Raises StoreError for none or several."""
        with self._database.read(conn) as own:
            id = resolve(own, _versions, prefix, "version")
            body = own.execute(sa.select(_versions.c.body).where(_versions.c.id == id)).scalar_one()
        return self._version(body)

    def ls(self) -> list[Version]:
        """Return all versions, oldest first."""
        with self._database.read() as conn:
            bodies = conn.scalars(sa.select(_versions.c.body).order_by(_versions.c.seq))
            return [self._version(body) for body in bodies]

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

        When ``serving`` moves, ``previous`` keeps where it was. Raises StoreError for an
        unknown version.
        """
        with self._database.begin(conn) as own:
            version = None if id is None else self.get(id, own)
            before = self.alias(name, own)
            if version == before:
                return version
            self._point(name, version, at, own)
            if name == "serving" and before is not None:
                self._point("previous", before, at, own)
            body = {
                "name": name,
                "from": before.id if before else None,
                "to": version.id if version else None,
            }
            self._ledger.append("version.alias", body, at, own)
        return version

    def sweep(self) -> list[str]:
        """Remove folders that no row names, left by a crash; return their names.

        Call it when no other program is saving.
        """
        if not self.root.is_dir():
            return []
        known = {version.id for version in self.ls()}
        orphans = sorted(path for path in self.root.iterdir() if path.name not in known)
        for path in orphans:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return [path.name for path in orphans]

    def _point(self, name: str, version: Version | None, at: datetime, conn: Connection) -> None:
        conn.execute(_aliases.delete().where(_aliases.c.name == name))
        if version is not None:
            row = {"name": name, "version_id": version.id, "set_at": stamp(at)}
            conn.execute(_aliases.insert().values(row))

    def _version(self, body: str) -> Version:
        version = from_json(Version, json.loads(body))
        return dataclasses.replace(version, path=str(self.root / version.id))  # homes can move

    def _publish(self, id: str, files: Mapping[str, bytes]) -> None:
        folder = self.root / id
        if folder.exists():
            try:
                self._verified(id)
                return
            except StoreError:
                shutil.rmtree(folder)  # what is damaged is mended by saving it again
        self.root.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.root))
        try:
            for name, data in files.items():
                with (unfinished / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _sync_folder(unfinished)
            unfinished.replace(folder)
            _sync_folder(self.root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

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


def _damage(id: str, what: str) -> str:
    return f"version {id} is not as it was saved: {what}; rebuild it or promote another version"


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
