"""What the losses must say about signals whose answer is known."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from training.enhance import losses  # noqa: E402


def spectra(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return torch.randn(2, 257, 10), torch.randn(2, 257, 10)


def test_equal_spectra_cost_nothing_and_others_something() -> None:
    assert losses.compressed(spectra(), spectra()).item() == 0.0
    assert losses.compressed(spectra(), spectra(1)).item() > 1.0


def test_a_turned_phase_costs_less_than_a_wrong_magnitude_as_well() -> None:
    real, imaginary = spectra()
    turned = losses.compressed((real, imaginary), (-real, -imaginary))
    louder = losses.compressed((real, imaginary), (-3 * real, -3 * imaginary))
    assert 0.0 < turned.item() < louder.item()


@pytest.mark.parametrize("ratio_db", [-10.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_ratio_is_the_one_mixed_whatever_the_scale(ratio_db: float, scale: float) -> None:
    time = torch.arange(16_000) / 16_000
    wanted, other = torch.sin(2 * torch.pi * 400 * time), torch.cos(2 * torch.pi * 400 * time)
    mixed = scale * (wanted + other * 10 ** (-ratio_db / 20))
    assert losses.negative_si_snr(wanted[None], mixed[None]).item() == pytest.approx(-ratio_db / 10, abs=2e-3)


def test_silent_references_do_not_count() -> None:
    torch.manual_seed(0)
    wanted, given = torch.randn(2, 4000), torch.randn(2, 4000)
    quiet = wanted.clone()
    quiet[1] = 0.0
    assert losses.negative_si_snr(quiet, given).item() == losses.negative_si_snr(wanted[:1], given[:1]).item()
    assert losses.negative_si_snr(torch.zeros(2, 4000), given).item() == 0.0


def test_silence_gives_finite_gradients() -> None:
    real, imaginary = (torch.zeros(2, 257, 10, requires_grad=True) for _ in range(2))
    wave = torch.zeros(1, 1024, requires_grad=True)
    losses.total(spectra(), (real, imaginary), torch.randn(1, 1024), wave).backward()
    assert all(bool(one.grad.isfinite().all()) for one in (real, imaginary, wave) if one.grad is not None)
    assert real.grad is not None


def test_every_level_is_brought_to_the_same() -> None:
    torch.manual_seed(0)
    noisy = torch.randn(3, 4000) * torch.tensor([[0.001], [0.1], [0.9]])
    levels = (noisy * losses.level_gain(noisy).unsqueeze(1)).square().mean(1).sqrt()
    torch.testing.assert_close(levels, torch.full((3,), losses.LEVEL))
    assert losses.level_gain(torch.zeros(1, 4000)).isfinite().all()
