"""The one reader of a folder of recordings with a `manifest.csv`: which rows there are, their samples, whom to credit.

Knows nothing of models nor of degradations, and imports no torch. The folder is named by `--data` or by TRAINING_DATA.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

Mono = NDArray[np.float32]
"""float32 in -1…1, shaped (samples,)."""

MANIFEST = "manifest.csv"
DATA_VARIABLE = "TRAINING_DATA"


class BadCorpus(Exception):
    """The folder holds no manifest, or a row of it cannot be read; the message names file and row."""


@dataclass(frozen=True, slots=True)
class Row:
    """One recording as the manifest describes it. Speech alone has `speaker`, `snr_db`, `is_clear` and `floor_db`."""

    path: str
    kind: str
    uses: frozenset[str]
    labels: tuple[str, ...]
    """The class first, then what else is audible."""
    group: str
    """Speaker or original recording: never in two splits."""
    split: str
    fold: int | None
    seconds: float
    rate_hz: int
    speaker: str
    language: str
    snr_db: float | None
    is_clear: bool
    bandwidth_hz: float | None
    floor_db: float | None
    licence: str
    credit: str
    source: str

    @property
    def label(self) -> str:
        return self.labels[0] if self.labels else ""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows of one folder, in the manifest's order."""

    folder: Path
    rows: tuple[Row, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def select(
        self,
        *,
        kind: str | None = None,
        use: str | None = None,
        split: str | None = None,
        labels: Iterable[str] | None = None,
        groups: Iterable[str] | None = None,
        clear: bool | None = None,
        without_licences: Iterable[str] = (),
    ) -> Corpus:
        """The rows that hold all that is asked. *without_licences* are prefixes, as `CC-BY-SA`."""
        wanted_labels = None if labels is None else set(labels)
        wanted_groups = None if groups is None else set(groups)
        barred = tuple(without_licences)

        def fits(row: Row) -> bool:
            return (
                (kind is None or row.kind == kind)
                and (use is None or use in row.uses)
                and (split is None or row.split == split)
                and (wanted_labels is None or row.label in wanted_labels)
                and (wanted_groups is None or row.group in wanted_groups)
                and (clear is None or row.is_clear == clear)
                and not (barred and row.licence.startswith(barred))
            )

        return Corpus(self.folder, tuple(row for row in self.rows if fits(row)))

    def __add__(self, other: Corpus) -> Corpus:
        seen = {row.path for row in self.rows}
        return Corpus(self.folder, self.rows + tuple(row for row in other.rows if row.path not in seen))

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def credits(self) -> list[str]:
        """One line a pair of author and licence, `- author (licence): n files`, sorted: the sources of a model card."""
        counts: dict[tuple[str, str], int] = {}
        for row in self.rows:
            key = (row.credit, row.licence)
            counts[key] = counts.get(key, 0) + 1
        return [
            f"- {credit} ({licence}): {count} file{'s' if count > 1 else ''}"
            for (credit, licence), count in sorted(counts.items())
        ]


def read_corpus(folder: Path) -> Corpus:
    """Read `folder/manifest.csv`. Recordings are not opened.

    Raises:
        BadCorpus: there is no manifest, or a row lacks a column or holds no number where one belongs.
    """
    path = folder / MANIFEST
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = tuple(_row(cells, f"{path}:{line}") for line, cells in enumerate(csv.DictReader(stream), start=2))
    except OSError as error:
        raise BadCorpus(f"{path}: cannot be read: {error.strerror}") from error
    return Corpus(folder, rows)


def _row(cells: dict[str, str], where: str) -> Row:
    try:
        return Row(
            path=cells["path"],
            kind=cells["kind"],
            uses=frozenset(_listed(cells["uses"])),
            labels=_listed(cells["label"]),
            group=cells["group"],
            split=cells["split"],
            fold=int(cells["fold"]) if cells.get("fold") else None,
            seconds=float(cells["seconds"]),
            rate_hz=int(cells["rate"]),
            speaker=cells.get("speaker") or "",
            language=cells.get("language") or "",
            snr_db=_number(cells.get("snr")),
            is_clear=cells.get("clear") == "1",
            bandwidth_hz=_number(cells.get("bandwidth")),
            floor_db=_number(cells.get("floor")),
            licence=cells["licence"],
            credit=cells["credit"],
            source=cells.get("source") or "",
        )
    except KeyError as error:
        raise BadCorpus(f"{where}: column {error} is missing") from error
    except ValueError as error:
        raise BadCorpus(f"{where}: {error}") from error


def _listed(cell: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(";") if part.strip())


def _number(cell: str | None) -> float | None:
    return float(cell) if cell else None


def load(path: Path, rate_hz: int) -> Mono:
    """Decode *path* to mono at *rate_hz*. Channels are averaged.

    Raises:
        BadCorpus: the file is missing or no audio.
    """
    try:
        samples, own_rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise BadCorpus(f"{path}: {error}") from error
    mono = samples.mean(axis=1, dtype=np.float32)
    if own_rate_hz != rate_hz:
        mono = soxr.resample(mono, own_rate_hz, rate_hz, quality="HQ").astype(np.float32)
    return np.ascontiguousarray(mono, dtype=np.float32)


class Sounds(Sequence[Mono]):
    """The samples of a corpus at one rate, `sounds[i]` for `corpus.rows[i]`, from one memory map on disk.

    Each recording is kept as int16 of its own peak, so that quiet ones lose nothing; processes share the page cache.
    """

    def __init__(self, corpus: Corpus, rate_hz: int, store: Path, index: NDArray[np.int64], scales: Mono) -> None:
        self.corpus = corpus
        self.rate_hz = rate_hz
        self._starts = index
        self._scales = scales
        self._samples = np.memmap(store, dtype=np.int16, mode="r") if index[-1] else np.zeros(0, np.int16)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, position: int) -> Mono:  # type: ignore[override]  # no slices: a row at a time
        row = range(len(self))[position]
        return self.part(row, 0, self.size(row))

    def size(self, position: int) -> int:
        """Samples of row *position*."""
        return int(self._starts[position + 1] - self._starts[position])

    def part(self, position: int, start: int, count: int) -> Mono:
        """At most *count* samples of row *position* from *start*."""
        first = int(self._starts[position]) + start
        last = min(first + count, int(self._starts[position + 1]))
        return self._samples[first:last].astype(np.float32) * self._scales[position]


def open_sounds(corpus: Corpus, rate_hz: int, runs: Path) -> Sounds:
    """The corpus's samples at *rate_hz*; decoded once into `runs/sounds`, mapped from there after that.

    Raises:
        BadCorpus: a recording cannot be decoded.
    """
    key = _key(corpus, rate_hz)
    store, table = runs / "sounds" / f"{key}.i16", runs / "sounds" / f"{key}.npz"
    if not table.exists():
        _decode_all(corpus, rate_hz, store, table)
    with np.load(table) as saved:
        return Sounds(corpus, rate_hz, store, saved["starts"], saved["scales"])


def _decode_all(corpus: Corpus, rate_hz: int, store: Path, table: Path) -> None:
    store.parent.mkdir(parents=True, exist_ok=True)
    starts, scales = [0], []
    mine = store.with_suffix(f".{os.getpid()}.i16")
    with mine.open("wb") as stream:
        for row in tqdm(corpus, desc=f"decode at {rate_hz} Hz", unit="file", leave=False):
            mono = load(corpus.folder / row.path, rate_hz)
            scale = max(float(np.abs(mono).max(initial=0.0)), 1e-9) / 32767
            np.rint(mono / scale).astype(np.int16).tofile(stream)
            starts.append(starts[-1] + len(mono))
            scales.append(scale)
    mine_table = table.with_suffix(f".{os.getpid()}.npz")
    np.savez(mine_table, starts=np.array(starts, np.int64), scales=np.array(scales, np.float32))
    # The samples first: who finds the table may trust the samples.
    mine.replace(store)
    mine_table.replace(table)


def _key(corpus: Corpus, rate_hz: int) -> str:
    facts = [[row.path, _size(corpus.folder / row.path)] for row in corpus.rows]
    return hashlib.sha256(json.dumps([rate_hz, facts]).encode()).hexdigest()[:20]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BadCorpus(f"{path}: {error.strerror}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two options of every recipe: `--data` (a folder with a manifest) and `--runs` (what it writes on the way)."""
    default = os.environ.get(DATA_VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(default) if default else None,
        required=not default,
        help=f"folder with {MANIFEST} and its recordings (default: ${DATA_VARIABLE})",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder for caches, checkpoints and figures (default: %(default)s)",
    )
