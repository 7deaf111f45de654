"""What the documents show is what happens: their Python is run, and the commands they name exist.

The blocks of a document share one namespace, in order, as for someone who pastes them one after another. A block after
the comment `<!-- not run: reason -->` is left out.
"""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from gendiff.cli import command

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "domains/README.md", "examples/gendiff_torsions/README.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs" / "pages").rglob("*.md")),
)
SKIPPED = r"(<!-- not run: (?P<reason>.+?) -->\n+)?"
BLOCK = re.compile(rf"^{SKIPPED}```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, *kinds: str) -> list[re.Match[str]]:
    return [block for block in BLOCK.finditer(text) if block["kind"] in kinds and not block["reason"]]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_runs(name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (root / name).read_text(encoding="utf-8")
    module = types.ModuleType(f"document_{abs(hash(name))}")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for path in root.iterdir():  # as in a checkout, but what is written lands elsewhere
        if not path.name.startswith(".") and path.name not in ("runs", "demo"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for block in blocks(text, "python"):
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
