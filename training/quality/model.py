"""Quality-Net with a strided front: PESQ-WB of speech without its reference, as the mean of a curve over time.

After Fu et al., "Quality-Net" (Interspeech 2018): frames through a bidirectional LSTM, one score a frame, the clip's
score their mean. Ours differs in what its numbers must survive in a batching server: the level is taken out over the
true length, nothing past it is heard, and both directions of the LSTM run over true frames only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.frontend import PowerSpectrum, Stft, frame_counts, masked_mean, mel_bank, silence_past, valid

RATE_HZ = 16000
SIZE, HOP = 512, 256
BINS = SIZE // 2 + 1
LEAST, MOST = 1.0, 4.64
HEADROOM = 20.0
"""The waveform is brought to an RMS of 1 / 20 before its spectrum is taken."""
QUIET = 1e-6
"""Below this RMS (-120 dBFS) the level is no longer taken out."""
FLOOR = 1e-10
START = 2.5
"""What an untrained net answers: the middle of evenly spread labels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the net. `bands` 0 feeds the bins as they are; `strides` multiply to frames per score."""

    bands: int = 0
    channels: int = 128
    strides: tuple[int, ...] = (2, 2)
    hidden: int = 64
    layers: int = 1
    dropout: float = 0.2

    @property
    def step(self) -> int:
        """Frames of 16 ms from one score to the next."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product

    @property
    def step_s(self) -> float:
        return self.step * HOP / RATE_HZ

    def table(self) -> dict[str, Any]:
        """What a run's settings and `from_table` hold."""
        return asdict(self) | {"strides": list(self.strides)}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Shape:
        return cls(**(dict(table) | {"strides": tuple(table["strides"])}))


class LogSpectrum(nn.Module):
    """Log magnitudes of the waveform at a fixed level: [batch, samples] to [batch, time, 257], about -2…2."""

    def __init__(self) -> None:
        super().__init__()
        self.stft = Stft(SIZE, HOP)
        # TorchScript sees a module's own numbers, not those of its file.
        self.hop, self.quiet, self.headroom, self.floor = HOP, QUIET, HEADROOM, FLOOR

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        heard = silence_past(waveform, lengths)
        power = (heard * heard).sum(1) / lengths.clamp(min=1).to(heard.dtype)
        level = torch.sqrt(power).clamp(min=self.quiet) * self.headroom
        real, imaginary = self.stft(heard / level.unsqueeze(1))
        features = (torch.log10(real * real + imaginary * imaginary + self.floor) + 4.0) / 3.0
        return features.transpose(1, 2), frame_counts(lengths, self.hop)


class StridedConvolution(nn.Module):
    """Convolution over time that thins it out; value i lies where frame `i * stride` lay. Past the end stays zero."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv1d(inputs, outputs, 5, stride, padding=2)

    def forward(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, inputs, time] to [batch, outputs, time / stride], with the lengths that remain."""
        thinned = torch.relu(self.convolution(values))
        left = torch.div(lengths + (self.stride - 1), self.stride, rounding_mode="floor")
        return thinned * valid(left, thinned.shape[2]).to(thinned.dtype).unsqueeze(1), left


class QualityNet(nn.Module):
    """The whole of it: waveform to score and curve."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.front = LogSpectrum()
        self.least, self.range = LEAST, MOST - LEAST
        self.bands = _bands(shape.bands) if shape.bands else nn.Identity()
        sizes = [shape.bands or BINS] + [shape.channels] * len(shape.strides)
        self.convolutions = nn.ModuleList(
            StridedConvolution(inputs, outputs, stride)
            for inputs, outputs, stride in zip(sizes[:-1], sizes[1:], shape.strides, strict=True)
        )
        self.dropout = nn.Dropout(shape.dropout)
        self.memory = nn.LSTM(
            sizes[-1], shape.hidden, shape.layers, batch_first=True, bidirectional=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
        )  # fmt: skip
        self.hidden = nn.Linear(2 * shape.hidden, 50)
        self.score = nn.Linear(50, 1)
        share = (START - LEAST) / (MOST - LEAST)
        nn.init.constant_(self.score.bias, torch.logit(torch.tensor(share)).item())

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, samples], [batch] to score [batch], frames [batch, time] (0 past the end), frame_lengths [batch]."""
        features, counts = self.front(waveform, lengths)
        return self.judge(features, counts)

    @torch.jit.export
    def judge(self, features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from features [batch, time, 257] of which `counts` [batch] frames are true."""
        heard = valid(counts, features.shape[1]).to(features.dtype).unsqueeze(2)
        values, left = (self.bands(features) * heard).transpose(1, 2), counts
        for convolution in self.convolutions:
            values, left = convolution(values, left)
        packed = pack_padded_sequence(
            self.dropout(values.transpose(1, 2)), left.cpu(), batch_first=True, enforce_sorted=False
        )
        unfolded, _ = pad_packed_sequence(self.memory(packed)[0], batch_first=True)
        raw = self.score(self.dropout(nn.functional.elu(self.hidden(unfolded)))).squeeze(2)
        frames = self.least + self.range * torch.sigmoid(raw)
        frames = frames * valid(left, frames.shape[1]).to(frames.dtype)
        return masked_mean(frames, left), frames, left


class ServedNet(nn.Module):
    """`QualityNet` as its ONNX export computes it: the same answers from a spectrum at half the cost.

    The first layer takes the bins in the order in which `PowerSpectrum` makes them, and holds what the features are
    scaled by. Only a zero of the features must stay one, since it is what pads them.
    """

    def __init__(self, net: QualityNet) -> None:
        super().__init__()
        self.spectrum = PowerSpectrum(SIZE, HOP)
        self.net = deepcopy(net)
        self.hop, self.quiet, self.floor = HOP, QUIET, FLOOR * 1e4
        self.headroom = HEADROOM * 1e-2  # (log10 p + 4) / 3 = ln(10^4 p) / (3 ln 10)
        if isinstance(self.net.bands, nn.Linear):
            self.net.bands.weight = _reordered(self.net.bands.weight, self.spectrum.bins)
        else:
            first = self.net.convolutions[0].convolution
            first.weight = _reordered(first.weight, self.spectrum.bins)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `QualityNet`."""
        heard = silence_past(waveform, lengths)
        power = (heard * heard).sum(1) / lengths.clamp(min=1).to(heard.dtype)
        level = torch.sqrt(power).clamp(min=self.quiet) * self.headroom
        features = torch.log(self.spectrum(heard / level.unsqueeze(1)) + self.floor)
        return self.net.judge(features, frame_counts(lengths, self.hop))


def _reordered(weight: Tensor, bins: NDArray[np.int64]) -> nn.Parameter:
    """*weight* [outputs, 257, ...] for features that are natural logarithms in the order *bins*; a bin counts once."""
    _, once = np.unique(bins, return_index=True)
    taken = torch.zeros(weight.shape[0], len(bins), *weight.shape[2:])
    taken[:, once] = weight.detach() / (3 * math.log(10))
    return nn.Parameter(taken)


def _bands(count: int) -> nn.Linear:
    """Means of log magnitudes over mel bands, as a start: the weights learn on."""
    layer = nn.Linear(BINS, count)
    bank = torch.from_numpy(mel_bank(RATE_HZ, SIZE, count)).float()
    # The lowest bands are narrower than a bin: let each hear at least the bin that is nearest to it.
    nearest = bank.argmax(0)
    bank[nearest, torch.arange(count)] += 1e-3
    with torch.no_grad():
        layer.weight.copy_((bank / bank.sum(0, keepdim=True)).T)
        layer.bias.zero_()
    return layer


def loss(scores: Tensor, frames: Tensor, counts: Tensor, labels: Tensor, anchor: float = 4.5) -> Tensor:
    """Squared error of the clip, and of each frame weighted 10^(label - anchor): clean clips are clean throughout.

    The frame constraint of Fu et al. (2018); *anchor* 5 gives the curve more freedom.
    """
    per_frame = masked_mean((frames - labels.unsqueeze(1)) ** 2, counts)
    return ((scores - labels) ** 2 + 10.0 ** (labels - anchor) * per_frame).mean()


def curve_loss(
    scores: Tensor, frames: Tensor, counts: Tensor, labels: Tensor, curves: Tensor, weight: float = 0.5
) -> Tensor:
    """Squared error of the clip, and of each frame against where the damage is heard.

    Args:
        curves: [batch, time] at the frames of the features, see `training.quality.perceptual.curve`.
    """
    step = -(-curves.shape[1] // frames.shape[1])
    # Value i of a net that thins out by `step` speaks for the frames around i * step.
    padded = nn.functional.pad(curves.unsqueeze(1), [step // 2, step], mode="replicate")
    wanted = nn.functional.avg_pool1d(padded, step)[:, 0, : frames.shape[1]]
    return ((scores - labels) ** 2 + weight * masked_mean((frames - wanted) ** 2, counts)).mean()
