"""Segments on made scenes: clips of known sounds laid over a background, so that onsets and offsets are known.

Chooses how frames become segments (the manifest's `segmenting`) and says how right they are.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.manifest import Frames, Segmenting
from service.tasks.segments import find_segments
from service.values import Segment
from training.corpus import Sounds
from training.scene.classes import LABELS, STEADY
from training.scene.examples import Examples
from training.scene.network import Export, Shape

Mono = NDArray[np.float32]
SCENE_S = 10.0
BLOCK_S = 0.01
COLLAR_S = 0.2
RULES = tuple(
    Segmenting(on=on, off=off, median_s=median_s, min_s=min_s)
    for on, off, median_s, min_s in itertools.product((0.4, 0.5, 0.6, 0.7), (0.15, 0.3), (0.24, 0.4, 0.56), (0.1,))
)


@dataclass(frozen=True, slots=True)
class Scene:
    waveform: Mono
    truth: tuple[Segment, ...]


def made_scenes(sounds: Sounds, given: Examples, count: int, seed: int = 0) -> list[Scene]:
    """Scenes of two or three ESC-10 clips at different times over a background 10 to 30 dB below."""
    chance = np.random.default_rng(seed)
    clips = [at for at, row in enumerate(given.rows) if row.fold is not None]
    backgrounds = [at for at, row in enumerate(given.rows) if row.kind == "noise" and not given.present[at].any()]
    return [_scene(sounds, given, chance.permutation(clips), backgrounds, chance) for _ in range(count)]


def _scene(
    sounds: Sounds, given: Examples, clips: NDArray[np.int64], backgrounds: list[int], chance: np.random.Generator
) -> Scene:
    rate = sounds.rate_hz
    waveform = np.zeros(int(SCENE_S * rate), np.float32)
    truth: list[Segment] = []
    for clip in clips[: chance.integers(2, 4)]:
        label = given.rows[clip].label
        part, spans_s = events(_samples(sounds, given, clip), rate, label in STEADY)
        start = chance.integers(0, max(1, len(waveform) - len(part)))
        waveform[start : start + len(part)] += part / max(1e-6, _loudness(part, rate)) * 10 ** chance.uniform(-0.4, 0)
        truth += [Segment(label, start / rate + onset, start / rate + offset, 1.0) for onset, offset in spans_s]
    background = np.resize(_samples(sounds, given, chance.choice(backgrounds)), len(waveform))
    waveform += background / max(1e-6, _loudness(background, rate)) * 10 ** chance.uniform(-1.5, -0.5)
    return Scene((0.1 * waveform).astype(np.float32), tuple(_united(truth)))


def _samples(sounds: Sounds, given: Examples, at: int) -> Mono:
    piece = given.pieces[at]
    return sounds.part(piece.row, piece.start, piece.count)


def _levels(samples: Mono, rate: int) -> NDArray[np.float64]:
    """RMS of blocks of `BLOCK_S` in dB."""
    size = int(BLOCK_S * rate)
    blocks = samples[: len(samples) // size * size].reshape(-1, size)
    return 10 * np.log10(np.square(blocks, dtype=np.float64).mean(1) + 1e-12)


def _loudness(samples: Mono, rate: int) -> float:
    return float(10 ** (np.quantile(_levels(samples, rate), 0.9) / 20))


def events(samples: Mono, rate: int, steady: bool) -> tuple[Mono, list[tuple[float, float]]]:
    """A clip from its first to its last event, and the events: runs of loud blocks, gaps of 0.2 s closed."""
    levels = _levels(samples, rate)
    limit = levels.max() - (50 if steady else 30)
    if not steady:
        limit = max(limit, np.quantile(levels, 0.1) + 6)
    loud = np.flatnonzero(levels >= limit)
    breaks = np.flatnonzero(np.diff(loud) * BLOCK_S > COLLAR_S)
    begins, ends = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]] + 1
    kept = samples[int(begins[0] * BLOCK_S * rate) : int(ends[-1] * BLOCK_S * rate)]
    spans = np.stack([begins, ends], 1) - begins[0]
    return kept, [(float(begin * BLOCK_S), float(end * BLOCK_S)) for begin, end in spans]


def _united(segments: list[Segment]) -> list[Segment]:
    """Overlapping segments of one label as one."""
    united: list[Segment] = []
    for one in sorted(segments, key=lambda segment: (segment.label, segment.onset_s)):
        last = united[-1] if united else None
        if last and last.label == one.label and one.onset_s <= last.offset_s + COLLAR_S:
            united[-1] = Segment(one.label, last.onset_s, max(last.offset_s, one.offset_s), 1.0)
        else:
            united.append(one)
    return united


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model says of one recording: probabilities of the clip [classes] and of its frames [time, classes]."""

    clip: NDArray[np.float32]
    frames: NDArray[np.float32]


def hear(model: Export, waveform: Mono) -> Heard:
    with torch.no_grad():
        clip, frames, _ = model(torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)]))
    return Heard(clip[0].numpy(), frames[0].numpy())


@dataclass(frozen=True, slots=True)
class Trial:
    """What segments are tried on: made scenes, recordings with none of the sounds, and from when a label is said."""

    scenes: list[Scene]
    heard: list[Heard]
    none: list[Heard]
    thresholds: NDArray[np.float32]

    def segments(self, heard: Heard, shape: Shape, rule: Segmenting) -> list[Segment]:
        """As the service gives them: of labels that are said of the whole."""
        said = {label for label, is_said in zip(LABELS, heard.clip >= self.thresholds, strict=True) if is_said}
        found = find_segments(heard.frames, LABELS, Frames(step_s=shape.frame_step_s), rule, SCENE_S)
        return [one for one in found if one.label in said]


def segment_figures(trial: Trial, shape: Shape, rule: Segmenting) -> dict[str, float]:
    """F1 of seconds (of which any part is heard) and of events (edges within 0.2 s, or a fifth at the end); and the
    share of recordings with none of the sounds in which a segment is found all the same."""
    seconds, counted = np.zeros(3), np.zeros(3)
    for heard, scene in zip(trial.heard, trial.scenes, strict=True):
        found = trial.segments(heard, shape, rule)
        said, true = seconds_heard(found), seconds_heard(scene.truth)
        seconds += [(said & true).sum(), (said & ~true).sum(), (~said & true).sum()]
        hits = matched(found, scene.truth)
        counted += [hits, len(found) - hits, len(scene.truth) - hits]
    none = [bool(trial.segments(heard, shape, rule)) for heard in trial.none]
    return {
        "second_f1": _f1(seconds),
        "event_f1": _f1(counted),
        "none_segmented": float(np.mean(none)) if none else 0.0,
    }


def _f1(counts: NDArray[np.float64]) -> float:
    hit, false, miss = counts
    return float(2 * hit / max(1.0, 2 * hit + false + miss))


def seconds_heard(segments: tuple[Segment, ...] | list[Segment]) -> NDArray[np.bool_]:
    """[label, second]: whether any of that second lies in a segment of that label."""
    grid = np.zeros((len(LABELS), int(SCENE_S)), bool)
    for one in segments:
        grid[LABELS.index(one.label), int(one.onset_s) : int(np.ceil(one.offset_s))] = True
    return grid


def matched(found: list[Segment], truth: tuple[Segment, ...]) -> int:
    """How many of *truth* have a segment of their own with onset and offset near enough."""
    free = list(found)
    hits = 0
    for true in truth:
        late = max(COLLAR_S, 0.2 * (true.offset_s - true.onset_s))
        for one in free:
            near = abs(one.onset_s - true.onset_s) <= COLLAR_S and abs(one.offset_s - true.offset_s) <= late
            if one.label == true.label and near:
                free.remove(one)
                hits += 1
                break
    return hits


def best_rule(trial: Trial, shape: Shape) -> Segmenting:
    """The rule of `RULES` with the highest sum of both F1, less the share of segments where none belong."""

    def worth(rule: Segmenting) -> float:
        found = segment_figures(trial, shape, rule)
        return found["second_f1"] + found["event_f1"] - found["none_segmented"]

    return max(RULES, key=worth)
