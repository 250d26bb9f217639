"""Noise of any length: recorded rows of a corpus, talkers at once, and what can be computed (coloured, hum, clicks)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft

from training.corpus import Mono, Sounds
from training.simulate.levels import SILENT, active_rms, rms
from training.simulate.spectrum import band_gain, random_gain, shape

JOIN_S = 0.02
KINDS = {"recorded": 0.45, "coloured": 0.17, "swelling": 0.1, "band": 0.05, "babble": 0.13, "hum": 0.05, "clicks": 0.05}


@dataclass(frozen=True, slots=True)
class Noise:
    """A stretch of noise with an RMS of 1, and how it came to be."""

    waveform: Mono
    parameters: dict[str, float | str]


@dataclass(frozen=True, slots=True)
class Noises:
    """Draws noise from *recorded* rows and *talkers* (either may be None) of one split."""

    rate_hz: int
    recorded: Sounds | None = None
    talkers: Sounds | None = None

    def draw(self, rng: np.random.Generator, samples: int, kinds: dict[str, float] | None = None) -> Noise:
        """*samples* of noise of a kind drawn by the weights *kinds* (those of `KINDS` where None)."""
        weights = {kind: weight for kind, weight in (kinds or KINDS).items() if self._has(kind)}
        kind = str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))
        waveform, parameters = self._make(kind, rng, samples)
        level = rms(waveform)
        if level < SILENT:
            waveform, parameters = _coloured(rng, samples, self.rate_hz)
            kind, level = "coloured", rms(waveform)
        return Noise((waveform / np.float32(level)).astype(np.float32), {"noise": kind, **parameters})

    def _has(self, kind: str) -> bool:
        needed = {"recorded": self.recorded, "babble": self.talkers}.get(kind, ())
        return needed is not None

    def _make(self, kind: str, rng: np.random.Generator, samples: int) -> tuple[Mono, dict[str, float | str]]:
        if kind == "recorded" and self.recorded is not None:
            return _recorded(rng, samples, self.recorded)
        if kind == "babble" and self.talkers is not None:
            return _babble(rng, samples, self.talkers)
        make = {"coloured": _coloured, "swelling": _swelling, "band": _band, "hum": _hum, "clicks": _clicks}[kind]
        return make(rng, samples, self.rate_hz)


def stretch(rng: np.random.Generator, samples: int, sounds: Sounds, position: int) -> Mono:
    """*samples* of row *position* from a random place; shorter rows follow themselves with faded joints."""
    size = sounds.size(position)
    if size >= samples:
        return sounds.part(position, int(rng.integers(size - samples + 1)), samples)
    row = sounds[position]
    fade = min(round(JOIN_S * sounds.rate_hz), size // 4)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    loop = row[: size - fade].copy()
    loop[:fade] = loop[:fade] * ramp + row[size - fade :] * ramp[::-1]
    return np.resize(np.roll(loop, -int(rng.integers(len(loop)))), samples)


def _recorded(rng: np.random.Generator, samples: int, sounds: Sounds) -> tuple[Mono, dict[str, float | str]]:
    # By recording, not by file: one long recording must not outweigh the rest, nor one cut into many files.
    groups = sounds.corpus.groups
    group = groups[int(rng.integers(len(groups)))]
    rows = [place for place, row in enumerate(sounds.corpus.rows) if row.group == group]
    waveform = stretch(rng, samples, sounds, rows[int(rng.integers(len(rows)))])
    if rng.random() < 0.5:
        waveform = shape(waveform, sounds.rate_hz, random_gain(rng, sounds.rate_hz, 2.5, 8.0))
    return waveform, {"recording": group}


def _babble(rng: np.random.Generator, samples: int, talkers: Sounds) -> tuple[Mono, dict[str, float | str]]:
    count = int(rng.integers(1, 9))
    total = np.zeros(samples, np.float32)
    for _ in range(count):
        voice = stretch(rng, samples, talkers, int(rng.integers(len(talkers))))
        total += voice / np.float32(max(active_rms(voice, talkers.rate_hz), SILENT)) * np.float32(rng.uniform(0.5, 1.0))
    return shape(total, talkers.rate_hz, random_gain(rng, talkers.rate_hz, 2.0, 6.0)), {"talkers": count}


def _coloured(rng: np.random.Generator, samples: int, rate_hz: int) -> tuple[Mono, dict[str, float | str]]:
    slope = float(rng.uniform(-9.0, 1.0))
    colour = random_gain(rng, rate_hz, 2.0, 0.0)

    def gain(frequencies: Mono) -> Mono:
        octaves = np.log2(np.maximum(frequencies, 40.0) / 1000)
        return np.asarray(10 ** (slope * octaves / 20) * colour(frequencies), dtype=np.float32)

    return shape(_white(rng, samples), rate_hz, gain), {"db_per_octave": round(slope, 2)}


def _swelling(rng: np.random.Generator, samples: int, rate_hz: int) -> tuple[Mono, dict[str, float | str]]:
    waveform, parameters = _coloured(rng, samples, rate_hz)
    rate, depth_db = float(np.exp(rng.uniform(np.log(0.2), np.log(8.0)))), float(rng.uniform(6.0, 30.0))
    knots = max(int(samples / rate_hz * rate * 2), 2) + 1
    level_db = np.interp(np.linspace(0, knots - 1, samples), np.arange(knots), rng.uniform(-depth_db, 0.0, knots))
    return (waveform * 10 ** (level_db / 20)).astype(np.float32), parameters | {"swell_hz": round(rate, 2)}


def _band(rng: np.random.Generator, samples: int, rate_hz: int) -> tuple[Mono, dict[str, float | str]]:
    low_hz = float(np.exp(rng.uniform(np.log(60), np.log(rate_hz / 4))))
    high_hz = min(low_hz * float(rng.uniform(1.2, 4.0)), rate_hz / 2)
    waveform = shape(_white(rng, samples), rate_hz, band_gain(low_hz, high_hz))
    return waveform, {"low_hz": round(low_hz), "high_hz": round(high_hz)}


def _hum(rng: np.random.Generator, samples: int, rate_hz: int) -> tuple[Mono, dict[str, float | str]]:
    base_hz = float(rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002))
    time_s = np.arange(samples, dtype=np.float32) / rate_hz
    total = np.zeros(samples, np.float32)
    fall = float(rng.uniform(0.4, 1.5))
    for harmonic in range(1, int(rng.integers(2, 24))):
        phase = rng.uniform(0, 2 * np.pi)
        weight = rng.uniform(0.2, 1.0) / harmonic**fall
        total += np.float32(weight) * np.sin(2 * np.pi * harmonic * base_hz * time_s + phase, dtype=np.float32)
    hiss, _ = _coloured(rng, samples, rate_hz)
    return total / rms(total) + hiss / rms(hiss) * np.float32(rng.uniform(0.0, 0.3)), {"hum_hz": round(base_hz, 1)}


def _clicks(rng: np.random.Generator, samples: int, rate_hz: int) -> tuple[Mono, dict[str, float | str]]:
    rate = float(np.exp(rng.uniform(np.log(1.0), np.log(40.0))))
    count = max(int(rng.poisson(rate * samples / rate_hz)), 1)
    impulses = np.zeros(samples, np.float32)
    impulses[rng.integers(samples, size=count)] = rng.normal(0, 1, count) * rng.uniform(0.3, 1.0, count)
    ring = rng.standard_normal(round(rng.uniform(0.001, 0.04) * rate_hz)).astype(np.float32)
    ring *= np.exp(-np.linspace(0, 6, len(ring), dtype=np.float32))
    size = scipy.fft.next_fast_len(samples + len(ring), real=True)
    heard = scipy.fft.irfft(scipy.fft.rfft(impulses, size) * scipy.fft.rfft(ring, size), size)[:samples]
    return np.asarray(heard, dtype=np.float32), {"clicks_per_s": round(rate, 1)}


def _white(rng: np.random.Generator, samples: int) -> Mono:
    return rng.standard_normal(samples, dtype=np.float32)
