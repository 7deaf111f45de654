"""Sources: splits without overlap, and nothing skipped silently."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gendiff.errors import DataError, RequestError
from gendiff_images import CIFAR10, MNIST, Arrays, Digits, Fashion, Folder, Images


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
    (tmp_path / "dog" / ".hidden.png").write_bytes(b"x")
    save(tmp_path / "stray.png", 203)
    Image.new("CMYK", (32, 32)).save(tmp_path / "dog" / "cmyk.jpg")
    Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(tmp_path / "dog" / "deep.png")
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "dog" / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    return tmp_path


def test_folder_lists_every_rejected_file_with_its_reason(zoo):
    source = Folder(str(zoo), size=12)
    train, test = source.load("train"), source.load("test")
    assert len(train) + len(test) == 60
    reasons = {r.name: r.reason for r in (*train.rejected, *test.rejected)}
    assert set(reasons) == {
        "cat/small.png", "cat/cut.jpg", "cat/cut.png", "dog/noise.png", "dog/empty.jpg", "dog/notes.txt",
        "dog/.hidden.png", "stray.png", "dog/cmyk.jpg", "dog/deep.png", "dog/film.webp",
    }  # fmt: skip
    assert reasons["cat/small.png"] == "too small (16x5)"
    assert reasons["cat/cut.jpg"].startswith("truncated")
    assert reasons["cat/cut.png"].startswith("truncated")
    assert reasons["dog/noise.png"] == reasons["dog/empty.jpg"] == "corrupt"
    assert reasons["dog/notes.txt"] == "not a picture (.txt)"
    assert reasons["dog/.hidden.png"] == "hidden file"
    assert "no class" in reasons["stray.png"]
    assert reasons["dog/cmyk.jpg"] == "wrong mode CMYK"
    assert reasons["dog/deep.png"].startswith("wrong mode I;16")
    assert reasons["dog/film.webp"] == "2 frames"
    assert "truncated" in train.report() + test.report()


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
    with pytest.raises(DataError, match=r"(?s)no usable picture.*not a picture"):
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
    with pytest.raises(DataError, match=r"\(4, 5, 6\)"):
        Arrays(str(tmp_path / "b.npz")).load("train")
    np.savez(tmp_path / "c.npz", x=x, y=np.arange(3))
    with pytest.raises(DataError, match="4 pictures and 3 labels"):
        Arrays(str(tmp_path / "c.npz")).load("train")
    np.savez(tmp_path / "d.npz", pictures=x)
    with pytest.raises(DataError, match="an array 'x'"):
        Arrays(str(tmp_path / "d.npz")).look()
    (tmp_path / "e.npz").write_bytes(b"no")
    with pytest.raises(DataError, match="not readable"):
        Arrays(str(tmp_path / "e.npz")).load("train")


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
