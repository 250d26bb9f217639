"""The corpus reader: rows, selections, samples, credits, on a manifest made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("tqdm")

from training.corpus import BadCorpus, open_sounds, read_corpus

HEADER = (
    "path,kind,uses,label,group,speaker,language,rate,channels,seconds,fold,split,"
    "snr,clear,bandwidth,f0,codec,licence,credit,source,floor"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    time_s = np.arange(16000) / 16000
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time_s), 16000, subtype="FLOAT")
    two_channels = np.stack([np.full(24000, 1e-4), np.full(24000, 3e-4)], axis=1)
    soundfile.write(tmp_path / "b.wav", two_channels, 48000, subtype="FLOAT")
    rows = [
        'a.wav,speech,speech,,ann,ann,en,16000,1,1.0,,train,41.5,1,8000,180,pcm,CC0-1.0,Ann,"x, y",-55.5',
        "b.wav,event,event;noise,rain;wind,r-1,,,48000,2,0.5,2,test,,,,,pcm,CC-BY-SA-3.0,Bob,z,",
    ]
    (tmp_path / "manifest.csv").write_text("\n".join([HEADER, *rows]) + "\n", "utf-8")
    return tmp_path


def test_rows_are_read_with_their_types(folder: Path) -> None:
    speech, event = read_corpus(folder)

    assert (speech.is_clear, speech.snr_db, speech.floor_db, speech.fold) == (True, 41.5, -55.5, None)
    assert (event.label, event.labels, event.uses, event.fold) == ("rain", ("rain", "wind"), {"event", "noise"}, 2)
    assert (event.snr_db, event.is_clear) == (None, False)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"kind": "speech"}, ["a.wav"]),
        ({"use": "noise"}, ["b.wav"]),
        ({"split": "test"}, ["b.wav"]),
        ({"clear": True}, ["a.wav"]),
        ({"labels": ["rain"]}, ["b.wav"]),
        ({"labels": ["wind"]}, []),
        ({"groups": ["ann"]}, ["a.wav"]),
        ({"without_licences": ["CC-BY-SA"]}, ["a.wav"]),
        ({"kind": "speech", "split": "test"}, []),
        ({}, ["a.wav", "b.wav"]),
    ],
)
def test_selection_holds_all_that_is_asked(folder: Path, asked: dict[str, object], found: list[str]) -> None:
    assert [row.path for row in read_corpus(folder).select(**asked)] == found  # type: ignore[arg-type]


def test_sum_keeps_each_row_once(folder: Path) -> None:
    corpus = read_corpus(folder)

    assert [row.path for row in corpus.select(kind="event") + corpus] == ["b.wav", "a.wav"]


def test_sounds_are_resampled_averaged_and_mapped(folder: Path, tmp_path: Path) -> None:
    corpus = read_corpus(folder)

    sounds = open_sounds(corpus, 16000, tmp_path / "runs")
    again = open_sounds(corpus, 16000, tmp_path / "runs")

    assert [len(sound) for sound in sounds] == [16000, 8000]
    np.testing.assert_allclose(sounds[0], 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000), atol=2e-5)
    # Quiet recordings keep their resolution: 2e-4 would be six steps of a plain int16.
    np.testing.assert_allclose(sounds[1][1000:7000], 2e-4, rtol=1e-3)
    np.testing.assert_array_equal(sounds.part(0, 100, 50), again[0][100:150])
    assert len(list((tmp_path / "runs" / "sounds").iterdir())) == 2


def test_credits_name_author_and_licence_once(folder: Path) -> None:
    assert read_corpus(folder).credits() == ["- Ann (CC0-1.0): 1 file", "- Bob (CC-BY-SA-3.0): 1 file"]


def test_a_missing_manifest_or_recording_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadCorpus, match="manifest"):
        read_corpus(tmp_path / "nowhere")
    (folder / "a.wav").unlink()
    with pytest.raises(BadCorpus, match=r"a\.wav"):
        open_sounds(read_corpus(folder), 16000, tmp_path / "runs")


def test_a_bad_number_names_its_line(folder: Path) -> None:
    row = "a.wav,speech,speech,,g,,,16000,1,long,,train,,,,,,CC0-1.0,A,s,"
    (folder / "manifest.csv").write_text(f"{HEADER}\n{row}\n", "utf-8")

    with pytest.raises(BadCorpus, match=r"manifest\.csv:2: .*long"):
        read_corpus(folder)
