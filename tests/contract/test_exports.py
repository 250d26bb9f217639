"""What every shipped export promises, whatever its task: files, formats, batches, odd inputs, golden answer, card."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.engine.manifest import OUTPUTS, GraphFile, Manifest, read_manifest

ROOT = Path(__file__).parents[2] / "exported_models"
FOLDERS = sorted(path.parent for path in ROOT.glob("*/*/model.toml"))
LENGTHS_S = (0.73, 1.31, 2.9)
BOUND = 1e-4
MOST_BYTES = 60 << 20
TOPICS = ("What it does", "Figures|How good", "Training|How it came", "Licence", "[Ss]ources")
"""What a heading of every card must speak of."""
NO_USE = r"(?i)\bnot (for|meant|to be used)\b|\bmust not\b"

Run = Callable[[NDArray[np.float32], NDArray[np.int64]], dict[str, NDArray[Any]]]

each_export = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}@{folder.name}")


@cache
def manifest_of(folder: Path) -> Manifest:
    return read_manifest(folder)


def file_of(folder: Path, backend: str) -> GraphFile:
    files = [file for file in manifest_of(folder).files if file.backend == backend]
    if not files:
        pytest.skip(f"no {backend} file")
    return files[0]


@cache
def onnx(folder: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = folder / file_of(folder, "onnx").path
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(waveform: NDArray[np.float32], lengths: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(None, {"waveform": waveform, "lengths": lengths}), strict=True))

    return run


def torchscript(folder: Path) -> Callable[[NDArray[np.float32], NDArray[np.int64]], list[NDArray[Any]]]:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(folder / file_of(folder, "torchscript").path)

    def run(waveform: NDArray[np.float32], lengths: NDArray[np.int64]) -> list[NDArray[Any]]:
        with torch.no_grad():
            given = module(torch.from_numpy(waveform), torch.from_numpy(lengths))
        return [one.numpy() for one in ((given,) if torch.is_tensor(given) else given)]

    return run


def sounds(folder: Path, *lengths_s: float) -> list[NDArray[np.float32]]:
    """Bursts of a sweep over faint noise, one per length, each of its own seed."""
    rate = manifest_of(folder).sample_rate
    made = []
    for seed, length_s in enumerate(lengths_s):
        time_s = np.arange(int(length_s * rate) + seed) / rate
        tone = np.sin(2 * np.pi * (220 + 90 * seed + 500 * time_s) * time_s) * (np.sin(7 * time_s) > -0.2)
        noise = np.random.default_rng(seed).standard_normal(len(time_s))
        made.append((0.25 * tone + 0.01 * noise).astype(np.float32))
    return made


def padded(items: list[NDArray[np.float32]], extra: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One batch, its padding filled with loud noise that must not be heard."""
    batch = np.random.default_rng(9).uniform(-5, 5, (len(items), max(map(len, items)) + extra)).astype(np.float32)
    for row, item in enumerate(items):
        batch[row, : len(item)] = item
    return batch, np.array([len(item) for item in items], np.int64)


def alone(run: Run, item: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    given = run(item[None], np.array([len(item)], np.int64))
    return {name: values[0] for name, values in given.items()}


def test_something_is_shipped() -> None:
    assert FOLDERS, f"no model in {ROOT}"


def test_the_newest_versions_are_small_enough_to_ship() -> None:
    newest = {folder.parent: folder for folder in sorted(FOLDERS, key=lambda folder: int(folder.name))}
    assert sum(path.stat().st_size for folder in newest.values() for path in folder.rglob("*")) < MOST_BYTES


@each_export
def test_the_manifest_names_its_folder_and_files(folder: Path) -> None:
    manifest = manifest_of(folder)
    assert (manifest.name, str(manifest.version)) == (folder.parent.name, folder.name)
    for file in manifest.files:
        assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256, file.path
    assert manifest.golden is not None
    assert hashlib.sha256((folder / manifest.golden.path).read_bytes()).hexdigest() == manifest.golden.sha256
    assert manifest.figures, "a model without figures"


@each_export
def test_the_card_has_its_sections_and_the_licence(folder: Path) -> None:
    card = (folder / "CARD.md").read_text("utf-8")
    headings = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert [topic for topic in TOPICS if not any(re.search(topic, heading) for heading in headings)] == []
    assert re.search(NO_USE, card), "a card says what its model must not be used for"
    assert manifest_of(folder).licence in card


@each_export
def test_the_graph_has_the_tasks_outputs(folder: Path) -> None:
    manifest = manifest_of(folder)
    given = alone(onnx(folder), sounds(folder, 1.0)[0])
    assert any(names <= given.keys() for names in OUTPUTS[manifest.task])
    if manifest.task == "scene":
        assert given["clip"].shape == (len(manifest.labels),)
        for values in (given["clip"], given["frames"]):
            assert values.min() >= 0
            assert values.max() <= 1
    if manifest.task == "enhance":
        assert given["enhanced"].shape == (manifest.sample_rate,)
    if "frames" in given:
        assert manifest.frames is not None, "frames without their step"
        assert given["frames"].shape[0] == pytest.approx(1.0 / manifest.frames.step_s, abs=2)


@each_export
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length_s", LENGTHS_S)
def test_onnx_and_torchscript_agree(folder: Path, length_s: float, batch: int) -> None:
    scripted = torchscript(folder)
    waveform, lengths = padded(sounds(folder, *[length_s - 0.09 * row for row in range(batch)]))
    for (name, one), other in zip(onnx(folder)(waveform, lengths).items(), scripted(waveform, lengths), strict=True):
        np.testing.assert_allclose(one, other, atol=BOUND, rtol=0, err_msg=name)


@each_export
def test_an_item_gets_the_same_alone_and_in_any_batch(folder: Path) -> None:
    if manifest_of(folder).batching.mode != "padded":
        pytest.skip("not batched with padding")
    items = sounds(folder, *LENGTHS_S, 0.2)
    together = onnx(folder)(*padded(items, extra=3001))
    for row, item in enumerate(items):
        for name, wanted in alone(onnx(folder), item).items():
            same = together[name][row][tuple(slice(size) for size in wanted.shape)]
            np.testing.assert_allclose(same, wanted, atol=BOUND, rtol=0, err_msg=f"{name}, {len(item)} samples")


@each_export
def test_the_same_question_gets_the_same_answer(folder: Path) -> None:
    item = sounds(folder, 1.1)[0]
    first, second = alone(onnx(folder), item), alone(onnx(folder), item)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


@each_export
@pytest.mark.parametrize("kind", ["silence", "one sample", "short", "long", "full scale", "constant"])
def test_odd_recordings_give_finite_answers(folder: Path, kind: str) -> None:
    manifest = manifest_of(folder)
    rate = manifest.sample_rate
    item = {
        "silence": np.zeros(rate),
        "one sample": np.full(1, 0.5),
        "short": 0.1 * np.ones(max(2, int(manifest.window.min_s * rate))),
        "long": 0.1 * np.sin(np.arange(int(1.5 * manifest.window.max_s * rate)) / 20),
        "full scale": np.sign(np.sin(np.arange(rate) / 9)),
        "constant": np.ones(rate),
    }[kind].astype(np.float32)
    for name, values in alone(onnx(folder), item).items():
        assert np.isfinite(values).all(), name
        if name == "enhanced":
            assert values.shape == item.shape
            assert kind != "silence" or np.abs(values).max() < 1e-3, "silence must stay silent"


@each_export
def test_nothing_is_said_of_silence(folder: Path) -> None:
    manifest = manifest_of(folder)
    if manifest.task != "scene" or manifest.exclusive:
        pytest.skip("no label may be missing")
    clip = alone(onnx(folder), np.zeros(2 * manifest.sample_rate, np.float32))["clip"]
    said = [label.name for label, value in zip(manifest.labels, clip, strict=True) if value >= label.threshold]
    assert said == []


@each_export
def test_the_golden_answer(folder: Path) -> None:
    golden = manifest_of(folder).golden
    assert golden is not None
    stored = np.load(folder / golden.path)
    given = alone(onnx(folder), stored["waveform"])
    assert set(given) == set(stored.files) - {"waveform"}
    for name, values in given.items():
        np.testing.assert_allclose(values, stored[name], atol=golden.tolerance, rtol=0, err_msg=name)
