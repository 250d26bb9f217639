"""Each kind of finding: a signal that has it, one that has not, and clean speech that has none."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from service.audio.levels import LevelFacts, Levels
from service.audio.stretches import MAX_STRETCHES
from service.values import Finding, Samples
from tests.audio.made import speech, syllable, tone

RATE = 16_000


def measured(samples: Samples, rate: int = RATE, step: int = 16_384) -> LevelFacts:
    levels = Levels(rate, samples.shape[0])
    for at in range(0, samples.shape[1], step):
        levels.push(samples[:, at : at + step])
    return levels.finish()


def found(samples: Samples, kind: str, rate: int = RATE) -> list[Finding]:
    return [finding for finding in measured(samples, rate).findings if finding.kind == kind]


def kinds(samples: Samples, rate: int = RATE) -> list[str]:
    return [finding.kind for finding in measured(samples, rate).findings]


def rounded(samples: Samples, bits: int) -> Samples:
    steps = 2.0 ** (bits - 1)
    return (np.clip(np.round(samples * steps), -steps, steps - 1) / steps).astype(np.float32)


def at(seconds: float, rate: int = RATE) -> int:
    return round(seconds * rate)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 48_000])
@pytest.mark.parametrize("pitch_hz", [100.0, 120.0, 150.0, 210.0])
@pytest.mark.parametrize("steady", [False, True])
def test_clean_speech_has_no_findings(rate: int, pitch_hz: float, steady: bool) -> None:
    samples = speech(5, rate, seed=int(pitch_hz), pitch_hz=pitch_hz, steady=steady)
    assert kinds(samples, rate) == []
    assert kinds(rounded(samples, 16), rate) == []


def test_levels_are_those_of_a_sine() -> None:
    facts = measured(tone(2, RATE, level=0.5))
    assert facts.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert facts.rms_dbfs == pytest.approx(-9.03, abs=0.01)
    assert not facts.silent


def test_levels_are_taken_over_all_channels() -> None:
    facts = measured(np.stack([np.full(RATE, 0.5), np.zeros(RATE)]).astype(np.float32))
    assert facts.rms_dbfs == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.01)


@pytest.mark.parametrize(("level", "silent"), [(0.0, True), (9e-5, True), (1.1e-4, False)])
def test_silent_is_below_minus_80(level: float, silent: bool) -> None:
    assert measured(np.full((1, RATE), level, np.float32)).silent is silent


def test_digital_silence_is_minus_infinity_and_one_silence() -> None:
    facts = measured(np.zeros((2, 5 * RATE), np.float32))
    assert facts.peak_dbfs == facts.rms_dbfs == -np.inf
    assert facts.findings == (Finding("silence", 0.0, 5.0, -120.0),)


@pytest.mark.parametrize("frames", [0, 1, 5, 50, 1000])
def test_very_short_recordings_are_measured(frames: int) -> None:
    facts = measured(speech(1)[:, :frames])
    assert facts.findings == ()
    assert facts.silent is (frames == 0)


@pytest.mark.parametrize("step", [1000, 4097, 10_000_000])
def test_findings_do_not_depend_on_how_it_is_cut(step: int) -> None:
    samples = np.clip(6 * speech(6, RATE), -0.4, 0.4)
    samples[0, at(syllable(4)) :][:300] = 0
    assert measured(samples, step=step) == measured(samples, step=777)


class TestClipping:
    @pytest.mark.parametrize("ceiling", [1.0, 0.3])
    @pytest.mark.parametrize("bits", [0, 16, 8])
    def test_flat_tops_are_found(self, ceiling: float, bits: int) -> None:
        samples = np.clip(4 * ceiling * speech(8), -ceiling, ceiling)
        samples = rounded(samples, bits) if bits else samples
        share = float(np.mean(np.abs(samples) > 0.98 * ceiling))

        seconds = sum(one.value * (one.offset_s - one.onset_s) for one in found(samples, "clipping"))

        assert 0.5 * 8 * share < seconds < 1.1 * 8 * share

    def test_only_the_part_that_clips_is_named(self) -> None:
        samples = speech(9).copy()
        part = slice(3 * RATE, 5 * RATE)
        samples[:, part] = np.clip(20 * samples[:, part], -1, 1)

        clipped = found(samples, "clipping")

        assert 2.9 < clipped[0].onset_s < 3.4
        assert 4.6 < clipped[-1].offset_s < 5.1

    @pytest.mark.parametrize("hz", [30, 50, 100, 440, 1000, 3999])
    @pytest.mark.parametrize("bits", [0, 24, 16, 8])
    @pytest.mark.parametrize("level", [0.999, 0.5, 0.06])
    def test_the_tops_of_a_pure_tone_are_not_clipping(self, hz: float, bits: int, level: float) -> None:
        samples = tone(3, 48_000, hz=hz, level=level)
        assert found(rounded(samples, bits) if bits else samples, "clipping", 48_000) == []

    def test_clipped_noise_is_found(self) -> None:
        noise = np.random.default_rng(1).standard_normal((1, 5 * RATE)).astype(np.float32)
        assert found(rounded(np.clip(3 * noise, -1, 1), 16), "clipping")

    def test_loud_noise_is_not_clipping(self) -> None:
        noise = np.random.default_rng(1).uniform(-0.99, 0.99, (1, 5 * RATE)).astype(np.float32)
        assert found(rounded(noise, 16), "clipping") == []

    def test_one_channel_is_enough(self) -> None:
        samples = np.repeat(speech(4), 2, axis=0)
        samples[1] = np.clip(10 * samples[1], -1, 1)
        assert found(samples, "clipping")


class TestDropout:
    @pytest.mark.parametrize("milliseconds", [6, 20, 60])
    def test_zeros_within_sound_are_found_where_they_are(self, milliseconds: int) -> None:
        samples = speech(8).copy()
        start = at(syllable(9)) - 8 * milliseconds
        samples[:, start : start + 16 * milliseconds] = 0

        (dropout,) = found(samples, "dropout")

        assert dropout.onset_s == pytest.approx(start / RATE, abs=0.002)
        assert dropout.offset_s == pytest.approx(start / RATE + milliseconds / 1000, abs=0.002)
        assert dropout.value == 1

    def test_a_row_of_them_is_one_stretch_with_the_share_that_is_lost(self) -> None:
        samples = tone(6, RATE, hz=233)
        for start in range(3 * RATE, 4 * RATE, RATE // 10):
            samples[:, start : start + RATE // 50] = 0

        (dropout,) = found(samples, "dropout")

        assert (dropout.onset_s, dropout.offset_s) == (pytest.approx(3, abs=0.01), pytest.approx(3.92, abs=0.01))
        assert dropout.value == pytest.approx(0.2 / 0.92, abs=0.02)

    def test_a_pause_that_fades_in_and_out_is_none(self) -> None:
        samples = speech(8).copy()
        fade = np.sin(np.linspace(np.pi / 2, 0, RATE // 50)) ** 2
        start = at(syllable(9))
        samples[0, start : start + fade.size] *= fade
        samples[0, start + fade.size : start + 4000] = 0
        samples[0, start + 4000 : start + 4000 + fade.size] *= fade[::-1]
        assert found(samples, "dropout") == []

    def test_zeros_at_the_ends_are_none(self) -> None:
        samples = np.pad(speech(4), ((0, 0), (1000, 1000)))
        assert found(samples, "dropout") == []

    def test_zeros_in_one_of_two_channels_are_none(self) -> None:
        samples = np.repeat(speech(4), 2, axis=0)
        samples[1] = 0
        assert found(samples, "dropout") == []

    def test_across_the_borders_of_slabs(self) -> None:
        samples = tone(5, RATE, hz=233)
        samples[:, 2 * RATE - 100 : 2 * RATE + 100] = 0
        samples[:, 3 * RATE - 400 : 3 * RATE] = 0
        assert len(found(samples, "dropout")) == 2


class TestSilence:
    def test_start_middle_and_end_are_found(self) -> None:
        quiet = (1e-5 * np.random.default_rng(0).standard_normal((1, 3 * RATE))).astype(np.float32)
        samples = np.concatenate([quiet, speech(3), quiet, speech(3, seed=2), quiet], axis=1)

        silences = found(samples, "silence")

        assert [(round(one.onset_s, 1), round(one.offset_s, 1)) for one in silences] == [(0, 3), (6, 9), (12, 15)]
        assert all(one.value == pytest.approx(-100, abs=1) for one in silences)

    def test_a_short_pause_is_none(self) -> None:
        samples = np.concatenate([speech(3), np.zeros((1, int(1.8 * RATE)), np.float32), speech(3)], axis=1)
        assert found(samples, "silence") == []

    def test_a_noisy_pause_is_none(self) -> None:
        noise = (2e-3 * np.random.default_rng(0).standard_normal((1, 4 * RATE))).astype(np.float32)
        assert found(np.concatenate([speech(3), noise], axis=1), "silence") == []

    def test_one_loud_channel_is_no_silence(self) -> None:
        assert found(np.concatenate([np.zeros((1, 8 * RATE), np.float32), speech(8)]), "silence") == []


class TestNarrowBand:
    @pytest.mark.parametrize(("through", "rate"), [(8000, 16_000), (8000, 48_000), (6800, 16_000), (11_025, 44_100)])
    @pytest.mark.parametrize("noise", [0.0, 3e-4])
    def test_the_end_of_the_band_is_told(self, through: int, rate: int, noise: float) -> None:
        samples = soxr.resample(soxr.resample(speech(6, rate)[0], rate, through), through, rate)
        samples = samples + noise * np.random.default_rng(0).standard_normal(samples.size)

        (narrow,) = found(samples.astype(np.float32)[None], "narrow_band", rate)

        assert narrow.value == pytest.approx(through / 2, abs=350)
        assert (narrow.onset_s, narrow.offset_s) == (0, pytest.approx(6, abs=0.01))

    @pytest.mark.parametrize(("through", "rate"), [(16_000, 48_000), (32_000, 44_100)])
    def test_a_band_beyond_7_khz_is_wide(self, through: int, rate: int) -> None:
        samples = soxr.resample(soxr.resample(speech(6, rate)[0], rate, through), through, rate)[None]
        assert found(samples.astype(np.float32), "narrow_band", rate) == []

    def test_a_rate_that_could_carry_no_more_is_no_finding(self) -> None:
        samples = soxr.resample(speech(6)[0], RATE, 8000)[None]
        assert found(samples, "narrow_band", 8000) == []

    def test_a_gentle_slope_is_no_end(self) -> None:
        spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(6 * RATE))
        octaves = np.log2(np.maximum(np.fft.rfftfreq(6 * RATE, 1 / RATE), 100) / 100)
        samples = np.fft.irfft(spectrum * 10 ** (-12 * octaves / 20))
        samples *= 0.1 / samples.std()
        assert found(samples.astype(np.float32)[None], "narrow_band") == []


class TestLowLevel:
    def test_faint_speech_is_told_by_its_level(self) -> None:
        (low,) = found(0.02 * speech(6), "low_level")
        assert -54 < low.value < -50

    def test_long_pauses_do_not_make_speech_faint(self) -> None:
        samples = np.concatenate([0.1 * speech(3), 1e-3 * speech(12)], axis=1)
        assert found(samples, "low_level") == []


class TestDcOffset:
    @pytest.mark.parametrize("offset", [0.03, -0.2])
    def test_the_offset_of_the_worst_channel_is_told_with_its_sign(self, offset: float) -> None:
        samples = np.repeat(speech(4), 2, axis=0)
        samples[1] += offset
        (dc,) = found(samples, "dc_offset")
        assert dc.value == pytest.approx(offset, abs=0.002)


class TestHum:
    @pytest.mark.parametrize("mains", [50.0, 60.0])
    @pytest.mark.parametrize("pitch_hz", [95.0, 130.0, 200.0])
    def test_mains_and_their_harmonics_are_found_under_speech(self, mains: float, pitch_hz: float) -> None:
        samples = speech(8, pitch_hz=pitch_hz) + self.hum(mains * 1.0004, 8, 0.01)
        (hum,) = found(samples.astype(np.float32), "hum")
        assert hum.value == mains

    def test_harmonics_without_the_fundamental_are_enough(self) -> None:
        samples = speech(8, pitch_hz=220) + self.hum(50, 8, 0.02, first=2)
        (hum,) = found(samples.astype(np.float32), "hum")
        assert hum.value == 50

    def test_a_melody_is_no_hum(self) -> None:
        rng = np.random.default_rng(3)
        samples = np.zeros(8 * RATE)
        for start in range(0, 7 * RATE, RATE // 3):
            pitch = rng.choice([98.0, 110.0, 123.5, 130.8, 146.8, 164.8, 196.0, 220.0, 246.9])
            time = np.arange(RATE // 2) / RATE
            note = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 30)) * np.hanning(time.size)
            samples[start : start + time.size] += 0.1 * note
        samples += 1e-3 * rng.standard_normal(samples.size)
        assert found(samples.astype(np.float32)[None], "hum") == []

    def test_a_tone_of_440_is_no_hum(self) -> None:
        assert found(tone(8, RATE) + speech(8), "hum") == []

    @staticmethod
    def hum(mains: float, seconds: float, level: float, first: int = 1) -> NDArray[np.floating]:
        time = np.arange(round(seconds * RATE)) / RATE
        return sum(level / k * np.sin(2 * np.pi * mains * k * time + k) for k in range(first, 9))


def test_there_is_a_most_of_findings_and_the_longest_are_kept() -> None:
    samples = tone(260, 4000, hz=233)
    for second in range(1, 250):
        samples[:, second * 4000 : second * 4000 + (400 if second == 240 else 80)] = 0

    dropouts = found(samples, "dropout", 4000)

    assert len(dropouts) == MAX_STRETCHES
    assert any(one.onset_s == pytest.approx(240, abs=0.01) for one in dropouts)
    assert [one.onset_s for one in dropouts] == sorted(one.onset_s for one in dropouts)


def test_memory_does_not_grow_with_the_recording(peak_bytes) -> None:  # type: ignore[no-untyped-def]
    block = np.clip(8 * speech(1), -0.5, 0.5)
    block[:, 8000:8200] = 0

    def measure(seconds: int) -> None:
        levels = Levels(RATE, 1)
        for _ in range(seconds):
            levels.push(block)
        levels.finish()

    assert peak_bytes(lambda: measure(120)) < peak_bytes(lambda: measure(30)) + 100_000
