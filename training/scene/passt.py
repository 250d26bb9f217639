"""PaSST: a vision transformer on overlapping patches of a spectrogram, with two class tokens.

After Koutini, Schlüter, Eghbal-zadeh and Widmer, "Efficient training of audio transformers with patchout" (Interspeech
2022). Places in time and in frequency are learned apart, and the table of those in time says how long a window may be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.checkpoint import BadCheckpoint, load
from training.scene.spectrum import PASST, Hearing, KaldiLogMel
from training.scene.windows import Windowed


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes. `places` is the length of the table of places in time: a tenth of the frames it was made for."""

    places: int = 10
    rows: int = 12
    width: int = 768
    depth: int = 12
    heads: int = 12
    patch: int = 16
    stride: int = 10
    labels: int = 10

    @property
    def seconds(self) -> int:
        """Length that the table was made for, at 100 frames a second."""
        return max(1, round(self.places * self.stride / 100))


SECOND = Shape()
"""85.29 million parameters: the note's, for one second and ten scenes."""
AUDIOSET = Shape(places=99, labels=527)
"""86.15 million parameters: as published, for ten seconds and the labels of AudioSet."""


class Attention(nn.Module):
    """Plain multi-head attention of tokens [batch, tokens, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape[0], tokens.shape[1], tokens.shape[2]
        parted = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        shares = torch.softmax(parted[0] @ parted[1].transpose(-1, -2) * self.scale, -1)
        return self.proj((shares @ parted[2]).transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    """Two linear layers, four times as wide between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """A layer of the transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Patches(nn.Module):
    """Overlapping patches: [batch, 1, mels, frames] to [batch, width, rows, columns]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, shape.width, shape.patch, shape.stride)

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(features)


class Passt(nn.Module):
    """Features [batch, 128, frames] to logits [batch, labels].

    `head_dist` is there for the checkpoint's sake: nothing asks it.

    Args:
        patchout: rows of patches that a batch leaves out, others each time, while it is being trained.
    """

    def __init__(self, shape: Shape, patchout: int = 0) -> None:
        super().__init__()
        if not 0 <= patchout < shape.rows:
            raise ValueError(f"patchout leaves at least one of {shape.rows} rows, so it must not be {patchout}")
        width = shape.width
        self.patchout = patchout
        self.cls_token, self.dist_token = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, width))
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, width, shape.rows, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, width, 1, shape.places))
        self.patch_embed = Patches(shape)
        self.blocks = nn.ModuleList(Block(width, shape.heads) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, shape.labels))
        self.head_dist = nn.Linear(width, shape.labels)
        for name, weights in self.named_parameters(recurse=False):
            assert name.endswith(("token", "embed"))
            nn.init.trunc_normal_(weights, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        patches = self.patch_embed(features.unsqueeze(1))
        patches = patches + self.time_new_pos_embed[:, :, :, : patches.shape[3]] + self.freq_new_pos_embed
        if self.training and self.patchout > 0:
            kept = torch.randperm(patches.shape[2], device=patches.device)[self.patchout :]
            patches = patches[:, :, kept.sort()[0]]
        tokens = patches.flatten(2).transpose(1, 2)
        batch = tokens.shape[0]
        cls = (self.cls_token + self.new_pos_embed[:, :1]).expand(batch, -1, -1)
        dist = (self.dist_token + self.new_pos_embed[:, 1:]).expand(batch, -1, -1)
        tokens = torch.cat([cls, dist, tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head((tokens[:, 0] + tokens[:, 1]) / 2)


def export_form(net: Passt, shape: Shape, hearing: Hearing = PASST, exclusive: bool = True) -> Windowed:
    return Windowed(KaldiLogMel(hearing), net, shape.seconds * hearing.sample_rate, exclusive)


ANCHOR = "cls_token"
"""A name that every checkpoint has."""
HEAD = 64
"""Channels of a head, in every vision transformer of this line."""


def shape_of(weights: Mapping[str, Tensor]) -> Shape:
    """Sizes of the net that *weights* belong to.

    Raises:
        BadCheckpoint: a name that says one of them is missing.
    """
    names = ("time_new_pos_embed", "freq_new_pos_embed", "patch_embed.proj.weight", "head.1.weight")
    missing = [name for name in names if name not in weights]
    if missing:
        raise BadCheckpoint(f"missing: {', '.join(missing)}")
    places, rows, kernel, head = (weights[name].shape for name in names)
    blocks = {int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name))}
    return Shape(
        places=places[-1],
        rows=rows[2],
        width=kernel[0],
        depth=len(blocks),
        heads=max(1, kernel[0] // HEAD),
        patch=kernel[-1],
        labels=head[0],
    )


def starting_from(weights: Mapping[str, Tensor], shape: Shape, patchout: int = 0) -> Passt:
    """A net of *shape* to be trained on, that knows what *weights* of a longer one, with other labels, know.

    The table of places in time is cut, and the heads start at random: averages of heads for other labels say nothing.

    Raises:
        BadCheckpoint: the weights are not those of such a net, or their table is the shorter one.
    """
    net = Passt(shape, patchout)
    known = shape_of(weights)
    if known.places < shape.places:
        raise BadCheckpoint(
            f"places in time for {known.places * shape.stride} frames, {shape.places * shape.stride} needed"
        )
    fresh = {name: values for name, values in net.state_dict().items() if name.startswith(("head.1.", "head_dist."))}
    table = weights["time_new_pos_embed"][..., : shape.places]
    load(net, {**weights, "time_new_pos_embed": table, **fresh})
    return net
