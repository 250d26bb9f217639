"""References: stretches of clear speech, made alike where they must be and varied where they may be, before any damage.

Varying the reference itself (voice, device, tone) is what teaches a model speech instead of one corpus of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import soxr

from training.corpus import Mono, Sounds
from training.simulate.damage import code
from training.simulate.denoise import expand, gate
from training.simulate.levels import active_rms, active_share, from_db
from training.simulate.noise import Noises
from training.simulate.rooms import draw_room, reverberate
from training.simulate.spectrum import random_gain, shape

STORED = {"mp3": (0.0, 0.5), "opus": (0.86, 0.94), "vorbis": (0.3, 0.6)}
"""Codecs that collections of speech are kept in, and their compression levels."""
IDEAL_FLOOR_DB = 66.0
"""Noise under every ideal, in dB below the active speech: recordings differ in theirs by 30 dB, and PESQ would call
each of them perfect."""
LEVEL = 0.05
"""RMS of the active speech of every reference (-26 dBFS)."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """How references are made. `VARIED` is the default; `AS_RECORDED` and `GATED` leave voice and device alone."""

    gated: float = 0.6
    """Probability that noise between and under the words is taken away."""
    second_voice: float = 0.15
    """Probability that somebody else speaks the rest."""
    coded: float = 0.5
    """Probability that it was stored by a lossy codec, as many collections are: that is no damage to the reference."""
    speed: tuple[float, float] = (0.82, 1.22)
    """Played faster by this factor: voice and pace together."""
    response: float = 0.85
    """Probability of a device response."""
    response_spread_db: float = 3.5
    response_tilt_db: float = 9.0
    near_room: float = 0.2
    """Probability of a small room heard from near."""
    room_tone: float = 0.35
    """Probability of a steady quiet noise under the voice."""
    room_tone_db: tuple[float, float] = (45.0, 65.0)
    floor_db: tuple[float, float] = (62.0, 70.0)
    """Noise under every reference, so that none holds digital silence: dB below the active speech."""


VARIED = Preparation()
AS_RECORDED = Preparation(0.0, 0.0, 0.0, (1.0, 1.0), response=0.0, near_room=0.0, room_tone=0.0, floor_db=(66.0, 66.0))
GATED = replace(AS_RECORDED, gated=1.0)


@dataclass(frozen=True, slots=True)
class Reference:
    """A stretch of speech that counts as undamaged, its speaker (a group of the corpus) and what was done to it."""

    waveform: Mono
    group: str
    ideal: Mono
    """The same words, voice and device without the recording's own noise and room, over the one common floor: what a
    listener would call perfect. Scores are taken against it, so that every reference's own noise counts as noise."""
    parameters: dict[str, float | str] = field(default_factory=dict)


class Voices:
    """Draws references from the rows of *sounds*, which should be clear speech of one split."""

    def __init__(self, sounds: Sounds) -> None:
        self.sounds = sounds
        self.rate_hz = sounds.rate_hz
        self._rows: dict[str, list[int]] = {}
        for position, row in enumerate(sounds.corpus.rows):
            self._rows.setdefault(row.group, []).append(position)
        # Between one share a speaker and one share a second: long voices say more, but must not drown the others.
        seconds = np.array([sum(sounds.size(row) for row in rows) for rows in self._rows.values()], np.float64)
        self._weights = np.sqrt(seconds) / np.sqrt(seconds).sum()

    def draw(
        self, rng: np.random.Generator, samples: int, preparation: Preparation = VARIED, least_active: float = 0.4
    ) -> Reference:
        """*samples* of one random speaker; tries again while less than *least_active* of it is speech."""
        speed = float(rng.uniform(*preparation.speed))
        needed = int(np.ceil(samples * speed)) + 8
        for _ in range(20):
            group = str(rng.choice(list(self._rows), p=self._weights))
            spoken = self._join(rng, group, needed)
            if preparation.second_voice and rng.random() < preparation.second_voice:
                other = str(rng.choice(list(self._rows), p=self._weights))
                change = int(needed * rng.uniform(0.25, 0.75))
                spoken = np.concatenate([spoken[:change], self._join(rng, other, needed - change)])
            if active_share(spoken, self.rate_hz) >= least_active:
                break
        waveform, ideal, parameters = prepare(rng, spoken, samples, self.rate_hz, speed, preparation)
        return Reference(waveform, group, ideal, parameters)

    def _join(self, rng: np.random.Generator, group: str, needed: int) -> Mono:
        rows = self._rows[group]
        pieces: list[Mono] = []
        missing = needed
        while missing > 0:
            row = rows[int(rng.integers(len(rows)))]
            size = self.sounds.size(row)
            start = int(rng.integers(max(size - missing, 0) + 1))
            piece = self.sounds.part(row, start, missing)
            pieces.append(_faded(piece / np.float32(max(active_rms(piece, self.rate_hz), 1e-7)), self.rate_hz))
            missing -= len(piece)
        return np.concatenate(pieces)[:needed]


def prepare(
    rng: np.random.Generator, spoken: Mono, samples: int, rate_hz: int, speed: float, preparation: Preparation
) -> tuple[Mono, Mono, dict[str, float | str]]:
    """*samples* of *spoken* at `LEVEL` after all that *preparation* asks for, its ideal, and what was done."""
    parameters: dict[str, float | str] = {"speed": round(speed, 3)}
    if preparation.coded and rng.random() < preparation.coded:
        codec = str(rng.choice(list(STORED), p=[0.5, 0.3, 0.2]))
        level = round(float(rng.uniform(*STORED[codec])), 3)
        spoken = code(spoken, rate_hz, codec, level)
        parameters |= {"stored": codec, "stored_level": level}
    ideal = _played(expand(gate(spoken), rate_hz), speed, rate_hz)[:samples]
    if rng.random() < preparation.gated:
        waveform = ideal
        parameters["gated"] = 1
    else:
        waveform = _played(spoken, speed, rate_hz)[:samples]
    if rng.random() < preparation.near_room:
        room = draw_room(rng, rate_hz, (0.05, 0.3), (8.0, 22.0))
        waveform = reverberate(waveform, room)
        parameters |= {f"near_{name}": value for name, value in room.parameters.items()}
    if rng.random() < preparation.response:
        spread_db = preparation.response_spread_db * float(rng.uniform(0.3, 1.3))
        gain = random_gain(rng, rate_hz, spread_db, preparation.response_tilt_db)
        waveform, ideal = shape(waveform, rate_hz, gain), shape(ideal, rate_hz, gain)
        parameters["response_db"] = round(spread_db, 2)
    waveform = waveform * np.float32(LEVEL / max(active_rms(waveform, rate_hz), 1e-7))
    floor_db = float(rng.uniform(*preparation.floor_db))
    if rng.random() < preparation.room_tone:
        floor_db = float(rng.uniform(*preparation.room_tone_db))
    parameters["floor_db"] = round(floor_db, 1)
    floor = Noises(rate_hz).draw(rng, len(waveform), {"coloured": 1.0}).waveform
    ideal = ideal * np.float32(LEVEL / max(active_rms(ideal, rate_hz), 1e-7))
    return _over(waveform, floor, floor_db), _over(ideal, floor, IDEAL_FLOOR_DB), parameters


def _played(spoken: Mono, speed: float, rate_hz: int) -> Mono:
    if speed == 1.0:
        return spoken
    return np.asarray(soxr.resample(spoken, rate_hz * speed, rate_hz, quality="MQ"), dtype=np.float32)


def _over(waveform: Mono, floor: Mono, floor_db: float) -> Mono:
    return (waveform + floor * np.float32(LEVEL * from_db(-floor_db))).astype(np.float32)


def _faded(piece: Mono, rate_hz: int) -> Mono:
    count = min(round(0.01 * rate_hz), len(piece) // 2)
    faded = piece.copy()
    ramp = np.linspace(0, 1, count, dtype=np.float32)
    faded[:count] *= ramp
    faded[len(faded) - count :] *= ramp[::-1]
    return faded

