"""Front ends that live inside an export: STFT, its inverse, mel bands and the masks that keep a batch honest.

Everything here is plain tensor arithmetic, so that it runs in eager PyTorch, in TorchScript and in ONNX, with any batch
and any length. What lies past an item's length is silence: an item gives the same alone and in a padded batch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def valid(lengths: Tensor, size: int) -> Tensor:
    """True where a position lies within its item: [batch, size] from `lengths` [batch]."""
    return torch.arange(size, device=lengths.device).unsqueeze(0) < lengths.unsqueeze(1)


def silence_past(waveform: Tensor, lengths: Tensor) -> Tensor:
    """*waveform* [batch, samples] with zeros past each item's length, whatever the caller left there (even NaN)."""
    # Half as wide as int64, and one zero for all: of a short graph this is a cost that shows.
    place = torch.arange(waveform.shape[1], dtype=torch.int32, device=waveform.device).unsqueeze(0)
    zero = torch.zeros((), dtype=waveform.dtype, device=waveform.device)
    return torch.where(place < lengths.to(torch.int32).unsqueeze(1), waveform, zero)


def frame_counts(lengths: Tensor, hop: int) -> Tensor:
    """Frames of centred transforms of *lengths* samples: one at every multiple of *hop* from 0 on."""
    return torch.div(lengths, hop, rounding_mode="floor") + 1


def masked_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Mean over the valid part of the last axis: [batch, time] to [batch]."""
    mask = valid(lengths, values.shape[1]).to(values.dtype)
    return (values * mask).sum(1) / lengths.clamp(min=1).to(values.dtype)


def hann(size: int) -> NDArray[np.float64]:
    """Periodic Hann window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)


def mel_bank(
    sample_rate: int, n_fft: int, mels: int, low_hz: float = 0.0, high_hz: float | None = None
) -> NDArray[np.float64]:
    """Triangles of height 1 on the HTK mel scale, [n_fft // 2 + 1, mels]; equal to torchaudio's `htk` without norm."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    edges_mel = np.linspace(to_mel(low_hz), to_mel(high_hz if high_hz is not None else sample_rate / 2), mels + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, sample_rate // 2, n_fft // 2 + 1)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


class Frames(nn.Module):
    """Windowed frames of a waveform with silence on both sides, one centred on every multiple of *hop*.

    Args:
        window: n_fft values, the periodic Hann window unless given.
        padded: the waveform comes with n_fft // 2 samples on both sides, of something else than silence.
    """

    def __init__(self, n_fft: int, hop: int, window: NDArray[np.float64] | None = None, padded: bool = False) -> None:
        super().__init__()
        if n_fft % 2:
            raise ValueError("n_fft must be even")
        self.n_fft, self.hop, self.padded = n_fft, hop, padded
        self.block = math.gcd(n_fft, hop)
        self.register_buffer("window", _constant(hann(n_fft) if window is None else window), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, 1 + samples // hop, n_fft]."""
        # Blocks of the greatest common divisor are gathered whole: far cheaper than a gather of single samples.
        batch, half = waveform.shape[0], self.n_fft // 2
        if not self.padded:
            waveform = nn.functional.pad(waveform, [half, half])
        count = (waveform.shape[1] - self.n_fft) // self.hop + 1
        padded = waveform[:, : (count - 1) * self.hop + self.n_fft]
        blocks = padded.reshape(batch, -1, self.block)
        first = torch.arange(count, device=waveform.device) * (self.hop // self.block)
        index = first.unsqueeze(1) + torch.arange(self.n_fft // self.block, device=waveform.device).unsqueeze(0)
        return blocks[:, index].reshape(batch, -1, self.n_fft) * self.window


class Stft(nn.Module):
    """Centred short-time Fourier transform with silence on both sides: equal to `torch.stft(pad_mode="constant")`.

    A real DFT as two matrix products on folded frames: about the middle of a frame every cosine is even and every sine
    odd, so each product needs half of the frame only. Twice as cheap as a convolution with full kernels.

    Args:
        window: n_fft values, the periodic Hann window unless given.
    """

    def __init__(self, n_fft: int, hop: int, window: NDArray[np.float64] | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.frames = Frames(n_fft, hop, window)
        half = n_fft // 2
        angle = 2 * np.pi * (np.outer(np.arange(half + 1), np.arange(half + 1)) % n_fft) / n_fft
        self.register_buffer("cosine", _constant(np.cos(angle)), persistent=False)
        self.register_buffer("sine", _constant(-np.sin(angle[1:half])), persistent=False)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, samples] to real and imaginary part, each [batch, bins, 1 + samples // hop]."""
        frames = self.frames(waveform)
        half = self.n_fft // 2
        ahead, back = frames[..., 1:half], torch.flip(frames[..., half + 1 :], [-1])
        even = torch.cat([frames[..., :1], ahead + back, frames[..., half : half + 1]], -1)
        return (even @ self.cosine).transpose(1, 2), ((ahead - back) @ self.sine).transpose(1, 2)


class PowerSpectrum(nn.Module):
    """Squared magnitudes of the transform that `Stft` makes, in an order of its own: `bins[i]` is the bin of column i.

    A DFT of rows x columns points in two steps of matrix products (Cooley and Tukey), the twiddle factors folded into
    the second. Of 2048 points it needs an eighth of the products of `Stft`; who sums bins up, as a mel bank does, need
    not sort them.
    """

    def __init__(self, n_fft: int, hop: int, window: NDArray[np.float64] | None = None, padded: bool = False) -> None:
        super().__init__()
        self.frames = Frames(n_fft, hop, window, padded)
        self.rows = _cheapest_rows(n_fft)
        self.columns = n_fft // self.rows
        # A real signal: the upper half of the row frequencies mirrors the lower.
        low, row = np.arange(self.rows // 2 + 1), np.arange(self.rows)
        column = np.arange(self.columns)
        first = np.exp(-2j * np.pi * (np.outer(row, low) % self.rows) / self.rows)
        phase = low[:, None, None] * column[None, :, None] / n_fft + column[:, None] * column[None, :] / self.columns
        second = np.exp(-2j * np.pi * phase)
        self.register_buffer(
            "first", _constant(np.stack([first.real.T, first.imag.T], 1).reshape(-1, self.rows)), persistent=False
        )
        self.register_buffer("real", _constant(np.concatenate([second.real, -second.imag], 1)), persistent=False)
        self.register_buffer("imaginary", _constant(np.concatenate([second.imag, second.real], 1)), persistent=False)
        bins = low[:, None] + self.rows * column
        self.bins = np.minimum(bins, n_fft - bins).reshape(-1)

    def forward(self, waveform: Tensor) -> Tensor:
        """[batch, samples] to [batch, 1 + samples // hop, columns], as many as `bins`."""
        frames = self.frames(waveform)
        batch, low = frames.shape[0], self.rows // 2 + 1
        turned = self.first @ frames.reshape(-1, self.rows, self.columns)
        # From here on a row frequency is a batch of products of its own; only whole rows are moved.
        turned = turned.reshape(-1, low, 2 * self.columns).transpose(0, 1)
        real, imaginary = turned @ self.real, turned @ self.imaginary
        power = real * real + imaginary * imaginary
        return power.transpose(0, 1).reshape(batch, -1, low * self.columns)


def _cheapest_rows(n_fft: int) -> int:
    """The even divisor with the fewest products in both steps."""
    divisors = [rows for rows in range(2, n_fft + 1, 2) if n_fft % rows == 0]
    return min(divisors, key=lambda rows: (rows // 2 + 1) * (2 * n_fft + 4 * (n_fft // rows) ** 2))


class InverseStft(nn.Module):
    """Overlap-add of windowed inverse transforms over the sum of squared windows: undoes `Stft` of the same sizes.

    Only the item's own frames count in the divisor, so its last samples do not depend on how far the batch is padded.
    Near an item's end that divisor may be small; give `Stft` one hop of silence more than the item has where that
    matters.
    """

    def __init__(self, n_fft: int, hop: int, window: NDArray[np.float64] | None = None) -> None:
        super().__init__()
        if n_fft % hop:
            raise ValueError("hop must divide n_fft")
        self.n_fft, self.hop = n_fft, hop
        window = hann(n_fft) if window is None else window
        bins = np.arange(n_fft // 2 + 1)
        angle = 2 * np.pi * (np.outer(bins, np.arange(n_fft)) % n_fft) / n_fft
        # Every bin but the first and the last stands for its mirror image as well.
        weight = np.where((bins == 0) | (bins == n_fft // 2), 1.0, 2.0)[:, None] * window / n_fft
        self.register_buffer("cosine", _constant(weight * np.cos(angle)), persistent=False)
        self.register_buffer("sine", _constant(-weight * np.sin(angle)), persistent=False)
        self.register_buffer("squared", _constant(window**2), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor, frames: Tensor, samples: int) -> Tensor:
        """[batch, bins, time] twice, `frames` [batch] of them valid, to [batch, samples]; zeros elsewhere."""
        mask = valid(frames, real.shape[2]).to(real.dtype).unsqueeze(2)
        pieces = (real.transpose(1, 2) @ self.cosine + imaginary.transpose(1, 2) @ self.sine) * mask
        total, weight = self._overlap_add(pieces), self._overlap_add(mask * self.squared)
        summed = torch.where(weight > 1e-8, total / weight.clamp(min=1e-8), torch.zeros_like(total))
        half = self.n_fft // 2
        reach = nn.functional.pad(summed[:, half:], [0, samples])
        return reach[:, :samples]

    def _overlap_add(self, pieces: Tensor) -> Tensor:
        overlap = self.n_fft // self.hop
        blocks = pieces.reshape(pieces.shape[0], -1, overlap, self.hop)
        total = nn.functional.pad(blocks[:, :, 0], [0, 0, 0, overlap - 1])
        for index in range(1, overlap):
            total = total + nn.functional.pad(blocks[:, :, index], [0, 0, index, overlap - 1 - index])
        return total.reshape(pieces.shape[0], -1)


class LogMel(nn.Module):
    """Logarithm of mel band powers, [batch, mels, frames], with the number of valid frames of each item."""

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop: int,
        mels: int,
        low_hz: float = 0.0,
        high_hz: float | None = None,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.hop = hop
        self.spectrum = PowerSpectrum(n_fft, hop)
        bank = mel_bank(sample_rate, n_fft, mels, low_hz, high_hz)[self.spectrum.bins]
        _, once = np.unique(self.spectrum.bins, return_index=True)
        kept = np.isin(np.arange(len(bank)), once)[:, None]
        self.register_buffer("bank", _constant(bank * kept), persistent=False)

    def powers(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        return (self.spectrum(silence_past(waveform, lengths)) @ self.bank).transpose(1, 2)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return torch.log(self.powers(waveform, lengths) + self.floor), frame_counts(lengths, self.hop)


def _constant(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values.astype(np.float32)))
