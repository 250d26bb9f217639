"""What a score must do that no label says: fall as damage grows, ignore level, find the bad stretch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.corpus import Mono
from training.quality.labels import RATE_HZ, Maker
from training.quality.measures import area_under_curve, rank_correlation
from training.simulate import damage
from training.simulate.levels import from_db
from training.simulate.mixture import at_snr
from training.simulate.speech import AS_RECORDED

SNRS_DB = tuple(range(0, 45, 5))
SHARES = (0.4, 0.2, 0.1, 0.05, 0.02, 0.005)
OPUS_LEVELS = (1.0, 0.99, 0.98, 0.96, 0.92)
LOSSES = (0.3, 0.15, 0.08, 0.04, 0.02)
CLEARLY = 0.02
"""A step counts as wrong when the score moves the wrong way by more than this."""


def run(model: nn.Module, waveforms: list[Mono]) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Score and curve of each waveform."""
    scores, curves = [], []
    with torch.no_grad():
        for waveform in waveforms:
            given = model(torch.from_numpy(waveform).unsqueeze(0), torch.tensor([len(waveform)]))
            scores.append(float(given[0]))
            curves.append(given[1][0].numpy())
    return np.array(scores, np.float32), curves


def ladders(model: nn.Module, maker: Maker, count: int) -> dict[str, dict[str, float]]:
    """Mean rank correlation, and share of steps that go the right way, as one damage of one clip grows less."""
    rng = np.random.default_rng(1)
    climbs: dict[str, list[NDArray[np.float32]]] = {"snr": [], "clipping": [], "opus": [], "loss": []}
    for _ in range(count):
        speech = maker.voices.draw(rng, 4 * RATE_HZ, AS_RECORDED).waveform
        noise = maker.recipe.noises.draw(rng, len(speech)).waveform
        chances = rng.random(200)
        steps: dict[str, Callable[[], list[Mono]]] = {
            "snr": lambda s=speech, n=noise: [s + at_snr(s, n, RATE_HZ, snr_db) for snr_db in SNRS_DB],
            "clipping": lambda s=speech: [damage.hard_clip(s, RATE_HZ, share) for share in SHARES],
            "opus": lambda s=speech: [damage.code(s, RATE_HZ, "opus", level) for level in OPUS_LEVELS],
            # The packets lost at a small share are among those lost at a larger one.
            "loss": lambda s=speech, c=chances: [
                damage.lose_packets(s, RATE_HZ, c < share, 0.02, None) for share in LOSSES
            ],
        }
        for kind, climb in climbs.items():
            climb.append(run(model, steps[kind]())[0])
    return {kind: _climb(np.array(scores)) for kind, scores in climbs.items()}


def _climb(scores: NDArray[np.float32]) -> dict[str, float]:
    order = np.arange(scores.shape[1])
    ranks = [rank_correlation(ladder, order) for ladder in scores]
    return {"spearman": float(np.mean(ranks)), "rising": float(np.mean(np.diff(scores, axis=1) > -CLEARLY))}


def level_shift(model: nn.Module, speech: list[Mono]) -> dict[str, float]:
    """Largest change of the score for gains of -40…0 dB, for a flip, and for -20 dB rounded to 16 bits.

    Rounding is a damage of its own: at -40 dB it lies some 35 dB under the voice, and PESQ hears it too.
    """
    whole, _ = run(model, speech)

    def shift(gain: float, bits: bool = False) -> float:
        heard = [clip * np.float32(gain) for clip in speech]
        if bits:
            heard = [(np.rint(clip * 32767) / 32767).astype(np.float32) for clip in heard]
        return float(np.abs(run(model, heard)[0] - whole).max())

    gains = max(shift(from_db(gain_db)) for gain_db in (-40.0, -20.0, -6.0))
    return {"float": gains, "16 bit": shift(from_db(-20.0), bits=True), "flip": shift(-1.0)}


def spoilt(
    rng: np.random.Generator, maker: Maker, samples: int = 5 * RATE_HZ
) -> Iterator[tuple[Mono, tuple[float, float]]]:
    """For ever: a clip with one damaged stretch of half to two seconds, and where that begins and ends in seconds."""
    while True:
        speech = maker.voices.draw(rng, samples, AS_RECORDED).waveform
        size = int(rng.uniform(0.5, 2.0) * RATE_HZ)
        start = int(rng.integers(len(speech) - size))
        heard = speech.copy()
        heard[start : start + size] = _spoil(rng, maker, speech)[start : start + size]
        yield heard, (start / RATE_HZ, (start + size) / RATE_HZ)


def locality(model: nn.Module, maker: Maker, step_s: float, count: int) -> float:
    """ROC area of the curve for finding the one damaged stretch of a clip; 0.2 s beside its borders do not count."""
    areas = []
    for heard, (from_s, to_s) in islice(spoilt(np.random.default_rng(2), maker), count):
        curve = run(model, [heard])[1][0]
        times_s = np.arange(len(curve)) * step_s
        inside = (times_s >= from_s) & (times_s < to_s)
        near = np.minimum(np.abs(times_s - from_s), np.abs(times_s - to_s)) < 0.2
        areas.append(area_under_curve(-curve[~near], inside[~near]))
    return float(np.mean(areas))


def _spoil(rng: np.random.Generator, maker: Maker, speech: Mono) -> Mono:
    kind = int(rng.integers(3))
    if kind == 0:
        noise = maker.recipe.noises.draw(rng, len(speech)).waveform
        return (speech + at_snr(speech, noise, RATE_HZ, 5.0)).astype(np.float32)
    if kind == 1:
        return damage.hard_clip(speech, RATE_HZ, 0.2)
    return damage.lose_packets(speech, RATE_HZ, rng.random(len(speech) // 320 + 1) < 0.3, 0.02, None)


def lengths(model: nn.Module, clips: list[Mono]) -> float:
    """Mean difference between the score of a clip and the mean score of its two halves."""
    whole, _ = run(model, clips)
    first, _ = run(model, [clip[: len(clip) // 2] for clip in clips])
    second, _ = run(model, [clip[len(clip) // 2 :] for clip in clips])
    return float(np.mean(np.abs(whole - (first + second) / 2)))


def pieces(model: nn.Module, clips: list[Mono], step_s: float, piece_s: float, context_s: float) -> dict[str, float]:
    """How far curves joined from pieces of *piece_s*, *context_s* dropped at inner borders, lie from one pass."""
    worst, mean, scores = 0.0, [], []
    for clip in clips:
        whole = run(model, [clip])[1][0]
        joined = join(model, clip, step_s, piece_s, context_s)
        worst = max(worst, float(np.abs(joined - whole).max()))
        mean.append(float(np.abs(joined - whole).mean()))
        scores.append(abs(float(joined.mean() - whole.mean())))
    return {"frame_max": worst, "frame_mean": float(np.mean(mean)), "score_max": max(scores)}


def join(model: nn.Module, clip: Mono, step_s: float, piece_s: float, context_s: float) -> NDArray[np.float32]:
    """The curve of *clip* from pieces that overlap by twice *context_s*; each gives the frames of its middle."""
    step, size, context = (round(seconds * RATE_HZ) for seconds in (step_s, piece_s, context_s))
    total = len(clip) // 256 // (step // 256) + 1
    joined = np.zeros(total, np.float32)
    start = 0
    while True:
        is_last = start + size >= len(clip)
        curve = run(model, [clip[start : start + size]])[1][0]
        first = 0 if start == 0 else context // step
        place = start // step
        joined[place + first : place + len(curve)] = curve[first : total - place]
        if is_last:
            return joined
        start += size - 2 * context
