"""Is this folder a model that will serve well? All that `earmark models check` asks, and what would be right instead.

Dearer than the loader's probe, and asked of every file of the manifest, not of the one that serves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.backends.base import Backend, BackendError, Device
from service.backends.factory import open_backend
from service.engine import padding, probe
from service.engine.loading import Opener, check_file
from service.engine.manifest import BadManifest, GraphFile, Manifest, read_manifest
from service.engine.repository import BadModel, verified
from service.values import Arrays

Area = Literal[
    "manifest", "files", "runtime", "contract", "lengths", "batching", "repeatable", "silence", "golden", "parity"
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a model.

    Attributes:
        area: which question it failed.
        file: the graph's file; None where it is about the whole folder.
        wrong: what was found, a sentence.
        right: what would be right, a sentence.
        fatal: whether the model would be refused or answer wrongly; otherwise it serves, slower or less surely.
    """

    area: Area
    file: str | None
    wrong: str
    right: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.area}: {f'{self.file} ' if self.file else ''}{self.wrong}. {self.right}."


def model_folders(folder: Path) -> list[Path]:
    """The version folders at or below *folder*: itself, a name's versions, or a whole repository's."""
    if (folder / "model.toml").is_file():
        return [folder]
    return sorted(path.parent for pattern in ("*/model.toml", "*/*/model.toml") for path in folder.glob(pattern))


def check_folder(folder: Path, device: Device = "cpu", opener: Opener = open_backend) -> list[Finding]:
    """All that is wrong with the model in *folder* (`<name>/<version>`); an empty list if it is good."""
    try:
        manifest = read_manifest(folder)
    except BadManifest as error:
        return [Finding("manifest", None, error.detail, "Correct model.toml; docs/add-a-model.md lists its keys")]
    findings = list(_manifest_findings(folder, manifest))
    answers: dict[str, list[Arrays]] = {}
    for file in manifest.files:
        check = _FileCheck(folder, manifest, file, device, opener)
        findings += check.findings()
        if check.answers:
            answers[file.path] = check.answers
    return findings + list(_parity(manifest, answers))


def _manifest_findings(folder: Path, manifest: Manifest) -> Iterator[Finding]:
    resolved = folder.resolve()
    if (resolved.parent.name, resolved.name) != (manifest.name, str(manifest.version)):
        wrong = f"model.toml says {manifest.id}, but it lies in {resolved.parent.name}/{resolved.name}"
        yield Finding("manifest", None, wrong, f"Name the folders {manifest.name}/{manifest.version}")
    if not (folder / "CARD.md").is_file():
        wrong = "there is no CARD.md"
        yield Finding("manifest", None, wrong, "Write down data, licence, figures and limits in one", fatal=False)
    if manifest.golden is None:
        wrong = "there is no golden answer"
        yield Finding("golden", None, wrong, "Add golden.npz, so that a wrong runtime is noticed", fatal=False)


def _parity(manifest: Manifest, answers: dict[str, list[Arrays]]) -> Iterator[Finding]:
    """The files of full precision are one model: they must answer alike."""
    exact = [file.path for file in manifest.files if file.precision == "fp32" and file.path in answers]
    for other in exact[1:]:
        gap = max(map(probe.difference, answers[exact[0]], answers[other]))
        if gap > probe.INVARIANCE:
            wrong = f"answers differently from {exact[0]}, by {gap:.2g}"
            right = f"Export both from the same weights; {probe.INVARIANCE:g} apart is allowed"
            yield Finding("parity", other, wrong, right)


class _FileCheck:
    """All questions to one graph. `answers` are those to the probes, alone, for comparison among files."""

    def __init__(self, folder: Path, manifest: Manifest, file: GraphFile, device: Device, opener: Opener) -> None:
        self._folder = folder
        self._manifest = manifest
        self._file = file
        self._device = device
        self._opener = opener
        self._probes = [probe.noise(samples, probe.LEVELS[i % 3], i) for i, samples in enumerate(self._lengths())]
        self.answers: list[Arrays] = []

    def findings(self) -> list[Finding]:
        try:
            path = check_file(self._folder, self._manifest, self._file)
        except (BadModel, BackendError) as error:
            return [self._finding("files", str(error), "Put the file in place and its sha256 in model.toml")]
        names = self._manifest.output_names(self._file)
        try:
            backend = self._opener(path, self._file.backend, self._device, names)
        except BackendError as error:
            # Another file of the manifest may run where this one does not.
            fatal = self._file is self._manifest.files[0]
            right = "Export it again, or install what is missing"
            return [self._finding("runtime", f"does not run here: {error}", right, fatal)]
        try:
            return self._questions(backend)
        finally:
            backend.close()

    def _questions(self, backend: Backend) -> list[Finding]:
        right = "Export it with the inputs and outputs of its task"
        if faults := probe.contract_faults(backend, self._manifest):
            return [self._finding("contract", fault, right) for fault in faults]
        found: list[Finding] = []
        questions = {
            "lengths": self._lengths_hold,
            "batches": self._batching_holds,
            "repetition": self._repeats,
            "silence": self._survives_silence,
            "the golden answer": self._golden_holds,
        }
        for topic, question in questions.items():
            try:
                found += question(backend)
            except BackendError as error:
                found.append(self._finding("runtime", f"failed when asked about {topic}: {error}", right))
        return found

    def _lengths_hold(self, backend: Backend) -> Iterator[Finding]:
        """Every length alone, up to the first that fails: names, shapes, as many values as samples, finite."""
        right = "Give what the task and model.toml say, finite, for every length that the window allows"
        answers = []
        for waveform in self._probes:
            (answer,) = probe.run_batch(backend, [waveform])
            faults = probe.answer_faults(answer, self._manifest, len(waveform))
            if not padding.is_finite(answer):
                faults.append("gives NaN or infinity for noise")
            if faults:
                yield from (self._finding("lengths", f"of {len(waveform)} samples {fault}", right) for fault in faults)
                return
            answers.append(answer)
        self.answers = answers

    def _batching_holds(self, backend: Backend) -> Iterator[Finding]:
        """Several sizes of batch, each mixed as the declared mode allows, against the answers alone."""
        declared = self._file.batching or self._manifest.batching.mode
        gaps = {}
        for items in sorted({2, 3, min(5, self._manifest.batching.max_items)}) if declared != "alone" else ():
            lengths = [len(self._probes[i % len(self._probes)]) for i in range(items)]
            gaps[items] = probe.true_mode(backend, declared, lengths)[1]
        if gaps and (gap := max(gaps.values())) > probe.INVARIANCE:
            wrong = f"is declared `{declared}`, but neighbours in a batch change its answers by {gap:.2g}"
            right = f"Mask by `lengths` what reaches across time, or declare `alone`; {probe.INVARIANCE:g} is allowed"
            yield self._finding("batching", wrong, right, fatal=False)

    def _repeats(self, backend: Backend) -> Iterator[Finding]:
        """The same input twice."""
        (once,), (twice,) = (probe.run_batch(backend, [self._probes[0]]) for _ in range(2))
        if gap := probe.difference(once, twice):
            right = "Take randomness (dropout, dither) out of the export"
            yield self._finding("repeatable", f"answers the same input differently, by {gap:.2g}", right)

    def _survives_silence(self, backend: Backend) -> Iterator[Finding]:
        """Digital silence, and silence with one click."""
        silence = np.zeros(len(self._probes[0]), np.float32)
        click = silence.copy()
        click[len(click) // 2] = 1.0
        for name, waveform in (("silence", silence), ("one click in silence", click)):
            (answer,) = probe.run_batch(backend, [waveform])
            if not padding.is_finite(answer):
                right = "Keep logarithms and divisions away from zero"
                yield self._finding("silence", f"gives NaN or infinity for {name}", right)

    def _golden_holds(self, backend: Backend) -> Iterator[Finding]:
        """The answer that the training stored."""
        golden = self._manifest.golden
        if golden is None:
            return
        right = "Store the waveform and the outputs that this very graph gives, and the file's sha256"
        try:
            waveform, expected = _read_golden(verified(self._folder, golden.path, golden.sha256))
        except (BadModel, ValueError, OSError, KeyError) as error:
            yield self._finding("golden", f"cannot be compared: {error}", right)
            return
        (answer,) = probe.run_batch(backend, [waveform])
        if missing := sorted(set(expected) - set(answer)):
            yield self._finding("golden", f"gives no {', '.join(missing)}, which {golden.path} holds", right)
            return
        gap = probe.difference({name: answer[name] for name in expected}, expected)
        allowed = self._file.tolerance or golden.tolerance
        if gap > allowed:
            wrong = f"differs from its golden answer by {gap:.2g}; {allowed:g} is allowed"
            yield self._finding("golden", wrong, right)

    def _lengths(self) -> list[int]:
        """Unlike lengths up to the window: the shortest, odd ones between, and the longest."""
        rate, window = self._manifest.sample_rate, self._manifest.window
        least = max(1, round(window.min_s * rate))
        most = max(least, round(window.max_s * rate))
        return [int(least + share * (most - least)) for share in (0.37, 0.0, 1.0, 0.081, 0.613)]

    def _finding(self, area: Area, wrong: str, right: str, fatal: bool = True) -> Finding:
        return Finding(area, self._file.path, wrong, right, fatal)


def _read_golden(path: Path) -> tuple[NDArray[np.float32], Arrays]:
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return np.ascontiguousarray(arrays.pop(padding.WAVEFORM), np.float32), arrays
