"""Something like music, computed: notes in a scale with harmonics and decay, chords, beats of noise. No recording."""

from __future__ import annotations

import numpy as np

from training.corpus import Mono

SCALE = (0, 2, 4, 5, 7, 9, 11)


def music(rng: np.random.Generator, samples: int, rate_hz: int) -> Mono:
    """*samples* with an RMS of about 0.1: one to three voices on a beat, often with percussion."""
    beat = round(60 / rng.uniform(70, 160) * rate_hz)
    total = np.zeros(samples, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        _play(rng, total, rate_hz, beat // int(rng.choice([1, 1, 2, 4])))
    if rng.random() < 0.6:
        for start in range(0, samples, beat // int(rng.choice([1, 2]))):
            hit = rng.standard_normal(min(round(rng.uniform(0.02, 0.15) * rate_hz), samples - start))
            total[start : start + len(hit)] += rng.uniform(0.2, 1.0) * hit * np.exp(-np.linspace(0, 6, len(hit)))
    return (total * (0.1 / max(float(np.sqrt(np.mean(total**2))), 1e-9))).astype(np.float32)


def _play(rng: np.random.Generator, total: Mono, rate_hz: int, step: int) -> None:
    """Add one voice: a note or a chord every *step*, each with the voice's own timbre."""
    root_hz = 55 * 2 ** rng.uniform(0, 4)
    timbre = rng.uniform(0.1, 1.0, 12) / np.arange(1, 13) ** rng.uniform(0.5, 2)
    decay, held = rng.uniform(0.5, 6), rng.uniform(0.8, 3)
    chord = int(rng.choice([1, 1, 3]))
    for start in range(0, len(total), step):
        if rng.random() < 0.15:
            continue
        time_s = np.arange(min(round(step * held), len(total) - start)) / rate_hz
        degree = int(rng.integers(0, 14))
        for note in range(chord):
            octave, place = divmod(degree + 2 * note, len(SCALE))
            hz = root_hz * 2 ** (octave + SCALE[place] / 12)
            partials = [k for k in range(1, 13) if k * hz < rate_hz / 2]
            tone = sum(timbre[k - 1] * np.sin(2 * np.pi * k * hz * time_s + rng.uniform(0, 6.3)) for k in partials)
            envelope = np.minimum(time_s / 0.01, 1) * np.exp(-decay * time_s)
            total[start : start + len(time_s)] += (tone * envelope).astype(np.float32)
