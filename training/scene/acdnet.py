"""ACDNet: a learned filter bank on the waveform, then a dense 2-D net over its 64 channels and 10 ms frames.

After Mohaimenuzzaman, Bergmeir, West and Meyer, "Environmental sound classification on the edge" (Pattern Recognition
133, 2023). Weights belong to the rate they were trained at. Where the first writing pools what is left with a kernel of
a fixed size, this takes the mean: the same for the length it was made for, and defined for any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.checkpoint import BadCheckpoint, some
from training.scene.spectrum import Waveform
from training.scene.windows import Windowed

CHANNELS = (8, 64, 32, 64, 64, 128, 128, 256, 256, 512, 512)
"""Of the convolutions before the one that has a channel a label."""
STRIDE = 4
"""Samples from one step of the filter bank to the next, before its pool."""
FRAME_S = 0.01
POOLED_AFTER = (3, 5, 7, 9, 11)
"""Convolutions, counted from 1, that a pool follows."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes: rate, samples that the net was made for, and channels (a pruned net has others)."""

    sample_rate: int = 32_000
    samples: int = 32_000
    channels: tuple[int, ...] = CHANNELS
    labels: int = 10

    @property
    def pool(self) -> int:
        """Steps of the filter bank in 10 ms."""
        return int(self.sample_rate * FRAME_S / STRIDE)


PUBLISHED = Shape(20_000, 30_225)
"""The paper's: 1.51 s at 20 kHz."""


class AcdNet(nn.Module):
    """Waveform [batch, samples] to logits [batch, labels].

    Convolutions and norms are numbered from 1 as in the paper. The checkpoint's own numbers depend on the length.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels = (*shape.channels, shape.labels)
        self.conv1 = nn.Conv2d(1, channels[0], (1, 9), (1, 2), bias=False)
        self.conv2 = nn.Conv2d(channels[0], channels[1], (1, 5), (1, 2), bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels[0]), nn.BatchNorm2d(channels[1])
        self.frames = nn.MaxPool2d((1, shape.pool))
        layers: list[nn.Module] = []
        bands, width = channels[1], int(shape.samples / shape.sample_rate * 1000 / 10)
        before = 1
        for number, out in enumerate(channels[2:-1], 3):
            layers += [nn.Conv2d(before, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            before = out
            if number in POOLED_AFTER:
                pool = (2 if bands > 1 else 1, 2 if width > 1 else 1)
                layers += [nn.MaxPool2d(pool)]
                bands, width = bands // pool[0], width // pool[1]
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.2)
        self.conv12 = nn.Conv2d(before, shape.labels, 1, bias=False)
        self.norm12 = nn.BatchNorm2d(shape.labels)
        self.fc = nn.Linear(shape.labels, shape.labels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, waveform: Tensor) -> Tensor:
        heard = torch.relu(self.norm1(self.conv1(waveform.unsqueeze(1).unsqueeze(1))))
        heard = self.frames(torch.relu(self.norm2(self.conv2(heard))))
        features = self.dropout(self.trunk(heard.transpose(1, 2)))
        return self.fc(torch.relu(self.norm12(self.conv12(features))).mean((2, 3)))


def export_form(net: AcdNet, shape: Shape, exclusive: bool = True) -> Windowed:
    return Windowed(Waveform(), net, shape.samples, exclusive)


ANCHOR = "sfeb.0.weight"
"""A name that every checkpoint has."""
CONVOLUTIONS = 12


def read(weights: Mapping[str, Tensor], sample_rate: int, samples: int) -> tuple[AcdNet, Shape, dict[str, Tensor]]:
    """The net that *weights* (names `sfeb.N.*`, `tfeb.N.*`) belong to, its sizes, and the weights by its own names.

    The numbers in the names depend on which pools the length left out, so the order counts and nothing else.

    Raises:
        BadCheckpoint: they are not those of an ACDNet.
    """
    places = {name: re.fullmatch(r"([st]feb)\.(\d+)\.(\w+)", name) for name in weights}
    strange = [name for name, place in places.items() if not place]
    if strange:
        raise BadCheckpoint(f"unexpected: {some(strange)}; an ACDNet holds sfeb.N.* and tfeb.N.*")
    layers = sorted({(place[1], int(place[2])) for place in places.values() if place})
    names = [f"{block}.{number}" for block, number in layers]
    convolutions = [name for name in names if _is_of(weights, name, 4)]
    norms = [name for name in names if f"{name}.running_mean" in weights]
    linear = [name for name in names if _is_of(weights, name, 2)]
    if (len(convolutions), len(norms), len(linear)) != (CONVOLUTIONS, CONVOLUTIONS, 1):
        raise BadCheckpoint(
            f"{len(convolutions)} convolutions, {len(norms)} norms and {len(linear)} linear layers; an ACDNet has "
            f"{CONVOLUTIONS}, {CONVOLUTIONS} and 1"
        )
    channels = tuple(len(weights[f"{name}.weight"]) for name in convolutions)
    shape = Shape(sample_rate, samples, channels[:-1], channels[-1])
    net = AcdNet(shape)
    own = [name for kind in (nn.Conv2d, nn.BatchNorm2d) for name, part in net.named_modules() if isinstance(part, kind)]
    turned = dict(zip([*convolutions, *norms, *linear], [*own, "fc"], strict=True))
    split = {name: name.rpartition(".") for name in weights}
    return net, shape, {f"{turned[parts[0]]}.{parts[2]}": weights[name] for name, parts in split.items()}


def _is_of(weights: Mapping[str, Tensor], name: str, axes: int) -> bool:
    return f"{name}.weight" in weights and weights[f"{name}.weight"].ndim == axes
