"""The report is one file: what went in can be read back out of it, and nothing in it points outside."""

from __future__ import annotations

import base64
import io
import json
import re
import wave
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from gendiff.errors import DataError
from gendiff_recipes import drawing
from gendiff_recipes.curves import curves
from gendiff_recipes.report import (
    Curve,
    Details,
    Pictures,
    Section,
    Sound,
    Sounds,
    Structure,
    Structures,
    Table,
    Text,
    number,
    write_report,
)

VOID = {"meta", "link", "img", "br", "hr", "input", "line", "path", "rect", "circle"}
NASTY = """<script>alert("1 & 2")</script>"""


class Page(HTMLParser):
    """Checks that tags nest, and gathers links and scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.json: list[str] = []
        self.text = ""
        self.inside_json = False
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            (tag, value or "") for name, value in attrs if name in ("src", "href", "srcset", "data", "poster", "action")
        ]
        self.inside_json = tag == "script" and ("type", "application/json") in attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag
        self.inside_json = False

    def handle_data(self, data: str) -> None:
        if self.inside_json:
            self.json.append(data)
        elif self.stack and self.stack[-1] not in ("script", "style"):
            self.text += data


def helix(n: int = 24) -> str:
    """An ideal helix of CA atoms as PDB text."""
    rows = []
    for i in range(n):
        x, y, z = 2.3 * np.cos(np.deg2rad(100 * i)), 2.3 * np.sin(np.deg2rad(100 * i)), 1.5 * i
        rows.append(f"ATOM  {i + 1:5d}  CA  GLY A{i + 5:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C")
    return "\n".join([*rows, "TER", "END"])


PICTURE = np.random.default_rng(0).random((3, 9, 7))
SOUND = np.sin(np.arange(4000) / 9) * np.linspace(0, 0.8, 4000)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    steps = np.arange(1000.0)
    path = write_report(
        tmp_path_factory.mktemp("report") / "deep" / "report.html",
        NASTY,
        [
            Section(
                "Pictures " + NASTY,
                lead="A lead.",
                facts={"seconds": 12.345, "device": NASTY},
                blocks=[
                    (
                        Pictures("Generated", [PICTURE], [NASTY]),
                        Pictures("Real", [PICTURE[:1], drawing.png(PICTURE[0])]),
                    ),
                    Text(["One paragraph."]),
                    Curve("Loss", {"train": (steps, 1 / (1 + steps))}, log=True),
                    Table("Metrics", ["", "generated", "floor"], [["FID", 12.345, float("nan")], [NASTY, 3, "–"]]),
                    Details("Recipe", json.dumps({"lr": NASTY})),
                ],
            ),
            Section("Sounds", [Sounds("Generated", [Sound(SOUND, 8000, "seven")])]),
            Section(
                "Proteins",
                [Structures("Generated", [Structure(helix(), "one"), Structure(helix(30), "two", highlight=(7, 8))])],
            ),
        ],
        facts={"torch": "2.11.0"},
        citations=["@article{a, title={" + NASTY + "}}"],
    )
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text  # the browser itself then refuses whatever would be fetched
    assert not re.search(r"url\(|@import", text.split("</style>")[0])
    assert NASTY not in text
    return Page(text)


def embedded(page: Page, kind: str) -> list[bytes]:
    prefix = f"data:{kind};base64,"
    return [
        base64.b64decode(link.removeprefix(prefix), validate=True) for _, link in page.links if link.startswith(prefix)
    ]


def test_nothing_points_outside(page: Page) -> None:
    assert {link.split(":")[0] if link.startswith("data:") else link[0] for _, link in page.links} == {"data", "#"}


def test_words_arrive_escaped(page: Page) -> None:
    assert page.text.count('<script>alert("1 & 2")</script>') >= 6
    assert "12.3" in page.text and "@article" in page.text


def test_pictures_are_the_pictures(page: Page) -> None:
    pixels = [np.asarray(Image.open(io.BytesIO(content))) for content in embedded(page, "image/png")[:3]]
    expected = np.rint(PICTURE * 255)
    assert np.array_equal(pixels[0], np.moveaxis(expected, 0, -1))
    assert np.array_equal(pixels[1], expected[0])
    assert np.array_equal(pixels[2], expected[0])


def test_sounds_are_the_sounds(page: Page) -> None:
    (content,) = embedded(page, "audio/wav")
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    assert np.abs(samples - SOUND).max() <= 0.5001 / 32767


def test_structures_are_the_structures(page: Page) -> None:
    chains, palette = (json.loads(text) for text in page.json)
    assert [(chain["pdb"], chain["highlight"]) for chain in chains] == [(helix(), []), (helix(30), [7, 8])]
    for chain in chains:  # turned so that the helix lies along x
        ca = drawing.trace(chain["pdb"])[0]
        assert np.argmax(np.ptp(Rotation.from_quat(chain["turn"]).apply(ca), axis=0)) == 0
    assert len(palette) == 32


def test_the_viewer_comes_only_with_structures(tmp_path: Path) -> None:
    assert write_report(tmp_path / "a.html", "Without", [Section("Empty", [])]).stat().st_size < 20_000


def test_a_loud_sound_is_scaled_and_stereo_interleaved() -> None:
    loud = np.stack([np.full(10, 2.0), np.full(10, -1.0)])
    with wave.open(io.BytesIO(drawing.wav(loud, 44100))) as file:
        frames = np.frombuffer(file.readframes(10), "<i2").reshape(10, 2)
    assert (frames == [32767, -16384]).all()


def test_a_tone_is_bright_where_its_frequency_is() -> None:
    """1 kHz of 4 kHz: a quarter up from the bottom."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    image = np.asarray(Image.open(io.BytesIO(drawing.spectrogram(tone, 8000, (80, 100)))).convert("L"), float)
    assert abs(image.mean(axis=1).argmax() - 74.5) <= 2


def test_a_curve_meets_its_axes() -> None:
    """The path and the ticks are drawn by the same map: a straight line passes through every pair of ticks."""
    view = Curve("line", {"y": ([0.0, 100.0], [0.0, 50.0])}).view()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in view["lines"][0]["path"][1:].split("L"))
    for (x, x_label), (y, y_label) in zip(view["x_ticks"], view["y_ticks"], strict=True):
        assert float(x_label) == 2 * float(y_label)
        assert float(y) == pytest.approx(y0 + (float(x) - x0) / (x1 - x0) * (y1 - y0), abs=0.1)


def test_a_log_curve_is_straight_for_an_exponential() -> None:
    steps = np.arange(50.0)
    view = Curve("log", {"y": (steps, np.exp(-steps / 5))}, log=True).view()
    points = np.array([list(map(float, point.split(","))) for point in view["lines"][0]["path"][1:].split("L")])
    assert np.ptp(np.diff(points[:, 1])) < 0.2


@pytest.mark.parametrize("top", [1e-4, 1.0, 2_000_000.0])
def test_the_numbers_of_an_axis_have_room(top: float) -> None:
    """At the left as many units as they are long; at the right half of the last."""
    view = Curve("line", {"y": ([0.0, top], [top / 1e4, top])}, log=True).view()
    assert view["box"]["left"] >= 8 + 7 * max(len(label) for _, label in view["y_ticks"])
    assert 480 - view["box"]["right"] >= 7 * len(view["x_ticks"][-1][1]) / 2


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.002, 3.0, [0.01, 0.1, 1.0]), (0.03, 0.6, [0.05, 0.1, 0.2, 0.5]), (0.55, 0.95, [0.6, 0.7, 0.8, 0.9])],
)
def test_log_ticks(low: float, high: float, expected: list[float]) -> None:
    assert drawing.log_ticks(low, high) == pytest.approx(expected)


def test_a_log_axis_gives_way_to_values_that_have_none() -> None:
    assert Curve("zero", {"y": ([0.0, 1.0], [0.0, 1.0])}, log=True).view()["y"] == "loss"
    assert Curve("one", {"y": ([0.0, 1.0], [1.0, 1.0])}, log=True).view()["y"] == "loss (log)"


def test_thinning_keeps_the_mean() -> None:
    noise = np.random.default_rng(1).normal(size=16_000)
    _, mean, low, high = drawing.thin(np.arange(16_000.0), noise)
    assert len(mean) == 160 and mean.mean() == pytest.approx(noise.mean(), abs=1e-12)
    assert low.mean() == pytest.approx(-1.28, abs=0.06) and high.mean() == pytest.approx(1.28, abs=0.06)


def test_a_chain_is_drawn_from_blue_to_red_and_grey_beside_a_motif() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(drawing.chain_picture(helix())))).astype(int)
    solid = pixels[pixels[..., 3] > 250][:, :3]
    assert ((solid[:, 2] - solid[:, 0]) > 60).any() and ((solid[:, 0] - solid[:, 2]) > 60).any()
    grey = np.asarray(Image.open(io.BytesIO(drawing.chain_picture(helix(), (5, 6))))).astype(int)
    assert np.mean(np.ptp(grey[grey[..., 3] > 250][:, :3], axis=1) < 8) > 0.6 > np.mean(np.ptp(solid, axis=1) < 8)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (12.345, "12.3"),
        (0.012345, "0.0123"),
        (-3.2, "−3.20"),
        (99.96, "100.0"),
        (1234567.0, "1.23e+06"),
        (1e-7, "1.00e−07"),
        (float("nan"), "–"),
        (float("-inf"), "−∞"),
        (2026, "2026"),
        (412033, "412,033"),
        ("Heun(18)", "Heun(18)"),
        (True, "True"),
        (None, "–"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "block",
    [
        Pictures("wrong shape", [np.zeros((9, 9, 9))]),
        Pictures("not finite", [np.full((4, 4), np.nan)]),
        Pictures("captions", [np.zeros((4, 4))], ["one", "two"]),
        Sounds("not finite", [Sound(np.array([0.0, np.inf]), 8000)]),
        Structures("no chain", [Structure("END")]),
        Curve("empty", {"y": ([0.0], [float("nan")])}),
        Table("ragged", ["a", "b"], [["x"]]),
    ],
)
def test_what_cannot_be_shown_is_refused(block: Pictures | Sounds | Structures | Curve | Table) -> None:
    with pytest.raises(DataError):
        block.view()


def test_a_measure_says_what_it_is_and_the_rounding_of_a_zero_is_zero(tmp_path: Path) -> None:
    table = Table("T", ["measure", "value"], [["spread", 3.1e-14], ["rate", 1e-6]], about={"spread": "Of <angles>."})
    assert [row[1][0] for row in table.view()["rows"]] == ["0.000", "1.00e\N{MINUS SIGN}06"]
    text = write_report(tmp_path / "r.html", "R", [Section("S", [table])]).read_text()
    assert "spread<small>Of &lt;angles&gt;.</small>" in text


def test_a_rate_is_no_loss(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,train/lr\n10,2.0,0.1\n20,1.0,0.2\n")
    drawn = [block.view() for block in curves(tmp_path)]
    assert [(v["title"], [line["name"] for line in v["lines"]]) for v in drawn] == [
        ("Training loss", ["loss"]), ("Learning rate", ["learning rate"]),
    ]  # fmt: skip
