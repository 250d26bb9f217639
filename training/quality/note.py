"""The four nets as they were first written down: weights saved from those load here, name by name.

`QualityNet` (two bidirectional LSTMs of 100), `QualityNetAttn` (with a time-restricted attention), `CnnAttn` (dilated
blocks with squeeze-and-excitation) and `Cnn` (the same without). For one clip they compute what the first writing
computes, including what one would do otherwise today: the attention's mask is multiplied in after the softmax, its
divisor is 256, it has a projection that nothing uses, and no score is bounded. `training.quality.model` and
`training.quality.cnn` are the nets that we train.

What differs is what a server needs. Any length may follow any other. Items of a batch do not hear each other's padding:
means, convolutions and softmax know the true lengths. Clips too short for the convolutions are repeated until they fill
68 frames. And the convolutional nets give a curve: after the LayerNorm their head is linear, so their score is the mean
of what the head says of every step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.frontend import masked_mean, valid
from training.quality.model import Kind, near
from training.quality.spectrum import BINS, HOP, OURS, RATE_HZ, Hearing, Judge

WIDTH = 100
"""Of an LSTM, each way."""
REACH = 64
"""Frames to each side that attention is restricted to."""
DIVISOR = 256.0
FILTER, FEATURE = 128, 64
POOLS, DILATIONS = (4, 4, 2, 2), (64, 32, 16, 8)
LEAST_FRAMES = 68
"""What four pools and the first convolution leave one step of."""


def build(kind: Kind, hearing: Hearing = OURS, filter_size: int = FILTER, feature_dim: int = FEATURE) -> NoteNet:
    """The untrained net of *kind*; the sizes are those of the convolutional ones.

    Raises:
        ValueError: *filter_size* is too small for squeeze-and-excitation.
    """
    match kind:
        case "blstm":
            return QualityNet(hearing=hearing)
        case "blstm-attn":
            return QualityNetAttn(hearing=hearing)
        case "cnn":
            return Cnn(filter_size, feature_dim, hearing=hearing)
        case "cnn-se":
            return CnnAttn(filter_size, feature_dim, hearing=hearing)


class NoteNet(Judge):
    """A net with the place of its values: `frames[i]` is centred at `offset_s + i * step_s`."""

    step_s = HOP / RATE_HZ
    offset_s = 0.0


class QualityNet(NoteNet):
    """A score for each of the frames, from both directions of two LSTMs."""

    def __init__(self, dropout: float = 0.3, hearing: Hearing = OURS) -> None:
        super().__init__(hearing)
        self.lstm = nn.LSTM(BINS, WIDTH, 2, batch_first=True, dropout=dropout, bidirectional=True)
        self.linear1 = nn.Linear(2 * WIDTH, 50)
        self.elu = nn.ELU()
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(50, 1)

    @torch.jit.export
    def judge(self, features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Judge`; a score is of any size."""
        values = self.seen(self.remembered(features, counts), counts)
        frames = self.linear2(self.dropout(self.elu(self.linear1(values)))).squeeze(2)
        frames = frames * valid(counts, frames.shape[1]).to(frames.dtype)
        return masked_mean(frames, counts), frames, counts

    def remembered(self, features: Tensor, counts: Tensor) -> Tensor:
        """[batch, time, 257] to [batch, longest, 200]."""
        packed = pack_padded_sequence(features, counts.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]

    def seen(self, values: Tensor, counts: Tensor) -> Tensor:
        return values

    def first(self) -> list[tuple[nn.Module, str]]:
        return [(self.lstm, "weight_ih_l0"), (self.lstm, "weight_ih_l0_reverse")]


class TimeRestrictedAttention(nn.Module):
    """Means of values over frames at most *offset* away, weighted by a softmax that knew of all frames.

    `out`, sized by *heads* and *dq*, is loaded and never used.
    """

    def __init__(self, d_model: int, dq: int, heads: int = 4, offset: int = REACH) -> None:
        super().__init__()
        self.offset, self.divisor = offset, DIVISOR
        self.wq, self.wk, self.wv = (nn.Linear(d_model, d_model) for _ in range(3))
        self.out = nn.Sequential(nn.Identity(), nn.Linear(heads * dq, d_model))

    def forward(self, values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, time, width], [batch] to context of the same shape and weights [batch, time, time]."""
        size = values.shape[1]
        scores = self.wq(values) @ self.wk(values).transpose(1, 2) / self.divisor
        # What the first writing has no word for: frames past the end, which are in a batch only.
        past = (~valid(counts, size)).to(values.dtype).unsqueeze(1) * -1e9
        weights = torch.softmax(scores + past, 2) * near(size, self.offset, counts).to(values.dtype)
        return weights @ self.wv(values), weights


class QualityNetAttn(QualityNet):
    """`QualityNet` with `TimeRestrictedAttention` between the LSTMs and the head."""

    def __init__(self, dropout: float = 0.3, hearing: Hearing = OURS) -> None:
        super().__init__(dropout, hearing)
        self.attn = TimeRestrictedAttention(2 * WIDTH, 64, offset=REACH)

    def seen(self, values: Tensor, counts: Tensor) -> Tensor:
        return self.attn(values, counts)[0]


class SEBlock(nn.Module):
    """Three convolutions with one ReLU, weighed channel by channel, added to what came in, and thinned out.

    Args:
        attends: False leaves the weighing, `se`, out.
    """

    def __init__(self, filter_size: int, feature_dim: int, pool: int, dilation: int, attends: bool = True) -> None:
        super().__init__()
        self.stride = pool
        self.conv = nn.Sequential(
            nn.Conv1d(filter_size, feature_dim, 1),
            nn.Conv1d(feature_dim, feature_dim, 3, dilation=dilation, padding=dilation),
            nn.Conv1d(feature_dim, filter_size, 1),
            nn.ReLU(),
        )
        self.se = None
        if attends:
            # The places of a mean, before, and of a new axis, after, are kept: weights are named by their place.
            self.se = nn.Sequential(
                nn.Identity(), nn.Identity(), nn.Linear(filter_size, filter_size // 32),
                nn.Linear(filter_size // 32, filter_size), nn.Sigmoid(),
            )  # fmt: skip

    def forward(self, values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, filter, time], zeros past `counts` [batch], to [batch, filter, time // pool]; a part is dropped."""
        true = valid(counts, values.shape[2]).to(values.dtype).unsqueeze(1)
        change = self.conv[3](self.conv[2](self.conv[1](self.conv[0](values) * true))) * true
        if self.se is not None:
            mean = change.sum(2) / counts.clamp(min=1).to(change.dtype).unsqueeze(1)
            change = change * self.se(mean).unsqueeze(2)
        thinned = nn.functional.max_pool1d(torch.relu(values + change), self.stride)
        left = torch.div(counts, self.stride, rounding_mode="floor")
        return thinned * valid(left, thinned.shape[2]).to(thinned.dtype).unsqueeze(1), left


class CnnAttn(NoteNet):
    """Four `SEBlock`s; every step is 64 frames.

    Raises:
        ValueError: *filter_size* is below 32, too small to be squeezed.
    """

    attends = True
    step_s = 64 * HOP / RATE_HZ
    # The first convolution starts two frames late, and 64 values lie about their middle.
    offset_s = (2 + 63 / 2) * HOP / RATE_HZ

    def __init__(
        self, filter_size: int = FILTER, feature_dim: int = FEATURE, dropout: float = 0.3, hearing: Hearing = OURS
    ) -> None:
        super().__init__(hearing)
        if self.attends and filter_size < 32:
            raise ValueError(f"filter_size is {filter_size}; squeeze-and-excitation needs at least 32")
        self.least = LEAST_FRAMES
        self.prepare = nn.Sequential(nn.Identity(), nn.Conv1d(BINS, filter_size, 5), nn.ELU())
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            SEBlock(filter_size, feature_dim, pool, dilation, self.attends)
            for pool, dilation in zip(POOLS, DILATIONS, strict=True)
        )
        # Again the places of what has no weights are kept: transpositions, a mean, a flattening.
        self.avg_linear = nn.Sequential(
            nn.Identity(), nn.LayerNorm(filter_size), nn.Identity(), nn.Identity(), nn.Identity(),
            nn.Linear(filter_size, 50), nn.Dropout(dropout), nn.Linear(50, 1),
        )  # fmt: skip

    @torch.jit.export
    def judge(self, features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Judge`; a score is of any size."""
        long, held = repeated(features, counts, self.least)
        values = self.prepare(long.transpose(1, 2))
        left = held - 4
        values = values * valid(left, values.shape[2]).to(values.dtype).unsqueeze(1)
        values, left = self.conv1(values, left)
        values, left = self.conv2(values, left)
        values, left = self.conv3(values, left)
        values, left = self.conv4(values, left)
        frames = self.avg_linear(values.transpose(1, 2)).squeeze(2)
        frames = frames * valid(left, frames.shape[1]).to(frames.dtype)
        return masked_mean(frames, left), frames, left

    def first(self) -> list[tuple[nn.Module, str]]:
        return [(self.prepare[1], "weight")]


class Cnn(CnnAttn):
    """`CnnAttn` without squeeze-and-excitation."""

    attends = False


def repeated(features: Tensor, counts: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """*features* [batch, time, bins] with items of fewer than *least* frames repeated up to there, and the new counts.

    The result is as long as its longest item.
    """
    held = counts.clamp(min=least)
    place = torch.arange(held.max(), device=features.device).unsqueeze(0)
    own = counts.clamp(min=1).unsqueeze(1)
    source = torch.where(own < least, place % own, place.expand(own.shape[0], -1))
    first = torch.arange(features.shape[0], device=features.device).unsqueeze(1) * features.shape[1]
    return features.reshape(-1, features.shape[2])[first + source], held
