"""The shipped models answer over HTTP, in every form the contract names."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
import soundfile

from tests.e2e.server import Server, serving
from tests.e2e.sounds import speechlike, wav

SPEECH = speechlike(3.0)
BODY = wav(SPEECH)
RAW = {"Content-Type": "audio/wav"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as connection:
        yield connection


def test_quality_scores_a_recording_and_draws_its_curve(client: httpx.Client) -> None:
    answer = client.post("/quality", content=BODY, headers=RAW).raise_for_status().json()

    assert 1.0 <= answer["score"] <= 4.65
    assert answer["scores"]["pesq"] == answer["score"]
    assert answer["audio"]["duration_s"] == pytest.approx(3.0)
    assert len(answer["curve"]["values"]) == pytest.approx(3.0 / answer["curve"]["step_s"], abs=2)
    assert answer["model"].startswith("quality-")
    assert len(answer["request_id"]) > 8


def test_noise_lowers_the_score(client: httpx.Client) -> None:
    noise = 0.05 * np.random.default_rng(1).standard_normal(SPEECH.size).astype(np.float32)

    clean = client.post("/quality", content=BODY, headers=RAW).json()["score"]
    noisy = client.post("/quality", content=wav(SPEECH + noise), headers=RAW).json()["score"]

    assert noisy < clean - 0.3


def test_a_form_with_one_file_is_answered_like_a_raw_body(client: httpx.Client) -> None:
    raw = client.post("/quality", content=BODY, headers=RAW).json()
    form = client.post("/quality", files={"file": ("a.wav", BODY, "audio/wav")}).json()

    assert form["score"] == raw["score"]
    assert form["audio"]["sha256"] == raw["audio"]["sha256"]


def test_a_form_with_several_files_answers_each_in_order(client: httpx.Client) -> None:
    files = [("file", ("a.wav", BODY)), ("file", ("b.txt", b"this is no audio at all")), ("file", ("c.wav", BODY))]

    results = client.post("/quality", files=files).raise_for_status().json()["results"]

    assert [("score" in one, one.get("status")) for one in results] == [(True, None), (False, 415), (True, None)]


def test_quality_streams_lines(client: httpx.Client) -> None:
    answer = client.post("/quality", content=BODY, headers=RAW | {"Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]

    assert [line["type"] for line in lines] == ["audio", *["curve"] * (len(lines) - 2), "answer"]
    streamed = [value for line in lines[1:-1] for value in line["values"]]
    np.testing.assert_allclose(streamed, lines[-1]["curve"]["values"], atol=2e-4)


def test_quality_as_table_and_picture(client: httpx.Client) -> None:
    step_s = client.post("/quality", content=BODY, headers=RAW).json()["curve"]["step_s"]
    table = client.post("/quality", content=BODY, headers=RAW | {"Accept": "text/csv"}).text.splitlines()
    picture = client.post("/quality", content=BODY, headers=RAW | {"Accept": "image/svg+xml"})

    assert table[0] == "time_s,score"
    assert len(table) == pytest.approx(3.0 / step_s, abs=3)
    assert picture.headers["content-type"].startswith("image/svg+xml")
    assert ElementTree.fromstring(picture.text).tag.endswith("svg")  # noqa: S314  our own server made it


def test_scene_names_labels_and_segments(client: httpx.Client) -> None:
    answer = client.post("/scene?threshold=0&top=3&frames=true", content=BODY, headers=RAW).raise_for_status().json()

    assert len(answer["labels"]) == 3
    assert answer["labels"][0]["probability"] >= answer["labels"][-1]["probability"]
    assert len(answer["frames"]["values"][0]) == len(answer["frames"]["labels"])


@pytest.mark.parametrize("accept", ["text/csv", "text/x-audacity"])
def test_scene_as_table(client: httpx.Client, accept: str) -> None:
    answer = client.post("/scene", content=BODY, headers=RAW | {"Accept": accept})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(accept)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_enhance_gives_back_the_same_length_rate_and_channels(client: httpx.Client, rate: int) -> None:
    stereo = np.stack([speechlike(1.37, rate), 0.5 * speechlike(1.37, rate, seed=3)])

    answer = client.post("/enhance", content=wav(stereo, rate), headers=RAW | {"Accept": "audio/wav"})
    made, made_rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")

    assert answer.status_code == 200
    assert made_rate == rate
    assert made.shape == (stereo.shape[1], 2)


def test_enhance_at_no_strength_changes_nothing(client: httpx.Client) -> None:
    answer = client.post("/enhance?strength=0", content=BODY, headers=RAW | {"Accept": "audio/wav"})
    made, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    sent, _ = soundfile.read(io.BytesIO(BODY), dtype="int16")

    assert np.abs(made.astype(int) - sent.astype(int)).max() <= 1


def test_enhance_in_json_with_scores(client: httpx.Client) -> None:
    noisy = SPEECH + 0.02 * np.random.default_rng(2).standard_normal(SPEECH.size).astype(np.float32)

    answer = client.post("/enhance?score=true", content=wav(noisy), headers=RAW | {"Accept": "application/json"}).json()
    made, _ = soundfile.read(io.BytesIO(base64.b64decode(answer["data"])))

    assert made.shape == noisy.shape
    assert 1.0 <= answer["quality_before"] <= 4.65
    assert 1.0 <= answer["quality_after"] <= 4.65


@pytest.mark.parametrize("kind", ["flac", "opus", "mp3"])
def test_enhance_in_other_formats(client: httpx.Client, kind: str) -> None:
    answer = client.post(f"/enhance?format={kind}", files={"file": ("tälk one.wav", BODY)})
    made, _ = soundfile.read(io.BytesIO(answer.content))

    assert len(made) == pytest.approx(SPEECH.size, rel=0.05) or kind != "flac"
    assert "filename*=UTF-8''t%C3%A4lk%20one-enhanced." in answer.headers["content-disposition"]


def test_analyze_answers_all_at_once_and_equals_the_single_answers(client: httpx.Client) -> None:
    url = "/analyze?want=quality,scene,enhance&scene.threshold=0&quality.step=0.5"

    everything = client.post(url, content=BODY, headers=RAW).raise_for_status().json()
    quality = client.post("/quality?step=0.5", content=BODY, headers=RAW).json()
    scene = client.post("/scene?threshold=0", content=BODY, headers=RAW).json()

    assert everything["quality"]["score"] == quality["score"]
    assert everything["quality"]["curve"] == quality["curve"]
    assert everything["scene"]["labels"] == scene["labels"]
    assert len(base64.b64decode(everything["enhance"]["data"])) > 44 + 2 * SPEECH.size - 8


def test_analyze_in_parts(client: httpx.Client) -> None:
    answer = client.post("/analyze?want=enhance", content=BODY, headers=RAW | {"Accept": "multipart/mixed"})
    boundary = answer.headers["content-type"].split("boundary=")[1].encode()
    parts = answer.content.split(b"--" + boundary)

    assert json.loads(parts[1].split(b"\r\n\r\n", 1)[1])["enhance"]["data"] is None
    assert parts[2].split(b"\r\n\r\n", 1)[1].startswith(b"RIFF")


def test_channels_are_answered_one_by_one(client: httpx.Client) -> None:
    stereo = np.stack([SPEECH, SPEECH + 0.1 * np.random.default_rng(4).standard_normal(SPEECH.size).astype(np.float32)])

    answer = client.post("/quality?channel=each", content=wav(stereo), headers=RAW).json()

    scores = [one["score"] for one in answer["channels"]]
    assert scores[0] > scores[1]
    assert answer["score"] == min(scores)


def test_models_say_what_really_runs(client: httpx.Client) -> None:
    listed = client.get("/models").json()["models"]

    assert {one["task"] for one in listed if one["default"]} == {"quality", "scene", "enhance"}
    for one in listed:
        detail = client.get(f"/models/{one['name']}").raise_for_status().json()
        assert detail["state"] == "ready"
        assert detail["backend"] in ("onnx", "torchscript")
        assert len(detail["card"]) > 500


def test_limits_health_metrics_and_pages(client: httpx.Client) -> None:
    assert client.get("/limits").json()["max_body_bytes"] == 256 << 20
    assert client.get("/health/live").json() == {"status": "ok"}
    assert "earmark_requests_total" in client.get("/metrics").text
    page = client.get("/docs").text
    assert "https://" not in page
    assert "http://" not in page
    assert client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert "too-large" in client.get("/problems").text


def test_silence_gets_an_explanation_and_not_a_number(client: httpx.Client) -> None:
    silence = wav(np.zeros(16_000, np.float32))

    quality = client.post("/quality", content=silence, headers=RAW)
    scene = client.post("/scene", content=silence, headers=RAW)
    enhanced = client.post("/enhance", content=silence, headers=RAW | {"Accept": "audio/wav"})

    assert quality.status_code == 422
    assert quality.json()["type"].endswith("silent-audio")
    assert scene.json()["labels"] == []
    assert len(soundfile.read(io.BytesIO(enhanced.content))[0]) == 16_000


def test_reload_by_hand_from_this_machine(client: httpx.Client) -> None:
    name = client.get("/models").json()["models"][0]["name"]

    assert client.post(f"/models/{name}/reload").json()["state"] == "ready"
