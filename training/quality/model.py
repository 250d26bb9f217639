"""Four nets that say PESQ-WB of speech without its reference, as the mean of a curve over time.

After Quality-Net (Fu et al., Interspeech 2018) and the notes that `training.quality.note` holds word for word: a
bidirectional LSTM, the same with attention to what is near in time, convolutions, and convolutions with squeeze and
excitation. Ours differ in what their numbers must survive in a batching server: the level is taken out over the true
length, nothing past it is heard, means and attention see true frames only. A strided front makes all of them fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.frontend import masked_mean, mel_bank, valid
from training.quality.spectrum import BINS, HEARD_BINS, HOP, RATE_HZ, SIZE, Judge

LEAST, MOST = 1.0, 4.64
START = 2.5
"""What an untrained net answers: the middle of evenly spread labels."""
HEADS, REACH_S = 4, 1.024
"""Of the attention: heads, and how far a step looks to either side."""

Kind = Literal["blstm", "blstm-attn", "cnn", "cnn-se"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a net. `bands` 0 feeds the bins as they are; `strides` multiply to frames per score.

    `hidden` and `layers` are those of the LSTM, `dilations` those of the convolutions after the front.
    """

    kind: Kind = "blstm"
    bands: int = 0
    channels: int = 128
    strides: tuple[int, ...] = (2, 2)
    hidden: int = 64
    layers: int = 1
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    dropout: float = 0.2

    @property
    def step(self) -> int:
        """Frames of 16 ms from one score to the next."""
        return math.prod(self.strides)

    @property
    def step_s(self) -> float:
        return self.step * HOP / RATE_HZ

    def table(self) -> dict[str, Any]:
        """What a run's settings and `from_table` hold."""
        return asdict(self) | {"strides": list(self.strides), "dilations": list(self.dilations)}

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Shape:
        listed = {name: tuple(table[name]) for name in ("strides", "dilations") if name in table}
        return cls(**(dict(table) | listed))


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


class Recurrent(nn.Module):
    """A bidirectional LSTM over the true steps: [batch, time, inputs] to [batch, time, 2 * hidden]."""

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.memory = nn.LSTM(
            inputs, shape.hidden, shape.layers, batch_first=True, bidirectional=True,
            dropout=shape.dropout if shape.layers > 1 else 0.0,
        )  # fmt: skip

    def forward(self, values: Tensor, left: Tensor) -> Tensor:
        packed = pack_padded_sequence(values, left.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.memory(packed)[0], batch_first=True)[0]


class Attention(nn.Module):
    """Each step looks at those within `REACH_S`: several heads, added to what was there, and normalised.

    The note multiplies by its band after the softmax, scales by 256 and leaves its heads unused; here the band and the
    true length are masked before it, and the scale is that of a head.
    """

    def __init__(self, size: int, heads: int, reach: int) -> None:
        super().__init__()
        self.heads, self.reach, self.scale = heads, reach, (size // heads) ** -0.5
        self.wq, self.wk, self.wv = (nn.Linear(size, size) for _ in range(3))
        self.out = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size)

    def forward(self, values: Tensor, left: Tensor) -> Tensor:
        time = values.shape[1]
        seen = near(time, self.reach, left).unsqueeze(0) & valid(left, time).unsqueeze(1)
        # A finite number: a step past the end sees nobody, and its row must not become NaN.
        hidden = (~seen).to(values.dtype).unsqueeze(1) * -1e9
        queries, keys = self._parted(self.wq(values)), self._parted(self.wk(values))
        scores = queries @ keys.transpose(2, 3) * self.scale + hidden
        context = (torch.softmax(scores, -1) @ self._parted(self.wv(values))).transpose(1, 2).reshape(values.shape)
        return self.norm(values + self.out(context))

    def _parted(self, values: Tensor) -> Tensor:
        """[batch, time, size] to [batch, heads, time, size / heads]."""
        return values.reshape(values.shape[0], values.shape[1], self.heads, -1).transpose(1, 2)


def near(size: int, reach: int, like: Tensor) -> Tensor:
    """True where two of *size* places lie at most *reach* apart, [size, size], on the device of *like*."""
    place = torch.arange(size, device=like.device)
    return (place.unsqueeze(1) - place.unsqueeze(0)).abs() <= reach


class RecurrentAttention(nn.Module):
    """`Recurrent`, then `Attention`."""

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.recurrent = Recurrent(inputs, shape)
        self.attention = Attention(2 * shape.hidden, HEADS, round(REACH_S / shape.step_s))

    def forward(self, values: Tensor, left: Tensor) -> Tensor:
        return self.attention(self.recurrent(values, left), left)


class Block(nn.Module):
    """Three convolutions, the middle one over time, added to what was there; each channel scaled by how the clip as a
    whole answers, if `squeeze`."""

    def __init__(self, channels: int, dilation: int, squeeze: bool, dropout: float) -> None:
        super().__init__()
        inner = channels // 2
        self.before = nn.Conv1d(channels, inner, 1)
        self.middle = nn.Conv1d(inner, inner, 3, padding=dilation, dilation=dilation)
        self.after = nn.Conv1d(inner, channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.squeeze = nn.Sequential(
            nn.Linear(channels, channels // 8), nn.ReLU(), nn.Linear(channels // 8, channels), nn.Sigmoid()
        ) if squeeze else None  # fmt: skip

    def forward(self, values: Tensor, left: Tensor) -> Tensor:
        """[batch, channels, time] to the same; zeros past the end stay zeros."""
        heard = valid(left, values.shape[2]).to(values.dtype).unsqueeze(1)
        made = torch.relu(self.before(values)) * heard
        made = torch.relu(self.middle(made)) * heard
        made = torch.relu(self.after(made)) * heard
        if self.squeeze is not None:
            mean = made.sum(2) / left.clamp(min=1).to(values.dtype).unsqueeze(1)
            made = made * self.squeeze(mean).unsqueeze(2)
        return values + self.dropout(made)


class Convolutional(nn.Module):
    """Dilated `Block`s: [batch, time, inputs] to the same."""

    def __init__(self, inputs: int, shape: Shape) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(inputs, dilation, shape.kind == "cnn-se", shape.dropout / 2) for dilation in shape.dilations
        )
        self.norm = nn.LayerNorm(inputs)

    def forward(self, values: Tensor, left: Tensor) -> Tensor:
        made = values.transpose(1, 2)
        for block in self.blocks:
            made = block(made, left)
        return self.norm(made.transpose(1, 2))


class QualityNet(Judge):
    """The whole of it: waveform to score, curve and speech."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.least, self.range = LEAST, MOST - LEAST
        self.bands = _bands(shape.bands) if shape.bands else nn.Identity()
        sizes = [shape.bands or BINS] + [shape.channels] * len(shape.strides)
        self.convolutions = nn.ModuleList(
            StridedConvolution(inputs, outputs, stride)
            for inputs, outputs, stride in zip(sizes[:-1], sizes[1:], shape.strides, strict=True)
        )
        self.dropout = nn.Dropout(shape.dropout)
        trunks = {"blstm": Recurrent, "blstm-attn": RecurrentAttention, "cnn": Convolutional, "cnn-se": Convolutional}
        self.trunk = trunks[shape.kind](sizes[-1], shape)
        self.hidden = nn.Linear(2 * shape.hidden if shape.kind.startswith("blstm") else sizes[-1], 50)
        self.score = nn.Linear(50, 1)
        self.speech = nn.Linear(50, 1)
        share = (START - LEAST) / (MOST - LEAST)
        nn.init.constant_(self.score.bias, torch.logit(torch.tensor(share)).item())

    def forward(  # type: ignore[override]
        self, waveform: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[batch, samples], [batch] to score [batch], frames [batch, time] (0 past the end), frame_lengths [batch], and
        speech [batch]: which share of the frames is speech."""
        features, counts = self.front(waveform, lengths)
        score, frames, left, spoken = self.judge(features, counts)
        return score, frames, left, masked_mean(torch.sigmoid(spoken), left)

    @torch.jit.export
    def judge(  # type: ignore[override]
        self, features: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """From features [batch, time, 257] of which `counts` [batch] frames are true: score, frames, frame_lengths, and
        for each frame the logit of its being speech [batch, time]."""
        heard = valid(counts, features.shape[1]).to(features.dtype).unsqueeze(2)
        values, left = (self.bands(features) * heard).transpose(1, 2), counts
        for convolution in self.convolutions:
            values, left = convolution(values, left)
        unfolded = self.trunk(self.dropout(values.transpose(1, 2)), left)
        made = self.dropout(nn.functional.elu(self.hidden(unfolded)))
        frames = self.least + self.range * torch.sigmoid(self.score(made).squeeze(2))
        frames = frames * valid(left, frames.shape[1]).to(frames.dtype)
        return masked_mean(frames, left), frames, left, self.speech(made).squeeze(2)

    def deafen(self) -> None:
        """Take from the first layer what lies above `HEARD_BINS`: it was never trained on that."""
        with torch.no_grad():
            for layer, name in self.first():
                getattr(layer, name)[:, HEARD_BINS:] = 0

    def first(self) -> list[tuple[nn.Module, str]]:
        """See `Judge`."""
        return [(self.bands if isinstance(self.bands, nn.Linear) else self.convolutions[0].convolution, "weight")]


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

    The frame constraint of Fu et al. (2018); *anchor* 5 gives the curve more freedom. Clips with the label 0 are left
    out, as they are by `curve_loss`.
    """
    per_frame = masked_mean((frames - labels.unsqueeze(1)) ** 2, counts)
    return _over_labelled((scores - labels) ** 2 + 10.0 ** (labels - anchor) * per_frame, labels)


def curve_loss(
    scores: Tensor, frames: Tensor, counts: Tensor, labels: Tensor, curves: Tensor, weight: float = 0.5
) -> Tensor:
    """Squared error of the clip, and of each frame against where the damage is heard.

    Args:
        curves: [batch, time] at the frames of the features, see `training.quality.perceptual.curve`.
    """
    per_frame = masked_mean((frames - thinned(curves, frames.shape[1])) ** 2, counts)
    return _over_labelled((scores - labels) ** 2 + weight * per_frame, labels)


def speech_loss(spoken: Tensor, counts: Tensor, speech: Tensor) -> Tensor:
    """Cross entropy of the logits *spoken* [batch, steps] against *speech* [batch, time], 0 or 1 a frame."""
    wanted = thinned(speech, spoken.shape[1])
    return masked_mean(nn.functional.binary_cross_entropy_with_logits(spoken, wanted, reduction="none"), counts).mean()


def thinned(values: Tensor, steps: int) -> Tensor:
    """Means of [batch, time] around each of the *steps* that a net with strides keeps of them: [batch, steps]."""
    step = -(-values.shape[1] // steps)
    padded = nn.functional.pad(values.unsqueeze(1), [step // 2, step], mode="replicate")
    return nn.functional.avg_pool1d(padded, step)[:, 0, :steps]


def _over_labelled(values: Tensor, labels: Tensor) -> Tensor:
    has_label = (labels > 0).to(values.dtype)
    return (values * has_label).sum() / has_label.sum().clamp(min=1)
