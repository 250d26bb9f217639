"""Speech and noise at a ratio, with the target a noise reducer should reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.corpus import Mono
from training.simulate.levels import SILENT, active_rms, from_db, rms
from training.simulate.rooms import EARLY_S, Room, early_part, reverberate


@dataclass(frozen=True, slots=True)
class Mixture:
    """What is heard, and what of it should be left: same length, same timing."""

    noisy: Mono
    clean: Mono


def at_snr(speech: Mono, noise: Mono, rate_hz: int, snr_db: float) -> Mono:
    """*noise* scaled to lie *snr_db* below *speech*: the speech's active level against the noise's RMS.

    Silent speech or silent noise gives back the noise unscaled.
    """
    speech_level, noise_level = active_rms(speech, rate_hz), rms(noise)
    if speech_level < SILENT or noise_level < SILENT:
        return noise
    return (noise * np.float32(speech_level * from_db(-snr_db) / noise_level)).astype(np.float32)


def mix(
    speech: Mono, noise: Mono | None, rate_hz: int, snr_db: float, room: Room | None = None, early_s: float = EARLY_S
) -> Mixture:
    """*speech*, in *room* if given, with *noise* at *snr_db*; `clean` has the room's first *early_s* and no noise."""
    heard = speech if room is None else reverberate(speech, room)
    clean = speech if room is None else reverberate(speech, early_part(room, rate_hz, early_s))
    noisy = heard if noise is None else heard + at_snr(heard, noise, rate_hz, snr_db)
    return Mixture(noisy.astype(np.float32), clean.astype(np.float32))
