"""How close enhanced speech is to its reference: SI-SDR, PESQ, STOI and levels. Takes arrays, knows no model."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Mono = NDArray[np.float32]


def si_sdr_db(reference: Mono, estimate: Mono) -> float:
    """Scale-invariant signal to distortion ratio (Le Roux et al., 2019) in dB, means removed, no re-alignment."""
    wanted = reference.astype(np.float64) - float(reference.mean(dtype=np.float64))
    given = estimate.astype(np.float64) - float(estimate.mean(dtype=np.float64))
    target = float(given @ wanted) / max(float(wanted @ wanted), 1e-20) * wanted
    return float(10 * np.log10((target @ target + 1e-20) / ((given - target) @ (given - target) + 1e-20)))


def pesq_wb(reference: Mono, estimate: Mono, rate_hz: int) -> float:
    """ITU-T P.862.2 score, 1.04…4.64; NaN where it finds no utterance."""
    from pesq import NoUtterancesError, pesq

    try:
        return float(pesq(rate_hz, reference, estimate, "wb"))
    except NoUtterancesError:
        return float("nan")


def stoi(reference: Mono, estimate: Mono, rate_hz: int) -> float:
    """Short-time objective intelligibility, 0…1."""
    from pystoi import stoi as short_time_intelligibility

    with warnings.catch_warnings():
        # It warns of clips with too little speech and returns 1e-5, which then shows in the mean.
        warnings.simplefilter("ignore")
        return float(short_time_intelligibility(reference, estimate, rate_hz))


def level_dbfs(samples: Mono) -> float:
    """RMS in dB of full scale, -140 at the least."""
    return float(20 * np.log10(max(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))), 1e-7)))
