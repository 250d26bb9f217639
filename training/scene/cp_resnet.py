"""CP-ResNet: a dense residual net whose later kernels are 1x1, so that its receptive field stays where it learns best.

After Koutini, Eghbal-zadeh and Widmer, "Receptive field regularization techniques for audio classification and tagging
with deep convolutional neural networks" (2021). Modules are named as in the checkpoints of the DCASE winners of 2022
and of those who built on them. Time is masked before every kernel wider than one frame, so that an item gives the same
alone and in a padded batch, at any length.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.checkpoint import BadCheckpoint
from training.frontend import valid
from training.scene.network import masked
from training.scene.spectrum import COARSE, Hearing, KaldiLogMel

STEP = 4
"""Frames of the spectrum to one of the net: a strided entry and one pool."""
CENTRE = 2
"""Which of them the first frame of the net is centred at."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: channels, groups of all its convolutions, and the two kernels of each block."""

    channels: int
    kernels: tuple[tuple[int, int], ...]
    groups: int = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes. `pools` are the blocks of the first stage after which the bands are halved."""

    stages: tuple[Stage, Stage, Stage]
    pools: tuple[int, ...] = (1, 2, 4)
    labels: int = 10

    @property
    def reach(self) -> int:
        """Frames of the spectrum to each side of its centre that a frame of the net hears."""
        kernels = [kernel for stage in self.stages for pair in stage.kernels for kernel in pair]
        return CENTRE + 2 + STEP * sum(kernel // 2 for kernel in kernels)


def kernel_if(is_wide: bool) -> int:
    return 3 if is_wide else 1


def shape(
    rho: int = 4,
    blocks: tuple[int, int, int] = (2, 2, 2),
    base: int = 32,
    cuts: tuple[int, int] = (0, 0),
    groups: tuple[int, int, int] = (1, 1, 1),
    labels: int = 10,
) -> Shape:
    """The family by its receptive field *rho*: the lower, the earlier kernels become 1x1.

    Args:
        blocks: of each stage, one or two.
        base: channels of the first stage; the next have twice and four times as many less *cuts*.
    """
    over = rho - 4
    kernels = (
        ((3, 1), (kernel_if(over >= -2), kernel_if(over >= -1))),
        ((kernel_if(over >= 0), kernel_if(over > 0)), (kernel_if(over > 1), kernel_if(over > 2))),
        ((kernel_if(over > 3), kernel_if(over > 4)), (kernel_if(over > 5), kernel_if(over > 6))),
    )
    channels = (base, 2 * base - cuts[0], 4 * base - cuts[1])
    one, two, three = (Stage(channels[at], kernels[at][: blocks[at]], groups[at]) for at in range(3))
    return Shape((one, two, three), labels=labels)


NOTE = shape()
"""131,316 parameters: what the note's call builds, above the limit of 128,000."""
WINNER = shape(rho=8, blocks=(2, 1, 1), cuts=(0, 36), groups=(1, 2, 1))
"""127,684 parameters: the winner of 2022."""


class Convolution(nn.Conv2d):
    """A convolution of the family: no bias, and a padding of kernel // 3 whatever the kernel."""

    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(into, out, kernel, stride, padding=kernel // 3, groups=groups, bias=False)


class Block(nn.Module):
    """Two convolutions and a shortcut: [batch, channels, bands, time] to the same with other channels."""

    def __init__(self, into: int, out: int, kernels: tuple[int, int], groups: int, layer: type[Convolution]) -> None:
        super().__init__()
        self.conv1 = layer(into, out, kernels[0], groups=groups)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = layer(out, out, kernels[1], groups=groups)
        self.bn2 = nn.BatchNorm2d(out)
        parts = [] if into == out else [("conv", layer(into, out, 1, groups=groups)), ("bn", nn.BatchNorm2d(out))]
        self.shortcut = nn.Sequential(OrderedDict(parts))

    def forward(self, features: Tensor, counts: Tensor) -> Tensor:
        hidden = torch.relu(self.bn1(self.conv1(masked(features, counts))))
        hidden = self.bn2(self.conv2(masked(hidden, counts)))
        return torch.relu(hidden + self.shortcut(features))


class BandPool(nn.Module):
    """Halves the bands."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d((2, 1))

    def forward(self, features: Tensor, counts: Tensor) -> Tensor:
        return self.pool(features)


def _stage(into: int, stage: Stage, pools: tuple[int, ...], layer: type[Convolution]) -> nn.ModuleDict:
    parts: list[tuple[str, nn.Module]] = []
    for number, kernels in enumerate(stage.kernels, 1):
        parts += [(f"block{number}", Block(into, stage.channels, kernels, stage.groups, layer))]
        parts += [(f"pool{number}", BandPool())] if number in pools else []
        into = stage.channels
    return nn.ModuleDict(dict(parts))


class CpResNet(nn.Module):
    """Bands to logits of the clip and of its frames.

    Its norm follows the classifier, and the clip's logits are the mean over bands and time of those that it gives.

    Args:
        layer: what its convolutions are made of.
    """

    def __init__(self, shape: Shape, layer: type[Convolution] = Convolution) -> None:
        super().__init__()
        one, two, three = shape.stages
        self.in_c = nn.Sequential(layer(1, one.channels, 5, 2), nn.BatchNorm2d(one.channels), nn.ReLU())
        self.halve = nn.MaxPool2d(2)
        self.stage1 = _stage(one.channels, one, shape.pools, layer)
        self.stage2 = _stage(one.channels, two, (), layer)
        self.stage3 = _stage(two.channels, three, (), layer)
        self.feed_forward = nn.Sequential(layer(three.channels, shape.labels, 1), nn.BatchNorm2d(shape.labels))
        self.start()

    def start(self) -> None:
        """The family's start: each block passes on what it is given, and the classifier says nothing."""
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for block in blocks:
            size = block.conv1.weight[0, 0].numel() * block.conv1.out_channels
            nn.init.normal_(block.conv1.weight, std=(2.0 / size / len(blocks)) ** 0.5)
            nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(self.feed_forward[0].weight)

    def forward(self, bands: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bands [batch, mels, frames] to logits [batch, labels], [batch, time, labels], and the true steps [batch]."""
        features = self.in_c(masked(bands.unsqueeze(1), counts))
        # A kernel of 5 with stride 2 and padding 1, then pairs: what is left over at the end is not heard.
        counts = torch.div(counts - 1, 2, rounding_mode="floor")
        features = self.halve(features)
        counts = torch.div(counts, 2, rounding_mode="floor")
        for part in self.stage1.values():
            features = part(features, counts)
        for part in self.stage2.values():
            features = part(features, counts)
        for part in self.stage3.values():
            features = part(features, counts)
        frames = self.feed_forward(features).mean(2).transpose(1, 2)
        mask = valid(counts, frames.shape[1]).to(frames.dtype).unsqueeze(2)
        return (frames * mask).sum(1) / counts.clamp(min=1).to(frames.dtype).unsqueeze(1), frames, counts


class Export(nn.Module):
    """Front end and net in one graph: waveform in, probabilities out.

    The clip's probabilities come of its mean logits, so that they are not the mean of those of the frames.
    """

    def __init__(self, hearing: Hearing, net: CpResNet, exclusive: bool = True) -> None:
        super().__init__()
        self.front, self.net = KaldiLogMel(hearing), net
        self.exclusive = exclusive

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, samples], [batch] to clip [batch, labels], frames [batch, time, labels], frame_lengths [batch]."""
        bands, counts = self.front(waveform, lengths)
        clip, frames, counts = self.net(bands, counts)
        mask = valid(counts, frames.shape[1]).to(frames.dtype).unsqueeze(2)
        if self.exclusive:
            return torch.softmax(clip, -1), torch.softmax(frames, -1) * mask, counts
        return torch.sigmoid(clip), torch.sigmoid(frames) * mask, counts


def timing(shape: Shape, hearing: Hearing = COARSE) -> tuple[float, float, float]:
    """Seconds from one frame of the net to the next, where the first is centred, and how far each hears."""
    frame_s = hearing.hop / hearing.sample_rate
    return STEP * frame_s, CENTRE * frame_s, shape.reach * frame_s + hearing.n_fft / 2 / hearing.sample_rate


ANCHOR = "in_c.0.weight"
"""A name that every checkpoint has."""


def shape_of(weights: Mapping[str, Tensor], pools: tuple[int, ...] = (1, 2, 4)) -> Shape:
    """Sizes of the net that *weights* belong to; only *pools* leave no trace in them.

    Raises:
        BadCheckpoint: a stage has no blocks, or a block lacks a kernel.
    """
    kernels: dict[tuple[int, int, int], Tensor] = {}
    for name, values in weights.items():
        if place := re.fullmatch(r"stage([123])\.block(\d+)\.conv([12])\.weight", name):
            kernels[int(place[1]), int(place[2]), int(place[3])] = values
    into, stages = len(weights[ANCHOR]), []
    for stage in (1, 2, 3):
        blocks = max((block for at, block, _ in kernels if at == stage), default=0)
        wanted = [(stage, block, which) for block in range(1, max(1, blocks) + 1) for which in (1, 2)]
        missing = [f"stage{at}.block{block}.conv{which}.weight" for at, block, which in wanted
                   if (at, block, which) not in kernels]  # fmt: skip
        if missing:
            raise BadCheckpoint(f"missing: {', '.join(missing)}")
        first = kernels[wanted[0]]
        sizes = tuple(
            (kernels[stage, block, 1].shape[2], kernels[stage, block, 2].shape[2]) for _, block, _ in wanted[::2]
        )
        stages.append(Stage(len(first), sizes, into // first.shape[1]))
        into = len(first)
    last = weights.get("feed_forward.0.weight")
    if last is None:
        raise BadCheckpoint("missing: feed_forward.0.weight")
    return Shape((stages[0], stages[1], stages[2]), pools, len(last))
