"""The simulator: what it is told, it does, and the same seed does it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("scipy")
pytest.importorskip("tqdm")

from tests.training.made_audio import RATE_HZ, made_corpus, voice
from training.corpus import open_sounds
from training.simulate import damage
from training.simulate.denoise import expand, gate, spectral_subtraction, wiener
from training.simulate.levels import active_rms, active_share, rms, to_peak
from training.simulate.mixture import at_snr, mix
from training.simulate.noise import KINDS, Noises, stretch
from training.simulate.recipe import FAMILIES, Recipe
from training.simulate.rooms import Room, draw_room, early_part, recorded_room, reverberate
from training.simulate.spectrum import band_gain, istft, shape, stft
from training.simulate.speech import AS_RECORDED, LEVEL, Voices, prepare

SPEECH = voice(3.0)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Voices, Recipe]:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = made_corpus(folder, ("train",))
    talkers = open_sounds(corpus.select(kind="speech"), RATE_HZ, folder)
    recorded = open_sounds(corpus.select(use="noise"), RATE_HZ, folder)
    rooms = open_sounds(corpus.select(kind="rir"), RATE_HZ, folder)
    return Voices(talkers), Recipe(RATE_HZ, Noises(RATE_HZ, recorded, talkers), rooms)


def level_db(samples: NDArray[np.float32], low_hz: float, high_hz: float) -> float:
    """Power between two frequencies, in dB."""
    powers = np.abs(np.fft.rfft(samples)) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    return float(10 * np.log10(powers[(frequencies >= low_hz) & (frequencies < high_hz)].sum() + 1e-20))


def error_db(heard: NDArray[np.float32], wanted: NDArray[np.float32] = SPEECH) -> float:
    return float(20 * np.log10(rms(heard - wanted) / rms(wanted) + 1e-12))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_damage(recipe: tuple[Voices, Recipe], family: str) -> None:
    voices, maker = recipe

    first, second, other = (
        maker.apply(rng, family, voices.draw(rng, 24000).waveform) for rng in map(np.random.default_rng, (5, 5, 6))
    )

    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert first[0].shape == (24000,)
    assert first[0].dtype == np.float32
    assert np.isfinite(first[0]).all()
    assert not np.array_equal(first[0], other[0])


def test_chains_are_one_or_two_different_families(recipe: tuple[Voices, Recipe]) -> None:
    voices, maker = recipe
    rng = np.random.default_rng(0)
    reference = voices.draw(rng, 8000).waveform

    chains = [maker.damage(rng, reference) for _ in range(60)]

    families = [[step.family for step in chain.steps] for chain in chains]
    assert {len(steps) for steps in families} == {1, 2}
    assert all(len(set(steps)) == len(steps) for steps in families)
    assert all(chain.family == ("two" if len(chain.steps) == 2 else chain.steps[0].family) for chain in chains)


@given(snr_db=st.floats(-10, 50), gain=st.floats(1e-3, 10), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_noise_lies_exactly_at_its_ratio(snr_db: float, gain: float, seed: int) -> None:
    noise = Noises(RATE_HZ).draw(np.random.default_rng(seed), len(SPEECH)).waveform * np.float32(gain)

    scaled = at_snr(SPEECH, noise, RATE_HZ, snr_db)

    assert 20 * np.log10(active_rms(SPEECH, RATE_HZ) / rms(scaled)) == pytest.approx(snr_db, abs=0.01)
    assert np.corrcoef(scaled, noise)[0, 1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_each_noise_has_unit_level_and_any_length(recipe: tuple[Voices, Recipe], kind: str) -> None:
    noises = recipe[1].noises

    for samples in (3001, 40000):
        noise = noises.draw(np.random.default_rng(1), samples, {kind: 1.0})
        assert noise.waveform.shape == (samples,)
        assert rms(noise.waveform) == pytest.approx(1, rel=1e-3)
        assert noise.parameters["noise"] == kind


def test_noise_without_recordings_is_computed() -> None:
    rng = np.random.default_rng(0)

    drawn = {str(Noises(RATE_HZ).draw(rng, 2000).parameters["noise"]) for _ in range(40)}

    assert drawn <= set(KINDS) - {"recorded", "babble"}
    assert len(drawn) > 2


def test_short_recordings_repeat_without_a_step(tmp_path: Path) -> None:
    corpus = made_corpus(tmp_path, ("train",))
    sounds = open_sounds(corpus.select(kind="speech"), RATE_HZ, tmp_path)

    long = stretch(np.random.default_rng(3), 3 * sounds.size(0), sounds, 0)

    assert len(long) == 3 * sounds.size(0)
    assert np.abs(np.diff(long)).max() <= 1.5 * np.abs(np.diff(sounds[0])).max()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_clipping_cuts_the_share_it_is_told(share: float) -> None:
    hard = damage.hard_clip(SPEECH, RATE_HZ, share)

    limit = np.abs(hard).max()
    assert error_db(hard) > error_db(damage.hard_clip(SPEECH, RATE_HZ, share / 2))
    expected = share * active_share(SPEECH, RATE_HZ)
    assert np.mean(np.abs(SPEECH) > limit) == pytest.approx(expected, rel=0.05)
    assert np.abs(damage.soft_clip(SPEECH, RATE_HZ, share)).max() < limit * 1.001


def test_bands_pass_what_is_inside_and_stop_what_is_outside() -> None:
    white = np.random.default_rng(0).standard_normal(32000).astype(np.float32)

    limited = damage.limit_band(white, RATE_HZ, 300, 3400)

    assert level_db(limited, 400, 3300) == pytest.approx(level_db(white, 400, 3300), abs=0.1)
    assert level_db(limited, 4000, 8000) < level_db(white, 4000, 8000) - 40
    assert level_db(limited, 10, 250) < level_db(white, 10, 250) - 30
    assert level_db(damage.narrow(white, RATE_HZ, 8000), 4200, 8000) < level_db(white, 4200, 8000) - 40


def test_fewer_bits_err_more() -> None:
    for coarse in (damage.quantise, damage.mu_law):
        errors = [error_db(coarse(SPEECH, bits)) for bits in (5, 7, 9, 11)]
        assert errors == sorted(errors, reverse=True)
    # Rounding to b bits errs by a step over sqrt(12): the step is 2^(1 - b) of full scale, the peak half of full scale.
    full = np.random.default_rng(0).uniform(-1, 1, 20000).astype(np.float32)
    expected_db = 20 * np.log10(2 * 2.0**-9 / np.sqrt(12) / rms(full))
    assert error_db(damage.quantise(full, 10), full) == pytest.approx(expected_db, abs=0.1)


@pytest.mark.parametrize("codec", damage.CODECS)
def test_codecs_keep_length_and_timing(codec: str) -> None:
    coded = damage.code(SPEECH, RATE_HZ, codec, 0.5)

    lags = np.fft.irfft(np.fft.rfft(coded, 1 << 17) * np.conj(np.fft.rfft(SPEECH, 1 << 17)))
    lag = int(np.argmax(lags))
    assert coded.shape == SPEECH.shape
    assert min(lag, (1 << 17) - lag) <= 8
    assert -60 < error_db(coded) < 0


@given(share=st.floats(0.01, 0.4), burst=st.sampled_from([1.0, 2.0, 3.0]))
@settings(max_examples=20, deadline=None)
def test_packets_are_lost_at_their_share(share: float, burst: float) -> None:
    lost = damage.lost_packets(np.random.default_rng(0), 20000, share, burst)

    assert lost.mean() == pytest.approx(share, rel=0.25, abs=0.005)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], lost.astype(int), [0]]))))[::2]
    if share < 0.2:
        assert runs.mean() == pytest.approx(burst, rel=0.25)


def test_lost_packets_are_silent_or_repeat_the_last() -> None:
    lost = np.zeros(150, bool)
    lost[[40, 41]] = True
    gap, before = slice(40 * 320, 42 * 320), SPEECH[39 * 320 : 40 * 320]

    silent = damage.lose_packets(SPEECH, RATE_HZ, lost, 0.02, None)
    repeated = damage.lose_packets(SPEECH, RATE_HZ, lost, 0.02, 0.5)

    assert not silent[gap].any()
    np.testing.assert_array_equal(np.delete(silent, np.r_[gap]), np.delete(SPEECH, np.r_[gap]))
    np.testing.assert_allclose(repeated[gap], np.concatenate([0.5 * before, 0.25 * before]), rtol=1e-6)


def test_a_room_has_its_ratio_and_its_decay() -> None:
    for seed in range(6):
        room = draw_room(np.random.default_rng(seed), RATE_HZ, (0.5, 0.5), (3.0, 3.0))
        after = room.response[1:].astype(np.float64)
        assert room.response[0] == 1
        assert 10 * np.log10(1 / np.sum(after**2)) == pytest.approx(3, abs=0.05)
        early, late = after[2000:2800], after[6000:6800]
        # 4000 samples are a quarter of a second: half of T60, 30 dB, give or take the dull and the bright part.
        assert 10 * np.log10(np.sum(early**2) / np.sum(late**2)) == pytest.approx(30, abs=4)


def test_a_room_of_nothing_but_the_direct_sound_changes_nothing() -> None:
    np.testing.assert_allclose(reverberate(SPEECH, Room(np.ones(1, np.float32), {})), SPEECH, atol=1e-6)


def test_a_recorded_room_starts_at_its_peak(recipe: tuple[Voices, Recipe]) -> None:
    rooms = recipe[1].rooms
    assert rooms is not None

    room = recorded_room(rooms, 0, RATE_HZ)

    assert np.argmax(np.abs(room.response)) == 0


def test_the_target_of_a_mixture_is_dry_but_for_the_early_part() -> None:
    rng = np.random.default_rng(2)
    room = draw_room(rng, RATE_HZ, (0.6, 0.6), (0.0, 0.0))
    noise = rng.standard_normal(len(SPEECH)).astype(np.float32)

    plain = mix(SPEECH, noise, RATE_HZ, 10)
    wet = mix(SPEECH, noise, RATE_HZ, 10, room)

    np.testing.assert_array_equal(plain.clean, SPEECH)
    np.testing.assert_allclose(wet.clean, reverberate(SPEECH, early_part(room, RATE_HZ)), atol=1e-7)
    added = wet.noisy - reverberate(SPEECH, room)
    heard = active_rms(reverberate(SPEECH, room), RATE_HZ)
    assert 20 * np.log10(heard / rms(added)) == pytest.approx(10, abs=0.01)


def test_noise_reducers_reduce_noise_and_spare_clean_speech() -> None:
    noisy = mix(SPEECH, np.random.default_rng(0).standard_normal(len(SPEECH)).astype(np.float32), RATE_HZ, 10).noisy

    for heard in (spectral_subtraction(noisy, 2.0, 0.1), wiener(noisy, 0.9, 0.1), gate(noisy)):
        assert error_db(heard) < error_db(noisy) - 1
    assert error_db(wiener(SPEECH, 0.9, 0.1)) < -15


def test_the_expander_turns_down_pauses_alone() -> None:
    hissing = SPEECH + np.float32(0.0003) * np.random.default_rng(0).standard_normal(len(SPEECH)).astype(np.float32)

    expanded = expand(hissing, RATE_HZ)

    loud = np.abs(SPEECH) > 0.05
    np.testing.assert_allclose(expanded[loud], hissing[loud], rtol=0.05)
    assert np.quantile(np.abs(expanded), 0.1) < 0.3 * np.quantile(np.abs(hissing), 0.1)


def test_the_transform_inverts_exactly() -> None:
    np.testing.assert_allclose(istft(stft(SPEECH), len(SPEECH)), SPEECH, atol=1e-6)
    np.testing.assert_allclose(shape(SPEECH, RATE_HZ, np.ones_like), SPEECH, atol=1e-6)
    assert band_gain(0, 8000)(np.array([0, 4000, 8000], np.float32)).tolist() == [1, 1, 1]


def test_references_share_level_and_length_and_are_varied(recipe: tuple[Voices, Recipe]) -> None:
    voices = recipe[0]
    rng = np.random.default_rng(0)

    varied = [voices.draw(rng, 20000) for _ in range(8)]
    plain = voices.draw(np.random.default_rng(1), 20000, AS_RECORDED)

    assert all(reference.waveform.shape == (20000,) for reference in varied)
    assert all(active_rms(reference.waveform, RATE_HZ) == pytest.approx(LEVEL, rel=0.02) for reference in varied)
    assert all(active_share(reference.waveform, RATE_HZ) > 0.3 for reference in varied)
    assert len({reference.parameters["speed"] for reference in varied}) >= 7
    assert plain.parameters == {"speed": 1.0, "floor_db": 66.0}
    assert {reference.group for reference in varied} == {"train0", "train1"}


def test_the_ideal_is_the_same_words_without_the_noise_of_their_recording() -> None:
    """Aligned to the sample, of the same device, and its pauses at the one common floor."""
    hiss = 0.003 * np.random.default_rng(0).standard_normal(len(SPEECH)).astype(np.float32)
    length = len(SPEECH)

    heard, ideal, _ = prepare(np.random.default_rng(1), SPEECH + hiss, length, RATE_HZ, 1.0, AS_RECORDED)

    quiet = np.abs(SPEECH) < 1e-3
    assert rms(ideal[quiet]) < 0.3 * rms(heard[quiet])
    assert np.corrcoef(heard, ideal)[0, 1] > 0.98
    assert active_rms(ideal, RATE_HZ) == pytest.approx(LEVEL, rel=0.02)


def test_peaks_are_set_and_silence_stays() -> None:
    assert np.abs(to_peak(SPEECH, -6)).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)
    assert not to_peak(np.zeros(10, np.float32), -6).any()
