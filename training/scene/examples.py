"""Recordings as examples: pieces of at most five seconds, their log-mel bands in several variants, what is known.

The waveform work (speed, rooms) is done once and kept on disk; everything that can be done on bands is done afresh in
each epoch by `augment`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from training.corpus import Corpus, Row, Sounds, open_sounds
from training.loop import save
from training.scene.classes import LABELS, targets
from training.scene.network import Shape, front_end

PIECE_S = 5.0
LEAST_S = 0.25
SPEEDS = ((1, 1), (5, 4), (8, 7), (16, 15), (16, 17), (7, 8), (4, 5))
"""Pairs (new, old) of lengths: 25 % slower to 20 % faster, in ratios that resample cheaply."""
MOST_PIECES = 8
"""Pieces of one long recording, spread evenly, so that an hour of one place is no more than a minute of it."""


@dataclass(frozen=True, slots=True)
class Example:
    """A piece of one recording. `row` counts in the corpus; times are in samples."""

    row: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Examples:
    """Pieces with their bands: `bands[i]` holds variants, each [mels, frames] float16, the first one plain."""

    pieces: tuple[Example, ...]
    rows: tuple[Row, ...]
    bands: tuple[tuple[NDArray[np.float16], ...], ...]
    present: NDArray[np.float32]
    known: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def groups(self) -> list[str]:
        return [row.group for row in self.rows]


@cache
def torchaudio_functional() -> ModuleType:
    """torchaudio's functions, imported where they are needed only.

    Raises:
        SystemExit: it does not import beside this torch.
    """
    try:
        import torchaudio.functional
    except (ImportError, OSError) as error:
        raise SystemExit(f"training the scene model needs a torchaudio built for this torch: {error}") from error
    return torchaudio.functional


def speech_rows(corpus: Corpus, split: str, most: int) -> Corpus:
    """At most *most* speech recordings, taken in turn from every speaker, so that no voice dominates."""
    by_group: dict[str, list[Row]] = {}
    for row in corpus.select(kind="speech", split=split):
        by_group.setdefault(row.group, []).append(row)
    turns = [rows[turn] for turn in range(most) for rows in by_group.values() if turn < len(rows)]
    return Corpus(corpus.folder, tuple(turns[:most]))


def chosen_rows(corpus: Corpus, split: str, most_speech: int) -> Corpus:
    """The recordings of one split that this model learns from or is tried on."""
    sounds = corpus.select(split=split)
    others = tuple(row for row in sounds if row.kind in ("event", "noise", "place"))
    return Corpus(corpus.folder, others) + speech_rows(corpus, split, most_speech)


def cut(sounds: Sounds, rate_hz: int) -> tuple[Example, ...]:
    """Pieces of `PIECE_S`; a short recording is one piece, of a long one `MOST_PIECES` spread over it."""
    size = int(PIECE_S * rate_hz)
    pieces = []
    for row in range(len(sounds)):
        total = sounds.size(row)
        count = min(MOST_PIECES, max(1, total // size))
        starts = np.linspace(0, max(0, total - size), count).astype(int) if count > 1 else np.zeros(1, int)
        pieces += [Example(row, int(start), min(size, total)) for start in starts]
    return tuple(pieces)


def examples(corpus: Corpus, shape: Shape, runs: Path, variants: int) -> Examples:
    """All pieces of *corpus* with *variants* versions of their bands, computed once and kept in `runs/bands`."""
    sounds = open_sounds(corpus, shape.sample_rate, runs)
    pieces = cut(sounds, shape.sample_rate)
    rows = tuple(corpus.rows[piece.row] for piece in pieces)
    stated = [targets(row.kind, row.labels) for row in rows]
    present, known = (np.stack([pair[index] for pair in stated]) for index in (0, 1))
    path = runs / "bands" / f"{_key(corpus, shape, variants)}.pt"
    if not path.exists():
        save(_bands(sounds, pieces, present, shape, variants), path)
    stored = torch.load(path, weights_only=True)
    return Examples(pieces, rows, tuple(tuple(one.numpy() for one in each) for each in stored), present, known)


def _bands(
    sounds: Sounds, pieces: tuple[Example, ...], present: NDArray[np.float32], shape: Shape, variants: int
) -> list[list[torch.Tensor]]:
    transform = front_end(shape)
    chance = np.random.default_rng(7)
    stored = []
    for index, piece in enumerate(tqdm(pieces, desc="bands", unit="piece", leave=False)):
        waveform = torch.from_numpy(sounds.part(piece.row, piece.start, piece.count))
        wanted = variants if present[index].any() else min(variants, 3)
        versions = [waveform] + [_variant(waveform, shape.sample_rate, chance) for _ in range(wanted - 1)]
        stored.append([_log_mel(transform, version) for version in versions])
    return stored


def _log_mel(transform: torch.nn.Module, waveform: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        bands, _ = transform(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
    return bands[0].to(torch.float16)


def _variant(waveform: torch.Tensor, rate_hz: int, chance: np.random.Generator) -> torch.Tensor:
    new, old = SPEEDS[chance.integers(len(SPEEDS))]
    if new != old:
        waveform = torchaudio_functional().resample(waveform, old, new)
    if chance.random() < 0.3:
        waveform = torchaudio_functional().fftconvolve(waveform, _room(rate_hz, chance))[: len(waveform)]
    return waveform


def _room(rate_hz: int, chance: np.random.Generator) -> torch.Tensor:
    """An exponentially decaying noise tail after a direct sound: a small to middling room."""
    decay_s = chance.uniform(0.15, 0.8)
    time_s = np.arange(int(decay_s * rate_hz)) / rate_hz
    tail = chance.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)
    tail *= chance.uniform(0.2, 0.8) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    return torch.from_numpy(tail.astype(np.float32))


def _key(corpus: Corpus, shape: Shape, variants: int) -> str:
    front = {key: value for key, value in asdict(shape).items() if key not in ("channels", "classes")}
    facts = [front, variants, [row.path for row in corpus.rows], LABELS, PIECE_S, MOST_PIECES, SPEEDS]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]
