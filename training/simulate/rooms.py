"""Room responses: mirror sources for the early part, decaying noise for the rest, or recorded ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from training.corpus import Mono, Sounds

SOUND_M_S = 343.0
EARLY_S = 0.05
"""What arrives this soon after the direct sound counts as the voice itself (a usual border in dereverberation)."""
_MIRRORED_S = 0.06


@dataclass(frozen=True, slots=True)
class Room:
    """An impulse response whose direct sound is sample 0, with energy 1 in the direct sound."""

    response: Mono
    parameters: dict[str, float | str]


def draw_room(
    rng: np.random.Generator,
    rate_hz: int,
    t60_s: tuple[float, float] = (0.1, 1.0),
    direct_db: tuple[float, float] = (-2.0, 25.0),
    recorded: Sounds | None = None,
) -> Room:
    """A random room. *direct_db* is direct sound to all that follows; recorded rooms keep their own."""
    if recorded is not None and len(recorded) and rng.random() < 0.15:
        return recorded_room(recorded, int(rng.integers(len(recorded))), rate_hz)
    t60, ratio_db = float(rng.uniform(*t60_s)), float(rng.uniform(*direct_db))
    late = _tail(rng, rate_hz, t60)
    kind = "image" if rng.random() < 0.5 else "decay"
    if kind == "image":
        early = _mirror_sources(rng, rate_hz, t60)
        joint = slice(len(early) * 2 // 3, len(early))
        late[: len(early)] = early * np.float32(_norm(late[joint]) / max(_norm(early[joint]), 1e-9))
    late[0] = 0.0
    late *= np.float32(10 ** (-ratio_db / 20) / max(_norm(late), 1e-9))
    late[0] = 1.0
    return Room(late, {"room": kind, "t60_s": round(t60, 3), "direct_db": round(ratio_db, 2)})


def recorded_room(recorded: Sounds, position: int, rate_hz: int) -> Room:
    """A recorded response, cut at its peak and scaled to a direct sound of 1 (the 2.5 ms around it)."""
    response = recorded[position]
    peak = int(np.argmax(np.abs(response)))
    cut = response[peak:]
    near = round(0.0025 * rate_hz)
    around = response[max(peak - near, 0) : peak + near]
    scaled = cut / max(_norm(around), 1e-9)
    return Room(scaled.astype(np.float32), {"room": recorded.corpus.rows[position].group})


def reverberate(samples: Mono, room: Room) -> Mono:
    """*samples* heard in *room*, as long as before and in step with the direct sound."""
    wet = scipy.signal.oaconvolve(samples, room.response)[: len(samples)]
    return np.asarray(wet, dtype=np.float32)


def early_part(room: Room, rate_hz: int, early_s: float = EARLY_S) -> Room:
    """The same room without what arrives later than *early_s* after the direct sound."""
    return Room(room.response[: round(early_s * rate_hz)], room.parameters | {"early_s": early_s})


def _tail(rng: np.random.Generator, rate_hz: int, t60_s: float) -> Mono:
    """Gaussian noise that falls by 60 dB in *t60_s*, faster at high frequencies as walls and air take those first."""
    count = max(round(1.1 * t60_s * rate_hz), 64)
    fall = np.exp(-np.log(1e3) * np.arange(count, dtype=np.float32) / (t60_s * rate_hz))
    noise = rng.standard_normal(count, dtype=np.float32)
    dull = np.asarray(scipy.signal.lfilter([1 - 0.6], [1, -0.6], noise), dtype=np.float32)
    mix = fall ** float(rng.uniform(0.0, 1.0))
    return (fall * (mix * noise + (1 - mix) * 2 * dull)).astype(np.float32)


def _mirror_sources(rng: np.random.Generator, rate_hz: int, t60_s: float) -> Mono:
    """First 60 ms of a shoebox by the image method (Allen, Berkley 1979), nearest sample, without the direct sound."""
    sides = rng.uniform((2.5, 2.5, 2.3), (9.0, 7.0, 3.6))
    ear, mouth = rng.uniform(0.15, 0.85, 3) * sides, rng.uniform(0.15, 0.85, 3) * sides
    # Sabine: the mean absorption that gives t60, as an amplitude factor of one reflection.
    surface = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    absorbed = min(0.161 * float(np.prod(sides)) / (surface * t60_s), 0.95)
    kept = np.sqrt(1 - absorbed)
    positions, bounces = [], []
    for side, at_mouth, at_ear in zip(sides, mouth, ear, strict=True):
        reach = int(np.ceil(SOUND_M_S * _MIRRORED_S / (2 * side))) + 1
        cells = np.arange(-reach, reach + 1)
        positions.append(np.concatenate([2 * cells * side + at_mouth, 2 * cells * side - at_mouth]) - at_ear)
        bounces.append(np.concatenate([np.abs(2 * cells), np.abs(2 * cells - 1)]))
    distances = np.sqrt(_outer_sum([axis**2 for axis in positions]))
    amplitudes = kept ** _outer_sum([axis.astype(np.float64) for axis in bounces]) / np.maximum(distances, 0.1)
    direct_m = float(np.linalg.norm(mouth - ear))
    delays = np.rint((distances - direct_m) * rate_hz / SOUND_M_S).astype(np.int64)
    # Walls turn the phase differently at each frequency; a random sign keeps the sum from piling up at low ones.
    signs = np.where(rng.random(delays.shape) < 0.5, -1.0, 1.0)
    count = round(_MIRRORED_S * rate_hz)
    heard = (delays > 0) & (delays < count)
    early = np.bincount(delays[heard], weights=(amplitudes * signs)[heard], minlength=count)
    return early[: min(count, max(round(1.1 * t60_s * rate_hz), 64))].astype(np.float32)


def _outer_sum(axes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    first, second, third = axes
    return (first[:, None, None] + second[None, :, None] + third[None, None, :]).ravel()


def _norm(samples: Mono) -> float:
    return float(np.sqrt(np.sum(np.square(samples, dtype=np.float64))))
