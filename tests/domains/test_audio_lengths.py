"""Lengths: what a container announces, what lies in it, and what is decoded, for every container there is."""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import struct
import time
import tracemalloc
import warnings
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch

import gendiff
from gendiff import Model
from gendiff.domain import sealed
from gendiff.errors import DataError, RequestError
from gendiff_audio import Audio, AudioError, Clip, Prepare, Sounds, Tones, Vocoder, mono, read
from gendiff_audio import domain as audio_domain
from gendiff_audio.io import Recording
from gendiff_audio.lengths import mpeg

RATE, SECONDS = 8000, 2.0
WAVE = (0.3 * np.sin(np.arange(round(RATE * SECONDS)) * 0.3)).astype(np.float32)


def encoded(kind: str, subtype: str, wave: np.ndarray = WAVE, rate: int = RATE, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


CONTAINERS = {
    "wav": ("WAV", "PCM_16"), "24 bit": ("WAV", "PCM_24"), "float": ("WAV", "FLOAT"), "mu law": ("WAV", "ULAW"),
    "adpcm": ("WAV", "IMA_ADPCM"), "extensible": ("WAVEX", "PCM_16"), "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"), "w64": ("W64", "PCM_16"), "rifx": ("WAV", "PCM_16"), "nist": ("NIST", "PCM_16"),
    "gsm": ("WAV", "GSM610"), "g721": ("AU", "G721_32"), "caf": ("CAF", "PCM_16"), "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_is_read_whole_or_refused_wherever_it_is_cut(name, tmp_path):
    """No container is believed: intact it has all its samples, cut it is refused, never shortened in silence."""
    kind, subtype = CONTAINERS[name]
    long = np.tile(WAVE, 4) + 0.01 * np.random.default_rng(0).standard_normal(4 * len(WAVE)).astype("f4")
    data = encoded(kind, subtype, long, endian="BIG" if name == "rifx" else None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = read(data).samples.shape[1]
        assert abs(whole - len(long)) <= (505 if name in ("adpcm", "g721") else 0)  # they fill their last block
        (tmp_path / "a.x").write_bytes(data)
        assert read(tmp_path / "a.x").samples.shape[1] == whole
        part = read(tmp_path / "a.x", start=3.0, seconds=0.5)
        assert part.samples.shape[1] == 4000
        if subtype.startswith("PCM"):
            assert np.array_equal(part.samples, read(data).samples[:, 24000:28000])
    for share in (0.3, 0.5, 0.77, 0.96):
        with pytest.raises(AudioError) as caught:
            read(data[: int(share * len(data))], name="x.snd")
        assert caught.value.reason in ("truncated", "damaged or cut", "unreadable") and "x.snd" in str(caught.value)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_sizes_of_programs_that_streamed_or_crashed(kind, size):
    data = bytearray(encoded(kind, "PCM_16"))
    at = data.index(b"data" if kind == "WAV" else b"SSND") + 4
    struct.pack_into("<I" if kind == "WAV" else ">I", data, at, size)
    clip = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if size == 0 else "error")
        clip = read(bytes(data))
    assert clip is not None and clip.samples.shape[1] == len(WAVE)
    assert np.abs(clip.samples[0] - WAVE).max() < 4e-5


@pytest.mark.parametrize("kind", ["WAV", "RF64", "AIFF", "W64", "AU"])
def test_samples_beyond_the_announced_ones_are_read_and_said(kind):
    """A recorder that crashed, or 4 GB that wrapped: half is announced."""
    data = bytearray(encoded(kind, "PCM_16"))
    half, block = len(WAVE), {"WAV": b"data", "AIFF": b"SSND"}.get(kind, b"data")
    if kind == "AU":
        struct.pack_into(">I", data, 8, half)
    elif kind == "RF64":
        struct.pack_into("<Q", data, data.index(b"ds64") + 16, half)
    elif kind == "W64":
        struct.pack_into("<Q", data, data.index(block) + 16, half + 24)
    else:
        struct.pack_into("<I" if kind == "WAV" else ">I", data, data.index(block) + 4, half + 8 * (kind == "AIFF"))
    clip = None
    with pytest.warns(UserWarning, match=f"announces {half} bytes of samples, and {2 * half} are there; all are read"):
        clip = read(bytes(data))
    assert clip is not None and np.abs(clip.samples[0] - WAVE).max() < 4e-5


TAIL = b"LIST\x12\0\0\0INFOISFT\x06\0\0\0Lavf60" + b"id3 \x03\0\0\0abc\0"


@pytest.mark.parametrize("size", [0, len(WAVE), 0xFFFFFFFF])
def test_chunks_that_end_a_file_of_unknown_length_are_no_samples(size):
    """ffmpeg and recorders write LIST behind the samples, also where the sizes before them were never mended."""
    data = bytearray(encoded("WAV", "PCM_16"))
    struct.pack_into("<I", data, data.index(b"data") + 4, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if size <= len(WAVE) else "error")
        for tail in (TAIL, TAIL[:-1]):
            assert np.abs(read(bytes(data) + tail).samples[0] - WAVE).max() < 4e-5


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "ULAW", "IMA_ADPCM"])
def test_what_stands_around_the_samples_of_an_aiff_is_no_sound(subtype):
    """An offset before them, a byte that makes them even, and packets in the place of frames."""
    data = encoded("AIFF", subtype, WAVE[:8001])
    at, frames = data.index(b"SSND"), data.index(b"COMM") + 10
    if struct.unpack_from(">I", data, frames)[0] == 8002:  # as libsndfile counts the byte that makes them even
        data = data[:frames] + struct.pack(">I", 8001) + data[frames + 4 :]
    size = struct.unpack_from(">I", data, at + 4)[0]
    moved = data[: at + 4] + struct.pack(">III", size + 16, 16, 0) + b"\x55" * 16 + data[at + 16 :]
    for content in (data, moved):
        got = read(content).samples
        assert 0 <= got.shape[1] - 8001 <= (64 if subtype == "IMA_ADPCM" else 0)
        assert np.abs(got[0, :8001] - WAVE[:8001]).max() < (0.4 if subtype == "IMA_ADPCM" else 0.03)


def test_a_flac_that_was_streamed_does_not_say_how_long_it_is():
    data = bytearray(encoded("FLAC", "PCM_16"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    with Recording(bytes(data)) as file:
        assert file.frames == len(WAVE)
        for start in (1.0, 0.25):
            assert (
                np.abs(file.read(start=start, seconds=0.5).samples[0] - WAVE[int(8000 * start) :][:4000]).max() < 4e-5
            )
    assert np.abs(read(bytes(data)).samples[0] - WAVE).max() < 4e-5
    long = bytearray(encoded("FLAC", "PCM_16", np.zeros(2**26 + 2**18, np.float32)))
    long[21] &= 0xF0
    long[22:26] = bytes(4)
    with pytest.raises(AudioError, match="at most 67108864"):
        Recording(bytes(long))


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_a_tag_before_another_format_is_passed_over(kind):
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    assert np.abs(read(tag + encoded(kind, "PCM_16")).samples[0] - WAVE).max() < 4e-5
    with pytest.raises(AudioError, match="lacks 32"):
        read((tag + encoded("WAV", "PCM_16"))[:-32])


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "MS_ADPCM"), ("WAV", "GSM610"), ("W64", "PCM_16")])
def test_what_fills_the_last_block_is_no_sound(kind, subtype):
    clip = read(encoded(kind, subtype, WAVE[:8001]) + bytes(64 * (kind == "W64")))
    assert clip.samples.shape[1] == 8001


def test_a_file_whose_length_nothing_can_tell_is_refused():
    """Of two Ogg streams in one file libsndfile reads the first; of other containers it believes what is left."""
    ogg = encoded("OGG", "VORBIS")
    with pytest.raises(AudioError, match="WAV or FLAC") as caught:
        read(ogg + encoded("OGG", "VORBIS", WAVE[:4000]))
    assert caught.value.reason == "several streams in one file"
    for kind in ("VOC", "IRCAM", "SVX"):
        with pytest.raises(AudioError, match="Convert it to WAV"):
            read(encoded(kind, "PCM_16"))


@pytest.mark.parametrize(
    "tail", [b"LIST\x04\0\0\0INFO", b"id3 \x02\0\0\0ab", b"\0" * 5000, b"\0" * 10**5, b"TAG" + b"x" * 125, b"ab"]
)
def test_what_may_follow_the_samples_is_no_sound(tail):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(encoded("WAV", "PCM_16") + tail).samples.shape[1] == len(WAVE)


def test_more_than_four_gigabytes_and_a_part_of_a_long_file(tmp_path):
    """691 MB and 5 GB of sparse files: a second is read in milliseconds, and the length is that of the samples."""
    for size, name in ((691_200_000, "a.wav"), (5_000_000_000, "b.wav")):
        head = bytearray(encoded("WAV", "PCM_16", WAVE, 48000)[:44])
        struct.pack_into("<I", head, 40, size % 2**32)
        with (tmp_path / name).open("wb") as file:
            file.write(head)
            file.seek(44 + 2 * 48000 * 100)
            file.write((WAVE * 32768).astype("<i2").tobytes())
            file.truncate(44 + size)
        with Recording(tmp_path / name) as recording:
            assert recording.frames == size // 2
        took, clip = [], None
        for _ in range(5):
            begin = time.perf_counter()
            clip = read(tmp_path / name, start=100.0, seconds=1.0)
            took.append(time.perf_counter() - begin)
        assert min(took) < 0.05
        assert (
            clip is not None
            and clip.samples.shape[1] == 48000
            and np.abs(clip.samples[0, : len(WAVE)] - WAVE).max() < 4e-5
        )
    with pytest.raises(AudioError, match="at most 600 s at once"):
        read(tmp_path / "a.wav")


def without_xing(data: bytes) -> bytes:
    found = mpeg(data)
    assert found is not None and found.announced == found.frames
    first = next(
        i for i in range(found.start + 4, len(data)) if data[i] == 0xFF and data[i + 1] == data[found.start + 1]
    )
    return data[first:]


def test_frames_of_an_mp3_are_counted():
    """The bit rate varies and no Xing frame says so: a guess from the first frames would be far off."""
    rng = np.random.default_rng(0)
    wave = np.concatenate([np.zeros(22050 * 2), 0.2 * rng.uniform(-1, 1, 22050 * 6)]).astype("f4")
    data = encoded("MP3", "MPEG_LAYER_III", wave, 22050, bitrate_mode="VARIABLE", compression_level=0.5)
    bare = without_xing(data)
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        guess = file.frames
    assert abs(guess - len(wave)) > 22050  # what libsndfile makes of it by itself
    for stream in (bare, b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014) + bare, bare + b"TAG" + bytes(125)):
        clip = read(stream)
        assert abs(clip.samples.shape[1] - len(wave)) <= 3 * 576
        assert np.abs(clip.samples[0, :22050]).max() < 0.01 and clip.samples[0, 60000:150000].std() > 0.05
    assert abs(read(data).samples.shape[1] - len(wave)) <= 576
    with pytest.raises(AudioError, match="whole frames"):
        read(bare[:-100])
    doubled = read(bare + bare)
    assert abs(doubled.samples.shape[1] - 2 * len(wave)) <= 6 * 576


def test_an_mp3_that_ends_inside_of_its_first_frame_is_refused():
    """Wherever it ends: before, in and after the fields of the Xing frame, none of which may be looked up beyond."""
    data = encoded("MP3", "MPEG_LAYER_III", WAVE)
    at = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    assert 0 < at < 60
    for end in range(at + 40):
        with pytest.raises(AudioError):
            read(data[:end])


def test_a_file_that_announces_hours_takes_no_memory_for_them(tmp_path):
    """FLAC packs silence to nothing: 100 minutes in a few kilobytes are refused before they are decoded."""
    data = encoded("FLAC", "PCM_16", np.zeros((2_000_000, 8), np.float32), 96000)
    assert len(data) < 400_000
    with pytest.raises(AudioError, match=r"9000000 samples in .* bytes") as caught:
        read(encoded("FLAC", "PCM_16", np.zeros((9_000_000, 8), np.float32), 96000), longest=1e9)
    assert caught.value.reason == "too large"
    header = bytearray(data)
    header[21] |= 0x0F
    header[22:26] = b"\xff" * 4
    with pytest.raises(AudioError):
        read(bytes(header), longest=1e9)


# -- channels, windows, labels, level ------------------------------------------------------------------------------


def test_a_dead_channel_does_not_halve_the_other():
    """6 dB: the mean of a live and a silent channel. Hiss and DC of a recorder that nothing is plugged into count as
    silence; a quiet channel does not.
    """
    live = (0.3 * np.sin(np.arange(8000) * 0.3)).astype("f4")
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(8000)
    for dead in (np.zeros(8000), hiss, hiss + 0.1):
        for pair in (np.stack([live, dead]), np.stack([dead, live])):
            assert mono(Clip(pair, RATE)).level == pytest.approx(-13.5, abs=0.1)
    assert np.allclose(mono(Clip(np.stack([live, 0.1 * live]), RATE)).samples[0], 0.55 * live)
    assert not mono(Clip(np.zeros((2, 100)), RATE)).samples.any()


@pytest.fixture
def tones(tmp_path):
    def save(name: str, wave: np.ndarray, rate: int = RATE) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, wave, rate, format="WAV")

    return tmp_path, save


def test_long_recordings_become_windows(tones):
    folder, save = tones
    time_ = np.arange(RATE * 75) / RATE
    wave = (0.3 * np.sin(2 * np.pi * 300 * time_)).astype("f4")
    wave[RATE * 25 : RATE * 50] = 0
    save("a/long.wav", wave)
    save("a/short.wav", wave[: RATE * 5])
    manifest = table(folder, "path,label,split\na/long.wav,x,train\na/short.wav,y,train")
    train = Sounds(str(folder), manifest).load("train")
    assert {e.name: round(e.artifact.seconds, 3) for e in train} == {
        "a/long.wav [0-25 s]": 25.04, "a/long.wav [50-75 s]": 25.04, "a/short.wav": 5.04,
    }  # fmt: skip
    assert [(r.name, r.reason) for r in train.rejected] == [("a/long.wav [25-50 s]", "silent")]
    assert "1 recordings longer than 30 s were cut into windows" in train.report()
    whole = Sounds(str(folder), manifest, window=0).load("train")
    assert [(r.name, r.reason) for r in whole.rejected] == [("a/long.wav", "longer than 30 s")]
    short = Sounds(str(folder), manifest, window=10.0).load("train")
    assert len(short) + len(short.rejected) == 8 + 1
    assert {round(e.artifact.seconds, 3) for e in short} == {round(75 / 8 + 0.04, 3), 5.04}
    with pytest.raises(RequestError, match=r"0\.05 to 30 s.*window=30"):
        Sounds(str(folder), window=60.0)


def test_of_long_recordings_no_more_is_held_than_there_is_room_for(tones):
    folder, save = tones
    rng = np.random.default_rng(0)
    for i in range(12):
        save(f"a/{i}.wav", 0.1 * rng.standard_normal(400_000).astype("f4"))
    tracemalloc.start()
    source = Sounds(str(folder), prepare=Prepare(longest=60))
    assert tracemalloc.get_traced_memory()[1] < 2**20  # names alone
    examples = source.load("train")
    held, peak = tracemalloc.get_traced_memory()
    clips = sum(e.artifact.samples.nbytes for e in examples)
    assert held < clips + 2**21
    assert peak < clips + 30 * 2**20  # of one recording: samples in float64, resampled, scaled
    again = copy.deepcopy(examples)
    cast("Any", again).items.values.make.room = 0
    before = tracemalloc.get_traced_memory()[0]
    for a, b in zip(again, examples, strict=True):
        assert np.array_equal(a.artifact.samples, b.artifact.samples) and a.cond == b.cond and a.name == b.name
    assert tracemalloc.get_traced_memory()[0] < before + 2**22  # of 19 MB
    tracemalloc.stop()


def test_windows_are_read_from_their_place(tones):
    folder, save = tones
    save("a/long.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE * 75).astype("f4"))
    examples = Sounds(str(folder), window=10.0, classes=()).load("train" if chosen_for_training(folder) else "test")
    assert len(examples) == 8
    fresh = copy.deepcopy(examples)
    assert all(np.array_equal(a.artifact.samples, b.artifact.samples) for a, b in zip(fresh, examples, strict=True))
    save("a/long.wav", 0.2 * np.ones(RATE * 75, "f4"))
    with pytest.raises(DataError, match=r"long\.wav has changed since it was looked at"):
        copy.deepcopy(examples)[2].artifact  # noqa: B018


def chosen_for_training(folder) -> bool:
    return int.from_bytes(hashlib.sha1((folder / "a" / "long.wav").read_bytes()).digest()) % 10 != 0


def test_stereo_is_announced_once(tones):
    folder, save = tones
    for i in range(20):
        save(f"a/{i}.wav", np.stack([WAVE, WAVE[::-1] * (1 + i / 100)], 1) if i % 2 else WAVE * (1 - i / 100))
    report = Sounds(str(folder)).load("train").report()
    assert report.count("recordings of two channels became one") == 1


@pytest.fixture
def tree(tones):
    folder, save = tones
    for i in range(24):
        save(f"{'one' if i % 2 else 'two'}/{'george' if i % 3 else 'theo'}/{i}.wav", WAVE * (1 - i / 100))
    return folder


def test_the_folder_that_labels_is_said(tree, tones):
    top, parent = Sounds(str(tree)), Sounds(str(tree), labelled_by="parent")
    assert top.labels == {"label": ("one", "two")} and parent.labels == {"label": ("george", "theo")}
    assert all(top.labels["label"][int(e.cond["label"])] == e.name.split("/")[0] for e in top.load("train"))
    assert all(parent.labels["label"][int(e.cond["label"])] == e.name.split("/")[1] for e in parent.load("train"))
    assert (
        "labelled by the top folder: one/george/1.wav is 'one' (labelled_by='parent': 'george')"
        in top.load("train").report()
    )
    tones[1]("stray.wav", WAVE * 0.5)
    reasons = [r for s in ("train", "test") for r in top.load(s).rejected]
    assert [(r.name, r.reason) for r in reasons] == [("stray.wav", "no label: it lies beside the folders")]
    with pytest.raises(RequestError, match='Did you mean "parent"'):
        Sounds(str(tree), labelled_by="parents")


def test_files_in_no_folder_have_no_label(tones):
    folder, save = tones
    for i in range(20):
        save(f"{i}.wav", WAVE * (1 - i / 100))
    (folder / "notes.txt").write_text("x")
    source = Sounds(str(folder))
    assert source.labels == {} and Audio(source=source).request(2).cond.keys() == {"mask"}
    train = source.load("train")
    assert train[0].cond == {} and train.others == ("notes.txt",)


def test_a_source_in_a_model_file_looks_at_no_disk(tree):
    """Classes are looked for when a person makes a source, never while a stranger's file is loaded."""
    with sealed():
        with pytest.raises(DataError, match="A model file that is being loaded"):
            Sounds(str(tree))
        assert Sounds("/", classes=(("label", ("a",)),)).labels == {"label": ("a",)}


@gendiff.register
@dataclass(frozen=True)
class Buzz(Vocoder):
    """As loud as the frames, always one pitch."""

    period: int = 40

    def render(self, frames, mel):
        assert frames.shape[-1] == mel.mels and frames.max() <= np.log(mel.win)  # log-mel, not linear magnitudes
        pulses = (torch.arange(len(frames) * mel.hop) % self.period == 0).float()
        return pulses * frames.exp().mean(-1).repeat_interleave(mel.hop) * 0.01


def test_a_vocoder_of_ones_own_gets_log_mels_and_is_saved_with_the_model(tmp_path):
    domain = Audio(source=Tones(count=8), phase=Buzz(50))
    clip = domain.dataset("train")[0].artifact
    again = domain.decode(domain.encode(clip))
    assert again.samples.shape[1] == 128 * -(-clip.samples.shape[1] // 128)
    assert set(np.flatnonzero(again.samples[0]) % 50) == {0}
    model = Model.new(domain, channels=(8,), blocks=1)
    model.save(tmp_path / "m.safetensors")
    loaded = gendiff.load(tmp_path / "m.safetensors").domain
    assert isinstance(loaded, Audio) and loaded.phase == Buzz(50)
    with pytest.raises(RequestError, match=r"a frozen dataclass, so that it is saved"):
        Audio(phase=lambda frames, mel: frames)  # type: ignore[arg-type]


def table(folder, text: str) -> str:
    (folder / "t.csv").write_text(text)
    return str(folder / "t.csv")


def test_numbers_and_texts_are_no_classes(tree):
    names = sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*.wav"))
    rows = [f"{n},{100 + 7.5 * i},{i * i},sentence number {i},{'ab'[i % 2]},{i % 8}" for i, n in enumerate(names)]
    manifest = table(tree, "path,pitch,count,text,kind,digit\n" + "\n".join(rows))
    for column, message in (
        ("pitch", r"'pitch' holds 24 numbers from 100 to 272\.5.*not a class"),
        ("count", "'count' holds 24 numbers from 0 to 529"),
        ("text", "'text' holds 24 texts in 24 rows.*not used for now"),
    ):
        with pytest.raises(DataError, match=message):
            Sounds(str(tree), manifest, columns=("kind", column))
    source = Sounds(str(tree), manifest, columns=("kind", "digit"))
    assert source.labels == {"kind": ("a", "b"), "digit": tuple("01234567")}
    assert "columns of" in source.load("train").report() and "pitch, count, text" in source.load("train").report()
    insisted = tuple(sorted({row.split(",")[2] for row in rows}))
    assert len(Sounds(str(tree), manifest, ("count",), classes=(("count", insisted),)).labels["count"]) == 24


def test_manifests_are_checked_row_by_row(tree):
    names = sorted(p.relative_to(tree).as_posix() for p in tree.rglob("*.wav"))
    good = "path,label,split\n" + "\n".join(
        f"{n},{'ab'[i % 2]},{'train' if i > 3 else 'val'}" for i, n in enumerate(names)
    )
    source = Sounds(str(tree), table(tree, good))
    assert (len(source.load("train")), len(source.load("val"))) == (20, 4)
    assert "4 of split 'val'" in source.load("train").report()
    with pytest.raises(RequestError, match=r"split 'test'.*has the splits val \(4\), train \(20\)"):
        source.load("test")
    with pytest.raises(RequestError, match='Did you mean "train"'):
        source.load("trian")
    assert len(Sounds(str(tree), table(tree, good.replace(names[5], str(tree / names[5])))).load("train")) == 20
    for text, message in (
        (good.replace(",b,", ",,", 1), r"row 3 \(one/george/11.wav\): an empty label"),
        (good + f"\n{names[0]},b,train", "row 26: one/george/1.wav was said to be something else"),
        (good.replace(names[0], ""), r"row 2 \(no path\): an empty path"),
        (good.replace("label", "labl"), 'Did you mean "labl"'),
    ):
        with pytest.raises(DataError, match=message):
            Sounds(str(tree), table(tree, text))


def test_a_clip_that_is_turned_down_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(audio_domain, "SAID", set())
    domain = Audio(source=Tones(count=8))
    state = domain.encode(domain.dataset("train")[0].artifact)
    with caplog.at_level(logging.WARNING, logger="gendiff_audio"):
        assert domain.decode(state).peak < 0.99 and not caplog.records
        for _ in range(3):
            assert domain.decode(state + np.log(8.0) / 3.0).peak == pytest.approx(0.99, abs=1e-3)
    assert len(caplog.records) == 1 and "dB above" in caplog.text
