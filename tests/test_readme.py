"""What the documents show is what happens: their Python and their commands are run, in order.

The Python blocks of a document share one namespace, as for someone who pastes them one after another; shell blocks run
in the same folder, which holds the checkout's files and small folders of pictures, recordings and structures. Minutes
of training are a fiftieth of what is written. A block after the comment `<!-- not run: reason -->` is left out.
"""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from gendiff.cli import command, main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "domains/README.md", "examples/gendiff_torsions/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "pages").rglob("*.md")),
)
SKIPPED = r"(<!-- not run: (?P<reason>.+?) -->\n+)?"
BLOCK = re.compile(rf"^{SKIPPED}```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *kinds: str) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(text) if block["kind"] in kinds and not block["reason"]]


def own_files(folder: Path) -> None:
    """What a new user brings: pictures in two classes, recordings with a table, structures."""
    import numpy as np
    import soundfile
    from PIL import Image

    from gendiff_proteins import Ideal, Proteins

    rng = np.random.default_rng(0)
    for kind, names in {"cats": ["one.png", "two.jpg"], "dogs": ["three.webp", "four.tiff"]}.items():
        (folder / "pictures" / kind).mkdir(parents=True)
        for name in [*names, *(f"{i}.png" for i in range(40))]:
            pixels = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            pixels[..., 0 if kind == "cats" else 2] = 255
            Image.fromarray(pixels).save(folder / "pictures" / kind / name)
    (folder / "pictures" / "cats" / "one.txt").write_text("a red cat")
    (folder / "recordings").mkdir()
    rows = ["path,digit,speaker"]
    for i, name in enumerate(["a.wav", "b.flac", "c.ogg", *(f"{i}.wav" for i in range(40))]):
        digit, speaker = 7 if i % 2 else 3, ("jackson", "lucas", "theo")[i % 3]
        wave = 0.3 * np.sin(2 * np.pi * 100 * digit * np.arange(4000) / 8000) + 0.01 * rng.standard_normal(4000)
        soundfile.write(folder / "recordings" / name, wave, 8000)
        rows.append(f"{name},{digit},{speaker}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "structures").mkdir()
    domain = Proteins(source=Ideal(count=30))
    for i, example in enumerate(domain.dataset("train")):
        domain.write(example.artifact, folder / "structures" / f"{i}.pdb")


def commands(shell: str) -> list[list[str]]:
    """The `gendiff` lines of a shell block as words, with a fiftieth of the minutes."""
    lines = [line.partition("  #")[0].strip() for line in shell.splitlines()]
    lines = [line.removeprefix("python -m ") for line in lines if not line.startswith(("make", "pip", "#"))]
    lines = [re.sub(r"(--minutes |minutes=)([\d.]+)", lambda m: f"{m[1]}{float(m[2]) / 50:g}", line) for line in lines]
    assert all(line.startswith("gendiff ") for line in lines if line), lines
    return [shlex.split(line)[1:] for line in lines if line]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # a minute's fiftieth warns of much, rightly
def test_blocks_run(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / name).read_text(encoding="utf-8")
    module = types.ModuleType(f"document_{abs(hash(name))}")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for path in root.iterdir():  # as in a checkout, but what is written lands elsewhere
        if not path.name.startswith(".") and path.name not in ("runs", "demo", "site"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    found = blocks(text, "python", "sh")
    if any(word in block["code"] for block in found for word in ("pictures", "recordings", "structures")):
        own_files(tmp_path)
    for block in found:
        if block["kind"] == "sh":
            for words in commands(block["code"]):
                try:
                    status = main(words)
                except SystemExit as end:  # --help, and a run that was stopped
                    status = end.code
                assert not status, f"{name}: gendiff {' '.join(words)}"
        else:
            line = text.count("\n", 0, block.start("code"))
            exec(compile("\n" * line + block["code"], str(root / name), "exec"), module.__dict__)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_exist(name: str, root: Path) -> None:
    """Every `gendiff verb` and `make target` of a shell block."""
    text = (root / name).read_text(encoding="utf-8")
    shell = "\n".join(block["code"] for block in blocks(text, "", "sh", "bash", "console"))
    verbs = set(re.findall(r"^\$? *(?:python -m )?gendiff ([a-z]+)", shell, re.MULTILINE))
    targets = set(re.findall(r"^\$? *make ([a-z-]+)", shell, re.MULTILINE))
    for verb in verbs:
        assert command(verb).help
    known = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.MULTILINE))
    assert targets <= known, targets - known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str, root: Path) -> None:
    text = (root / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert ((root / name).parent / link).exists(), link
