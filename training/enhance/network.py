"""The enhancer as a network: waveform and lengths in, enhanced waveform out, front end and synthesis inside.

Owns the layers and their causality. Knows nothing of data, losses or files.

Each frame spans 512 samples and the frames step by 256, the first one starting 256 samples before the recording: a
block of 256 output samples needs the block after it and nothing later. A U-shaped net of convolutions, causal in
time, sees neighbouring bins; one recurrent layer over all bands at its narrow end remembers the noise. Its output is a
complex mask per bin that starts at exactly 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.frontend import InverseStft, Stft, frame_counts, hann, silence_past

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 512
HOP_SAMPLES = 256
BINS = FRAME_SAMPLES // 2 + 1
PATCH = 8
BANDS = (BINS - 1) // PATCH
MASK_LIMIT = 1.2
SLOPE = 0.1
COMPRESSION = 0.3
POWER_FLOOR = 1e-8


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of the net: channels of 32 bands and of 16, dilations in frames of the blocks at 16 bands, the GRU."""

    fine: int = 48
    coarse: int = 64
    dilations: tuple[int, ...] = (1,)
    recurrent: int = 192


class Patches(nn.Module):
    """Features (batch, frames, 256, 3) to bands (batch, frames, 32, width): one linear map of 16 bins every 8."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(2 * PATCH * features, width)
        self.place = nn.Parameter(torch.zeros(BANDS, width))
        self.bend = nn.LeakyReLU(SLOPE)
        self.half = PATCH // 2
        self.blocks = BANDS + 1

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, [0, 0, self.half, self.half])
        blocks = padded.reshape(x.shape[0], x.shape[1], self.blocks, -1)
        patches = torch.cat([blocks[:, :, :-1], blocks[:, :, 1:]], 3)
        return self.bend(self.weigh(patches) + self.place)


class Bins(nn.Module):
    """Bands (batch, frames, 32, width) to values (batch, frames, 256, 2): 16 bins of each, added where they overlap.

    Starts at zero everywhere.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Linear(width, 4 * PATCH)
        nn.init.zeros_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)
        self.half = PATCH // 2
        self.values = 2 * PATCH

    def forward(self, x: Tensor) -> Tensor:
        spread = self.spread(x)
        first, second = spread[..., : self.values], spread[..., self.values :]
        blocks = functional.pad(first, [0, 0, 0, 1]) + functional.pad(second, [0, 0, 1, 0])
        return blocks.reshape(x.shape[0], x.shape[1], -1, 2)[:, :, self.half : -self.half]


class Block(nn.Module):
    """Residual 3 x 3 convolution over (frames, bands) that sees no later frame."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.past = 2 * dilation
        self.conv = nn.Conv2d(width, width, 3, padding=(0, 1), dilation=(dilation, 1))
        self.bend = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        across = functional.pad(x, [0, 0, 0, 0, self.past, 0]).permute(0, 3, 1, 2)
        return x + self.bend(self.conv(across)).permute(0, 2, 3, 1)


class Memory(nn.Module):
    """One GRU over all bands of a frame at once, added to what comes in.

    In training half of the items start from a random state: it learns to forget, so that pieces of a long recording
    that overlap by a few seconds agree with one pass.
    """

    def __init__(self, bands: int, width: int, recurrent: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(bands * width, recurrent)
        self.recur = nn.GRU(recurrent, recurrent, batch_first=True)
        self.widen = nn.Linear(recurrent, bands * width)
        self.bend = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(1, x.shape[0], self.recur.hidden_size, dtype=x.dtype, device=x.device)
        if self.training:
            start = (2 * torch.rand_like(start) - 1) * (torch.rand_like(start[:, :, :1]) < 0.5)
        remembered, _ = self.recur(self.bend(self.narrow(x.flatten(2))), start)
        return x + self.widen(remembered).reshape(x.shape)


class Masker(nn.Module):
    """Features of a spectrum, (batch, frames, 256, 3), to the mask's two values a bin, (batch, frames, 256, 2)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.enter = Patches(3, shape.fine)
        self.down = nn.Linear(2 * shape.fine, shape.coarse)
        self.blocks = nn.Sequential(*(Block(shape.coarse, dilation) for dilation in shape.dilations))
        self.memory = Memory(BANDS // 2, shape.coarse, shape.recurrent)
        self.up = nn.Linear(shape.coarse, 2 * shape.fine)
        self.polish = Block(shape.fine, 1)
        self.leave = Bins(shape.fine)
        self.bend = nn.LeakyReLU(SLOPE)
        self.pairs = BANDS // 2

    def forward(self, x: Tensor) -> Tensor:
        fine = self.enter(x)
        pairs = fine.reshape(x.shape[0], x.shape[1], self.pairs, -1)
        coarse = self.memory(self.blocks(self.bend(self.down(pairs))))
        return self.leave(self.polish(self.bend(self.up(coarse).reshape(fine.shape) + fine)))


class Enhancer(nn.Module):
    """Waveform to waveform: `forward(waveform [batch, samples], lengths [batch]) -> enhanced [batch, samples]`.

    Silence stays silence, an item gives the same alone and in a padded batch, and sample i answers sample i.
    """

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        window = np.sqrt(hann(FRAME_SAMPLES))
        self.stft = Stft(FRAME_SAMPLES, HOP_SAMPLES, window)
        self.inverse = InverseStft(FRAME_SAMPLES, HOP_SAMPLES, window)
        self.masker = Masker(shape or Shape())
        self.limit = MASK_LIMIT
        self.opening = math.atanh(1 / MASK_LIMIT)
        self.hop = HOP_SAMPLES
        self.floor = POWER_FLOOR
        self.exponent = 0.5 * (COMPRESSION - 1)

    def spectra(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts [batch, 257, frames], with one hop of silence behind each item."""
        return self.stft(functional.pad(silence_past(waveform, lengths), [0, self.hop]))

    def mask(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary part of the mask, [batch, 257, frames] as what it is made from."""
        log_power = torch.log(real * real + imaginary * imaginary + self.floor)
        gain = torch.exp(log_power * self.exponent)
        loudness = log_power * 0.1 + 1.0
        features = torch.stack([real * gain, imaginary * gain, loudness], 3).transpose(1, 2)
        raw = self.masker(features[:, :, :-1])
        # The last bin, at half the rate, goes with its neighbour.
        raw = torch.cat([raw, raw[:, :, -1:]], 2).transpose(1, 2)
        return self.limit * torch.tanh(raw[..., 0] + self.opening), self.limit * torch.tanh(raw[..., 1])

    def enhance_spectra(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        across, turn = self.mask(real, imaginary)
        return real * across - imaginary * turn, real * turn + imaginary * across

    def synthesise(self, real: Tensor, imaginary: Tensor, lengths: Tensor, samples: int) -> Tensor:
        frames = frame_counts(lengths + self.hop, self.hop)
        return silence_past(self.inverse(real, imaginary, frames, samples), lengths)

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        real, imaginary = self.spectra(waveform, lengths)
        real, imaginary = self.enhance_spectra(real, imaginary)
        return self.synthesise(real, imaginary, lengths, waveform.shape[1])
