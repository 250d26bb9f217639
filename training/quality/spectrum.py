"""What a quality net hears: 257 magnitudes every 16 ms, and the frame of every net that judges them.

`served` makes of a net the one that is exported: the same answers from a spectrum at half the cost.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.frontend import PowerSpectrum, Stft, frame_counts, hann, silence_past

RATE_HZ = 16000
SIZE, HOP = 512, 256
BINS = SIZE // 2 + 1
HEARD_BINS = 7000 * SIZE // RATE_HZ + 1
"""Of our own nets: P.862.2 is defined up to 7 kHz, and collections of speech differ in what lies above."""
HEADROOM = 20.0
"""By `rms`, the waveform is brought to an RMS of 1 / 20 before its spectrum is taken."""
QUIET = 1e-6
"""Below this level (-120 dBFS) the level is no longer taken out."""
FLOOR = 1e-10
LOG_SCALE = 1e4
"""What powers are multiplied by before their logarithm is taken."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """How features are made of a waveform.

    Attributes:
        feature: `log` is (log10(power + 1e-10) + 4) / 3, about -2…2; `magnitude` is the root of the power.
        window: periodic, of 512 samples.
        level: what the waveform is divided by, over its true length: 20 times its RMS, its peak, or nothing.
    """

    feature: Literal["log", "magnitude"] = "log"
    window: Literal["hann", "hamming"] = "hann"
    level: Literal["rms", "peak", "none"] = "rms"

    def taps(self) -> NDArray[np.float64]:
        return hann(SIZE) if self.window == "hann" else 0.08 + 0.92 * hann(SIZE)

    def __str__(self) -> str:
        return f"{self.feature}, {self.window}, level {self.level}"


OURS = Hearing()
"""What our own nets hear."""


class Level(nn.Module):
    """Silences what lies past each item's end and takes its level out; *scale* comes on top."""

    def __init__(self, level: str, scale: float = 1.0) -> None:
        super().__init__()
        # TorchScript sees a module's own values, not those of its file.
        self.level, self.quiet, self.scale = level, QUIET, scale
        self.headroom = HEADROOM

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """[batch, samples], [batch] to [batch, samples]."""
        heard = silence_past(waveform, lengths)
        if self.level == "rms":
            power = (heard * heard).sum(1) / lengths.clamp(min=1).to(heard.dtype)
            return heard / (torch.sqrt(power).clamp(min=self.quiet) * (self.headroom / self.scale)).unsqueeze(1)
        if self.level == "peak":
            return heard / (heard.abs().amax(1).clamp(min=self.quiet) / self.scale).unsqueeze(1)
        return heard * self.scale


class Spectrum(nn.Module):
    """Features as a `Hearing` says: [batch, samples] to [batch, time, 257], and the true frames of each item."""

    def __init__(self, hearing: Hearing = OURS) -> None:
        super().__init__()
        self.hearing = hearing
        self.stft = Stft(SIZE, HOP, hearing.taps())
        self.level = Level(hearing.level)
        self.log, self.hop, self.floor = hearing.feature == "log", HOP, FLOOR

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        real, imaginary = self.stft(self.level(waveform, lengths))
        power = real * real + imaginary * imaginary
        features = (torch.log10(power + self.floor) + 4.0) / 3.0 if self.log else torch.sqrt(power)
        return features.transpose(1, 2), frame_counts(lengths, self.hop)


class ServedSpectrum(nn.Module):
    """`Spectrum` with its bins in the order of `bins` and as large as `scale` says: who hears it must know both."""

    def __init__(self, hearing: Hearing) -> None:
        super().__init__()
        self.hearing = hearing
        self.spectrum = PowerSpectrum(SIZE, HOP, hearing.taps())
        self.bins = self.spectrum.bins
        self.log, self.hop = hearing.feature == "log", HOP
        # (log10 p + 4) / 3 = ln(10^4 p) / (3 ln 10)
        self.level = Level(hearing.level, math.sqrt(LOG_SCALE) if self.log else 1.0)
        self.floor = FLOOR * LOG_SCALE
        self.scale = 3 * math.log(10) if self.log else 1.0

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        power = self.spectrum(self.level(waveform, lengths))
        features = torch.log(power + self.floor) if self.log else torch.sqrt(power)
        return features, frame_counts(lengths, self.hop)


class Judge(nn.Module):
    """From waveform to score and curve. A net has `judge`, from features, and names the weights that meet them first.

    The score is the mean of the curve. An item gives the same alone and in a padded batch.
    """

    def __init__(self, hearing: Hearing = OURS) -> None:
        super().__init__()
        self.front = Spectrum(hearing)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, samples], [batch] to score [batch], frames [batch, time] (0 past the end), frame_lengths [batch]."""
        features, counts = self.front(waveform, lengths)
        return self.judge(features, counts)

    @torch.jit.export
    def judge(self, features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from features [batch, time, 257] of which `counts` [batch] frames are true."""
        raise NotImplementedError

    def first(self) -> list[tuple[nn.Module, str]]:
        """The weights [outputs, 257, ...] that meet the features: whose they are, and their name there."""
        raise NotImplementedError


def served(net: nn.Module) -> Judge:
    """*net* (a `Judge`, left as it is) as its ONNX export computes it.

    The first weights take the bins in the order in which `PowerSpectrum` makes them, and hold what the features are
    scaled by. Only a zero of the features must stay one, since it is what pads them.
    """
    assert isinstance(net, Judge)
    fast = deepcopy(net)
    front = ServedSpectrum(net.front.hearing)
    for layer, name in fast.first():
        setattr(layer, name, _reordered(getattr(layer, name), front.bins, front.scale))
        if isinstance(layer, nn.LSTM):
            layer.input_size = len(front.bins)
    fast.front = front
    return fast


def _reordered(weight: Tensor, bins: NDArray[np.int64], scale: float) -> nn.Parameter:
    """*weight* [outputs, 257, ...] for features *scale* times as large in the order *bins*; a bin counts once."""
    _, once = np.unique(bins, return_index=True)
    taken = torch.zeros(weight.shape[0], len(bins), *weight.shape[2:])
    taken[:, once] = weight.detach() / scale
    return nn.Parameter(taken)
