"""Files and what is wrong with them: every fault has an answer, and no answer is silence."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import warnings

import numpy as np
import pytest
import soundfile
import torch

from gendiff.errors import DataError, RequestError
from gendiff_audio import Audio, AudioError, Clip, Prepare, Sounds, backend, mono, read, resample, write
from gendiff_audio.io import Members
from gendiff_audio.resample import sinc_sum

RATE = 8000


def sine(f: float = 440.0, seconds: float = 0.5, rate: int = RATE, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * f * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype=subtype, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "subtype", "error"), [("WAV", "PCM_16", 4e-5), ("FLAC", "PCM_16", 4e-5), ("OGG", "VORBIS", 0.05)]
)
def test_formats_are_read(kind, subtype, error):
    clip = read(wav(sine(), subtype=subtype, kind=kind))
    assert clip.sample_rate == RATE
    assert np.abs(clip.samples[0] - sine()).max() < error


def test_write_read_round_trip(tmp_path):
    clip = Clip(np.stack([sine(300), sine(500)]), RATE)
    for name in ("a.wav", "below/b.flac"):
        write(clip, tmp_path / name)
        assert np.abs(read(tmp_path / name).samples - clip.samples).max() < 1 / 32768
    write(clip, tmp_path / "a.ogg")
    assert np.abs(read(tmp_path / "a.ogg").samples - clip.samples).max() < 0.05
    for bits, error in ((24, 2.0**-23), (32, 0.0)):
        write(clip, tmp_path / "b.wav", bits=bits)
        assert np.abs(read(tmp_path / "b.wav").samples - clip.samples).max() <= error
    for name, bits, message in (("a.mp4", 16, r"\.wav, \.flac, \.ogg"), ("a.flac", 32, "16 or 24, or 32 in .wav")):
        with pytest.raises(AudioError, match=message):
            write(clip, tmp_path / name, bits=bits)


def test_write_warns_by_how_much_it_clips(tmp_path):
    with pytest.warns(UserWarning, match=r"6\.0 dB"):
        write(Clip(sine(amplitude=2.0), RATE), tmp_path / "loud.wav")
    assert read(tmp_path / "loud.wav").peak <= 1


def test_a_part_is_read_without_the_rest(tmp_path):
    write(Clip(sine(seconds=2.0), RATE), tmp_path / "a.wav")
    part = read(tmp_path / "a.wav", start=0.5, seconds=0.25)
    assert part.seconds == 0.25
    assert np.abs(part.samples[0] - sine(seconds=2.0)[4000:6000]).max() < 1e-4
    with pytest.raises(AudioError, match="seconds=30"):
        read(tmp_path / "a.wav", longest=1.0)


def bad_files() -> dict[str, tuple[bytes, str]]:
    good = wav(sine())
    infinite = sine()
    infinite[7] = np.inf
    slow = bytearray(good)
    struct.pack_into("<I", slow, 24, 1)
    return {
        "no bytes": (b"", "unreadable"),
        "text": (b"this is not a sound at all, though its name ends in wav", "unreadable"),
        "header cut": (good[:30], "unreadable"),
        "data cut": (good[: len(good) // 2], "truncated"),
        "flac cut": (wav(sine(), kind="FLAC")[:1500], "damaged or cut"),
        "no frames": (wav(np.zeros((0, 1), np.float32)), "empty"),
        "nan": (wav(np.full(4000, np.nan, np.float32), subtype="FLOAT"), "not finite"),
        "inf": (wav(infinite, subtype="FLOAT"), "not finite"),
        "integers in floats": (wav(sine(amplitude=20000.0), subtype="FLOAT"), "out of range"),
        "1 Hz": (bytes(slow), "sample rate outside 4 to 192 kHz"),
    }


@pytest.mark.parametrize("fault", bad_files())
def test_bad_files_are_refused_for_their_reason(fault):
    data, reason = bad_files()[fault]
    with pytest.raises(AudioError) as caught:
        read(data, name="x.wav")
    assert caught.value.reason in reason.split("|")
    assert "x.wav" in str(caught.value)


def test_wav_of_a_program_that_streamed_is_not_truncated():
    data = bytearray(wav(sine()))
    struct.pack_into("<I", data, data.index(b"data") + 4, 0xFFFFFFFF)
    assert read(bytes(data)).samples.shape[1] == 4000


def test_a_little_over_full_scale_warns():
    with pytest.warns(UserWarning, match=r"1\.500"):
        read(wav(sine(amplitude=1.5), subtype="FLOAT"))


def test_clips_that_cannot_be():
    for samples, rate in (
        (np.zeros((2, 3, 4)), RATE),
        (np.zeros(0), RATE),
        (np.zeros(9), 300),
        (np.array([np.nan]), RATE),
    ):
        with pytest.raises(AudioError):
            Clip(samples, rate)


def test_stereo_is_averaged_unless_that_is_silence():
    left, right = sine(300), sine(500)
    assert np.allclose(mono(Clip(np.stack([left, right]), RATE)).samples[0], (left + right) / 2)
    assert np.allclose(mono(Clip(np.stack([left, -left]), RATE)).samples[0], left)
    assert np.allclose(mono(Clip(np.stack([left, right]), RATE), channel=1).samples[0], right)
    with pytest.raises(AudioError, match="channel=0"):
        mono(Clip(np.stack([left] * 6), RATE))
    with pytest.raises(AudioError, match="0 to 1"):
        mono(Clip(np.stack([left, right]), RATE), channel=2)


def test_prepare_sets_level_removes_dc_and_leads():
    clip = Prepare()(Clip(sine(amplitude=0.01) + 0.2, RATE))
    assert clip.samples.shape[1] == 4000 + 320
    assert np.all(clip.samples[0, :320] == 0)
    assert Clip(clip.samples[:, 320:], RATE).level == pytest.approx(-23, abs=0.01)
    assert abs(clip.samples[0, 320:].mean()) < 1e-6
    click = np.zeros(4000, np.float32)
    click[2000] = 1.0
    assert Prepare()(Clip(click, RATE)).peak == pytest.approx(0.99, abs=1e-4)


def test_prepare_refuses():
    for samples, reason in (
        (sine(seconds=0.01), "shorter"),
        (sine(seconds=31.0), "longer"),
        (np.zeros(4000), "silent"),
        (np.full(4000, 0.5), "silent"),
    ):
        with pytest.raises(AudioError) as caught:
            Prepare()(Clip(samples, RATE))
        assert caught.value.reason.startswith(reason)


def test_clipped_runs_are_counted():
    x = sine(100, 0.1)
    assert Clip(x, RATE).clipped == 0
    assert Clip(np.clip(x, -0.2, 0.2), RATE).clipped == 20


@pytest.mark.parametrize(("r", "s"), [(44100, 16000), (16000, 8000), (8000, 44100), (44101, 16000), (22050, 8000)])
def test_resampled_sine_is_the_sine(r, s):
    y = resample(Clip(sine(700.0, 0.5, r), r), s)
    want = sine(700.0, y.samples.shape[1] / s, s)
    middle = slice(s // 20, -s // 20)
    assert y.samples.shape[1] == int(np.ceil(0.5 * r // 1 * s / r))
    assert np.abs(y.samples[0] - want)[middle].max() < 3e-4


def test_resampling_removes_what_would_alias():
    y = resample(Clip(sine(5000.0, 0.5, 16000), 16000), 8000)
    assert np.abs(y.samples[0, 400:-400]).max() < 1e-3


def test_direct_sum_is_torchaudios_convolution():
    torchaudio = backend.torchaudio()
    if torchaudio is None:
        pytest.skip("torchaudio does not load here")
    x = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    y = sinc_sum(x, 44100, 16000)
    clips = [resample(Clip(row.numpy(), 44100), 16000).samples[0] for row in x]
    assert np.abs(y.numpy() - np.stack(clips)).max() < 2e-4


def test_resampling_agrees_with_soxr():
    librosa = pytest.importorskip("librosa")
    low = resample(Clip(np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000), 16000)  # nothing above 4 kHz
    theirs = librosa.resample(low.samples[0], orig_sr=16000, target_sr=11025, res_type="soxr_hq")
    ours = resample(low, 11025).samples[0]
    n = min(len(ours), len(theirs))
    assert np.abs(ours[:n] - theirs[:n])[500:-500].max() < 5e-3


@pytest.fixture
def folder(tmp_path):
    for label, f in (("low", 200.0), ("high", 900.0)):
        (tmp_path / label).mkdir()
        for i in range(20):
            (tmp_path / label / f"{i}.wav").write_bytes(wav(sine(f + i)))
    good = wav(sine(333.0))
    faults = {name: data for name, (data, _) in bad_files().items()}
    faults |= {"copy a": good, "copy b": good, "silent": wav(np.zeros(4000)), "short": wav(sine(seconds=0.01))}
    for name, data in faults.items():
        (tmp_path / "low" / f"{name}.wav").write_bytes(data)
    (tmp_path / "notes.txt").write_text("not a sound")
    (tmp_path / "low" / "dead.wav").symlink_to("nowhere.wav")
    os.mkfifo(tmp_path / "low" / "pipe.wav")
    return tmp_path


def test_folder_becomes_examples_and_every_other_file_is_listed(folder):
    source = Sounds(str(folder))
    assert source.labels == {"label": ("high", "low")}
    splits = [source.load(split) for split in ("train", "test")]
    names = [e.name for s in splits for e in s] + [r.name for s in splits for r in s.rejected]
    odd = {"low/dead.wav": "a link that leads nowhere", "low/pipe.wav": "a device or pipe, not a file"}
    assert sorted(set(names) - set(odd)) == Members(folder).names()
    assert all({r.name: r.reason for r in s.rejected}.items() >= odd.items() for s in splits)
    assert splits[0].others == ("notes.txt",)
    reasons = {r.name.removeprefix("low/"): r.reason for s in splits for r in s.rejected}
    assert set(reasons.values()) >= {"truncated", "empty", "silent", "unreadable", "a copy of another file"}
    assert len(reasons) == len(bad_files()) + 5  # one of the copies, the silent and the short one, two no files
    assert all(source.labels["label"][int(e.cond["label"])] == e.name.split("/")[0] for s in splits for e in s)
    assert "truncated" in splits[0].report() + splits[1].report()


def test_manifest_and_tar(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("tar")
    with tarfile.open(place / "all.tar.gz", "w:gz") as archive:
        for label in ("low", "high"):
            for i in range(4):
                archive.add(folder / label / f"{i}.wav", f"{label}/{i}.wav")
    rows = [
        f"{label}/{i}.wav,{label},{'even' if i % 2 == 0 else 'odd'},{'test' if i == 3 else 'train'}"
        for label in ("low", "high")
        for i in range(5)
    ]
    (place / "all.csv").write_text("path,register,parity,split\n" + "\n".join(rows[:-1]) + "\n")
    source = Sounds(
        "all.tar.gz",
        "all.csv",
        columns=("register", "parity"),
        classes=(("register", ("high", "low")), ("parity", ("even", "odd"))),
    )
    train, test = (source.load(split, root=place) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 2)
    assert {r.reason for r in train.rejected} == {"in the manifest, but not among the files"}
    assert train[0].cond == {"register": 0, "parity": 0}
    absolute = Sounds(str(place / "all.tar.gz"), str(place / "all.csv"), columns=("register",))
    assert absolute.labels == {"register": ("high", "low")}
    with pytest.raises(DataError, match='Did you mean "parity"'):
        Sounds(str(place / "all.tar.gz"), str(place / "all.csv"), columns=("partity",))


def test_a_split_without_a_sound_says_where_they_are(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(sine()))
    source, found = Sounds(str(tmp_path), classes=()), []
    for split in ("train", "test"):
        try:
            found += list(source.load(split))
        except DataError as error:
            assert "no sound is of this split, 1 are of another" in str(error) and "column split" in error.fix
    assert len(found) == 1


def test_nothing_usable_is_an_error_with_its_reasons(tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(40):
        (tmp_path / "a" / f"{i}.wav").write_bytes(b"nothing" + bytes([i]))
    with pytest.raises(DataError, match="unreadable"):
        Sounds(str(tmp_path)).load("train")
    with pytest.raises(DataError, match="folder of sound files"):
        Sounds(str(tmp_path / "absent"))
    with pytest.raises(RequestError, match=r'train, test\. Did you mean "train"'):
        Sounds(str(tmp_path)).load("trian")


def test_encode_refuses_another_rate():
    with pytest.raises(AudioError, match=r"resample\(clip, 8000\)"):
        Audio().encode(Clip(sine(rate=16000), 16000))


def test_good_files_make_no_noise():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(wav(sine()))
