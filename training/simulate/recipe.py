"""Whole chains of damage, drawn at random with their parameters: what a score is trained and judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.corpus import Mono, Sounds
from training.simulate import damage
from training.simulate.denoise import spectral_subtraction, wiener
from training.simulate.mixture import at_snr
from training.simulate.noise import Noises
from training.simulate.rooms import draw_room, reverberate

Parameters = dict[str, float | str]
FAMILIES = {
    "noise": 0.38,
    "reverberation": 0.12,
    "clipping": 0.08,
    "band": 0.07,
    "coarse": 0.05,
    "loss": 0.09,
    "codec": 0.10,
    "denoised": 0.09,
    "clean": 0.02,
}
"""Shares of the kinds of damage."""
TWO_IN_A_ROW = 0.25
IN_PLACES = 0.15
"""Share of clips whose damage lies in one stretch only."""
EDGE_S = 0.005


@dataclass(frozen=True, slots=True)
class Step:
    """One damage done: its family and its parameters."""

    family: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Damaged:
    """A waveform after all *steps*, in order."""

    waveform: Mono
    steps: tuple[Step, ...]

    @property
    def family(self) -> str:
        """`clean`, the one family, or `two` where two damages lie on each other."""
        if len(self.steps) > 1:
            return "two"
        return self.steps[0].family


@dataclass(frozen=True, slots=True)
class Recipe:
    """Draws damage with the noises and rooms of one split."""

    rate_hz: int
    noises: Noises
    rooms: Sounds | None = None
    enhance: Callable[[Mono], Mono] | None = None
    """A trained enhancer, which damages in ways of its own."""

    def damage(self, rng: np.random.Generator, speech: Mono) -> Damaged:
        """*speech* after one random damage, or two of different families."""
        count = 2 if rng.random() < TWO_IN_A_ROW else 1
        families = rng.choice(list(FAMILIES), size=count, replace=False, p=np.array(list(FAMILIES.values())))
        place = self._place(rng, len(speech)) if rng.random() < IN_PLACES else None
        steps: list[Step] = []
        waveform = speech
        for family in families:
            if family == "clean" and count > 1:
                continue
            waveform, parameters = self.apply(rng, str(family), waveform)
            steps.append(Step(str(family), parameters))
        if place is not None and steps[0].family != "clean":
            waveform = _only_there(speech, waveform, *place, round(EDGE_S * self.rate_hz))
            steps[0].parameters.update(from_s=place[0] / self.rate_hz, to_s=place[1] / self.rate_hz)
        return Damaged(waveform, tuple(steps))

    def _place(self, rng: np.random.Generator, samples: int) -> tuple[int, int]:
        size = int(samples * rng.uniform(0.1, 0.7))
        start = int(rng.integers(samples - size))
        return start, start + size

    def apply(self, rng: np.random.Generator, family: str, speech: Mono) -> tuple[Mono, Parameters]:
        """One damage of *family* with random parameters."""
        own: dict[str, Callable[[np.random.Generator, Mono], tuple[Mono, Parameters]]] = {
            "noise": self._noise,
            "reverberation": self._reverberation,
            "denoised": self._denoised,
        }
        if family == "clean":
            return speech, {}
        if family in own:
            return own[family](rng, speech)
        plain = {"clipping": _clipping, "band": _band, "coarse": _coarse, "loss": _loss, "codec": _codec}
        return plain[family](rng, speech, self.rate_hz)

    def _noise(self, rng: np.random.Generator, speech: Mono) -> tuple[Mono, Parameters]:
        return self.noisy(rng, speech, float(rng.uniform(0.0, 48.0)))

    def noisy(self, rng: np.random.Generator, speech: Mono, snr_db: float) -> tuple[Mono, Parameters]:
        """*speech* with random noise at *snr_db*."""
        noise = self.noises.draw(rng, len(speech))
        mixed = speech + at_snr(speech, noise.waveform, self.rate_hz, snr_db)
        return mixed.astype(np.float32), {"snr_db": round(snr_db, 2), **noise.parameters}

    def _reverberation(self, rng: np.random.Generator, speech: Mono) -> tuple[Mono, Parameters]:
        room = draw_room(rng, self.rate_hz, recorded=self.rooms)
        return reverberate(speech, room), room.parameters

    def _denoised(self, rng: np.random.Generator, speech: Mono) -> tuple[Mono, Parameters]:
        noisy, parameters = self.noisy(rng, speech, float(rng.uniform(0.0, 40.0)))
        if self.enhance is not None and rng.random() < 0.4:
            wet = float(rng.uniform(0.5, 1.0))
            made = noisy + np.float32(wet) * (self.enhance(noisy) - noisy)
            return made, parameters | {"reducer": "net", "wet": round(wet, 3)}
        floor = float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
        if rng.random() < 0.5:
            over = float(rng.uniform(1.0, 4.0))
            parameters |= {"reducer": "subtraction", "over": round(over, 2)}
            return spectral_subtraction(noisy, over, floor), parameters
        smoothing = float(rng.uniform(0.6, 0.98))
        return wiener(noisy, smoothing, floor), parameters | {"reducer": "wiener", "smoothing": round(smoothing, 3)}


def _only_there(whole: Mono, damaged: Mono, start: int, end: int, edge: int) -> Mono:
    """*whole*, with what lies from *start* to *end* from *damaged*."""
    share = np.zeros(len(whole), np.float32)
    share[start:end] = 1
    share = np.convolve(share, np.full(2 * edge + 1, 1 / (2 * edge + 1), np.float32), "same")
    return (whole + (damaged - whole) * share).astype(np.float32)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _clipping(rng: np.random.Generator, speech: Mono, rate_hz: int) -> tuple[Mono, Parameters]:
    share = _log_uniform(rng, 0.001, 0.5)
    if rng.random() < 0.7:
        return damage.hard_clip(speech, rate_hz, share), {"share": round(share, 4), "knee": "hard"}
    return damage.soft_clip(speech, rate_hz, share), {"share": round(share, 4), "knee": "soft"}


def _band(rng: np.random.Generator, speech: Mono, rate_hz: int) -> tuple[Mono, Parameters]:
    kind = str(rng.choice(["low", "high", "band", "line"], p=[0.45, 0.2, 0.2, 0.15]))
    if kind == "line":
        return damage.narrow(speech, rate_hz, rate_hz // 2), {"line_hz": rate_hz // 2}
    low_hz = 0.0 if kind == "low" else _log_uniform(rng, 80, 600)
    high_hz = rate_hz / 2 if kind == "high" else float(rng.uniform(1500, 7500))
    limited = damage.limit_band(speech, rate_hz, low_hz, high_hz, edge_share=float(rng.uniform(0.03, 0.4)))
    return limited, {"low_hz": round(low_hz), "high_hz": round(high_hz)}


def _coarse(rng: np.random.Generator, speech: Mono, rate_hz: int) -> tuple[Mono, Parameters]:
    if rng.random() < 0.65:
        bits = int(rng.integers(5, 14))
        return damage.quantise(speech, bits), {"bits": bits}
    bits = int(rng.integers(4, 9))
    return damage.mu_law(speech, bits), {"mu_law_bits": bits}


def _loss(rng: np.random.Generator, speech: Mono, rate_hz: int) -> tuple[Mono, Parameters]:
    share, burst = _log_uniform(rng, 0.005, 0.3), float(rng.choice([1.0, 1.0, 2.0, 3.0]))
    packet_s = float(rng.choice([0.01, 0.02, 0.02, 0.04]))
    repeat = None if rng.random() < 0.5 else float(rng.uniform(0.5, 1.0))
    packets = int(len(speech) / (packet_s * rate_hz)) + 1
    lost = damage.lost_packets(rng, packets, share, burst)
    if not lost.any():
        lost[int(rng.integers(packets))] = True
    parameters: Parameters = {"share": round(share, 4), "burst": burst, "packet_s": packet_s}
    heard = damage.lose_packets(speech, rate_hz, lost, packet_s, repeat)
    return heard, parameters | {"fill": "silence" if repeat is None else "repeat"}


def _codec(rng: np.random.Generator, speech: Mono, rate_hz: int) -> tuple[Mono, Parameters]:
    names, weights = ["opus", "mp3", "vorbis", "gsm", "adpcm", "g721"], [0.4, 0.2, 0.15, 0.1, 0.1, 0.05]
    codec = str(rng.choice(names, p=weights))
    ranges = {"opus": (0.88, 1.0), "mp3": (0.0, 0.99), "vorbis": (0.3, 1.0)}
    level = round(float(rng.uniform(*ranges.get(codec, (0.0, 0.0)))), 3)
    return damage.code(speech, rate_hz, codec, level), {"codec": codec, "level": level}
