"""The network: a small dense residual net with a bounded receptive field, attention over time, and its export form.

After CP-ResNet (Koutini et al., "Receptive field regularization techniques for audio classification and tagging with
deep convolutional neural networks", 2021): early 3x3 kernels, later 1x1 ones, so that a frame hears about one second
and the net cannot learn clips by heart. Time is masked before every convolution wider than one frame, which makes an
item's answer independent of its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.frontend import LogMel, valid


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the front end and the net. `channels` are those of the stem and of the three stages."""

    sample_rate: int = 32_000
    n_fft: int = 2048
    hop: int = 640
    mels: int = 64
    low_hz: float = 40.0
    floor: float = 1e-4
    channels: tuple[int, int, int, int] = (24, 32, 64, 96)
    classes: int = 11

    @property
    def frame_step_s(self) -> float:
        """The stem halves time twice."""
        return 4 * self.hop / self.sample_rate

    @property
    def context_s(self) -> float:
        """Half of what one frame of the output hears: two strided kernels, five at the coarse step, one window."""
        hops = 1 + 2 + 5 * 4
        return (hops * self.hop + self.n_fft / 2) / self.sample_rate


STRETCH = 32
"""Frames of the crops that the net is taught on: 2.6 s."""


def front_end(shape: Shape) -> LogMel:
    return LogMel(shape.sample_rate, shape.n_fft, shape.hop, shape.mels, shape.low_hz, floor=shape.floor)


def halved(counts: Tensor) -> Tensor:
    """Frames that a kernel of 3 with stride 2 and padding 1 leaves."""
    return torch.div(counts + 1, 2, rounding_mode="floor")


def masked(features: Tensor, counts: Tensor) -> Tensor:
    """*features* [batch, channels, bands, time] with zeros past each item's frames."""
    mask = valid(counts, features.shape[3]).to(features.dtype)
    return features * mask.unsqueeze(1).unsqueeze(1)


class Block(nn.Module):
    """Two convolutions with a shortcut; the second may see one frame only."""

    def __init__(self, into: int, out: int, second: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(into, out, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, second, padding=second // 2, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if into == out else nn.Conv2d(into, out, 1, bias=False)

    def forward(self, features: Tensor, counts: Tensor) -> Tensor:
        hidden = torch.relu(self.first_norm(self.first(masked(features, counts))))
        hidden = self.second_norm(self.second(masked(hidden, counts)))
        return torch.relu(hidden + self.shortcut(features))


def most_in_a_stretch(presence: Tensor, weight: Tensor, mask: Tensor, stretch: int = STRETCH) -> Tensor:
    """The highest weighted mean of *presence* [batch, classes, time] over any *stretch* frames: [batch, classes].

    Weighed over stretches as long as those it was taught on, a bark is as present in a minute as in two seconds, and a
    recording cut into pieces gives what it gives as a whole.
    """
    half = stretch // 2
    total = nn.functional.avg_pool1d(nn.functional.pad(weight * presence, [half, half]), stretch, 1)
    weights = nn.functional.avg_pool1d(nn.functional.pad(weight, [half, half]), stretch, 1)
    means = (total / weights.clamp(min=1e-6))[:, :, : presence.shape[2]]
    return (means * mask.to(means.dtype)).amax(2)


class Net(nn.Module):
    """Log-mel bands to probabilities: of the clip, and of frames of four hops."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        stem, one, two, three = shape.channels
        self.level = nn.BatchNorm1d(shape.mels)
        self.stem_first = nn.Conv2d(1, stem, 3, stride=2, padding=1, bias=False)
        self.stem_first_norm = nn.BatchNorm2d(stem)
        self.stem_second = nn.Conv2d(stem, one, 3, stride=2, padding=1, bias=False)
        self.stem_second_norm = nn.BatchNorm2d(one)
        self.one = Block(one, one, 3)
        self.two = Block(one, two, 3)
        self.three = Block(two, three, 1)
        self.halve_bands = nn.MaxPool2d((2, 1))
        self.join = nn.Conv1d(2 * three, three, 1)
        self.dropout = nn.Dropout(0.2)
        self.presence = nn.Conv1d(three, shape.classes, 1)
        self.weight = nn.Conv1d(three, shape.classes, 1)

    def forward(self, bands: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bands [batch, mels, frames] to clip [batch, classes], frames [batch, time, classes] and their counts."""
        features = masked(self.level(bands).unsqueeze(1), counts)
        features = torch.relu(self.stem_first_norm(self.stem_first(features)))
        counts = halved(counts)
        features = torch.relu(self.stem_second_norm(self.stem_second(masked(features, counts))))
        counts = halved(counts)
        features = self.halve_bands(self.one(features, counts))
        features = self.halve_bands(self.two(features, counts))
        features = self.three(features, counts)
        frames = torch.cat([features.mean(2), features.amax(2)], 1)
        frames = self.dropout(torch.relu(self.join(self.dropout(frames))))
        presence = torch.sigmoid(self.presence(frames))
        mask = valid(counts, presence.shape[2]).unsqueeze(1)
        # Bounded, so that no frame can take all the attention and a sound in few frames still counts.
        weight = torch.exp(5.0 * torch.tanh(self.weight(frames) / 5.0)) * mask.to(presence.dtype)
        if self.training:
            clip = (weight * presence).sum(2) / weight.sum(2)
        else:
            clip = most_in_a_stretch(presence, weight, mask)
        return clip, (presence * mask.to(presence.dtype)).transpose(1, 2), counts


class Export(nn.Module):
    """Front end and net in one graph: waveform in, probabilities out."""

    def __init__(self, shape: Shape, net: Net) -> None:
        super().__init__()
        self.front_end = front_end(shape)
        self.net = net

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bands, counts = self.front_end(waveform, lengths)
        return self.net(bands, counts)
