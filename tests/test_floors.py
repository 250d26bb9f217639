"""The floors hold: imports point down only, run in no circle, and outside packages stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

BELOW = {
    "ground": set[str](),
    "backends": {"ground"},
    "audio": {"ground"},
    "engine": {"ground", "backends"},
    "tasks": {"ground", "audio", "engine"},
    "api": {"ground", "audio", "engine", "tasks"},
    "importers": {"ground", "engine"},
    "roof": {"ground", "backends", "audio", "engine", "tasks", "api", "importers"},
}
GROUND = {"service", "service.values", "service.errors", "service.settings", "service.metrics", "service.clock"}
ROOF = {"service.app", "service.cli", "service.__main__"}

HOMES = {
    "fastapi": ("service.api", "service.app"),
    "starlette": ("service.api", "service.app"),
    "uvicorn": ("service.app", "service.cli"),
    "prometheus_client": ("service.metrics", "service.api"),
    "onnxruntime": ("service.backends",),
    "onnx": ("service.importers",),
    "torch": ("service.backends.torchscript",),
    "torchaudio": (),
    "soundfile": ("service.audio",),
    "soxr": ("service.audio",),
    "av": ("service.audio",),
    "training": ("training",),
    "benchmarks": ("benchmarks",),
    "tests": ("tests",),
}


def sources(package: str) -> dict[str, str]:
    """Module name to text, for every module of a package of this project."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text("utf-8")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(text: str, module: str, is_package: bool) -> Iterator[str]:
    """Every name that a module imports, in functions and under TYPE_CHECKING too, written in full."""
    above = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=stem, names=names, level=level):
                parts = [*(above[: len(above) - level + 1] if level else []), *([stem] if stem else [])]
                yield from (".".join([*parts, alias.name]) for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def floor(module: str) -> str:
    if module in GROUND:
        return "ground"
    return "roof" if module in ROOF else module.split(".")[1]


def lies_in(module: str, homes: tuple[str, ...]) -> bool:
    return any(module == home or module.startswith(home + ".") for home in homes)


def graph(modules: dict[str, str]) -> dict[str, set[str]]:
    """Module to what it imports, names cut back to the module that holds them."""
    edges: dict[str, set[str]] = {}
    packages = {module.rpartition(".")[0] for module in modules}
    for module, text in modules.items():
        edges[module] = set()
        for name in imports(text, module, module in packages):
            held = name
            while held not in modules and "." in held:
                held = held.rpartition(".")[0]
            edges[module].add(held if held in modules else name)
    return edges


def faults(modules: dict[str, str]) -> list[str]:
    """What is wrong with the imports of these modules, a line each."""
    edges, found = graph(modules), []
    for module, targets in edges.items():
        for target in sorted(targets):
            if target in modules:
                here, there = floor(module), floor(target)
                if here != there and there not in BELOW.get(here, set()):
                    found.append(f"{module} ({here}) imports {target} ({there})")
            elif not lies_in(module, HOMES.get(target.split(".")[0], (module,))):
                found.append(f"{module} imports {target}")
    try:
        inner = {module: {t for t in targets if t in modules and t != module} for module, targets in edges.items()}
        TopologicalSorter(inner).prepare()
    except CycleError as error:
        found.append("circle: " + " -> ".join(error.args[1]))
    return found


def test_every_room_has_a_floor() -> None:
    """A new room is entered in BELOW by hand, so that somebody decides where it belongs."""
    assert {floor(module) for module in sources("service")} <= set(BELOW)


def test_the_floors_hold() -> None:
    assert faults(sources("service")) == []


def test_training_does_not_know_the_door() -> None:
    """Training shares audio, manifest and backends with the service, never its HTTP."""
    for module, text in sources("training").items():
        for name in imports(text, module, is_package=False):
            assert not lies_in(name, ("service.api", "service.app", "fastapi")), f"{module} imports {name}"


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("service.audio.planted", "from service.engine import manifest", "(audio) imports service.engine.manifest"),
        ("service.audio.planted", "from service.backends.base import Backend", "(audio) imports service.backends.base"),
        ("service.engine.planted", "import service.audio.decode", "(engine) imports service.audio"),
        ("service.engine.planted", "def f():\n    from service import app", "(engine) imports service.app"),
        ("service.tasks.planted", "from ..backends import base", "(tasks) imports service.backends.base"),
        ("service.tasks.planted", "if TYPE_CHECKING:\n    import service.api.routes", "(tasks) imports service.api"),
        ("service.clock", "from service.tasks import windows", "(ground) imports service.tasks"),
        ("service.api.planted", "from service.backends.base import Tensor", "(api) imports service.backends.base"),
        ("service.tasks.planted", "import torch", "imports torch"),
        ("service.backends.onnx", "import torch.jit", "imports torch.jit"),
        ("service.backends.torchscript", "import torchaudio", "imports torchaudio"),
        ("service.audio.planted", "from importlib import import_module\nimport_module('torch')", "imports torch"),
        ("service.errors", "from fastapi import HTTPException", "imports fastapi.HTTPException"),
        ("service.engine.planted", "from starlette.requests import Request", "imports starlette.requests.Request"),
        ("service.engine.planted", "import onnxruntime as ort", "imports onnxruntime"),
        ("service.api.planted", "import soundfile", "imports soundfile"),
        ("service.tasks.planted", "import soxr", "imports soxr"),
        ("service.cli", "import av", "imports av"),
        ("service.backends.planted", "from training.export import export", "imports training.export.export"),
        ("service.values", "from service.errors import X\n", "circle: "),
    ],
)
def test_a_planted_fault_is_found(module: str, text: str, fault: str) -> None:
    """The rules above can fail: each of these lines breaks one."""
    planted = {**sources("service"), module: text, "service.errors": "from service.values import Y"}
    if module == "service.errors":
        planted[module] = text

    assert any(fault in line for line in faults(planted))
