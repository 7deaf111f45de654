"""Pictures: round trips, requests, files, contact sheets, distances, the judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gendiff
from gendiff import Model
from gendiff.errors import CheckpointError, DataError, RequestError, RequestWarning
from gendiff.nn import DiT, UNet
from gendiff.random import Noise
from gendiff.testing import check_domain
from gendiff_images import (
    CIFAR10,
    Digits,
    Folder,
    Images,
    Judge,
    Masked,
    digits,
    distances,
    read,
    save_grid,
    without,
    write,
)  # fmt: skip
from gendiff_images.sources import labels_of


def picture(channels: int = 1, size: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(channels, size, size, generator=torch.Generator().manual_seed(seed))


# -- state and back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_and_decode_agree_to_rounding(channels):
    domain = Images(size=12, channels=channels, mean=0.286, std=0.353)
    p = picture(channels)
    assert (domain.decode(domain.encode(p)) - p).abs().max() < 2e-7
    assert domain.decode(domain.encode(p) * 50).aminmax() == (0.0, 1.0)


def test_fit_makes_unit_states():
    domain, data = digits(), digits().dataset("train")
    fitted = domain.fit(data.artifacts)
    x = torch.stack([fitted.encode(a) for a in data.artifacts])
    assert abs(float(x.mean())) < 1e-4
    assert abs(float(x.std()) - 1) < 1e-3
    assert eval(repr(fitted)) == fitted  # a repr that can be pasted back
    with pytest.raises(DataError, match="flat colour"):
        Images(size=4).fit([torch.full((1, 4, 4), 0.5)] * 3)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.rand(12, 12, 1), r"permute\(2, 0, 1\)"),
        (torch.rand(3, 12, 12), "with C = 1"),
        ("cats/one.png", r'read\("a.png"\)'),
        (torch.rand(1, 10, 10), "a picture of 10x10. 12x12"),
        (torch.zeros(1, 12, 12, dtype=torch.uint8), "picture.float"),
        (torch.rand(1, 12, 12) * 255, r"values from .*clamp\(0, 1\)"),
        (torch.full((1, 12, 12), float("nan")), "non-finite"),
        (torch.zeros(1, 12, 12).index_fill(2, torch.tensor([7]), float("inf")), "non-finite"),
        (torch.zeros(1, 0, 12), r"shape \(1, 0, 12\)"),
    ],
)
def test_what_is_no_picture_is_refused(value, message):
    with pytest.raises(RequestError, match=message):
        Images(size=12).encode(value)


def test_flip_mirrors_half_of_the_pictures_each_by_its_own_noise():
    domain = Images(size=12, flip=True)
    x = torch.stack([picture(seed=i) for i in range(200)])
    y = domain.augment(x, Noise.of(0, 200))
    mirrored = (y == x.flip(-1)).all(-1).all(-1).all(-1)
    assert ((y == x).all(-1).all(-1).all(-1) | mirrored).all()
    assert 70 < int(mirrored.sum()) < 130
    assert torch.equal(domain.augment(x[50:60], Noise.of(0, 10, start=50)), y[50:60])
    assert Images(size=12).augment(x, Noise.of(0, 200)) is x


@pytest.mark.parametrize("size", [{}, {"flip": True}])
def test_the_whole_contract(size):
    check_domain(replace(digits(), **size), requests=[{"label": "3"}, {"label": None}, {}])


# -- requests and networks ----------------------------------------------------------------------------------------


def test_labels_by_name_number_list_and_none():
    domain = Images.of(CIFAR10())
    request = domain.request(3, label=["frog", 1, None])
    assert request.like.shape == (3, 3, 32, 32)
    assert request.cond["label"].tolist() == [6, 1, 10]
    assert domain.request(2, label="frog").cond["label"].tolist() == [6, 6]
    assert domain.request(2).cond["label"].tolist() == [10, 10]
    assert Images(size=8).request(2).cond == {}


def test_wrong_requests_name_the_nearest():
    domain = Images.of(CIFAR10())
    with pytest.raises(RequestError, match='Did you mean "frog"'):
        domain.request(1, label="frogg")
    with pytest.raises(RequestError, match='Did you mean "label"'):
        domain.request(1, lable="frog")
    with pytest.raises(RequestError, match="0 pictures"):
        domain.request(0)
    with pytest.raises(RequestError, match="keywords only"):
        domain.request(1, "frog")
    wrong: list[Any] = [0, (64,), (64, 0), "64", (3.5, 4)]
    for size in wrong:
        with pytest.raises(RequestError, match=r"Images\(size=\(64, 96\)\)"):
            Images(size=size)


@pytest.mark.parametrize("size", [{}, {"channels": (16, 24), "blocks": 1}, {"width": 32, "depth": 2, "heads": 2}])
def test_networks_answer_requests(size):
    domain = Images(size=14, classes=("a", "b"))
    net, request = domain.network(**size), domain.request(2, label=["a", None])
    assert net(request.like, torch.tensor([0.1, 0.9]), **request.cond).shape == request.like.shape
    assert isinstance(net, UNet | DiT)
    assert list(net.conditioning.tables) == ["label"]
    with pytest.raises(RequestError, match="a U-Net"):
        domain.network(width=32, channels=(16,))
    with pytest.raises(RequestError, match='Did you mean "blocks"'):
        domain.network(block=2)


def test_no_source_says_how_to_name_one():
    with pytest.raises(DataError, match=r"Images.of\(Fashion\(\)\)"):
        Images(size=8).dataset("train")
    with pytest.raises(DataError, match=r"\(1, 8, 8\)"):
        Images(size=28, source=Digits()).dataset("train")


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_files_round_to_eight_bits_once(tmp_path, channels):
    domain, p = Images(size=12, channels=channels), picture(channels)
    domain.write(p, tmp_path / "a.png")
    once = domain.read(tmp_path / "a.png")
    assert (once - p).abs().max() <= 0.5 / 255 + 1e-6
    domain.write(once, tmp_path / "b.png")
    assert torch.equal(domain.read(tmp_path / "b.png"), once)
    with pytest.raises(RequestError, match=r"'a.png'"):
        write(p, tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("suffix", "kind", "error"), [(".jpg", "JPEG", 0.03), (".JPEG", "JPEG", 0.03), (".webp", "WEBP", 0.0)]
)
def test_the_suffix_decides_the_format(tmp_path, suffix, kind, error):
    p = torch.linspace(0, 1, 16).expand(3, 16, 16).contiguous()
    write(p, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.format == kind
    assert (read(tmp_path / f"a{suffix}") - (p * 255).round() / 255).abs().max() <= error + 1e-6


def test_reading_cuts_the_middle_square(tmp_path):
    wide = np.zeros((12, 20), dtype=np.uint8)
    wide[:, 4:16] = np.arange(144).reshape(12, 12)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    p = Images(size=12).read(tmp_path / "wide.png")
    assert torch.equal((p * 255).round().to(torch.uint8)[0], torch.from_numpy(wide[:, 4:16]))
    assert read(tmp_path / "wide.png", channels=1).shape == (1, 12, 20)
    with pytest.raises(DataError, match=r"wide.png: too small \(20x12\)"):
        Images(size=16).read(tmp_path / "wide.png")


@pytest.mark.parametrize(("fit", "H", "W"), [("crop", 6, 12), ("pad", 12, 12), ("pad", 12, 6), ("stretch", 5, 9)])
def test_pictures_of_any_shape_come_to_any_other(tmp_path, fit, H, W):
    """A picture that is dark on its left third and bright on its right third, 12 rows by 24 columns."""
    values = np.full((12, 24), 128, np.uint8)
    values[:, :8], values[:, 16:] = 0, 250
    Image.fromarray(values).save(tmp_path / "a.png")
    p = read(tmp_path / "a.png", channels=1, size=(H, W), fit=fit)[0] * 255
    assert p.shape == (H, W)
    middle = p[H // 2]
    assert middle[0] < 3 and abs(middle[-1] - 250) < 3 and abs(middle[W // 2] - 128) < 15
    rows = {"crop": 6, "pad": W // 2, "stretch": 5}[fit]  # of the picture itself
    assert int(((p - 255).abs().amax(1) > 1).sum()) == rows
    with pytest.raises(DataError, match="without being enlarged"):
        read(tmp_path / "a.png", channels=1, size=(13, 25), fit=fit)
    with pytest.raises(RequestError, match='Did you mean "crop"'):
        read(tmp_path / "a.png", size=4, fit="crap")


def test_a_domain_of_oblong_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{i}.png")
    source = Folder(str(tmp_path), size=(8, 12), test_share=0.3)
    domain = Images.of(source)
    examples = domain.dataset("train")
    fitted = domain.fit(examples.artifacts)
    x = torch.stack([fitted.encode(a) for a in examples.artifacts])
    assert x.shape[1:] == (3, 8, 12) and abs(float(x.mean())) < 1e-4 and abs(float(x.std()) - 1) < 1e-3
    assert domain.request(2).like.shape == (2, 3, 8, 12)
    sizes: list[dict[str, Any]] = [{"channels": (8, 8), "blocks": 1}, {"width": 32, "depth": 1, "heads": 2}]
    for size in sizes:
        torch.manual_seed(0)
        model = Model.new(fitted, **size)
        assert model.sample(1, steps=2)[0].shape == (3, 8, 12)
    with pytest.raises(RequestError, match=r"\(9, 12\).*multiples of 2.*patch=1"):
        replace(domain, size=(9, 12)).network(width=32)
    assert replace(domain, size=(9, 13)).network(channels=(8, 8))(torch.zeros(1, 3, 9, 13), torch.ones(1)).shape[2] == 9
    assert domain.read(tmp_path / "0.png").shape == (3, 8, 12)


def test_transparent_pictures_lie_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:2, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    p = read(tmp_path / "a.png")
    assert (p[:, :2] == 0).all()
    assert (p[:, 2:] == 1).all()


# -- what is known -------------------------------------------------------------------------------------------------


def test_a_picture_with_a_hole_is_given_to_sample_as_it_is():
    domain = replace(Images(size=12, channels=3, mean=0.4, std=0.3), classes=("a", "b"))
    torch.manual_seed(0)
    model, p = Model.new(domain, channels=(8,), blocks=1), picture(3)
    hole = without(p, 2, 3, 7, 11)
    for sample in model.sample(3, given=hole, steps=2, label="b", seed=1):
        assert (sample - p).abs().mul(hole.keep).max() < 1e-6
        assert (sample - p)[:, 2:7, 3:11].abs().mean() > 0.05
        assert torch.equal(hole.mend(sample)[:, hole.keep], p[:, hole.keep])
        assert torch.equal(hole.mend(sample)[:, ~hole.keep], sample[:, ~hole.keep])
    as_numbers = Masked(p, hole.keep.float().numpy())
    assert torch.equal(as_numbers.keep, hole.keep)
    with pytest.raises(RequestError, match=r"a picture of 9x9\. 12x12"):
        model.sample(1, given=without(picture(3, 9), 0, 0, 2, 2))
    with pytest.raises(RequestError, match=r"a whole picture.*given=without\(picture"):
        model.sample(1, given=p)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (torch.ones(12, 11), r"a mask of shape \(12, 11\) for a picture of shape \(1, 12, 12\)"),
        (torch.rand(12, 12), "beside 0 and 1.*mask > 0.5"),
        (torch.zeros(12, 12), "nowhere True"),
        (torch.ones(1, 12, 12), "True everywhere"),
    ],
)
def test_masks_that_do_not_fit_are_refused(keep, message):
    with pytest.raises(RequestError, match=message):
        Masked(picture(), keep)
    with pytest.raises(RequestError, match="0 <= top < bottom <= 12"):
        without(picture(), 3, 3, 3, 8)


# -- contact sheets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labels", [None, ["t-shirt", "an extremely long class name", "", "x", "y"]])
def test_every_picture_can_be_read_back_from_a_sheet(tmp_path, channels, labels):
    pictures = [(picture(channels, 9, seed=i) * 255).round() / 255 for i in range(5)]
    sheet = save_grid(pictures, tmp_path / "sheet.png", columns=2, labels=labels, zoom=3)
    with Image.open(tmp_path / "sheet.png") as image:
        values = np.asarray(image)
    for i, p in enumerate(pictures):
        assert torch.equal(sheet.cut(values, i, 9, 9), p)
    assert (values[: sheet.gap] == 255).all()
    below, _ = sheet.corner(0, 9, 9)
    text = values[below + 27 : below + 27 + sheet.caption]
    assert bool((text < 128).any()) == (labels is not None)


def test_sheets_refuse_what_they_cannot_hold(tmp_path):
    with pytest.raises(RequestError, match="at least one picture"):
        save_grid([], tmp_path / "a.png")
    with pytest.raises(RequestError, match="one shape"):
        save_grid([picture(), picture(size=9)], tmp_path / "a.png")
    with pytest.raises(RequestError, match="2 labels for 1 pictures"):
        save_grid([picture()], tmp_path / "a.png", labels=["a", "b"])
    save_grid([picture()], tmp_path / "a.png", labels=["two\nlines"])
    Images(size=12).plot([picture()] * 21, tmp_path / "many.png")
    assert (tmp_path / "many.png").is_file()


# -- distances ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves():
    data = digits().dataset("train").artifacts
    data = [data[i] for i in np.random.default_rng(0).permutation(len(data))]  # the file is sorted by writer
    return data[:700], data[700:1400]


@pytest.mark.parametrize("name", ["energy", "texture"])
def test_distances_grow_with_damage(halves, name):
    a, b = halves
    distance = Images().metrics()[name]
    noise = torch.Generator().manual_seed(0)
    little = [(p + 0.1 * torch.randn(p.shape, generator=noise)).clamp(0, 1) for p in a]
    much = [(p + 0.4 * torch.randn(p.shape, generator=noise)).clamp(0, 1) for p in a]
    same, near, far = distance(a, b), distance(little, b), distance(much, b)
    assert abs(same) < 0.8 * near < 0.4 * far
    assert abs(distance(a, a[:70]) - distance(a[:70], a)) < 1e-6  # symmetric


def test_distances_to_references_are_those_of_all_pairs():
    torch.manual_seed(0)
    known = [torch.rand(1, 6, 6) for _ in range(200)]
    made = [torch.rand(1, 6, 6) for _ in range(9)] + [known[3] + 1e-3 * torch.rand(1, 6, 6)]
    a, b = (torch.stack(x).flatten(1).double() for x in (made, known))
    gap, index = (a[:, None] - b).norm(dim=2).min(1)
    there = (b[index, None] - b).norm(dim=2).scatter(1, index[:, None], torch.inf).min(1).values
    found = torch.tensor(distances.distances_to(made, known), dtype=torch.float64)
    torch.testing.assert_close(found, gap / there, rtol=1e-5, atol=0)
    assert distances.distances_to(made[:1], known[:1] * 2)[0] > 1e6  # two that are the same lie nowhere apart


def test_copies_and_novelty_tell_copying_from_new(halves):
    a, b = halves
    assert distances.copies(a[:100], a) == 1.0
    assert distances.novelty(a[:100], a) < 1e-6
    assert distances.copies(b[:100], a) < 0.05
    assert 0.8 < distances.novelty(b[:100], a) < 1.5
    shifted = [p * 0.98 for p in a[:100]]
    assert distances.copies(shifted, a) > 0.95


def test_distances_say_what_they_need():
    with pytest.raises(DataError, match="energy got 1 samples; expected at least 2"):
        distances.energy([picture()], [picture()] * 3)


# -- the judge ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    domain, data = digits(), digits().dataset("train")
    return Judge.train(data.artifacts, labels_of(data), domain.classes, steps=150, batch=128)


def test_the_judge_knows_digits_it_never_saw(judge):
    test = digits().dataset("test")
    assert judge.examine(test.artifacts, labels_of(test)) > 0.93
    assert judge.held_out == judge.accuracy(test.artifacts, labels_of(test))
    shuffled = np.random.default_rng(0).permutation(labels_of(test))
    assert judge.accuracy(test.artifacts, shuffled.tolist()) < 0.25
    noise = [picture(size=8, seed=i) for i in range(297)]
    assert judge.frechet(noise, test.artifacts) > 5 * judge.frechet(digits().dataset("train").artifacts, test.artifacts)


def test_the_judge_survives_its_file(judge, tmp_path):
    judge.save(tmp_path / "judge.safetensors")
    again, test = Judge.load(tmp_path / "judge.safetensors"), digits().dataset("test").artifacts
    assert torch.equal(again.probabilities(test), judge.probabilities(test))
    assert (again.classes, again.held_out) == (judge.classes, judge.held_out)
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    for name in ("bad.safetensors", "absent.safetensors"):
        with pytest.raises(CheckpointError, match=r"written by Judge\.save"):
            Judge.load(tmp_path / name)
    with pytest.raises(RequestError, match="3 channels"):
        judge.recognise([picture(3)])


def test_saturated_pictures_are_said_once():
    model = gendiff.load(Path(__file__).parents[2] / "weights" / "images_fashion.safetensors")
    with pytest.warns(RequestWarning, match=r"^2 of 2 samples are saturated: over 5%.*too strong a guidance") as seen:
        model.sample(2, batch=1, guidance=30.0, label="bag")
    assert len(seen) == 1
    assert max(model.domain.cut(x) for x in model.states(2, guidance=4.0, label="bag")[0][0]) < 0.05
