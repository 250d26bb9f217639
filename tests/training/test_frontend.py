"""The front ends against PyTorch's own transforms, and against themselves in padded batches."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from training.frontend import (  # noqa: E402
    InverseStft,
    LogMel,
    PowerSpectrum,
    Stft,
    frame_counts,
    hann,
    masked_mean,
    mel_bank,
    silence_past,
    valid,
)


def noise(batch: int, samples: int) -> torch.Tensor:
    return torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("n_fft", "hop", "samples"), [(512, 256, 5000), (400, 160, 3333), (2048, 640, 16001), (512, 256, 511), (64, 64, 1)]
)
def test_stft_is_torch_stft_with_silence_around(n_fft: int, hop: int, samples: int) -> None:
    waveform = noise(2, samples)
    window = torch.hann_window(n_fft, periodic=True)
    wanted = torch.stft(waveform, n_fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    real, imaginary = Stft(n_fft, hop)(waveform)
    scale = wanted.abs().max().item()
    assert real.shape == wanted.shape
    assert (real - wanted.real).abs().max().item() <= 1e-5 * max(1.0, scale)
    assert (imaginary - wanted.imag).abs().max().item() <= 1e-5 * max(1.0, scale)


@pytest.mark.parametrize(("n_fft", "hop"), [(2048, 640), (512, 256), (400, 160), (960, 480), (2, 1)])
def test_power_spectrum_is_that_of_the_transform(n_fft: int, hop: int) -> None:
    waveform = noise(2, 4321)
    real, imaginary = Stft(n_fft, hop)(waveform)
    wanted = (real.square() + imaginary.square()).transpose(1, 2)
    module = PowerSpectrum(n_fft, hop)
    given = module(waveform)
    assert set(module.bins) == set(range(n_fft // 2 + 1))
    torch.testing.assert_close(given, wanted[..., module.bins], rtol=1e-4, atol=1e-5 * wanted.max().item())


@pytest.mark.parametrize("window", [hann(512), np.sqrt(hann(512))])
@pytest.mark.parametrize(("hop", "samples"), [(256, 256 * 20), (128, 4001), (256, 5100)])
def test_inverse_undoes_the_transform(window: np.ndarray, hop: int, samples: int) -> None:
    waveform = noise(2, samples)
    padded = torch.nn.functional.pad(waveform, [0, hop])
    real, imaginary = Stft(512, hop, window)(padded)
    frames = torch.tensor([real.shape[2]] * 2)
    back = InverseStft(512, hop, window)(real, imaginary, frames, samples)
    torch.testing.assert_close(back, waveform, atol=1e-5, rtol=0)


def test_inverse_ignores_the_frames_past_an_item() -> None:
    waveform, lengths = noise(2, 4000), torch.tensor([4000, 2100])
    inverse, transform = InverseStft(512, 256), Stft(512, 256)
    real, imaginary = transform(silence_past(waveform, lengths))
    together = inverse(real + 1.0, imaginary, frame_counts(lengths, 256), 4000)
    real, imaginary = transform(waveform[1:, :2100])
    alone = inverse(real + 1.0, imaginary, torch.tensor([real.shape[2]]), 2100)
    torch.testing.assert_close(together[1:, :2100], alone, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("sample_rate", "n_fft", "mels", "high_hz"), [(32_000, 2048, 64, None), (16_000, 512, 40, 7600.0)]
)
def test_mel_bank_is_torchaudios(sample_rate: int, n_fft: int, mels: int, high_hz: float | None) -> None:
    functional = pytest.importorskip("torchaudio.functional", exc_type=(ImportError, OSError))
    wanted = functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, high_hz or sample_rate / 2, mels, sample_rate, mel_scale="htk"
    ).numpy()
    np.testing.assert_allclose(mel_bank(sample_rate, n_fft, mels, 0.0, high_hz), wanted, atol=1e-4)


def test_no_band_of_the_bank_is_empty() -> None:
    assert (mel_bank(32_000, 2048, 64, 40.0).sum(0) > 0.5).all()


def test_log_mel_of_an_item_does_not_know_its_batch() -> None:
    front_end = LogMel(16_000, 512, 160, 40)
    waveform = noise(2, 9000)
    waveform[1, 5000:] = float("nan")
    together, counts = front_end(waveform, torch.tensor([9000, 5000]))
    alone, _ = front_end(waveform[1:, :5000], torch.tensor([5000]))
    assert counts.tolist() == [57, 32]
    torch.testing.assert_close(together[1:, :, :32], alone, atol=1e-5, rtol=0)


def test_masks_and_means() -> None:
    lengths = torch.tensor([3, 0])
    assert valid(lengths, 4).tolist() == [[True, True, True, False], [False] * 4]
    assert masked_mean(torch.tensor([[1.0, 2.0, 3.0, 100.0]] * 2), lengths).tolist() == [2.0, 0.0]
