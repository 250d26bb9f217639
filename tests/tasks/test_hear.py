"""One walk through a recording gives every answer, whatever its length, rate and channels."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.audio.decode import Recording, open_recording
from service.audio.raw import RawFormat
from service.engine.dispatch import Claim
from service.engine.model import Model
from service.errors import BadRequest, DeadlinePassed, NonFiniteAudio, NotFound, Overloaded, SilentAudio, TooShort
from service.tasks.hear import (
    CurvePart,
    EnhanceWish,
    QualityWish,
    Report,
    SceneWish,
    SoundPart,
    Wishes,
    hear,
    hear_out,
)
from service.tasks.listen import Company, Job, Walk, Workbench
from service.values import AudioLimits, Turn
from tests.e2e.sounds import speechlike, wav

SOON_S = 60.0


def later(bench: Workbench) -> Turn:
    return Turn(bench.clock.now() + SOON_S)


async def heard_out(recording: Recording, bench: Workbench, wishes: Wishes, turn: Turn) -> Report:
    return await hear_out(lambda: recording, bench, wishes, turn, lambda report: report)


async def report(bench: Workbench, samples: NDArray[np.float32], wishes: Wishes, rate: int = 16_000) -> Report:
    return await heard_out(open_recording(wav(samples, rate), AudioLimits()), bench, wishes, later(bench))


async def enhanced(bench: Workbench, samples: NDArray[np.float32], wish: EnhanceWish, rate: int) -> NDArray[np.float32]:
    recording = open_recording(wav(samples, rate), AudioLimits())
    async with aclosing(hear(recording, bench, Wishes(enhance=wish), later(bench))) as events:
        return np.concatenate([event.samples async for event in events if isinstance(event, SoundPart)], axis=1)


async def test_a_long_recording_is_scored_like_in_one_pass(bench: Workbench) -> None:
    """Eleven pieces that overlap, joined, against a model that takes it all at once."""
    samples = speechlike(37.3)

    cut = await report(bench, samples, Wishes(quality=QualityWish("tiny-quality")))
    whole = await report(bench, samples, Wishes(quality=QualityWish("long-quality")))

    np.testing.assert_allclose(cut.quality[0].curve.values, whole.quality[0].curve.values, atol=1e-4)


async def test_the_curve_comes_in_parts_that_make_up_the_whole(bench: Workbench) -> None:
    recording = open_recording(wav(speechlike(25)), AudioLimits())
    async with aclosing(hear(recording, bench, Wishes(quality=QualityWish()), later(bench))) as walk:
        events = [event async for event in walk]
    parts = [event.curve for event in events if isinstance(event, CurvePart)]
    final = events[-1]

    assert isinstance(final, Report)
    assert len(parts) > 2
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), final.quality[0].curve.values)
    for before, after in pairwise(parts):
        assert after.start_s == pytest.approx(before.start_s + len(before.values) * before.step_s)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("seconds", [0.2, 3.999, 9.71])
async def test_enhanced_is_as_long_as_it_came(bench: Workbench, rate: int, seconds: float) -> None:
    samples = np.stack([speechlike(seconds, rate), speechlike(seconds, rate, seed=1)])

    made = await enhanced(bench, samples, EnhanceWish(), rate)

    assert made.shape == samples.shape


async def test_enhanced_is_aligned_and_without_seams(bench: Workbench) -> None:
    """The model halves: so must the whole, over all pieces, to the sample."""
    samples = speechlike(21.7)

    made = await enhanced(bench, samples, EnhanceWish(), 16_000)

    np.testing.assert_allclose(made[0], samples / 2, atol=1e-4)


async def test_enhanced_at_another_rate_has_the_same_duration(bench: Workbench) -> None:
    samples = speechlike(5.003, 44_100)

    made = await enhanced(bench, samples, EnhanceWish(rate=8000), 44_100)

    assert made.shape == (1, round(samples.size * 8000 / 44_100))


@pytest.mark.parametrize(("wish", "gain"), [
    (EnhanceWish(strength=0.0), 1.0),
    (EnhanceWish(strength=0.5), 0.75),
    (EnhanceWish(limit_db=0.0), 1.0),
    (EnhanceWish(limit_db=6.0206), 0.75),
    (EnhanceWish(strength=0.2, limit_db=60.0), 0.9),
])  # fmt: skip
async def test_the_weaker_of_strength_and_limit_holds(bench: Workbench, wish: EnhanceWish, gain: float) -> None:
    samples = speechlike(6.0)

    made = await enhanced(bench, samples, wish, 16_000)

    np.testing.assert_allclose(made[0], gain * samples, atol=1e-4)


async def test_channels_stay_channels_or_become_one(bench: Workbench) -> None:
    stereo = np.stack([speechlike(2), speechlike(2, seed=1)])

    each = await enhanced(bench, stereo, EnhanceWish(), 16_000)
    second = await enhanced(bench, stereo, EnhanceWish(channel=1), 16_000)
    mixed = await enhanced(bench, stereo, EnhanceWish(channel="mix"), 16_000)

    np.testing.assert_allclose(each, stereo / 2, atol=1e-4)
    np.testing.assert_allclose(second, stereo[1:] / 2, atol=1e-4)
    np.testing.assert_allclose(mixed[0], stereo.mean(axis=0) / 2, atol=1e-4)


async def test_scores_before_and_after(bench: Workbench) -> None:
    """The tiny model scores quieter sound higher, and the tiny enhancer halves."""
    heard = await report(bench, speechlike(9), Wishes(enhance=EnhanceWish(score=True)))

    assert heard.enhance is not None
    assert heard.enhance.quality_before is not None
    assert heard.enhance.quality_after is not None
    assert heard.enhance.quality_after > heard.enhance.quality_before


async def test_scores_are_left_out_where_nothing_can_be_scored(bench: Workbench) -> None:
    heard = await report(bench, np.zeros(16_000, np.float32), Wishes(enhance=EnhanceWish(score=True)))

    assert heard.enhance is not None
    assert heard.enhance.quality_before is None


async def test_several_models_are_averaged(bench: Workbench) -> None:
    samples = speechlike(5)

    one = await report(bench, samples, Wishes(scene=SceneWish(threshold=0.0)))
    both = await report(bench, samples, Wishes(scene=SceneWish(("tiny-scene", "other-scene"), threshold=0.0)))

    assert both.scene_model == "tiny-scene@1,other-scene@1"
    assert both.scene[0].labels[0].probability == pytest.approx(one.scene[0].labels[0].probability, abs=1e-6)


async def test_models_with_unlike_labels_are_not_averaged(bench: Workbench) -> None:
    with pytest.raises(BadRequest, match="labels"):
        await report(bench, speechlike(1), Wishes(scene=SceneWish(("tiny-scene", "unlike-scene"))))


async def test_silence_is_named_and_not_scored(bench: Workbench) -> None:
    silence = np.zeros(32_000, np.float32)

    with pytest.raises(SilentAudio):
        await report(bench, silence, Wishes(quality=QualityWish()))
    scene = (await report(bench, silence, Wishes(scene=SceneWish(threshold=0.0)))).scene[0]

    assert scene.labels == []
    assert scene.segments == []
    assert "silence" in scene.warnings[0]


async def test_only_what_is_said_of_the_whole_has_segments(bench: Workbench) -> None:
    all_said = (await report(bench, speechlike(3), Wishes(scene=SceneWish(threshold=0.0)))).scene[0]
    none_said = (await report(bench, speechlike(3), Wishes(scene=SceneWish(threshold=1.0)))).scene[0]

    assert all_said.segments
    assert none_said.labels == []
    assert none_said.segments == []


async def test_too_short_says_how_long_it_must_be(bench: Workbench) -> None:
    with pytest.raises(TooShort) as caught:
        await report(bench, speechlike(0.05), Wishes(quality=QualityWish()))

    assert caught.value.extra == {"minimum": 0.1, "got": 0.05}


@pytest.mark.parametrize(("wishes", "error"), [
    (Wishes(quality=QualityWish("nobody")), NotFound),
    (Wishes(quality=QualityWish("tiny-scene")), NotFound),
    (Wishes(quality=QualityWish(channel=3)), BadRequest),
    (Wishes(quality=QualityWish(step_s=0.001)), BadRequest),
    (Wishes(enhance=EnhanceWish(channel=1)), BadRequest),
])  # fmt: skip
async def test_wishes_that_cannot_be_met(bench: Workbench, wishes: Wishes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await report(bench, speechlike(1), wishes)


async def test_the_deadline_ends_a_walk(bench: Workbench) -> None:
    recording = open_recording(wav(speechlike(30)), AudioLimits())

    with pytest.raises(DeadlinePassed):
        await heard_out(recording, bench, Wishes(quality=QualityWish()), Turn(bench.clock.now() - 1))


async def test_a_fault_in_the_middle_ends_the_walk_and_frees_everything(bench: Workbench) -> None:
    samples = speechlike(30)
    samples[25 * 16_000] = np.nan
    recording = open_recording(samples.tobytes(), AudioLimits(), RawFormat(16_000, 1, "f32le"))

    with pytest.raises(NonFiniteAudio):
        await heard_out(recording, bench, Wishes(quality=QualityWish()), later(bench))

    assert (await report(bench, speechlike(1), Wishes(quality=QualityWish()))).quality


async def test_a_walk_that_is_cancelled_leaves_nothing_behind(bench: Workbench) -> None:
    closed = asyncio.Event()
    recording = open_recording(wav(speechlike(300)), AudioLimits())
    close, loop = recording.close, asyncio.get_running_loop()

    def close_and_say() -> None:
        close()
        loop.call_soon_threadsafe(closed.set)

    recording.close = close_and_say  # type: ignore[method-assign]
    walk = asyncio.create_task(heard_out(recording, bench, Wishes(quality=QualityWish()), later(bench)))
    await asyncio.sleep(0.02)
    walk.cancel()

    with pytest.raises(asyncio.CancelledError):
        await walk
    await asyncio.wait_for(closed.wait(), 5)
    assert (await report(bench, speechlike(1), Wishes(quality=QualityWish()))).quality


async def test_who_was_let_in_is_not_sent_away_half_way(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is full from the first piece of a long recording on: its rest waits, and the answer is whole."""
    submit, calls = Model.submit, 0

    def full_from_then_on(model: Model, *given: Any, is_admitted: bool = False) -> Claim:
        nonlocal calls
        calls += 1
        if calls > 1 and not is_admitted:
            raise Overloaded("full", retry_after_s=3)
        return submit(model, *given, is_admitted=is_admitted)

    monkeypatch.setattr(Model, "submit", full_from_then_on)
    samples = speechlike(37.3)

    made = await enhanced(bench, samples, EnhanceWish(), 16_000)

    np.testing.assert_allclose(made[0], samples / 2, atol=1e-4)
    assert calls > 8


async def test_who_was_not_let_in_hears_it_at_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: Model, *given: Any, is_admitted: bool = False) -> Claim:
        raise Overloaded("full", retry_after_s=3)

    monkeypatch.setattr(Model, "submit", full)

    with pytest.raises(Overloaded):
        await report(bench, speechlike(37.3), Wishes(quality=QualityWish()))


class Counting:
    """A listener that wants nothing and counts its ends."""

    ends = 0

    def push(self, block: NDArray[np.float32]) -> list[Job]:
        return []

    def finish(self) -> list[Job]:
        self.ends += 1
        return []


async def test_a_step_that_comes_after_the_last_one_is_none(bench: Workbench) -> None:
    """As it happens when a worker takes a posted step just as another one posts the next."""
    listener = Counting()
    company = Company(open_recording(wav(speechlike(1.0)), AudioLimits()), [listener])
    walk = Walk(bench, later(bench), lambda: company, lambda: "done")

    for _ in range(3):
        walk._step_due = True
        walk._advance()

    assert await walk._result == "done"
    assert listener.ends == 1
