"""Where in a clip the damage is heard: a perceptual model of its own, after the published description of PESQ.

After Beerends, Rix, Hollier, Hekstra, "Perceptual evaluation of speech quality (PESQ), part II" (JAES 50, 2002): both
signals become loudness on the Bark scale, what differs is a disturbance, what was added weighs more. Without alignment
in time, which simulated damage does not need, and with bands computed rather than tabled, so its numbers are near to
PESQ's and are no PESQ. The label of a clip stays PESQ's own; this says how it lies in time.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray

from training.corpus import Mono

Values = NDArray[np.float32]

RATE_HZ, SIZE, HOP = 16000, 512, 256
BANDS = 49
LOWEST_HZ = 31.0
LISTENING_DB = 79.0
"""Sound pressure level at which speech is taken to be heard."""
DEAD_ZONE = 0.25
"""Of the fainter loudness: smaller differences are not heard."""
MOST_DISTURBED = 45.0
SMOOTH_FRAMES = 7
"""Over which the worst prevails (112 ms): single frames of 16 ms are not heard on their own."""
WEIGHTS = (4.203, -0.1274, -0.0420)
"""Base, disturbance and added disturbance of the quality before its mapping; `main` prints a fit."""


def _bark(hz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 7 * np.arcsinh(hz / 650)


_EDGES = np.linspace(*_bark(np.array([LOWEST_HZ, RATE_HZ / 2])), BANDS + 1)
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2
_WIDTH = np.float32(_EDGES[1] - _EDGES[0])
_BINS_HZ = np.fft.rfftfreq(SIZE, 1 / RATE_HZ)
_VOICE = (_BINS_HZ >= 300) & (_BINS_HZ <= 3300)
_WINDOW = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)).astype(np.float32)


def _bank() -> Values:
    """What share of each bin falls into each band, [bins, bands]."""
    half = _BINS_HZ[1] / 2
    low, high = _bark(np.maximum(_BINS_HZ - half, 0)), _bark(np.minimum(_BINS_HZ + half, RATE_HZ / 2))
    shared = np.minimum(high[:, None], _EDGES[1:]) - np.maximum(low[:, None], _EDGES[:-1])
    return (np.maximum(shared, 0) / (high - low)[:, None]).astype(np.float32)


def _threshold() -> Values:
    """Power of the faintest tone that is heard in each band (Terhardt, 1979)."""
    khz = 0.65 * np.sinh(_CENTRES / 7)
    level_db = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
    return (10 ** (level_db / 10)).astype(np.float32)


_BANK, _THRESHOLD = _bank(), _threshold()
_EXPONENT = (0.23 * np.where(_CENTRES < 4, np.minimum(6 / (_CENTRES + 2), 2) ** 0.15, 1)).astype(np.float32)
_SONE = np.float32(1 / ((0.5 + 0.5 * 1e4 / 2) ** 0.23 - 1) / 2**0.23)
"""A tone of 40 dB in one band has a loudness of 1."""


def _pitch_powers(samples: Mono) -> Values:
    """Power in each band, [frames, bands], with the voice at `LISTENING_DB`; frame i begins at sample i * HOP."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, SIZE)[::HOP] * _WINDOW
    spectra = scipy.fft.rfft(frames, axis=1)
    powers = (spectra.real**2 + spectra.imag**2).astype(np.float32)
    level = max(float(powers[:, _VOICE].sum(1).mean()) / (SIZE * float((_WINDOW**2).sum()) / 2), 1e-12)
    tone = (np.sqrt(0.5) * float(_WINDOW.sum())) ** 2 * 1.5
    return np.asarray(powers @ _BANK * np.float32(10 ** (LISTENING_DB / 10) / tone / level))


def _audible(powers: Values, times: float = 1.0) -> Values:
    return np.where(powers > times * _THRESHOLD, powers, 0)


def _loudness(powers: Values) -> Values:
    sones = _SONE * (_THRESHOLD * 2) ** _EXPONENT * ((0.5 + 0.5 * powers / _THRESHOLD) ** _EXPONENT - 1)
    return np.where(powers > _THRESHOLD, sones, 0).astype(np.float32)


def _steady_gain(reference: Values, heard: Values) -> Values:
    """Gain a frame that takes slow changes of level out of *heard*, [frames, 1]."""
    ratios = (_audible(reference).sum(1) + 5e3) / (_audible(heard).sum(1) + 5e3)
    gains, before = np.empty_like(ratios), 1.0
    for frame, ratio in enumerate(ratios.tolist()):
        before = 0.2 * before + 0.8 * ratio
        gains[frame] = min(max(before, 3e-4), 5.0)
    return gains[:, None]


def disturbances(reference: Mono, heard: Mono) -> tuple[Values, Values]:
    """Disturbance, and what of it was added, of each frame: frame i begins at sample i * HOP.

    Args:
        reference: the undamaged signal at 16 kHz, at least `SIZE` samples.
        heard: the damaged one, of the same length and timing.
    """
    ideal, real = _pitch_powers(reference), _pitch_powers(heard)
    loud = _audible(ideal, 100).sum(1)
    spoken = loud > 1e4
    if spoken.any():
        # The response of the line is not damage as long as it is mild.
        of_ideal, of_real = (_audible(powers, 100)[spoken].mean(0) for powers in (ideal, real))
        ideal = ideal * np.clip((of_real + 1000) / (of_ideal + 1000), 0.01, 100)
    real = real * _steady_gain(ideal, real)
    of_ideal, of_real = _loudness(ideal), _loudness(real)
    unheard = DEAD_ZONE * np.minimum(of_ideal, of_real)
    differs = np.maximum(np.abs(of_real - of_ideal) - unheard, 0) * _WIDTH
    excess = ((real + 50) / (ideal + 50)) ** 1.2
    excess = np.where(excess < 3, 0, np.minimum(excess, 12))
    total = _WIDTH * BANDS
    # What disturbs a loud frame is heard less.
    masked = ((loud + 1e5) / 1e7) ** 0.04
    whole = np.sqrt((differs**2).sum(1) / total) * total / masked
    added = (differs * excess).sum(1) / masked
    return np.minimum(whole, MOST_DISTURBED), np.minimum(added, MOST_DISTURBED)


def _mapped(quality: NDArray[np.float64]) -> NDArray[np.float64]:
    """P.862.2's mapping onto 1…4.64."""
    return 0.999 + 4 / (1 + np.exp(-1.3669 * quality + 3.8224))


def curve(reference: Mono, heard: Mono, score: float) -> Values:
    """Quality over time whose mean is *score*: value t is centred on sample t * HOP, len // HOP + 1 of them.

    Args: see `disturbances`.
    """
    base, of_whole, of_added = WEIGHTS
    whole, added = (_worst_near(values) for values in disturbances(reference, heard))
    quality = base + of_whole * whole + of_added * added
    centred = quality[np.clip(np.arange(len(heard) // HOP + 1) - 1, 0, len(quality) - 1)].astype(np.float64)
    low, high = -20.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if _mapped(centred + middle).mean() < score else (low, middle)
    return _mapped(centred + low).astype(np.float32)


def _worst_near(values: Values) -> Values:
    powered = scipy.ndimage.uniform_filter1d(values.astype(np.float64) ** 6, SMOOTH_FRAMES, mode="nearest")
    return np.maximum(powered, 0) ** (1 / 6)


def clip_disturbance(values: Values) -> float:
    """One figure a clip: the worst of each 320 ms prevails, and these are averaged as powers."""
    starts = range(0, len(values), 10)
    parts = [np.mean(values[start : start + 20].astype(np.float64) ** 6) ** (1 / 6) for start in starts]
    return float(np.sqrt(np.mean(np.square(parts))))


def main(arguments: list[str] | None = None) -> None:
    """Fit `WEIGHTS` to PESQ on fresh clips, and print how well this model agrees with it."""
    # Only here: whoever makes labels imports this module.
    from training.corpus import add_arguments, read_corpus
    from training.quality.labels import Maker, score

    parser = argparse.ArgumentParser(prog="python -m training.quality.perceptual", description=main.__doc__)
    add_arguments(parser)
    parser.add_argument("--clips", type=int, default=300)
    options = parser.parse_args(arguments)
    maker = Maker(read_corpus(options.data), "val", options.runs, seed=5)
    rows, labels = [], []
    for attempt in range(options.clips):
        reference, heard = maker.pair(attempt)
        label = score(reference, heard)
        if label is not None:
            rows.append([1.0, *(clip_disturbance(values) for values in disturbances(reference, heard))])
            labels.append(label)
    measured, wanted = np.array(rows), np.array(labels)
    unmapped = (3.8224 - np.log(4 / (np.clip(wanted, 1.02, 4.64) - 0.999) - 1)) / 1.3669
    weights = np.linalg.lstsq(measured, unmapped, rcond=None)[0]
    agreed = {name: float(np.corrcoef(_mapped(measured @ np.array(used)), wanted)[0, 1])
              for name, used in (("as set", WEIGHTS), ("fitted here", weights))}  # fmt: skip
    print(json.dumps({"clips": len(labels), "weights": weights.round(4).tolist(), "lcc": agreed}, indent=1))


if __name__ == "__main__":
    main()
