"""Speech with phonemes: the source, its condition, durations that a model plans."""

from __future__ import annotations

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gendiff import Aligned, Model, Objective
from gendiff.errors import DataError, RequestError
from gendiff.testing import check_condition
from gendiff_audio import Audio, LogMel, Speech
from gendiff_audio.speech import COLUMNS, held_out

MEL = LogMel(sample_rate=22050, n_fft=1024, win=1024, hop=256, mels=20, high=8000.0, floor=1e-3)
SYMBOLS = ["^", "h", "ə", "ˈ", "l", "o", "ː", "_", "w", "ɜ", "d", ".", "$"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty utterances in two recordings: one symbol after the other, each a tone of its own."""
    home = tmp_path_factory.mktemp("data")
    (home / "audio").mkdir()
    rng, rows = np.random.default_rng(0), []
    with tarfile.open(home / "audio/joe_speech.tar", "w") as tar:
        for k in range(2):
            at, pieces = 0, []
            for i in range(30):
                inner = rng.integers(1, len(SYMBOLS) - 1, rng.integers(3, 9))
                said = [0, *inner.tolist(), len(SYMBOLS) - 1]
                durations = [int(2 + s % 5 + rng.integers(0, 2)) for s in said]
                time = np.arange(256 * sum(durations)) / 22050
                tone = np.repeat([200 + 150 * s for s in said], [256 * d for d in durations])
                pieces.append(0.1 * np.sin(2 * np.pi * tone * time))
                row = {"uid": f"u{k}{i:02d}", "path": f"joe/{k}.ogg", "start": at, "frames": len(time)}
                words = {"text": f"text {k} {i}", "phonemes": " ".join(SYMBOLS[s] for s in said)}
                rows.append({**row, **words, "durations": " ".join(map(str, durations))})
                at += len(time)
            soundfile.write(home / "part.ogg", np.concatenate(pieces), 22050, format="OGG", subtype="VORBIS")
            tar.add(home / "part.ogg", f"joe/{k}.ogg")
    table(home, rows)
    return home


def table(home: Path, rows: list[dict]) -> None:
    with (home / "audio/joe_manifest.csv").open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_utterances_are_read_when_asked_and_last_as_long_as_their_symbols(root: Path) -> None:
    source, domain = Speech(), Audio(source=Speech(), spectrogram=MEL)
    train, test = source.load("train", root), source.load("test", root)
    assert len(train) + len(test) == 60 and len(test) > 0 and not isinstance(train.items, tuple)
    assert {e.name for e in train}.isdisjoint(e.name for e in test)
    texts = {row["uid"]: row["text"] for row in source.rows(root)}
    assert all(held_out(texts[e.name]) for e in test)
    for e in [train[0], train[len(train) - 1], test[0]]:
        assert len(domain.encode(e.artifact)) == sum(e.cond["phonemes"]["durations"])
    fitted = domain.fit_conditions(list(train))
    own = fitted.conditions["phonemes"]
    assert isinstance(own, Aligned) and own.symbols == tuple(sorted(SYMBOLS))
    check_condition(own, [(["h", "ə"], [2, 3]), (["^", "h", "$"], [1, 2, 2])], sites=(5,))


def test_a_row_that_does_not_fit_is_rejected_with_its_reason(root: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/joe_speech.tar").symlink_to(root / "audio/joe_speech.tar")
    rows = [row for row in Speech().rows(root) if not held_out(row["text"])]
    rows[0]["durations"] += " 3"
    rows[1]["durations"] = rows[1]["durations"].replace(" ", " 1", 1)
    rows[2]["path"] = "joe/9.ogg"
    rows[3]["start"] = "x"
    table(tmp_path, rows)
    found = Speech().load("train", tmp_path)
    assert [r.reason for r in found.rejected] == [
        "another number of durations than of phonemes", "durations that are not those of the clip",
        "in the table, but not among the files", "numbers that are none",
    ]  # fmt: skip
    with pytest.raises(DataError, match="no utterance"):
        Speech().load("test", tmp_path)
    with pytest.raises(RequestError, match="tets"):
        Speech().load("tets", root)
    table(tmp_path, [{k: v for k, v in row.items() if k != COLUMNS[-1]} for row in rows])
    with pytest.raises(DataError, match="'durations'"):
        Speech().load("train", tmp_path)


def test_symbols_alone_are_spoken_for_as_long_as_planned(root: Path) -> None:
    train = Speech().load("train", root)
    domain = Audio(source=Speech(), spectrogram=MEL).fit(train.artifacts).fit_conditions(list(train))
    model = Model.new(domain, channels=(16, 24))
    plan = model.plan(2, phonemes=["^ h ə l ˈ o ː $", "^ w ɜ d . $"])
    clips = model.sample(2, plan=plan, steps=2)
    assert [clip.samples.shape[1] for clip in clips] == [256 * sum(one["durations"]) for one in plan["phonemes"]]
    with pytest.raises(RequestError, match="durations of 21 sites in all"):
        model.sample(1, phonemes=("^ h $", [1, 10, 10]), seconds=0.5)
    assert set(domain.losses) == {"phonemes_durations"}
    said = Objective(auxiliary={"phonemes_durations": 0.5})
    assert said.term("phonemes_durations", domain.losses["phonemes_durations"].term).weight == 0.025
