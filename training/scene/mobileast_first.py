"""The first two light MobileViTs on spectrograms, twice as large as those the note ended with, and otherwise made.

Their transformer is an ordinary one: heads are cut out of the channels, a layer adds to what it was given, and norms
stand before it. In the first of them the entry's norm knows two halves of the spectrum apart. Both go by the name of a
later net in the first writing; their weights do not fit there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.checkpoint import BadCheckpoint
from training.scene.mobileast import FeedForward, Mixer, Separable, normed

HEADS, HEAD = 4, 8
SUB_BANDS = 2


@dataclass(frozen=True, slots=True)
class Far:
    """Sizes of a transformer: width of its tokens, and layers."""

    width: int
    layers: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes. `channels` are those around each transformer, one or two."""

    channels: tuple[int, ...]
    expansion: int
    far: tuple[Far, ...]
    last: int
    splits_entry: bool
    labels: int = 10


LIGHT = Shape((48,), 1, (Far(48, 6),), 300, True)
"""127,728 parameters."""
LIGHT2 = Shape((32, 64), 2, (Far(32, 2), Far(48, 4)), 200, False)
"""127,792 parameters."""
STEM = 32


class SubSpectralNorm(nn.Module):
    """Batch norm with statistics and weights of its own for each of *parts* sub-bands: [batch, channels, bands, time].

    After Chang et al., "Subspectral normalization for neural audio data processing" (2021).
    """

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.bn = nn.BatchNorm2d(channels * parts)

    def forward(self, features: Tensor) -> Tensor:
        batch, channels, bands, time = features.shape
        split = features.reshape(batch, channels * self.parts, bands // self.parts, time)
        return self.bn(split).reshape(features.shape)


class Attention(nn.Module):
    """Multi-head attention of tokens [batch, grids, tokens, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.heads, self.size = HEAD**-0.5, HEADS, HEAD
        self.to_qkv = nn.Linear(width, 3 * HEADS * HEAD, bias=False)
        self.to_out = nn.Sequential(nn.Linear(HEADS * HEAD, width))

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.to_qkv(tokens).chunk(3, -1)
        shares = torch.softmax(self._cut(queries) @ self._cut(keys).transpose(-1, -2) * self.scale, -1)
        heads = (shares @ self._cut(values)).transpose(2, 3)
        return self.to_out(heads.reshape(queries.shape))

    def _cut(self, values: Tensor) -> Tensor:
        batch, grids, tokens = values.shape[0], values.shape[1], values.shape[2]
        return values.reshape(batch, grids, tokens, self.heads, self.size).transpose(2, 3)


class Adding(nn.Module):
    """Adds what *fn* makes of the normalised tokens."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.fn(self.norm(tokens))


class Transformer(nn.Module):
    def __init__(self, far: Far) -> None:
        super().__init__()
        width = far.width
        self.layers = nn.ModuleList(
            nn.Sequential(Adding(width, Attention(width)), Adding(width, FeedForward(width, 2 * width, "silu")))
            for _ in range(far.layers)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


def _mixer(channels: int, far: Far) -> Mixer:
    return Mixer(channels, far.width, Transformer(far), "silu")


class FirstMobileAst(nn.Module):
    """Features [batch, 256, 64] to logits [batch, labels]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels, expansion = shape.channels, shape.expansion
        self.conv1 = nn.Sequential(*normed(1, STEM, 3, "silu", 2))
        if shape.splits_entry:
            self.conv1[1] = SubSpectralNorm(STEM, SUB_BANDS)
        self.mv2_1 = Separable(STEM, channels[0], 1, expansion, "silu")
        self.mv2_2 = Separable(channels[0], channels[0], 2, 1, "silu")
        self.halve = nn.MaxPool2d((2, 1))
        self.mvit_1 = _mixer(channels[0], shape.far[0])
        has_second = len(channels) > 1
        self.mv2_4 = Separable(channels[0], channels[1], 2, expansion, "silu") if has_second else nn.Identity()
        self.mvit_2 = _mixer(channels[1], shape.far[1]) if has_second else nn.Identity()
        self.conv2 = nn.Sequential(*normed(channels[-1], shape.last, 1, "silu"))
        self.fc = nn.Linear(shape.last, shape.labels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        features = self.halve(self.mv2_2(self.mv2_1(self.conv1(features.unsqueeze(1)))))
        features = self.mvit_2(self.mv2_4(self.mvit_1(features)))
        return self.fc(self.conv2(features).mean((2, 3)))


def is_first(weights: Mapping[str, Tensor]) -> bool:
    """Whether *weights* are those of one of these nets; those of later ones have other names in the transformer."""
    return "mvit_1.transformer.layers.0.0.norm.weight" in weights


def shape_of(weights: Mapping[str, Tensor]) -> Shape:
    """Which of the two *weights* belong to.

    Raises:
        BadCheckpoint: the classifier is missing.
    """
    if "fc.weight" not in weights:
        raise BadCheckpoint("missing: fc.weight")
    known = LIGHT2 if "mvit_2.point_conv.weight" in weights else LIGHT
    return Shape(known.channels, known.expansion, known.far, known.last, known.splits_entry, len(weights["fc.weight"]))
