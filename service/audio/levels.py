"""Plain measurements of a recording: how loud it is, and what is technically wrong with it. Constant memory, one pass.

Findings say where and how much; what they mean for a score is for others to say. Measure at the recording's own rate:
resampling blurs flat tops and zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.audio.bandwidth import Bandwidth
from service.audio.clipping import Clipping
from service.audio.gaps import HOP_S, Dropouts, Quiet
from service.audio.hum import Hum
from service.values import Finding, Samples

SILENT_BELOW = 1e-4
"""-80 dBFS: a recording whose every sample is below it is silent."""
ZERO = 1e-6
LOW_LEVEL_DBFS = -45.0
GATE_DB = 15.0
"""Parts this much below the mean are pauses and do not count for the level of speech."""
DC_OFFSET = 0.01
LEAST_S = 0.5
"""Shorter recordings are not judged as a whole."""
TENTH_HOPS = 100
SECOND_HOPS = 1000
SLAB_SAMPLES = 160_000
"""Measured at once, over all channels: calls on short arrays cost more than what they compute."""
MOST_SECONDS = 10
LOWEST_BIN_DB = -120


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """Levels over all channels; -inf dBFS where all samples are zero. Findings by kind, then in order."""

    peak_dbfs: float
    rms_dbfs: float
    silent: bool
    findings: tuple[Finding, ...]


class Levels:
    """Takes a recording block by block; what comes out does not depend on how it is cut.

    Value of each kind of finding: clipping, share of clipped samples; dropout, share that is lost; silence and
    low_level, dBFS; narrow_band, end of the band in Hz; dc_offset, mean of the samples of the channel that is worst;
    hum, 50 or 60 Hz.

    Args:
        sample_rate: in Hz.
        channels: of the blocks that are pushed.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._hop = max(1, round(HOP_S * sample_rate))
        self._second = self._hop * SECOND_HOPS
        seconds = min(max(1, SLAB_SAMPLES // (self._second * channels)), MOST_SECONDS)
        self._slab = np.zeros((channels, self._second * seconds), np.float32)
        self._filled = 0
        self._seen = 0
        self._peak_power = 0.0
        self._sum = np.zeros(channels)
        self._energy = 0.0
        self._active = _ActiveLevel()
        self._clipping = Clipping(sample_rate, channels)
        self._dropouts = Dropouts(self._hop / sample_rate)
        self._quiet = Quiet(self._hop * TENTH_HOPS / sample_rate)
        self._bandwidth = Bandwidth(sample_rate)
        self._hum = Hum(sample_rate)

    def push(self, block: Samples) -> None:
        """Take (channels, n) more."""
        at = 0
        while at < block.shape[1]:
            part = block[:, at : at + self._slab.shape[1] - self._filled]
            self._slab[:, self._filled : self._filled + part.shape[1]] = part
            self._filled += part.shape[1]
            at += part.shape[1]
            if self._filled == self._slab.shape[1]:
                self._measure(self._slab)
                self._filled = 0

    def finish(self) -> LevelFacts:
        """What was measured. Call it once."""
        if self._filled:
            self._measure(self._slab[:, : self._filled])
        mean_square = self._energy / max(1, self._seen * len(self._sum))
        silent = self._peak_power < SILENT_BELOW**2
        found = self._quiet.finish(self._seen / self._rate) if silent else self._findings()
        return LevelFacts(_db(self._peak_power), _db(mean_square), silent, tuple(found))

    def _measure(self, slab: Samples) -> None:
        start_s = self._seen / self._rate
        square = slab * slab
        self._seen += slab.shape[1]
        self._peak_power = max(self._peak_power, float(square.max()))
        self._sum += slab.sum(axis=1)
        self._clipping.push(slab, start_s, self._second)
        self._bandwidth.push(slab, self._second)
        self._hum.push(slab[0] if len(slab) == 1 else slab.mean(axis=0))
        hops = slab.shape[1] // self._hop
        power = _mean_of_each(_by_hop(square, hops, self._hop))
        self._energy += float(power.sum(dtype=np.float64)) * self._hop
        self._energy += float(square[:, hops * self._hop :].sum(dtype=np.float64))
        loudest = power.max(axis=0)
        self._dropouts.push(self._zero(slab, loudest), loudest)
        tenths = _mean_of_each(_by_hop(power, hops // TENTH_HOPS, TENTH_HOPS)).max(axis=0)
        self._quiet.push(tenths)
        self._active.push(tenths)

    def _zero(self, slab: Samples, power: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where every sample of a hop is zero; *power* is the hop's in its loudest channel."""
        zero = power < ZERO**2
        quiet = np.flatnonzero(zero)
        if len(quiet):
            samples = _by_hop(slab, len(power), self._hop)[:, quiet]
            zero[quiet] = np.abs(samples).max(axis=(0, 2)) < ZERO
        return zero

    def _findings(self) -> list[Finding]:
        duration_s = self._seen / self._rate
        found = [*self._clipping.finish(), *self._dropouts.finish(), *self._quiet.finish(duration_s)]
        if duration_s < LEAST_S:
            return found
        band_hz, hum_hz, level_dbfs = self._bandwidth.finish(), self._hum.finish(), self._active.finish()
        offset = max((self._sum / self._seen).tolist(), key=abs)
        if band_hz is not None:
            found.append(Finding("narrow_band", 0.0, duration_s, band_hz))
        if level_dbfs < LOW_LEVEL_DBFS:
            found.append(Finding("low_level", 0.0, duration_s, level_dbfs))
        if abs(offset) >= DC_OFFSET:
            found.append(Finding("dc_offset", 0.0, duration_s, offset))
        if hum_hz is not None:
            found.append(Finding("hum", 0.0, duration_s, hum_hz))
        return found


class _ActiveLevel:
    """The level of speech without its pauses, from a histogram of the level of each tenth of a second."""

    def __init__(self) -> None:
        self._count = np.zeros(-LOWEST_BIN_DB + 40)
        self._power = np.zeros(-LOWEST_BIN_DB + 40)

    def push(self, power: NDArray[np.float32]) -> None:
        bins = np.clip(10 * np.log10(power + 1e-12) - LOWEST_BIN_DB, 0, len(self._count) - 1).astype(int)
        np.add.at(self._count, bins, 1)
        np.add.at(self._power, bins, power)

    def finish(self) -> float:
        mean = _db(self._power.sum() / max(1.0, self._count.sum()))
        gate = min(max(0, int(max(mean - GATE_DB, LOWEST_BIN_DB) - LOWEST_BIN_DB)), len(self._count) - 1)
        return _db(self._power[gate:].sum() / max(1.0, self._count[gate:].sum()))


def _by_hop(values: NDArray[np.float32], count: int, size: int) -> NDArray[np.float32]:
    """(channels, n) → (channels, count, size)."""
    return values[:, : count * size].reshape(values.shape[0], count, size)


def _mean_of_each(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over a short last axis, as a matrix product: numpy's own sums are slow there."""
    size = values.shape[-1]
    means: NDArray[np.float32] = values @ np.full(size, 1 / size, np.float32)
    return means


def _db(power: float) -> float:
    return float(10 * np.log10(power)) if power > 0 else -float("inf")
