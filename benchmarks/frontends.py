"""`python -m benchmarks.frontends`: spectra inside a graph against `torch.fft.rfft` on the same frames, one thread.

What is compared is a magnitude or its square for each frame and bin of ten seconds, framing and window included:
`power` as the exports make it, `folded` the transform in one step, `convolution` the plain way, and `rfft` with `abs`.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.http import default_quality_folder
from benchmarks.record import save, table
from benchmarks.timing import interleaved, ratio
from service.backends.onnx import OnnxBackend
from service.engine import padding
from service.engine.manifest import read_manifest
from service.settings import embedded_models
from training.frontend import PowerSpectrum, Stft, hann

SECONDS = 10
SIZES = ((512, 256, 16_000), (1024, 320, 32_000), (2048, 640, 32_000))


class Folded(nn.Module):
    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        self.stft = Stft(n_fft, hop)

    def forward(self, waveform: Tensor) -> Tensor:
        real, imaginary = self.stft(waveform)
        return real * real + imaginary * imaginary


class Convolution(nn.Module):
    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        turn = 2 * np.pi * np.outer(np.arange(n_fft // 2 + 1), np.arange(n_fft)) / n_fft
        kernels = np.concatenate([np.cos(turn), -np.sin(turn)]) * hann(n_fft)
        self.register_buffer("kernels", torch.from_numpy(kernels[:, None].astype(np.float32)))
        self.hop, self.half, self.bins = hop, n_fft // 2, n_fft // 2 + 1

    def forward(self, waveform: Tensor) -> Tensor:
        padded = nn.functional.pad(waveform.unsqueeze(1), [self.half, self.half])
        both = nn.functional.conv1d(padded, self.kernels, stride=self.hop)
        return both[:, : self.bins] ** 2 + both[:, self.bins :] ** 2


def in_a_graph(module: nn.Module, samples: int, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    path = folder / "spectrum.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(2, samples),), str(path), input_names=["waveform"],
            dynamic_axes={"waveform": {0: "batch", 1: "samples"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda waveform: session.run(None, {"waveform": waveform})[0]


def compare(n_fft: int, hop: int, rate: int, rounds: int) -> dict[str, float]:
    """Costs over that of `rfft` with `abs`, and the largest error of `power` over the largest power."""
    samples = SECONDS * rate
    waveform = np.random.default_rng(0).standard_normal((1, samples)).astype(np.float32)
    around = np.pad(waveform, ((0, 0), (n_fft // 2, n_fft // 2)))
    held, window = torch.from_numpy(around), torch.hann_window(n_fft)
    power = PowerSpectrum(n_fft, hop)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {
            "power": in_a_graph(power, samples, Path(folder)),
            "folded": in_a_graph(Folded(n_fft, hop), samples, Path(folder)),
            "convolution": in_a_graph(Convolution(n_fft, hop), samples, Path(folder)),
        }
    cases: dict[str, Callable[[], object]] = {
        name: lambda run=run: run(waveform) for name, run in graphs.items()  # type: ignore[misc]
    }
    cases["rfft"] = lambda: torch.fft.rfft(held.unfold(1, n_fft, hop) * window).abs()
    taken = interleaved(cases, rounds)
    frames = np.lib.stride_tricks.sliding_window_view(around[0].astype(np.float64), n_fft)[::hop] * hann(n_fft)
    wanted = np.abs(np.fft.rfft(frames)) ** 2
    given = graphs["power"](waveform)[0]
    return {
        "rfft_ms": 1000 * min(taken["rfft"]),
        **{name: ratio(taken, name, "rfft") for name in graphs},
        "error": float(np.abs(given - wanted[: len(given), power.bins]).max() / wanted.max()),
    }


def share(n_fft: int, hop: int, model: str, rounds: int) -> float:
    """Part of a shipped model's time that its spectrum takes."""
    folder = next(path.parent for path in embedded_models().glob(f"{model}/*/model.toml"))
    rate = read_manifest(folder).sample_rate
    waveform = np.random.default_rng(0).standard_normal(SECONDS * rate).astype(np.float32) / 10
    whole, batch = OnnxBackend(folder / "model.onnx", "cpu"), padding.assemble([waveform])
    with tempfile.TemporaryDirectory() as made:
        spectrum = in_a_graph(PowerSpectrum(n_fft, hop), len(waveform), Path(made))
    taken = interleaved({"whole": lambda: whole.run(batch), "part": lambda: spectrum(batch["waveform"])}, rounds)
    return ratio(taken, "part", "whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {f"{n_fft}/{hop}": compare(n_fft, hop, rate, given.rounds) for n_fft, hop, rate in SIZES}
    head = ("size/hop", "rfft and abs, ms", "power", "folded", "convolution", "error of power")
    print(table(head, [(name, *row.values()) for name, row in found.items()]))
    quality = default_quality_folder().parent.name
    shares = {
        quality: share(512, 256, quality, given.rounds),
        "sounds-cpresnet": share(2048, 640, "sounds-cpresnet", given.rounds),
    }
    print(table(("model", "share of its spectrum"), list(shares.items())))
    save({"frontends": found, "shares": shares}, given.out)


if __name__ == "__main__":
    main()
