"""`earmark …`: serve, check, models, tune. Every option of `serve` is a setting, documented where it is defined."""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from service import __version__
from service.errors import EarmarkError
from service.settings import PREFIX, Settings

logger = logging.getLogger("earmark")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 it did what was asked for, 1 something is wrong, 2 bad usage, 130 interrupted."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        code: int = given.run(given)
        return code
    except EarmarkError as error:
        print(f"earmark: {error.detail}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="earmark", description="Hear how good a recording is, what is in it, and clean it."
    )
    parser.add_argument("--version", action="version", version=f"earmark {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(
        commands.add_parser("serve", help="answer requests", formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    check = commands.add_parser(
        "check", help="load every model, verify sums and golden answers, print speed on this machine"
    )
    check.add_argument("--models", default="", help="further model folders, joined by ':'")
    check.set_defaults(run=_check)
    models = commands.add_parser("models", help="list or check model folders").add_subparsers(
        required=True, metavar="ACTION"
    )
    listing = models.add_parser("list", help="the models there are")
    listing.add_argument("--models", default="", help="further model folders, joined by ':'")
    listing.set_defaults(run=_models_list)
    one = models.add_parser("check", help="say what is wrong with a model folder, and what would be right")
    one.add_argument("folder", type=Path, help="a version folder with model.toml in it, or a folder of such")
    one.set_defaults(run=_models_check)
    dnsmos = models.add_parser(
        "add-dnsmos", help="make a model folder of the DNSMOS files in the installed package speechmos"
    )
    dnsmos.add_argument(
        "--out", type=Path, default=Path("models"), help="folder to add it to, for EARMARK_MODELS [default: models]"
    )
    dnsmos.set_defaults(run=_models_add_dnsmos)
    tune = commands.add_parser(
        "tune", help="measure models on this machine and write down what suits them best, so that loads need not"
    )
    tune.add_argument("names", nargs="*", metavar="MODEL", help="models to measure; none: all that would serve")
    tune.add_argument("--models", default="", help="further model folders, joined by ':'")
    tune.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where they are to run")
    tune.add_argument(
        "--out", type=Path, default=Path("tuning.toml"), help="file to write, for EARMARK_TUNING [default: tuning.toml]"
    )
    tune.set_defaults(run=_tune)
    openapi = commands.add_parser("openapi", help="print the OpenAPI document")
    openapi.set_defaults(run=_openapi)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    """An option a setting. What is not given keeps its variable, or the default."""
    parser.description = "Answer requests. Every option is also a variable, which the option overrides."
    for name, field in Settings.model_fields.items():
        option, variable = "--" + name.replace("_", "-"), PREFIX + name.upper()
        default = field.get_default()
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        shown = ",".join(shown) if isinstance(shown, tuple) else shown
        text = f"{field.description} [{variable}{f'; default: {shown}' if shown not in ('', None) else ''}]"
        parser.add_argument(option, dest=name, default=None, metavar=name.upper(), help=text.replace("%", "%%"))
    parser.set_defaults(run=_serve)


def _serve(given: argparse.Namespace) -> int:
    chosen = {name: getattr(given, name) for name in Settings.model_fields if getattr(given, name) is not None}
    try:
        settings = Settings(**chosen)
    except ValidationError as error:
        for fault in error.errors():
            where = ".".join(str(part) for part in fault["loc"]) or "settings"
            print(f"earmark serve: {where}: {fault['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    return serve(settings)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; requests in flight are answered first, then the exit code is 0."""
    import uvicorn

    from service.api.logs import configure_logging
    from service.app import create_app

    configure_logging(settings.log_level, settings.log_format)
    if not settings.keys() and not _is_loopback(settings.host):
        logger.warning(
            "anybody who reaches this address may ask: EARMARK_API_KEYS is not set", extra={"host": settings.host}
        )
    # uvicorn raises the signal again once it has shut down; without a handler that would be exit code 143
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        timeout_keep_alive=75,
        http="h11",  # httptools, which uvicorn would take where it is installed, has no bound on the head
        limit_concurrency=4096,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 1


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _models_list(given: argparse.Namespace) -> int:
    from service.engine.repository import scan

    catalogue = scan(Settings(models=given.models).model_folders)
    for key, entry in sorted(catalogue.entries.items()):
        manifest = entry.manifest
        if manifest is None:
            print(f"{entry.id:<28} broken    {entry.fault}")
            continue
        mark = "serves" if catalogue.serving[key[0]] == key[1] else ""
        print(f"{entry.id:<28} {manifest.task:<8}  {manifest.sample_rate:>6} Hz  {mark:<7} {manifest.title}")
    return 0


def _models_check(given: argparse.Namespace) -> int:
    return _check_folders([given.folder])


def _models_add_dnsmos(given: argparse.Namespace) -> int:
    from service.importers.dnsmos import add_dnsmos

    folder = add_dnsmos(given.out)
    print(f"{folder} is there; start with EARMARK_MODELS={given.out} and ask for model=dnsmos")
    return 0


def _check(given: argparse.Namespace) -> int:
    return _check_folders(Settings(models=given.models).model_folders)


def _check_folders(folders: Iterable[Path]) -> int:
    """Every version in *folders*, a line each: its speed on one core here, or all that is wrong with it."""
    from service.engine.checks import check_folder, model_folders

    versions = [version for folder in folders for version in model_folders(folder)]
    if not versions:
        print("earmark: no model.toml in there; a model is a folder NAME/VERSION with one", file=sys.stderr)
        return 1
    wrong = 0
    for version in versions:
        findings = check_folder(version)
        wrong += any(finding.fatal for finding in findings)
        verdict = "WRONG" if any(finding.fatal for finding in findings) else "good"
        print(f"{verdict:<6} {version.parent.name}@{version.name}  {_speed(version)}")
        for finding in findings:
            print(f"       {finding}")
    return 1 if wrong else 0


def _speed(version: Path) -> str:
    """Seconds of audio a second of computing, one thread, one recording at a time."""
    from service.engine.loading import load
    from service.engine.manifest import read_manifest

    try:
        loaded = load(version, read_manifest(version), "cpu")
    except EarmarkError:
        return ""
    length_s = min(10.0, loaded.manifest.window.max_s)
    speed = length_s / loaded.cost.cost(1, length_s)
    loaded.backend.close()
    return f"{loaded.backend.kind} {loaded.file.precision}, {speed:.0f} times real time"


def _tune(given: argparse.Namespace) -> int:
    from service.engine.tune import CLIP_S, subjects, tune
    from service.engine.tuning import write_tuning

    models = subjects(Settings(models=given.models).model_folders, given.names)
    tuning, found = tune(models, given.device, say=lambda text: print(f"{text} …", file=sys.stderr))
    print(f"{tuning.processor}, {tuning.runtime}: {tuning.workers} workers, one thread a run")
    print(f"{'model':<20} {'file':<20} {'device':<7} {'alone':>8} {'best batch':>16}  memory kept for")
    for one in found:
        items, speed = one.best
        kept = f"runs up to {one.entry.shrink_bytes >> 10} kB" if one.entry.shrink_bytes else "no run"
        row = f"{one.manifest.id:<20} {one.file.path:<20} {one.entry.device:<7} {one.alone:>6.0f} x"
        print(f"{row} {speed:>8.0f} x of {items:<2}  {kept}; {one.why}")
    print(f"(x: seconds of audio a second of computing, clips of {CLIP_S:g} s)")
    write_tuning(tuning, given.out)
    print(f"written to {given.out}; start with EARMARK_TUNING={given.out}")
    return 0


def _openapi(given: argparse.Namespace) -> int:
    from service.app import openapi_document

    print(json.dumps(openapi_document(), indent=2))
    return 0
