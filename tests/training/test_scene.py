"""The scene model's parts on made-up sounds: labels, figures, mixing, and a net that does not hear its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from service.engine.manifest import Segmenting  # noqa: E402
from service.values import Segment  # noqa: E402
from training import export  # noqa: E402
from training.corpus import Corpus, Row  # noqa: E402
from training.scene import augment, metrics, network, segments  # noqa: E402
from training.scene.classes import LABELS, UNSTATED, targets  # noqa: E402
from training.scene.evaluate import CONTEXT_S, MAX_S, joined_difference  # noqa: E402
from training.scene.examples import Example, Examples, speech_rows  # noqa: E402
from training.scene.export import OUTPUTS  # noqa: E402
from training.scene.network import Export, Net, Shape  # noqa: E402

SMALL = Shape(channels=(4, 6, 8, 10))


def row(kind: str = "event", label: str = "dog", group: str = "a", split: str = "train") -> Row:
    return Row(
        path=f"{kind}/{label}-{group}.wav",
        kind=kind,
        uses=frozenset(),
        labels=(label,),
        group=group,
        split=split,
        fold=1,
        seconds=5.0,
        rate_hz=32_000,
        speaker="",
        language="",
        snr_db=None,
        is_clear=True,
        bandwidth_hz=None,
        floor_db=None,
        licence="CC0-1.0",
        credit="made up",
        source="",
    )


def some_examples(count: int = 60) -> Examples:
    chance = np.random.default_rng(3)
    kinds = [("event", LABELS[index % 10]) if index % 3 else ("noise", "fan") for index in range(count - 10)]
    rows = tuple(row(kind, label, str(index)) for index, (kind, label) in enumerate(kinds + [("speech", "")] * 10))
    bands = tuple(
        (chance.uniform(-8, 3, (SMALL.mels, chance.integers(20, 251))).astype(np.float16),) for _ in range(count)
    )
    stated = [targets(one.kind, one.labels) for one in rows]
    present, known = (np.stack([pair[at] for pair in stated]) for at in (0, 1))
    return Examples(tuple(Example(at, 0, 1) for at in range(count)), rows, bands, present, known)


def trained_a_little(shape: Shape) -> Export:
    """Statistics and weights away from their start, or attention and norms would be trivial."""
    torch.manual_seed(0)
    net = Net(shape).train()
    for _ in range(3):
        net(3 * torch.randn(8, shape.mels, 90) - 2, torch.full((8,), 90))
    return Export(shape, net).eval()


def test_labels_say_what_is_there_and_what_is_not_known() -> None:
    present, known = targets("event", ("rain", "thunder"))
    assert [label for label, there in zip(LABELS, present, strict=True) if there] == ["rain"]
    assert known.all(), "a stated label is known even where another makes it doubtful"
    present, known = targets("place", ("farm",))
    assert present.sum() == 0
    assert {label for label, sure in zip(LABELS, known, strict=True) if not sure} == set(UNSTATED["farm"])
    assert targets("speech", ())[0][LABELS.index("speech")] == 1


def test_every_doubt_is_about_a_label() -> None:
    assert {label for doubts in UNSTATED.values() for label in doubts} <= set(LABELS)


def test_speech_is_taken_from_every_speaker_in_turn() -> None:
    rows = [row("speech", "", "many") for _ in range(50)] + [row("speech", "", group) for group in "xyz"]
    taken = speech_rows(Corpus(Path(), tuple(rows)), "train", 6)
    assert sorted(one.group for one in taken) == ["many", "many", "many", "x", "y", "z"]


@pytest.mark.parametrize("script", [True, False])
def test_the_graph_exports_and_does_not_hear_its_batch(tmp_path: Path, script: bool) -> None:
    model = trained_a_little(SMALL)
    for name, write in (("model.onnx", export._write_onnx), ("model.pt", export._write_torchscript)):
        extra = (script,) if name == "model.pt" else ()
        arguments = (model, OUTPUTS, tmp_path / name) if name == "model.onnx" else (model, tmp_path / name)
        write(*arguments, SMALL.sample_rate, *extra)
    checked = export.check(model, OUTPUTS, tmp_path, SMALL.sample_rate, (0.7, 1.37, 2.0))
    assert checked.worst() <= 2e-5


def test_pieces_joined_equal_one_pass() -> None:
    assert joined_difference(trained_a_little(SMALL), MAX_S, CONTEXT_S) < 1e-5


def test_a_short_sound_is_as_present_in_a_long_recording() -> None:
    presence = torch.full((1, 1, 400), 0.01)
    presence[0, 0, 150:160] = 0.9
    weight, mask = torch.ones_like(presence), torch.ones(1, 1, 400, dtype=torch.bool)
    whole = network.most_in_a_stretch(presence, weight, mask)
    part = network.most_in_a_stretch(presence[..., 110:230], weight[..., 110:230], mask[..., 110:230])
    torch.testing.assert_close(whole, part)
    assert whole.item() == pytest.approx((10 * 0.9 + 22 * 0.01) / 32, rel=1e-4)


def test_the_stated_context_is_what_a_frame_hears() -> None:
    model = trained_a_little(SMALL)
    waveform = torch.zeros(1, 5 * SMALL.sample_rate)
    plain = model(waveform, torch.tensor([waveform.shape[1]]))[1][0]
    middle = waveform.shape[1] // 2
    waveform[0, middle] = 1.0
    changed = (model(waveform, torch.tensor([waveform.shape[1]]))[1][0] - plain).abs().amax(1) > 0
    times_s = torch.nonzero(changed)[:, 0] * SMALL.frame_step_s
    assert (times_s - middle / SMALL.sample_rate).abs().max() <= SMALL.context_s


def test_a_batch_is_the_same_for_the_same_seed_and_stays_in_range() -> None:
    given_examples = some_examples()
    recipe = augment.Recipe(batch=8, frames=80)
    first, again = (list(augment.batches(given_examples, SMALL, recipe, np.random.default_rng(5))) for _ in range(2))
    assert len(first) == augment.steps_per_epoch(given_examples, recipe) > 2
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one.bands, other.bands, rtol=0, atol=0)
        assert one.bands.shape == (8, SMALL.mels, 80)
        assert torch.isfinite(one.bands).all()
        assert ((one.present >= 0) & (one.present <= 1)).all()
        assert ((one.known == 0) | (one.known == 1)).all()
        assert ((one.counts > 0) & (one.counts <= 80)).all()


def test_an_epoch_holds_every_positive_once_and_its_share_of_the_rest() -> None:
    given_examples = some_examples(90)
    order = augment._order(given_examples, augment.Recipe(), np.random.default_rng(0))
    positive = np.flatnonzero(given_examples.present[:, :-1].any(1))
    assert sorted(one for one in order if one in positive) == positive.tolist()
    assert len(set(order)) == len(order) > len(positive)


def mixed(present: np.ndarray, active: np.ndarray, mix: float = 1.0) -> tuple[np.ndarray, ...]:
    items, time = active.shape
    sounds = augment._Sounds(
        np.ones((items, 3, 4 * time), np.float32),
        np.full(items, 4 * time),
        active.astype(np.float32),
        present.astype(np.float32),
        np.ones_like(present, np.float32),
    )
    return augment._mixed(sounds, augment.Recipe(mix=mix, gain_db=0.0), np.random.default_rng(1))


def test_mixing_keeps_the_louder_sound_and_unites_the_labels() -> None:
    powers, _, present, _, frames, known = mixed(np.eye(4), np.ones((4, 5)))
    assert (present.max(1) == 1).all(), "one of two is always fully there"
    assert (powers <= 1.0 + 1e-5).all()
    assert (powers >= 0.5 - 1e-2).all()
    np.testing.assert_array_equal(frames.max(1), present)
    assert known.all()


def test_frames_are_unknown_only_where_the_label_is_there_and_its_level_leaves_it_open() -> None:
    active = np.array([[1, 0, np.nan], [1, 1, 1]])
    _, _, _, _, frames, known = mixed(np.eye(2), active, mix=0.0)
    assert frames[0, :, 0].tolist() == [1, 0, 0]
    assert known[0].tolist() == [[1, 1], [1, 1], [0, 1]]
    assert known[1].all()


@pytest.mark.parametrize("steady", [True, False])
def test_activity_follows_the_level(steady: bool) -> None:
    level_db = np.array([-60.0] * 8 + [-25.0] * 8 + [0.0] * 8 + [-200.0] * 7)
    powers = 10 ** (level_db / 10)[None] * np.full((5, 1), 0.2)
    found = augment.activity(powers.astype(np.float32), 1.0, steady)
    assert len(found) == 8
    assert found[5] == 1
    assert found[[0, 7]].tolist() == [0, 0]
    assert found[3] == 1 if steady else np.isnan(found[3])


def test_events_are_the_loud_runs() -> None:
    rate = 8000
    envelope = np.zeros(3 * rate)
    for begin, end in ((0.5, 1.0), (1.1, 1.5), (2.0, 2.2)):
        envelope[int(begin * rate) : int(end * rate)] = 1.0
    clip = (envelope * np.random.default_rng(0).standard_normal(len(envelope))).astype(np.float32)
    part, spans = segments.events(clip, rate, steady=False)
    assert len(part) == pytest.approx(1.7 * rate, abs=2)
    assert spans == [pytest.approx((0.0, 1.0)), pytest.approx((1.5, 1.7))]


def test_segments_match_once_and_within_their_collars() -> None:
    truth = (Segment("dog", 1.0, 1.5, 1.0), Segment("rain", 2.0, 7.0, 1.0))
    near = [Segment("dog", 1.15, 1.6, 0.9), Segment("dog", 1.1, 1.5, 0.9), Segment("rain", 2.1, 6.2, 0.9)]
    assert segments.matched(near, truth) == 2
    assert segments.matched([Segment("dog", 1.25, 1.5, 0.9), Segment("sneezing", 1.0, 1.5, 0.9)], truth) == 0
    heard = segments.seconds_heard(truth)
    assert np.flatnonzero(heard[LABELS.index("rain")]).tolist() == [2, 3, 4, 5, 6]


def test_perfect_frames_make_perfect_segments() -> None:
    truth = (Segment("dog", 1.16, 1.8, 1.0), Segment("rain", 3.08, 7.8, 1.0))
    track = np.zeros((126, len(LABELS)), np.float32)
    for one in truth:
        track[round(one.onset_s / 0.08 + 0.5) : round(one.offset_s / 0.08 + 0.5), LABELS.index(one.label)] = 1.0
    clip = np.full(len(LABELS), 0.6, np.float32)
    silence = segments.Heard(clip, np.zeros_like(track))
    noisy = segments.Heard(clip, np.full_like(track, 0.65))
    scene = segments.Scene(np.zeros(1, np.float32), truth)
    trial = segments.Trial([scene], [segments.Heard(clip, track)], [silence, noisy], np.full(len(LABELS), 0.5))
    found = segments.segment_figures(trial, SMALL, Segmenting())
    assert found == {"second_f1": 1.0, "event_f1": 1.0, "none_segmented": 0.5}
    assert segments.best_rule(trial, SMALL).on > 0.65, "the only rules that find nothing where nothing is"
    unsaid = segments.Trial([scene], trial.heard, trial.none, np.full(len(LABELS), 0.7))
    assert segments.segment_figures(unsaid, SMALL, Segmenting())["none_segmented"] == 0.0


@given(st.integers(1, 60), st.floats(0, 1))
def test_wilson_holds_the_share_within_the_unit_interval(total: int, share: float) -> None:
    hits = round(share * total)
    low, high = metrics.wilson(hits, total)
    assert 0 <= low <= hits / total + 1e-12
    assert hits / total <= high + 1e-12
    assert high <= 1


def test_wilson_is_the_published_interval() -> None:
    assert metrics.wilson(76, 80) == pytest.approx((0.878, 0.980), abs=1e-3)


@given(arrays(np.float64, 30, elements=st.floats(0, 1), unique=True), arrays(np.bool_, 30))
def test_average_precision_is_its_definition_where_no_scores_tie(scores: np.ndarray, positive: np.ndarray) -> None:
    if positive.any():
        wanted = np.mean([positive[scores >= one].mean() for one in scores[positive]])
        assert metrics.average_precision(scores, positive) == pytest.approx(wanted)


def test_average_precision_takes_ties_against_itself() -> None:
    assert metrics.average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25


def test_macro_accuracy_weighs_classes_alike_and_confusion_counts() -> None:
    truth, guess = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert metrics.macro_accuracy(truth, guess) == pytest.approx((2 / 3 + 1) / 2)
    assert metrics.confusion(truth, guess, 2).tolist() == [[2, 1], [0, 1]]


def test_unknown_pairs_do_not_count() -> None:
    scores, present = np.array([[0.9], [0.8], [0.1]]), np.array([[0.0], [1.0], [0.0]])
    assert metrics.mean_average_precision(scores, present, np.ones((3, 1))) == 0.5
    assert metrics.mean_average_precision(scores, present, np.array([[0.0], [1.0], [1.0]])) == 1.0


def test_the_threshold_separates_and_leans_to_silence() -> None:
    scores, positive = np.array([0.3, 0.35, 0.6, 0.7]), np.array([False, False, True, True])
    assert 0.35 < metrics.best_threshold(scores, positive) <= 0.6
    doubtful, truth = np.array([0.4, 0.45, 0.5, 0.9]), np.array([False, True, False, True])
    assert metrics.best_threshold(doubtful, truth, beta=0.5) > 0.5
    assert metrics.best_threshold(doubtful, truth, beta=2.0) < 0.5


def test_the_interval_widens_when_clips_belong_together() -> None:
    truth = np.array([0, 1] * 20)
    guess = np.where(np.arange(40) % 8 < 6, truth, 1 - truth)

    def figure(at: np.ndarray) -> float:
        return metrics.macro_accuracy(truth[at], guess[at])

    apart = metrics.bootstrap(figure, [str(at) for at in range(40)], 300)
    together = metrics.bootstrap(figure, [str(at % 8 // 2) for at in range(40)], 300)
    assert together[1] - together[0] > apart[1] - apart[0]
