"""The page of `gendiff ui` in a browser, for four domains: see CONTRIBUTING.md for what it needs."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gendiff
from gendiff import Model
from gendiff.cli import main
from tests.recipes.served import CAPTIONS, PICTURE, Page, pictures, small, sounds

playwright = pytest.importorskip("playwright.sync_api", reason="needs a browser: pip install playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium, on the path or named by CHROMIUM"),
]


@dataclass(frozen=True)
class Case:
    """A model, what is typed wrong and where, what is typed right, and what is then seen.

    Attributes:
        model: Makes it, or its file among the shipped ones.
        wrong: By field: what is typed, and words of the error.
        right: By field: what is typed or chosen.
        seen: A selector, and how many.
        more: Typed as it is, by id.
    """

    model: Callable[[], Model] | str
    wrong: dict[str, tuple[str, str]]
    right: dict[str, str]
    seen: tuple[str, int]
    more: dict[str, str] = field(default_factory=dict)


def torsions() -> Model:
    return small(import_module("gendiff_torsions").Torsions())


CASES = {
    "clothes": Case(
        "images_fashion", {}, {"label": "boot"}, ("#result .pictures img", 3), {"guidance-label": "2.5", "steps": "3"}
    ),
    "every kind": Case(
        pictures, {"pitch": ("-3", "positive number of Hz"), "caption": ("a red hart", 'Did you mean "heart"?')},
        {"label": "7", "kind": "cat", "pitch": "123.4", "caption": CAPTIONS[0], "said": "h:2 e:6", "like": "a.png",
         "edges": "e.npy"},
        ("#result .pictures img", 3), {"sampler": "Heun", "steps": "2", "guidance-caption": "2"},
    ),
    "sounds": Case(
        sounds, {"said": ("x:3", "the symbol 'x'")}, {"pitch": "220", "said": "h:12 e:20", "sound": "pluck-low"},
        ("#result audio", 3), {"steps": "2"},
    ),
    "proteins": Case(
        "proteins_structured", {"length": ("9999", "9999"), "structure": ("HXHHHH", "'X' at site 1")},
        {"fold": "alpha", "structure": "H" * 44}, ("#result .thumbs button", 3),
        {"steps": "3", "guidance-structure": "2"},
    ),
    "torsions": Case(
        torsions, {"length": ("long", "TypeError")}, {"length": "9"}, ("#result .pictures img", 3), {"steps": "4"}
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """A folder with files to choose, where the torsions are installed."""
    info = tmp_path / "site" / "gendiff_torsions-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gendiff-torsions\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[gendiff.domains]\ntorsions = gendiff_torsions:Torsions\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(root / "examples" / "gendiff_torsions"), *sys.path])
    monkeypatch.chdir(tmp_path)
    import numpy as np

    pictures().domain.write(PICTURE, tmp_path / "a.png")
    np.save(tmp_path / "e.npy", np.zeros((8, 8, 1), np.float32))
    return tmp_path


def enter(page: Any, name: str, value: str) -> None:
    """Types or chooses a value as a person does."""
    own = page.locator(f"#asked-{name}")
    if own.evaluate("own => own.tagName") == "SELECT":
        own.select_option(value)
    elif own.get_attribute("type") == "file":
        with page.expect_response(lambda answer: "/file" in answer.url):
            own.set_input_files(value)
    else:
        own.fill(value)


GAP = """key => document.getElementById(`error-asked-${key}`).getBoundingClientRect().top
    - document.getElementById(`asked-${key}`).getBoundingClientRect().bottom"""


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.filterwarnings("ignore")
def test_a_person_asks_sees_and_repeats(name: str, browser: Any, here: Path, root: Path) -> None:
    case = CASES[name]
    path = Path("model.safetensors")
    if isinstance(case.model, str):
        shutil.copy(root / "weights" / f"{case.model}.safetensors", path)
    else:
        case.model().save(path)
    served = Page(gendiff.load(path), path, here / "ui")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    own = (served.server.origin, "data:", f"blob:{served.server.origin}")
    page.on("request", lambda sent: problems.extend([sent.url] * (not sent.url.startswith(own))))
    page.on("console", lambda said: problems.extend([said.text] * ("Security Policy" in said.text)))
    try:
        page.goto(served.server.url)
        page.fill("#n", "3")
        for key, (text, _) in case.wrong.items():
            enter(page, key, text)
        if case.wrong:
            page.click("#sample")
        for key, (text, error) in case.wrong.items():
            told = page.locator(f"#error-asked-{key}")
            told.wait_for(state="visible")
            assert error in told.inner_text() and page.input_value(f"#asked-{key}") == text
            gap = page.evaluate(GAP, key)  # both places at one moment: other errors still come and push them down
            assert 0 <= gap < 30, "the error stands where it was typed"
            assert page.input_value("#n") == "3"
        for key in set(case.wrong) - set(case.right):
            page.locator(f".field[data-name={key}] .how").select_option("turn")
        for key, text in case.right.items():
            enter(page, key, text)
        for key, text in case.more.items():
            page.fill(f"#{key}", text)
        page.click("#sample")
        page.wait_for_selector("#shell", timeout=120_000)
        assert page.locator(case.seen[0]).count() == case.seen[1]
        assert page.locator(".error:visible").count() == 0
        if name == "proteins":
            page.wait_for_selector("#result .stage canvas")
        if name == "sounds":
            loaded = "() => [...document.querySelectorAll('#result audio')].every(own => own.duration > 0.1)"
            page.wait_for_function(loaded)
        with page.expect_download() as download:
            page.click("#download")
        with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
            files = {file: archive.read(file) for file in archive.namelist()}
        assert main(shlex.split(page.inner_text("#shell"))[1:]) == 0
        again = {f"samples/{own.name}": own.read_bytes() for own in (here / "samples").iterdir()}
        assert again == {file: content for file, content in files.items() if file.startswith("samples/")}
        page.screenshot(path=here / f"{name}-1200.png", full_page=True)
        page.set_viewport_size({"width": 420, "height": 900})
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 420, "nothing lies beyond a phone's edge"
        page.screenshot(path=here / f"{name}-420.png", full_page=True)
        page.reload()
        page.wait_for_selector("#shell")  # what was drawn is still there
        assert not problems
    finally:
        page.close()
        served.close()


@pytest.mark.filterwarnings("ignore")
def test_a_person_waits_and_cancels(browser: Any, here: Path) -> None:
    """Progress is seen; a second page is told to wait; a cancelled sampling leaves what was typed."""
    path = Path("model.safetensors")
    pictures().save(path)
    served = Page(gendiff.load(path), path, here / "ui")
    first, second = browser.new_page(), browser.new_page()
    try:
        for page in (first, second):
            page.goto(served.server.url)
        first.fill("#steps", "5000")
        first.fill("#asked-caption", CAPTIONS[1])
        first.click("#sample")
        first.wait_for_selector("#progress:visible")
        first.wait_for_function("() => document.querySelector('progress').value > 0", timeout=60_000)
        second.click("#sample")
        second.wait_for_selector("#error-form:visible")
        assert "Wait for it, or cancel it." in second.inner_text("#error-form")
        first.click("#cancel")
        first.wait_for_selector("#error-form:visible", timeout=60_000)
        assert first.inner_text("#error-form") == "Cancelled; nothing was kept."
        assert first.input_value("#asked-caption") == CAPTIONS[1] and first.is_enabled("#sample")
    finally:
        first.close()
        second.close()
        served.close()
