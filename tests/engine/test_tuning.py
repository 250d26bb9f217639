"""What was measured once is read back as it was, and ignored where it does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.backends import machine
from service.cli import main
from service.engine.loading import Terms, load
from service.engine.manifest import read_manifest
from service.engine.tuning import TunedFile, Tuning, read_tuning, runtime, write_tuning
from service.settings import BadSettings
from tests.models import make_model


def tuned(sha256: str = "a" * 64, **changes: object) -> Tuning:
    file = TunedFile(
        model="tiny@1", path="model.onnx", sha256=sha256, precision="fp32", device="cpu", chosen=True,
        mode="padded", shrink_bytes=1 << 20, fixed_s=0.25, items=(1, 2), per_second=(0.5, 0.75),
    )  # fmt: skip
    return Tuning(processor=machine.processor(), runtime=runtime(), workers=2, files=(file,)).model_copy(update=changes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_tuning(tuned(), tmp_path / "tuning.toml")

    assert read_tuning(tmp_path / "tuning.toml") == tuned()
    assert tuned().stale() is None


@pytest.mark.parametrize("changes", [{"processor": "another"}, {"runtime": "onnxruntime 0.1"}])
def test_what_was_found_elsewhere_is_stale(changes: dict[str, object]) -> None:
    reason = tuned(**changes).stale()

    assert reason is not None
    assert str(next(iter(changes.values()))) in reason


@pytest.mark.parametrize(
    ("text", "said"),
    [("workers = 2\nwhat = 1\n", "what"), ("workers = ", "not TOML"), ('processor = "p"\n', "runtime")],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "tuning.toml").write_text(text)

    with pytest.raises(BadSettings) as refusal:
        read_tuning(tmp_path / "tuning.toml")
    assert said in refusal.value.detail


def test_a_load_takes_the_costs_that_were_written_down(tmp_path: Path) -> None:
    folder = make_model(tmp_path, "quality")
    manifest = read_manifest(folder)

    loaded = load(folder, manifest, "cpu", terms=Terms(tuning=tuned(manifest.files[0].sha256)))
    fresh = load(folder, manifest, "cpu", terms=Terms(tuning=tuned("b" * 64)))

    assert loaded.cost.cost(1, 1.0) == pytest.approx(0.75)
    assert fresh.cost.cost(1, 1.0) < 0.1
    for one in (loaded, fresh):
        one.backend.close()


def test_tune_writes_what_serve_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(tmp_path / "models", "quality")
    out = tmp_path / "tuning.toml"

    given = ["tune", "tiny-quality", "--models", str(tmp_path / "models"), "--device", "cpu", "--out", str(out)]
    assert main(given) == 0

    tuning = read_tuning(out)
    assert tuning.stale() is None
    assert [file.model for file in tuning.files if file.chosen] == ["tiny-quality@1"]
    assert "tiny-quality@1" in capsys.readouterr().out
