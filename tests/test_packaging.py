"""What is installed is what was locked; nothing of the machine it was made on goes along; the whole stays small."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
LOCKED = {
    "serve": (),
    "media": ("media",),
    "gpu": ("gpu",),
    "test": ("media", "train", "dev"),
}
ELSEWHERE = {"torch", "torchaudio", "pesq", "earmark"}
"""Not in these locks: torch comes from an index of its own, pesq has a file of its own."""

ADDRESS = re.compile(r"\w://|(?<!\w)@\s|--(extra-)?index|--find-links|--trusted-host")
REGISTRY = re.compile(r"\bpypi\.(org|python\.org)|\bpythonhosted\.org|://[\w.-]*(artifactory|nexus|registry|mirror)")
MACHINE = re.compile(r"(?<![\w.:/$}~-])/(home|root|Users|work|opt|mnt|scratch)/[\w.]")
MODELS_BYTES = 60_000_000


def pins(lock: Path) -> dict[str, list[Requirement]]:
    """Name to its pins (one per marker); hashes are cut off."""
    found: dict[str, list[Requirement]] = {}
    for entry in entries(lock):
        pin = Requirement(entry.split("\\")[0])
        found.setdefault(pin.name, []).append(pin)
    return found


def entries(lock: Path) -> list[str]:
    """Each requirement of a lock with the lines that continue it."""
    lines = [line for line in lock.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    return re.split(r"\n(?=\S)", "\n".join(lines))


def tracked() -> list[Path]:
    """The files of the repository, or a skip where this is no checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_requirement_is_pinned_and_hashed(lock: Path) -> None:
    for entry in entries(lock):
        assert re.match(r"[a-z0-9.-]+==\S+ ", entry), entry
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_locks_hold_no_address(lock: Path) -> None:
    assert ADDRESS.findall(lock.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "line", ["--index-url x", "--find-links wheels", "torch @ file:///w/t.whl", "# from https://x"]
)
def test_an_address_would_be_found(line: str) -> None:
    assert ADDRESS.search(line)


@pytest.mark.parametrize(("lock", "extras"), LOCKED.items())
def test_locks_hold_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    locked = pins(ROOT / "requirements" / f"{lock}.txt")
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    replaced = {"onnxruntime"} if "gpu" in extras else set()

    for requirement in map(Requirement, wanted):
        if requirement.name in ELSEWHERE | replaced:
            continue
        versions = [next(iter(pin.specifier)).version for pin in locked.get(requirement.name, [])]
        assert versions, f"{requirement.name} is missing from {lock}.txt: make lock"
        assert all(requirement.specifier.contains(version) for version in versions), requirement
    assert not replaced & set(locked)


def test_no_lock_holds_torch() -> None:
    """Which build is right depends on the machine, and a lock would fetch gigabytes of CUDA."""
    assert all(not {"torch", "torchaudio", "triton"} & set(pins(lock)) for lock in LOCKS)


def test_all_locks_agree_on_versions() -> None:
    """What was tested is what is served: a package has the same pins in every lock that has it."""
    serve = pins(ROOT / "requirements" / "serve.txt")
    for lock in LOCKS:
        for name, found in pins(lock).items():
            assert name not in serve or set(map(str, found)) == set(map(str, serve[name])), f"{name} in {lock.name}"


def test_torch_is_pinned_alike_everywhere() -> None:
    for path in ("Makefile", "docker/Dockerfile"):
        for name, version in re.findall(r"\b(torch|torchaudio)==([\d.]+)", (ROOT / path).read_text("utf-8")):
            assert f"{name}=={version}" in EXTRAS["torch"], f"{path}: {name} {version}"


def test_nothing_of_one_machine_is_tracked() -> None:
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE, REGISTRY):
            hit = pattern.search(text)
            assert hit is None, f"{path.relative_to(ROOT)}: {hit and hit.group()}"


@pytest.mark.parametrize("parts", [("see ", "home", "ann"), ("'", "root", ".cache"), ("https:/", "registry.lan", "")])
def test_traces_of_a_machine_would_be_found(parts: tuple[str, ...]) -> None:
    text = "/".join(parts)
    assert MACHINE.search(text) or REGISTRY.search(text)


def test_models_stay_small() -> None:
    """The history keeps every version for good, and the image and the wheel carry them all."""
    sizes = [path.stat().st_size for path in tracked() if path.is_relative_to(ROOT / "exported_models")]
    assert sum(sizes) < MODELS_BYTES


def test_the_core_has_no_torch() -> None:
    assert not [line for line in PROJECT["dependencies"] if Requirement(line).name.startswith("torch")]


def test_this_python_can_be_served_from_the_locks() -> None:
    """For each name exactly one pin holds here, whatever the version of Python."""
    for name, found in pins(ROOT / "requirements" / "serve.txt").items():
        holding = [pin for pin in found if pin.marker is None or pin.marker.evaluate(dict(default_environment()))]
        assert len(holding) <= 1, name


@pytest.mark.slow
def test_the_wheel_carries_code_models_and_command(tmp_path: Path) -> None:
    """`pip wheel` of the checkout holds the shipped models inside the package."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)

    with zipfile.ZipFile(next(tmp_path.glob("earmark-*.whl"))) as wheel:
        names = wheel.namelist()
        commands = wheel.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    shipped = {p.relative_to(ROOT).as_posix() for p in tracked() if p.is_relative_to(ROOT / "exported_models")}
    assert {f"service/{name}" for name in shipped} <= set(names)
    assert "service/settings.py" in names
    assert not [name for name in names if name.startswith(("tests/", "training/", "benchmarks/"))]
    assert "earmark = service.cli:main" in commands
