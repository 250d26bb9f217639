"""The front end that the nets of DCASE share: pre-emphasis, a mirrored edge, Kaldi's mel bands, a fixed scale.

Weights trained on these features need them to the letter: with another library's default mel bank they answer nonsense
and no error says so. The mirror follows each item's own length, so an item hears the same alone and in a padded batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.frontend import PowerSpectrum, frame_counts

PRE_EMPHASIS = 0.97
FLOOR = 1e-5
SHIFT, SCALE = 4.5, 5.0
"""Features are (ln(mel + 1e-5) + 4.5) / 5: about -1.4 of silence, 1 of loud sound."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """How features are made of a waveform. `window` samples of a symmetric Hann window lie in the middle of `n_fft`."""

    sample_rate: int = 32_000
    n_fft: int = 2048
    window: int = 2000
    hop: int = 500
    mels: int = 256
    low_hz: float = 0.0
    high_hz: float = 16_000.0

    def frames(self, samples: int) -> int:
        """Frames of so many samples; pre-emphasis takes one away."""
        return 1 + (samples - 1) // self.hop

    def __str__(self) -> str:
        return (
            f"{self.mels} Kaldi mel bands of {self.low_hz:g} to {self.high_hz:g} Hz, n_fft {self.n_fft}, window "
            f"{self.window}, hop {self.hop} at {self.sample_rate} Hz"
        )


FINE = Hearing()
"""64 frames of a second: what the small nets were last trained on."""
COARSE = Hearing(window=2048, hop=744)
"""44 frames of a second: the winner's of 2022."""
PASST = Hearing(n_fft=1024, window=800, hop=320, mels=128)
"""100 frames of a second. Weights of AudioSet want 15 kHz as the highest edge."""


def kaldi_bank(hearing: Hearing) -> NDArray[np.float64]:
    """Triangles of height 1, straight on the mel scale 1127 ln(1 + f / 700): [n_fft // 2 + 1, mels], the last bin 0."""

    def to_mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(hz) / 700.0)

    edges = np.linspace(to_mel(hearing.low_hz), to_mel(hearing.high_hz), hearing.mels + 2)
    bins = to_mel(np.arange(hearing.n_fft // 2) * hearing.sample_rate / hearing.n_fft)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.pad(np.maximum(0.0, np.minimum(rising, falling)), ((0, 1), (0, 0)))


def hann_within(hearing: Hearing) -> NDArray[np.float64]:
    """The symmetric Hann window of `window` samples with zeros on both sides: [n_fft]."""
    before = (hearing.n_fft - hearing.window) // 2
    return np.pad(np.hanning(hearing.window), (before, hearing.n_fft - hearing.window - before))


class KaldiLogMel(nn.Module):
    """Features of a waveform: [batch, samples], [batch] to [batch, mels, frames], and the true frames of each item."""

    def __init__(self, hearing: Hearing) -> None:
        super().__init__()
        self.hop, self.half = hearing.hop, hearing.n_fft // 2
        self.spectrum = PowerSpectrum(hearing.n_fft, hearing.hop, hann_within(hearing), padded=True)
        bins = self.spectrum.bins
        bank = kaldi_bank(hearing)[bins]
        _, once = np.unique(bins, return_index=True)
        bank = bank * np.isin(np.arange(len(bank)), once)[:, None]
        self.register_buffer("bank", torch.from_numpy(bank.astype(np.float32)), persistent=False)
        # TorchScript sees a module's own values, not those of its file.
        self.emphasis, self.floor, self.shift, self.scale = PRE_EMPHASIS, FLOOR, SHIFT, SCALE

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        left = lengths - 1
        emphasised = waveform[:, 1:] - self.emphasis * waveform[:, :-1]
        power = self.spectrum(mirrored(emphasised, left, self.half))
        bands = (power @ self.bank).transpose(1, 2)
        return (torch.log(bands + self.floor) + self.shift) / self.scale, frame_counts(left, self.hop)


def mirrored(waveform: Tensor, lengths: Tensor, reach: int) -> Tensor:
    """*waveform* [batch, samples] with *reach* samples on both sides, mirrored at its first and at its own last sample.

    What lies past an item's length is never read. Where an item is shorter than *reach*, it is mirrored again.
    """
    place = torch.arange(waveform.shape[1] + 2 * reach, device=waveform.device).unsqueeze(0) - reach
    period = (2 * (lengths - 1)).clamp(min=1).unsqueeze(1)
    turned = torch.remainder(place, period)
    return torch.gather(waveform, 1, torch.minimum(turned, period - turned))


class Waveform(nn.Module):
    """The front end of a net that hears samples as they are."""

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return waveform, lengths
