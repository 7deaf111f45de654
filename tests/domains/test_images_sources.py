"""Sources: splits without overlap, and nothing skipped silently."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from gendiff.conditions import Text
from gendiff.errors import DataError, RequestError
from gendiff_images import CIFAR10, MNIST, Arrays, Digits, Emoji, Fashion, Folder, Images, Sprites, read
from gendiff_images.sources import Pictures


def save(path: Path, seed: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    values = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def zoo(tmp_path):
    """Sixty good pictures of two classes and one of every kind of bad file."""
    for i in range(30):
        save(tmp_path / "cat" / f"{i}.png", i)
        save(tmp_path / "dog" / f"{i}.jpg", 100 + i, (20, 17))
    save(tmp_path / "cat" / "small.png", 200, (16, 5))
    save(tmp_path / "cat" / "cut.jpg", 201, (64, 64))
    save(tmp_path / "cat" / "cut.png", 202, (64, 64))
    for name in ("cut.jpg", "cut.png"):
        content = (tmp_path / "cat" / name).read_bytes()
        (tmp_path / "cat" / name).write_bytes(content[: len(content) // 2])
    (tmp_path / "dog" / "noise.png").write_bytes(b"not a picture at all")
    (tmp_path / "dog" / "empty.jpg").write_bytes(b"")
    (tmp_path / "dog" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / "0.txt").write_text("a caption")
    (tmp_path / "dog" / ".hidden.png").write_bytes(b"x")
    save(tmp_path / "stray.png", 203)
    (tmp_path / "cat" / "dead.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "again").symlink_to("../dog")
    os.mkfifo(tmp_path / "dog" / "pipe.png")
    Image.new("CMYK", (32, 32)).save(tmp_path / "dog" / "cmyk.jpg")
    Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(tmp_path / "dog" / "deep.png")
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "dog" / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    return tmp_path


def test_folder_lists_every_rejected_file_with_its_reason(zoo):
    source = Folder(str(zoo), size=12)
    train, test = source.load("train"), source.load("test")
    reasons = {r.name: r.reason for r in (*train.rejected, *test.rejected)}
    assert set(reasons) == {
        "cat/small.png", "cat/cut.jpg", "cat/cut.png", "dog/noise.png", "dog/empty.jpg", "dog/.hidden.png", "stray.png",
        "cat/dead.png", "cat/again", "dog/pipe.png",
    }  # fmt: skip
    assert reasons["cat/small.png"] == "too small (16x5)"
    assert reasons["cat/cut.jpg"] == reasons["cat/cut.png"] == "truncated"
    assert reasons["cat/dead.png"] == "a link that leads nowhere"
    assert reasons["cat/again"] == "a link to a folder, not followed"
    assert reasons["dog/pipe.png"] == "a device or pipe, not a file"
    assert reasons["dog/noise.png"] == reasons["dog/empty.jpg"] == "corrupt"
    assert reasons["dog/.hidden.png"] == "hidden file"
    assert "no class" in reasons["stray.png"]
    assert train.others == test.others == ("cat/0.txt", "dog/notes.txt")
    files = sum(p.is_symlink() or not p.is_dir() for p in zoo.rglob("*"))
    assert len(train) + len(test) + len(reasons) + len(train.others) == files
    assert "truncated" in train.report() + test.report() and "2 other files: 2 x .txt" in train.report()


def test_folder_classes_are_its_subfolders(zoo):
    domain = Images.of(Folder(str(zoo), size=12))
    assert domain.classes == ("cat", "dog")
    for e in domain.dataset("train"):
        assert e.cond == {"label": int(e.name.startswith("dog"))}
        assert e.artifact.shape == (3, 12, 12)
        assert 0 <= e.artifact.min() <= e.artifact.max() <= 1


def test_folder_splits_by_content(zoo):
    """Disjoint, stable when files are added, and copies of a picture stay on one side."""
    source = Folder(str(zoo), size=12, test_share=0.3)
    train, test = ({e.name for e in source.load(split)} for split in ("train", "test"))
    assert not train & test
    assert 6 <= len(test) <= 30
    for i, name in enumerate(sorted(train | test)):
        (zoo / "dog" / f"copy{i}{Path(name).suffix}").write_bytes((zoo / name).read_bytes())
    more = {e.name: e.artifact for e in source.load("train")}
    assert train <= set(more)
    assert len(more) == 2 * len(train)
    held_out = {e.artifact.numpy().tobytes() for e in source.load("test")}
    assert not held_out & {p.numpy().tobytes() for p in more.values()}


def test_folders_without_classes_or_pictures(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        Folder(str(tmp_path), size=8).load("train")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"(?s)no usable picture.*a\.txt is not a picture"):
        Folder(str(tmp_path), size=8).load("train")
    with pytest.raises(DataError, match="no folder"):
        Folder(str(tmp_path / "absent"), size=8).load("train")
    for i in range(20):
        save(tmp_path / f"{i}.png", i, mode="L")
    domain = Images.of(Folder(str(tmp_path), size=8, channels=1))
    assert domain.labels == {}
    assert domain.request(2).cond == {}
    assert all(e.cond == {} for e in domain.dataset("train"))


def test_digits_are_split_without_overlap():
    train, test = Digits().load("train"), Digits().load("test")
    assert (len(train), len(test)) == (1500, 297)
    from sklearn.datasets import load_digits

    everything = sorted(p.artifact.numpy().tobytes() for p in (*train, *test))
    assert everything == sorted(
        (x.reshape(1, 8, 8) / 16).astype("f4").tobytes() for x in load_digits(return_X_y=True)[0]
    )
    with pytest.raises(RequestError, match='Did you mean "train"'):
        Digits().load("trian")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays(tmp_path, dtype, channels):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (50, 6, 6, channels), dtype=np.uint8)
    x = x if dtype == "uint8" else (x / 255).astype("f4")
    y = rng.integers(0, 3, 50)
    np.savez(tmp_path / "a.npz", x=x[..., 0] if channels == 1 else x, y=y, classes=np.array(["a", "b", "c"]))
    source = Arrays(str(tmp_path / "a.npz"), test_share=0.3)
    train, test = source.load("train"), source.load("test")
    assert {e.name for e in train} | {e.name for e in test} == {f"a.npz/{i}" for i in range(50)}
    assert len(train) + len(test) == 50
    assert len(test) > 3
    for e in (*train, *test):
        i = int(e.name.split("/")[1])
        scale = 255 if dtype == "uint8" else 1
        assert torch.allclose(e.artifact, torch.from_numpy(x[i].transpose(2, 0, 1)).float() / scale)
        assert e.cond == {"label": y[i]}
    domain = Images.of(source)
    assert (domain.size, domain.channels, domain.classes) == (6, channels, ("a", "b", "c"))


def test_arrays_reject_and_refuse(tmp_path):
    x = np.full((4, 6, 6), 0.5, dtype="f4")
    x[1, 0, 0], x[2, 0, 0] = np.nan, 7
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x[:1])
    train = Arrays(str(tmp_path / "a.npz")).load("train")
    assert [(r.name, r.reason) for r in train.rejected] == [
        ("a.npz/1", "not finite"),
        ("a.npz/2", "values outside [0, 1]"),
    ]
    assert len(Arrays(str(tmp_path / "a.npz")).load("test")) == 1
    np.savez(tmp_path / "b.npz", x=x[:, :5], y=np.arange(3))
    with pytest.raises(DataError, match="4 pictures and"):
        Arrays(str(tmp_path / "b.npz")).load("train")
    np.savez(tmp_path / "b.npz", x=x[None])
    with pytest.raises(DataError, match=r"\(1, 4, 6, 6\)"):
        Arrays(str(tmp_path / "b.npz")).look()
    np.savez(tmp_path / "c.npz", x=x, y=np.arange(3))
    with pytest.raises(DataError, match="4 pictures and 3 labels"):
        Arrays(str(tmp_path / "c.npz")).load("train")
    np.savez(tmp_path / "d.npz", pictures=x)
    with pytest.raises(DataError, match=r"no array 'x'; it has pictures"):
        Arrays(str(tmp_path / "d.npz")).look()
    (tmp_path / "e.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="not readable"):
        Arrays(str(tmp_path / "e.npz")).load("train")


def test_oblong_arrays(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x[:3])
    source = Arrays(str(tmp_path / "a.npz"))
    assert Images.of(source).size == (6, 9)
    examples = source.load("train")
    assert isinstance(examples.items, Pictures) and examples.items.values[0].dtype == np.uint8  # a byte a value
    assert torch.equal(examples.artifacts[4], torch.from_numpy(x[4].transpose(2, 0, 1)).float() / 255)
    assert len(examples[:4].artifacts) == 4 and torch.equal(examples[3:5][1].artifact, examples[4].artifact)


@pytest.mark.parametrize(
    "y", [np.array([0.0, 1.5, 2.0, np.nan]), np.array([0, -1, 2, 3]), np.array([0.0, -1.0, 2.0, np.inf])]
)
def test_labels_that_are_no_classes_are_reported_not_cut(tmp_path, y):
    x = np.random.default_rng(0).integers(0, 256, (4, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=np.arange(4), classes=np.array(["a", "b", "c"]))
    train = Arrays(str(tmp_path / "a.npz")).load("train")
    assert [(e.name, e.cond["label"]) for e in train] == [("a.npz/0", 0), ("a.npz/2", 2)]
    assert [r.name for r in train.rejected] == ["a.npz/1", "a.npz/3"]
    assert train.rejected[0].reason == f"label {y[1]} is not a class from 0 to 2"
    np.savez(tmp_path / "b.npz", x=x, y=np.array(["a", "b", "a", "b"]))
    with pytest.raises(DataError, match="4 whole numbers from 0"):
        Arrays(str(tmp_path / "b.npz")).look()


# -- every kind of picture is read for what it is ------------------------------------------------------------------

RAMP = np.add.outer(np.arange(16) * 8, np.arange(16) * 7).astype(np.uint8)


def kinds() -> dict[str, tuple[Image.Image, dict, float]]:
    """Name with suffix: the ramp as an image of this kind, options, and how far a reader may be off, in 1/255."""
    grey, deep = Image.fromarray(RAMP), RAMP.astype(np.uint16) * 257
    rgb = grey.convert("RGB")
    return {
        "grey.png": (grey, {}, 0),
        "palette.png": (rgb.quantize(256), {}, 0),
        "palette.gif": (grey, {}, 0),
        "film.gif": (grey, {"save_all": True, "append_images": [Image.fromarray(255 - RAMP)]}, 0),
        "pages.tif": (grey, {"save_all": True, "append_images": [Image.fromarray(255 - RAMP)]}, 0),
        "film.webp": (rgb, {"save_all": True, "append_images": [Image.new("RGB", (16, 16))], "lossless": True}, 0),
        "deep.png": (Image.fromarray(deep), {}, 0),
        "deep.tiff": (Image.fromarray(deep), {}, 0),
        "float.tiff": (Image.fromarray(RAMP.astype("f4") / 255), {}, 1e-4),
        "long.tiff": (Image.fromarray(deep.astype(np.int32)), {}, 0),
        "packed.tif": (rgb, {"compression": "tiff_lzw"}, 0),
        "cmyk.tif": (rgb.convert("CMYK"), {}, 1),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 100}, 4),
        "progressive.jpg": (rgb, {"quality": 100, "progressive": True}, 4),
        "alpha.png": (Image.merge("LA", (grey, Image.new("L", (16, 16), 255))), {}, 0),
        "bmp.bmp": (rgb, {}, 0),
    }


@pytest.mark.parametrize("name", kinds())
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_picture_is_read_at_its_scale(tmp_path, name, channels):
    image, options, error = kinds()[name]
    image.save(tmp_path / name, **options)
    p = read(tmp_path / name, channels=channels)
    assert p.shape == (channels, 16, 16)
    assert (p * 255 - torch.from_numpy(RAMP)).abs().max() <= error + 1e-3
    examples = Folder(str(tmp_path), size=16, channels=channels, test_share=0).load("train")
    assert torch.equal(examples[0].artifact, p)


def tiff(values: np.ndarray, bits: int, *, white: int = 1, sign: int = 1) -> bytes:
    """A TIFF of one strip of these bytes as they are: 16 x 16, grey; `white` is what 0 means, 0 for white."""
    tags = {
        256: 16, 257: 16, 258: bits, 259: 1, 262: white, 273: 134, 277: 1, 278: 16, 279: values.nbytes, 339: sign
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values.tobytes()


def test_the_depth_and_the_white_of_a_tiff_are_those_that_it_says(tmp_path):
    deep = RAMP.astype("<u2")
    twelve = (deep.astype(int) * 4095 // 255).reshape(-1, 2)
    packed = np.stack([twelve[:, 0] >> 4, (twelve[:, 0] & 15) << 4 | twelve[:, 1] >> 8, twelve[:, 1] & 255], -1)
    good = {
        "twelve": tiff(packed.astype("u1"), 12), "inverted": tiff(65535 - deep * 257, 16, white=0),
        "eight": tiff(255 - RAMP, 8, white=0), "float": tiff(RAMP.astype("<f4") / 255, 32, sign=3),
    }  # fmt: skip
    for name, data in good.items():
        (tmp_path / "a.tif").write_bytes(data)
        assert (read(tmp_path / "a.tif", channels=1)[0] * 255 - torch.from_numpy(RAMP)).abs().max() < 0.07, name
    doubtful = {"signed": tiff(deep.astype("<i2"), 16, sign=2), "long": tiff(RAMP.astype("<i4"), 32, sign=2)}
    for name, data in doubtful.items():
        (tmp_path / f"{name}.tif").write_bytes(data)
        with pytest.raises(DataError, match="unknown scale"):
            read(tmp_path / f"{name}.tif")


def test_a_kind_that_is_not_read_is_not_called_corrupt_alone(tmp_path):
    whole = tiff(RAMP.astype("<f8"), 64, sign=3)
    for data, word in (
        (whole, "a kind of TIFF"),
        (whole[:100], "truncated"),
        (b"\0\0\0\x18ftypheic" + bytes(90), "HEIC"),
    ):
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(DataError, match=word):
            read(tmp_path / "a.jpg")
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "TIFF", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes(file.getvalue()[:-20])
    with pytest.raises(DataError, match="truncated"):
        read(tmp_path / "a.tif")


def test_the_clear_value_of_a_deep_png_is_white(tmp_path):
    deep = RAMP.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "a.png", transparency=0)
    data = (tmp_path / "a.png").read_bytes()
    assert b"tRNS" in data
    assert read(tmp_path / "a.png", channels=1)[0, 0, 0] == 1
    assert read(tmp_path / "a.png", channels=1)[0, 0, 1] < 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_is_read(tmp_path, channels):
    Image.new("LAB", (16, 16), (255, 128, 128)).save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif", channels=channels).min() > 0.9


def test_sixteen_bits_are_not_rounded_to_eight(tmp_path):
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 7 + 1000
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png", channels=1)[0] * 65535 - torch.from_numpy(deep.astype("f4"))).abs().max() < 1e-2
    Image.fromarray(deep.astype("f4")).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match="unknown scale"):
        read(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, suffix, orientation):
    """The picture as a camera held it: stored turned, with the note how to turn it back (EXIF 2.3, tag 0112)."""
    seen = np.zeros((16, 24), np.uint8)
    seen[:8, :8], seen[:8, 16:] = 250, 120
    stored = {
        1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1],
        5: seen.T, 6: np.rot90(seen), 7: seen[::-1, ::-1].T, 8: np.rot90(seen, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {".jpg": {"quality": 100}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif, **options)
    p = read(tmp_path / f"a{suffix}", channels=1)
    assert p.shape == (1, 16, 24)
    assert (p[0] * 255 - torch.from_numpy(seen)).abs().max() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_cut_file_is_called_cut_wherever_it_ends(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    data = file.getvalue()
    for share in (0.02, 0.1, 0.3, 0.5, 0.9, 0.97):
        (tmp_path / "a.JPG").write_bytes(data[: int(share * len(data))])
        with pytest.raises(DataError, match="truncated"):
            read(tmp_path / "a.JPG")


def test_a_picture_that_is_all_canvas_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "worse.png")
    for name in ("bomb.png", "worse.png"):
        with pytest.raises(DataError, match="too large"):
            read(tmp_path / name)
    Image.new("1", (3000, 3000)).save(tmp_path / "plan.png")
    assert read(tmp_path / "plan.png", size=8).shape == (3, 8, 8)


def test_classes_from_a_table_or_the_parent_folder(tmp_path):
    for i in range(12):
        save(tmp_path / "all" / ("left" if i % 2 else "right") / f"{i}.png", i)
    place = [f"all/{'left' if i % 2 else 'right'}/{i}.png" for i in range(12)]
    rows = [f"{name},{'odd' if i % 2 else 'even'}" for i, name in enumerate(place[:-1])]
    (tmp_path / "t.csv").write_text("\n".join(["path,kind", *rows, "all/absent.png,odd"]))
    source = Folder(str(tmp_path), size=8, manifest="t.csv", column="kind", test_share=0.0)
    assert Images.of(source).classes == ("even", "odd")
    train = source.load("train")
    assert {e.name: e.cond["label"] for e in train} == {name: i % 2 for i, name in enumerate(place[:-1])}
    assert {r.name: r.reason for r in train.rejected} == {
        place[-1]: "no class: not in the table",
        "all/absent.png": "in the table, but not among the pictures",
    }
    assert train.others == ("t.csv",)
    assert Folder(str(tmp_path), size=8).look().classes == ("all",)
    assert Folder(str(tmp_path), size=8, labelled_by="parent").look().classes == ("left", "right")
    assert Folder(str(tmp_path), size=8, labelled_by="").look().classes == ()
    (tmp_path / "t.csv").write_text("path,kind,split\n" + f"{tmp_path / place[0]},odd,val\n")
    assert source.load("train").items[0].name == place[0]
    assert "columns of t.csv not used: split" in source.load("train").report()
    for text, message in (
        (f"path,kind\n{place[0]},", r"row 2 \(all/right/0.png\): an empty kind"),
        (f"path,kind\n{place[0]},a\n{place[0]},b", "row 3: .* is 'b' and 'a'"),
        ("path,kin\nx,y", 'Did you mean "kin"'),
        ("path,kind\nx,y,z", "line 2: 3 fields"),
    ):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            source.load("train")
    for what in ({"fit": "crap"}, {"labelled_by": "tip"}, {"test_share": 2}, {"channels": 4}, {"size": (0, 3)}):
        with pytest.raises(RequestError):
            Folder(**{"path": str(tmp_path), "size": 8, **what})


def test_the_offsets_of_cifar10_are_checked(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(file, "JPEG")
    jpeg = np.frombuffer(file.getvalue() * 3, np.uint8)
    n, path = len(jpeg) // 3, tmp_path / "images" / "cifar10_jpeg_train.npz"
    path.parent.mkdir()
    np.savez(path, jpeg=jpeg, offset=np.arange(4) * n, y=np.array([0, 10, 9]))
    train = CIFAR10().load("train", tmp_path)
    assert [e.cond["label"] for e in train] == [0, 9] and [e.name for e in train] == [
        "cifar10/train/0",
        "cifar10/train/2",
    ]
    assert train.rejected[0].reason == "label 10 is not a class from 0 to 9"
    for offset in (np.arange(4) * n + 1, np.arange(3) * n, np.arange(4) * float(n), np.array([0, n, n - 9, 3 * n])):
        np.savez(path, jpeg=jpeg, offset=offset, y=np.array([0, 1, 9]))
        with pytest.raises(DataError, match="rising offsets"):
            CIFAR10().load("train", tmp_path)


@pytest.mark.parametrize("source", [MNIST(), Fashion(), CIFAR10()])
def test_missing_data_says_where_to_put_it(source, tmp_path):
    with pytest.raises(DataError, match=r"(?s)does not exist.*GENDIFF_DATA"):
        source.load("train", tmp_path)
    assert len(source.describe()) > 20


@pytest.mark.parametrize(
    ("source", "train", "test"), [(MNIST(), 54001, 9000), (Fashion(), 54000, 9000), (CIFAR10(), None, 9000)]
)
def test_real_files(source, train, test):
    root = Path(os.environ.get("GENDIFF_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    if not (root / "images").is_dir():
        pytest.skip(f"no pictures under {root}")
    domain, held_out = Images.of(source), source.load("test", root)
    assert len(held_out) == test
    assert held_out.rejected == ()
    assert {e.cond["label"] for e in held_out} == set(range(10))
    assert held_out[0].artifact.shape == (domain.channels, domain.size, domain.size)
    if train is not None:
        first = domain.dataset("train", root)
        assert len(first) == train
        assert len({e.name for e in first} & {e.name for e in held_out}) == 0


def test_pictures_of_a_folder_are_read_when_they_are_asked_for(zoo):
    examples = Folder(str(zoo), 16, test_share=0.0).load("train")
    values = cast("Any", examples).items.values
    held = values.make.held
    assert set(held) == set(values.keys)
    whole = [e.artifact for e in examples]
    again = copy.deepcopy(examples)  # as a worker gets them: the index, and no picture
    assert not cast("Any", again).items.values.make.held and len(pickle.dumps(examples)) < 2**14
    assert all(torch.equal(a.artifact, b) for a, b in zip(again, whole, strict=True))
    again = copy.deepcopy(examples)
    cast("Any", again).items.values.make.room = 0
    assert all(torch.equal(e.artifact, b) for e, b in zip(again, whole, strict=True))
    assert not cast("Any", again).items.values.make.held and again.conds == examples.conds
    save(zoo / examples[3].name, 999)
    assert torch.equal(examples[3].artifact, whole[3])  # it is remembered
    with pytest.raises(DataError, match=f"{examples[3].name} has changed since it was looked at"):
        again[3].artifact  # noqa: B018


def captioned_folder(home: Path) -> None:
    """Seven pictures, with texts beside them in several encodings, one without, and a text without a picture."""
    texts = {
        "a": b"a red heart", "b": b"\xef\xbb\xbfcaf\xc3\xa9", "c": b"caf\xe9", "d": "\U0001f600 face".encode(),
        "e": b"", "f": b"x" * 70_000,
    }  # fmt: skip
    for i, name in enumerate("abcdefg"):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(home / f"{name}.png")
        if name in texts:
            (home / f"{name}.txt").write_bytes(texts[name])
    (home / "lost.txt").write_text("nothing to see")
    (home / "notes.md").write_text("other")


def test_captions_beside_pictures(tmp_path: Path) -> None:
    captioned_folder(tmp_path)
    source = Folder(str(tmp_path), 8, test_share=0.0, captions="txt")
    train = source.load("train")
    said = {example.name: example.cond["caption"] for example in train}
    assert said == {
        "a.png": "a red heart", "b.png": "caf\u00e9", "c.png": "caf\u00e9", "d.png": "\U0001f600 face", "e.png": None,
        "f.png": None, "g.png": None,
    }  # fmt: skip
    rejected = {item.name: item.reason for item in train.rejected}
    assert rejected.keys() == {"lost.txt", "f.txt"} and "without a picture" in rejected["lost.txt"]
    assert train.others == ("notes.md",) and "c.txt is not UTF-8, and was read as cp1252" in train.notes
    domain = Images.of(source).fit_conditions(train)
    caption = domain.conditions["caption"]
    assert isinstance(caption, Text) and "heart" in caption.vocabulary and "face" in caption.vocabulary
    assert caption.audit(list(said.values())) == ["3 of 7 examples have none"]
    assert "1 pictures have an empty text beside them: nothing is asked of them" in train.notes
    assert caption.audit(["a", " ", None]) == ["1 of 3 examples have none", "1 texts are empty, and ask for nothing"]


def test_captions_of_a_table(tmp_path: Path) -> None:
    captioned_folder(tmp_path)
    table = tmp_path / "captions.csv"
    table.write_text('path,caption\na.png,"a heart, red"\nb.png,\nz.png,gone\n', encoding="utf8")
    source = Folder(str(tmp_path), 8, test_share=0.0, captions="captions.csv", labelled_by="")
    train = source.load("train")
    assert [e.cond["caption"] for e in train][:3] == ["a heart, red", None, None]
    assert [r.name for r in train.rejected] == ["z.png"]
    table.write_text("path,caption\na.png,one\na.png,two\n", encoding="utf8")
    with pytest.raises(DataError, match=r"row 3: a.png is 'two' and 'one'; expected one caption each"):
        source.load("train")
    table.write_text("path,text\na.png,one\n", encoding="utf8")
    with pytest.raises(DataError, match="no column 'caption'"):
        source.load("train")


def test_captioned_sprites_hide_pairs_and_show_their_parts(data_root: Path) -> None:
    """No pair of garment and colour is in both splits; each garment and each colour is in training."""
    source = Sprites(frames=2)
    rows = source.rows(data_root)
    parts = {split: source.load(split, data_root) for split in ("train", "test")}
    pairs: dict[str, set[tuple[str, str]]] = {}
    for split, examples in parts.items():
        own = [rows[int(e.name.split("/")[1])] for e in examples]
        pairs[split] = {(row["top"], row["color"]) for row in own}
        assert all(e.cond["caption"] == row["caption"] for e, row in zip(examples, own, strict=True))
    assert not pairs["train"] & pairs["test"] and len(pairs["test"]) > 5
    for k in (0, 1):
        assert {pair[k] for pair in pairs["test"]} <= {pair[k] for pair in pairs["train"]}
    picture = parts["train"][0].artifact
    assert picture.shape == (3, 64, 64) and float(picture[:, 0, 0].min()) == 1.0  # on white
    domain = Images.of(source).fit_conditions(parts["train"])
    for example in parts["test"]:  # every word of what was hidden is known
        domain.conditions["caption"].encode(example.cond["caption"])


def test_emoji_come_with_caption_and_style(data_root: Path) -> None:
    train, test = (Emoji().load(split, data_root) for split in ("train", "test"))
    assert len(train) + len(test) + len(train.rejected) + len(test.rejected) == 6434 and len(test) > 300
    codes = [{e.name.split("/")[1] for e in examples} for examples in (train, test)]
    assert not codes[0] & codes[1]
    look = Emoji().look(data_root)
    assert set(look.asked) == {"caption", "style"} and train[0].artifact.shape == (3, 64, 64)
