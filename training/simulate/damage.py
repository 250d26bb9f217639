"""What happens to speech on its way: clipping, lost bands, coarse samples, codecs, lost packets. Each a small function.

All keep length and timing, take and give float32 waveforms, and act on one signal with plain parameters.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.corpus import Mono
from training.simulate.levels import frame_powers
from training.simulate.spectrum import band_gain, shape

CODECS: dict[str, tuple[str, str, int | None]] = {
    "opus": ("OGG", "OPUS", None),
    "vorbis": ("OGG", "VORBIS", None),
    "mp3": ("MP3", "MPEG_LAYER_III", None),
    "gsm": ("WAV", "GSM610", 8000),
    "adpcm": ("WAV", "IMA_ADPCM", None),
    "g721": ("AU", "G721_32", 8000),
}
"""Container, subtype and own rate of each codec, as libsndfile names them."""
WITH_LEVEL = frozenset({"opus", "vorbis", "mp3"})
"""Codecs that know a compression level, 0 (best) to 1."""


def _loud(samples: Mono, rate_hz: int) -> Mono:
    """Magnitudes of the samples in frames within 30 dB of the loudest: what a share of clipped speech is a share of."""
    powers = frame_powers(samples, rate_hz)
    size = round(0.02 * rate_hz)
    frames = np.abs(samples[: len(powers) * size]).reshape(-1, size)
    return frames[powers >= powers.max(initial=0.0) / 1000].ravel()


def hard_clip(samples: Mono, rate_hz: int, share: float) -> Mono:
    """Cut at the magnitude that *share* (0…1) of the samples of active speech pass."""
    limit = float(np.quantile(_loud(samples, rate_hz), 1 - share))
    return np.clip(samples, -limit, limit)


def soft_clip(samples: Mono, rate_hz: int, share: float) -> Mono:
    """Bend by a hyperbolic tangent whose knee is where `hard_clip` would cut."""
    limit = max(float(np.quantile(_loud(samples, rate_hz), 1 - share)), 1e-9)
    return (np.tanh(samples / limit) * limit).astype(np.float32)


def limit_band(samples: Mono, rate_hz: int, low_hz: float, high_hz: float, edge_share: float = 0.08) -> Mono:
    """Keep *low_hz*…*high_hz* (0 and half the rate leave that side alone)."""
    return shape(samples, rate_hz, band_gain(low_hz, high_hz, edge_share))


def narrow(samples: Mono, rate_hz: int, to_hz: int) -> Mono:
    """To another sample rate and back, as a narrow-band line does."""
    there = soxr.resample(samples, rate_hz, to_hz, quality="MQ")
    return fit(np.asarray(soxr.resample(there, to_hz, rate_hz, quality="MQ"), dtype=np.float32), len(samples))


def quantise(samples: Mono, bits: int, peak: float = 0.5) -> Mono:
    """Round to *bits* uniform bits, the signal's peak at *peak* of full scale."""
    scale = peak / max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    steps = 2.0 ** (bits - 1)
    return (np.rint(samples * scale * steps) / steps / scale).astype(np.float32)


def mu_law(samples: Mono, bits: int, peak: float = 0.5) -> Mono:
    """Round to *bits* bits of the mu law (ITU-T G.711 for 8)."""
    scale = peak / max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    mu = 255.0
    bent = np.sign(samples) * np.log1p(mu * np.abs(samples * scale)) / np.log1p(mu)
    steps = 2.0 ** (bits - 1)
    bent = np.clip(np.rint(bent * steps) / steps, -1, 1)
    return (np.sign(bent) * np.expm1(np.abs(bent) * np.log1p(mu)) / mu / scale).astype(np.float32)


def code(samples: Mono, rate_hz: int, codec: str, level: float = 0.0) -> Mono:
    """Encode and decode by one of `CODECS` at compression *level* 0…1 (ignored by those without one)."""
    container, subtype, own_rate_hz = CODECS[codec]
    there_hz = own_rate_hz or rate_hz
    source = samples if there_hz == rate_hz else soxr.resample(samples, rate_hz, there_hz, quality="MQ")
    gain = np.float32(0.7 / max(float(np.abs(source).max(initial=0.0)), 1e-9))
    options = {"compression_level": level} if codec in WITH_LEVEL else {}
    with io.BytesIO() as stream:
        soundfile.write(stream, source * gain, there_hz, format=container, subtype=subtype, **options)
        stream.seek(0)
        decoded, decoded_hz = soundfile.read(stream, dtype="float32")
    if decoded_hz != rate_hz:
        decoded = soxr.resample(decoded, decoded_hz, rate_hz, quality="MQ")
    return fit(np.asarray(decoded, dtype=np.float32) / gain, len(samples))


def lost_packets(rng: np.random.Generator, packets: int, share: float, burst: float) -> NDArray[np.bool_]:
    """Which of *packets* are lost: a two-state chain with *share* of losses in runs of mean length *burst*."""
    lost = np.zeros(packets, bool)
    begin = share / (burst * (1 - share)) if share < 1 else 1.0
    state = rng.random() < share
    for packet, chance in enumerate(rng.random(packets)):
        lost[packet] = state
        state = chance >= 1 / burst if state else chance < begin
    return lost


def lose_packets(samples: Mono, rate_hz: int, lost: NDArray[np.bool_], packet_s: float, repeat: float | None) -> Mono:
    """Take the *lost* packets out: to silence where *repeat* is None, else the packet before times *repeat*."""
    size = round(packet_s * rate_hz)
    heard = samples.copy()
    for packet in np.flatnonzero(lost):
        start, end = packet * size, min((packet + 1) * size, len(samples))
        before = heard[max(start - size, 0) : start]
        heard[start:end] = 0 if repeat is None or len(before) < size else before[: end - start] * np.float32(repeat)
    return heard


def fit(samples: Mono, count: int) -> Mono:
    """*samples* cut or padded with zeros to *count*."""
    return np.pad(samples, (0, max(count - len(samples), 0)))[:count]
