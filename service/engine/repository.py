"""Folders of models: `<name>/<version>/model.toml`, later folders over earlier ones. Which versions there are.

Owns the paths: nothing outside a version's own folder is ever opened. Loads nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.engine.manifest import BadManifest, Manifest, read_manifest
from service.errors import EarmarkError
from service.settings import BadSettings
from service.values import Task

logger = logging.getLogger("earmark.engine")


class BadModel(EarmarkError):
    """The folder of a model cannot be served: `detail` says what is wrong and what would be right."""

    code = "bad-model"
    title = "The model cannot be loaded"


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in its folder; `manifest` is None where `fault` says why it cannot be read."""

    name: str
    version: int
    folder: Path
    rank: int
    """Place of its repository among the folders: a later one overlays an earlier one."""
    manifest: Manifest | None
    fault: str | None = None

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What a scan found.

    Attributes:
        entries: by name and version.
        serving: the version that serves where a request names none: the pinned one, or the highest readable.
    """

    entries: dict[tuple[str, int], Entry]
    serving: dict[str, int]


def scan(folders: Sequence[Path], pins: Iterable[str] = ()) -> Catalogue:
    """Read every manifest below *folders*; a broken one is reported in its entry and does not stop the others.

    Args:
        folders: repositories, a later one overlays an earlier one; missing ones are skipped with a warning.
        pins: `name@version` to serve instead of the highest.

    Raises:
        BadSettings: a pin is malformed or names what is not there.
    """
    found = (entry for rank, folder in enumerate(folders) for entry in _entries(folder, rank))
    entries = {(entry.name, entry.version): entry for entry in found}
    return Catalogue(entries, _serving(entries, dict(_pin(text, entries) for text in pins)))


def default_names(serving: Iterable[Entry]) -> dict[Task, str]:
    """For each task the model that serves where a request names none: one marked default, of the last folder that
    marks one; otherwise the first by name."""
    best: dict[Task, tuple[bool, int, Entry]] = {}
    for entry in sorted(serving, key=lambda entry: entry.name):
        if entry.manifest is not None:
            default = entry.manifest.default
            claim = (default, entry.rank if default else 0, entry)
            held = best.setdefault(entry.manifest.task, claim)
            if claim[:2] > held[:2]:
                best[entry.manifest.task] = claim
    return {task: entry.name for task, (_, _, entry) in best.items()}


def split_id(text: str) -> tuple[str, int | None]:
    """Name and version of `name` or `name@version`: None where none is said, -1 where it cannot be one."""
    name, at, version = text.partition("@")
    if not at:
        return name, None
    return name, int(version) if version.isdecimal() and len(version) < 10 else -1


def inside(folder: Path, path: str) -> Path:
    """The file *path* of a version's *folder*, links followed.

    Raises:
        BadModel: it is missing, no plain file, or lies outside the folder.
    """
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise BadModel(f"{path}: leads out of the model's folder; put the file itself there")
    if not found.is_file():
        raise BadModel(f"{path}: no such file in the model's folder, though model.toml names it")
    return found


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified(folder: Path, path: str, expected: str) -> Path:
    """The file *path* of *folder*, when its sha256 is *expected*.

    Raises:
        BadModel: see `inside`, or the sum is another.
    """
    found = inside(folder, path)
    if (got := sha256(found)) != expected:
        raise BadModel(f"{path}: its sha256 is {got}, but model.toml says {expected}: it was changed or is broken")
    return found


def _entries(folder: Path, rank: int) -> Iterator[Entry]:
    if not folder.is_dir():
        logger.warning("no such folder of models: %s", folder, extra={"event": "folder_missing", "folder": str(folder)})
        return
    for home in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        for version in sorted(path for path in home.iterdir() if path.is_dir() and path.name.isdecimal()):
            yield _read(version, home.name, int(version.name), folder, rank)


def _read(folder: Path, name: str, version: int, repository: Path, rank: int) -> Entry:
    try:
        if not folder.resolve().is_relative_to(repository.resolve()):
            raise BadManifest(f"{name}/{version}: leads out of the folder of models")
        manifest = read_manifest(folder)
        if (manifest.name, manifest.version) != (name, version):
            where = f"{name}/{version}/model.toml"
            raise BadManifest(f"{where}: says {manifest.id}, but its folders say {name}@{version}; they must agree")
    except BadManifest as error:
        logger.error("model not read: %s", error.detail, extra={"event": "model_unreadable", "folder": str(folder)})
        return Entry(name, version, folder, rank, None, error.detail)
    return Entry(name, version, folder, rank, manifest)


def _pin(text: str, entries: dict[tuple[str, int], Entry]) -> tuple[str, int]:
    name, version = split_id(text)
    if version is None or version < 0:
        raise BadSettings(f"pin {text!r} is not name@version")
    if (name, version) not in entries:
        there = ", ".join(sorted(entry.id for entry in entries.values() if entry.name == name)) or "none of that name"
        raise BadSettings(f"pin {text}: no such version; there is {there}")
    return name, version


def _serving(entries: dict[tuple[str, int], Entry], pins: dict[str, int]) -> dict[str, int]:
    """A version that cannot be read never hides one that can."""
    serving: dict[str, int] = {}
    ordered = sorted(entries.values(), key=lambda entry: (entry.name, entry.manifest is not None, entry.version))
    for entry in ordered:
        serving[entry.name] = entry.version
    return serving | pins
