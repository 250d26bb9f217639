"""The light MobileViT on spectrograms that the note distils into: separable convolutions around a small transformer.

After Mehta and Rastegari, "MobileViT" (2021). Made for 256 bands by 64 frames and nothing else. It computes what the
first writing computes, which is not what one would write today: each layer of the transformer adds to its normalised
input, and attention's heads are cut out of the tokens instead of the channels, so that a head is a quarter of the
frequency rows with every vector cut in four. Weights are worthless without either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from training.checkpoint import BadCheckpoint
from training.scene.spectrum import FINE, Hearing, KaldiLogMel
from training.scene.windows import Windowed

SAMPLES = 32_000
PATCH = 2
HEADS = 4
LAYERS = 2
STEM = 32
WIDE = 64
"""Channels of the last separable block."""
MLP = 64


Act = Literal["silu", "relu"]


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes. `channels` are those around the transformer, `expansions` those of the three separable blocks."""

    channels: int = 64
    expansions: tuple[int, int, int] = (1, 1, 1)
    width: int = 32
    last: int = 216
    act: Act = "relu"
    labels: int = 10


LIGHT1 = Shape()
LIGHT2 = Shape(channels=32, expansions=(2, 1, 2), last=224)
LIGHT3 = Shape(channels=32, width=48, last=192)
SIZES = {
    "light1-silu": replace(LIGHT1, last=160, act="silu"),
    "light1-relu": LIGHT1,
    "light2-silu": replace(LIGHT2, last=160, act="silu"),
    "light2-relu": LIGHT2,
    "light3-silu": replace(LIGHT3, last=128, act="silu"),
    "light3-relu": LIGHT3,
}
"""The six configurations of the note; `light1-relu` is the one it ended with."""


def _act(act: Act) -> nn.Module:
    return nn.SiLU() if act == "silu" else nn.ReLU()


def normed(into: int, out: int, kernel: int, act: Act, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution, its norm and the activation."""
    padding = kernel // 2
    convolution = nn.Conv2d(into, out, kernel, stride, padding, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out), _act(act)]


class Separable(nn.Module):
    """Expansion where there is one, depthwise kernel, pointwise kernel without activation; adds up where it can."""

    def __init__(self, into: int, out: int, stride: int, expansion: int, act: Act) -> None:
        super().__init__()
        inner = into * expansion
        parts = normed(into, inner, 1, act) if expansion > 1 else []
        parts += normed(inner, inner, 3, act, stride, inner)
        parts += normed(inner, out, 1, act)[:-1]
        self.conv = nn.Sequential(*parts)
        self.adds = stride == 1 and into == out

    def forward(self, features: Tensor) -> Tensor:
        made = self.conv(features)
        return features + made if self.adds else made


class Attention(nn.Module):
    """Attention of tokens [batch, grids, tokens, width], its heads as the first writing cuts them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.heads = (width // HEADS) ** -0.5, HEADS
        self.to_qkv = nn.Linear(width, 3 * width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = self.to_qkv(tokens).chunk(3, -1)
        shares = torch.softmax(self._cut(queries) @ self._cut(keys).transpose(-1, -2) * self.scale, -1)
        return self.to_out((shares @ self._cut(values)).reshape(tokens.shape))

    def _cut(self, values: Tensor) -> Tensor:
        """Without a transpose: a head is a run of tokens, not a run of channels."""
        batch, grids, tokens, width = values.shape[0], values.shape[1], values.shape[2], values.shape[3]
        return values.reshape(batch, grids, self.heads, tokens, width // self.heads)


class FeedForward(nn.Module):
    """Two linear layers; the places between them are those of the first writing's dropout."""

    def __init__(self, width: int, inner: int, act: Act) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, inner), _act(act), nn.Dropout(0.0), nn.Linear(inner, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(tokens)


class Transformer(nn.Module):
    """Layers that add what they make to their *normalised* input."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), Attention(width), nn.LayerNorm(width), FeedForward(width, MLP, shape.act)
            )
            for _ in range(LAYERS)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer[0](tokens)
            tokens = tokens + layer[1](tokens)
            tokens = layer[2](tokens)
            tokens = tokens + layer[3](tokens)
        return tokens


class Mixer(nn.Module):
    """What is near by a convolution, what is far by a transformer, joined and added: [batch, channels, bands, time].

    Args:
        transformer: of tokens [batch, grids, tokens, width].
    """

    def __init__(self, channels: int, width: int, transformer: nn.Module, act: Act) -> None:
        super().__init__()
        self.patch = PATCH
        self.depth_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.point_conv = nn.Conv2d(channels, width, 1)
        self.transformer = transformer
        self.conv3 = nn.Sequential(*normed(width, channels, 1, act))
        self.conv4 = nn.Sequential(*normed(width + channels, channels, 1, act))

    def forward(self, features: Tensor) -> Tensor:
        near = self.point_conv(self.depth_conv(features))
        far = self.conv3(self._folded(self.transformer(self._tokens(near)), near))
        return features + self.conv4(torch.cat([far, near], 1))

    def _tokens(self, features: Tensor) -> Tensor:
        """Four interleaved grids: [batch, width, bands, time] to [batch, 4, bands / 2 * time / 2, width]."""
        batch, width, patch = features.shape[0], features.shape[1], self.patch
        bands, time = features.shape[2] // patch, features.shape[3] // patch
        cut = features.reshape(batch, width, bands, patch, time, patch)
        return cut.permute(0, 3, 5, 2, 4, 1).reshape(batch, patch * patch, bands * time, width)

    def _folded(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Undoes `_tokens` to the size of *like*."""
        batch, width, patch = like.shape[0], like.shape[1], self.patch
        bands, time = like.shape[2] // patch, like.shape[3] // patch
        cut = tokens.reshape(batch, patch, patch, bands, time, width)
        return cut.permute(0, 5, 3, 1, 4, 2).reshape(like.shape)


class MobileAst(nn.Module):
    """Features [batch, 256, 64] to logits [batch, labels]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels, expansions, act = shape.channels, shape.expansions, shape.act
        self.conv1 = nn.Sequential(*normed(1, STEM, 3, act, 2))
        self.mv2_1 = Separable(STEM, channels, 1, expansions[0], act)
        self.mv2_2 = Separable(channels, channels, 2, expansions[1], act)
        self.halve = nn.MaxPool2d((2, 1))
        self.mvit_1 = Mixer(channels, shape.width, Transformer(shape), act)
        self.mv2_3 = Separable(channels, WIDE, 2, expansions[2], act)
        self.conv2 = nn.Sequential(*normed(WIDE, shape.last, 1, act))
        self.fc = nn.Linear(shape.last, shape.labels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv1(features.unsqueeze(1))
        features = self.halve(self.mv2_2(self.mv2_1(features)))
        features = self.conv2(self.mv2_3(self.mvit_1(features)))
        return self.fc(features.mean((2, 3)))


def export_form(net: nn.Module, hearing: Hearing = FINE, exclusive: bool = True) -> Windowed:
    return Windowed(KaldiLogMel(hearing), net, SAMPLES, exclusive)


ANCHOR = "conv1.0.weight"
"""A name that every checkpoint has."""


def shape_of(weights: Mapping[str, Tensor]) -> Shape:
    """Which of `SIZES` *weights* belong to. Their activation leaves no other trace than the width of the last layer.

    Raises:
        BadCheckpoint: they belong to none.
    """
    names = ("mvit_1.point_conv.weight", "mvit_1.depth_conv.weight", "fc.weight")
    missing = [name for name in names if name not in weights]
    if missing:
        raise BadCheckpoint(f"missing: {', '.join(missing)}")
    width, channels, (labels, last) = len(weights[names[0]]), len(weights[names[1]]), weights[names[2]].shape
    for shape in SIZES.values():
        if (shape.width, shape.channels, shape.last) == (width, channels, last):
            return replace(shape, labels=labels)
    raise BadCheckpoint(
        f"{channels} channels, tokens of {width} and a last layer of {last} are none of {', '.join(SIZES)}"
    )
