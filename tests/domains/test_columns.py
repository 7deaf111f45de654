"""Tables of what may be asked, beside pictures, sounds and structures."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gendiff
from gendiff import Label, Model, Number, Text
from gendiff.conditions import said_of
from gendiff.domain import Examples
from gendiff.errors import DataError
from gendiff_audio import Audio, Clip, Sounds
from gendiff_audio.io import write
from gendiff_images import Folder, Images
from gendiff_proteins import Ideal, Proteins, Structures

NAMES = [f"{i:02d}" for i in range(12)]


def pictures(home: Path) -> Any:
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(home / f"{name}.png")
    return lambda **table: Folder(str(home), 8, test_share=0.0, **table)


def sounds(home: Path) -> Any:
    for i, name in enumerate(NAMES):
        wave = 0.5 * np.sin(2 * math.pi * (200 + 20 * i) * np.arange(2400) / 8000)
        write(Clip(wave.astype(np.float32), 8000), home / f"{name}.wav")
    return lambda **table: Sounds(str(home), **table)


def structures(home: Path) -> Any:
    for name, example in zip(NAMES, Ideal(len(NAMES)).load("train"), strict=True):
        Proteins().write(example.artifact, home / f"{name}.pdb")
    return lambda **table: Structures(str(home), 16, 96, **table)


FOLDERS: dict[str, tuple[Any, str, Any]] = {
    "pictures": (pictures, ".png", Images.of),
    "sounds": (sounds, ".wav", lambda source: Audio(source=source)),
    "structures": (structures, ".pdb", lambda source: Proteins(source=source)),
}


def by_file(examples: Examples) -> dict[str, Any]:
    return {example.name[:2]: example.cond for example in examples}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_table_says_what_may_be_asked(tmp_path: Path, kind: str, form: str) -> None:
    """Numbers, classes and texts, of a CSV file with its mark or of JSONL; the rest is in the report."""
    make, suffix, domain_of = FOLDERS[kind]
    source_of = make(tmp_path)
    rows: list[dict[str, Any]] = [
        {"path": name + suffix, "pitch": 1.5 * i, "kind": ("bell", "drum")[i % 2], "take": i % 3, "caption": f"no {i}"}
        for i, name in enumerate(NAMES[:-1])
    ]
    rows[3]["pitch"], rows[5]["caption"], rows[6]["caption"] = "nan", "", "\U0001f514 " + "x" * 5000
    rows.append({**rows[0], "path": f"gone{suffix}"})
    table = tmp_path / f"t.{form}"
    if form == "jsonl":
        rows[3]["pitch"], rows[5]["caption"] = float("nan"), None
        table.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    else:
        lines = [",".join(map(str, row.values())) for row in rows]
        table.write_text("\n".join([",".join(rows[0]), *lines]), encoding="utf-8-sig")
    source = source_of(table=table.name if kind == "pictures" else str(table))
    domain = domain_of(source)
    found = {name: type(own) for name, own in domain.conditions.items() if name not in ("fold",)}
    assert found == {"pitch": Number, "kind": Label, "take": Label, "caption": Text}
    assert domain.conditions["take"].classes == ("0", "1", "2")  # type: ignore[attr-defined]
    examples = domain.dataset("train")
    said = by_file(examples)
    told = {key: said["04"][key] for key in ("pitch", "kind", "take", "caption")} if "04" in said else None
    assert told in (None, {"pitch": 6.0, "kind": "bell", "take": "1", "caption": "no 4"})
    assert all(own[key] is None for name, own in said.items() if name == "11" for key in found)
    assert all(own["pitch"] is None for name, own in said.items() if name == "03")
    assert all(own["caption"] is None for name, own in said.items() if name == "05")
    what, report = kind.removesuffix("s"), examples.report()
    assert f"1 x in the table, but not among the {what}s: gone{suffix}" in report
    assert f"1 {what}s have no row in {table.name}" in report
    assert f"1 values of pitch are no finite numbers, the first in row {4 if form == 'jsonl' else 5} (nan)" in report
    assert "pitch is a number (0 to 15)" in report and "kind is one of 2 classes (bell, drum)" in report
    fitted = domain.fit_conditions(examples)
    assert Model.new(fitted)  # whose network hears them all
    assert fitted.conditions["pitch"].span[1] <= 15
    with gendiff.domain.sealed():  # as a model file is loaded
        assert type(source)(**vars(source)).look if kind == "pictures" else type(source)(**vars(source)).conditions


@pytest.mark.parametrize("kind", FOLDERS)
def test_texts_beside_files(tmp_path: Path, kind: str) -> None:
    make, _, domain_of = FOLDERS[kind]
    source_of = make(tmp_path)
    odd = [
        b"plain",
        "caf\u00e9".encode(),
        "caf\u00e9".encode("cp1252"),
        "\ufeff\U0001f600".encode(),
        b"",
        b"x " * 500_000,
    ]
    for name, text in zip(NAMES, odd, strict=False):
        (tmp_path / f"{name}.txt").write_bytes(text)
    (tmp_path / "lost.txt").write_text("of nothing")
    (tmp_path / "notes.md").write_text("other")
    domain = domain_of(source_of(table="txt"))
    examples = domain.dataset("train")
    said = {name: own["caption"] for name, own in by_file(examples).items()}
    wanted = dict(zip(NAMES, ["plain", "caf\u00e9", "caf\u00e9", "\U0001f600"], strict=False))
    assert all(said[name] == wanted.get(name) for name in said) and len(said) > 8
    rejected = {item.name: item.reason for item in examples.rejected if item.name.endswith(".txt")}
    assert rejected.keys() == {"05.txt", "lost.txt"} and "without a" in rejected["lost.txt"]
    assert "02.txt is not UTF-8, and was read as cp1252" in examples.report()
    assert f"7 {kind} have no text beside them" in examples.report()
    assert f"1 {kind} have an empty text beside them" in examples.report()
    assert isinstance(domain.fit_conditions(examples).conditions["caption"], Text)


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_written_as_one_sign_or_apart_are_the_same(tmp_path: Path, kind: str, forms: Any) -> None:
    """Names of files, classes, columns: of a disk in one form of Unicode, of a table in the other."""
    make, suffix, domain_of = FOLDERS[kind]
    source_of = make(tmp_path)
    for name in NAMES:
        (tmp_path / f"{name}{suffix}").rename(tmp_path / unicodedata.normalize(forms[0], f"{name}\u00e9{suffix}"))
    rows = [f"{name}\u00e9{suffix},caf\u00e9 {i % 2},{i}" for i, name in enumerate(NAMES)]
    text = unicodedata.normalize(forms[1], "\n".join(["path,\u00e9tage,pitch", *rows[:6]]))
    rest = unicodedata.normalize(forms[0], "\n".join(rows[6:]))
    (tmp_path / "t.csv").write_text(f"{text}\n{rest}\n", encoding="utf8")
    domain = domain_of(source_of(table=str(tmp_path / "t.csv")))
    examples = domain.dataset("train")
    assert all(cond["pitch"] is not None for cond in by_file(examples).values())
    own = domain.fit_conditions(examples).conditions["\u00e9tage"]
    assert own.classes == ("caf\u00e9 0", "caf\u00e9 1")
    assert own.number("cafe\u0301 1") == own.number("Caf\u00e9 1") == 1
    for file in tmp_path.glob("*.csv"):
        file.unlink()
    for name in NAMES:
        (tmp_path / unicodedata.normalize(forms[1], f"{name}\u00e9.txt")).write_text("plain")
    said = by_file(domain_of(source_of(table="txt")).dataset("train"))
    assert all(cond["caption"] == "plain" for cond in said.values())


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_table_of_other_files_is_no_table_of_these(tmp_path: Path, kind: str) -> None:
    make, suffix, domain_of = FOLDERS[kind]
    source_of = make(tmp_path)
    (tmp_path / "t.csv").write_text("path,kind\n" + "".join(f"{name},a\n" for name in NAMES))
    with pytest.raises(DataError, match=f'none of its 12 rows.*Did you mean "..{suffix}"'):
        domain_of(source_of(table=str(tmp_path / "t.csv"))).dataset("train")


def test_decimal_commas_are_numbers(tmp_path: Path) -> None:
    def decided(values: list[str], kind: str = "") -> Any:
        rows = "".join(f"{i}.png;{value}\n" for i, value in enumerate(values))
        said = table(tmp_path, f"path;pitch\n{rows}")(asks=[f"pitch{kind}"])
        return said.conditions["pitch"], [said.of(f"{i}.png")["pitch"] for i in range(len(values))], said.notes

    own, found, notes = decided(["0,5", "-1,25", "3", "1234,5"])
    assert isinstance(own, Number) and found == [0.5, -1.25, 3.0, 1234.5]
    assert any("the commas of pitch are read as decimal points (0,5)" in note for note in notes)
    assert decided(["0,125", "0,250"])[1] == [0.125, 0.25]
    assert isinstance(decided(["1,234", "2,345"])[0], Text)  # a thousand, or one and a bit?
    assert isinstance(decided(["1,5", "a, b", "c"])[0], Text)
    assert decided(["1,5", "2,5"], ":text")[1] == ["1,5", "2,5"]
    with pytest.raises(DataError, match=r"row 2 .*1,234"):
        decided(["1,234", "2,345"], ":number")


def test_a_table_in_utf16_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,kind\n0.png,a\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"UTF-16.*CSV UTF-8"):
        said_of("t.csv", tmp_path, ["0.png"], "picture")


def table(tmp_path: Path, text: str, name: str = "t.csv") -> Any:
    (tmp_path / name).write_text(text, encoding="utf8", errors="surrogatepass")
    return lambda **what: said_of(name, tmp_path, [f"{i}.png" for i in range(400)], "picture", **what)


def column(values: list[Any], header: str = "value") -> str:
    return f"path,{header}\n" + "\n".join(f'{i}.png,"{value}"' for i, value in enumerate(values))


@pytest.mark.parametrize(
    ("values", "kind", "header"),
    [
        ([*range(10)] * 3, Label, "digit"),
        (range(300), Number, "index"),
        ([*range(150)] * 2, Number, "house"),
        ([0.5, 1.5] * 30, Number, "level"),
        ([1, 2, 3], Number, "few"),
        (["1e3", "-2", "inf", "NAN"] * 9, Number, "level"),
        (["007", "008"] * 9, Label, "agent"),
        (["cat", "dog"] * 9, Label, "kind"),
        ([f"kind {i % 9}" for i in range(50)], Label, "kind"),
        (["cat", "dog"] * 9, Text, "caption"),
        ([f"a picture of {i}" for i in range(30)], Text, "what"),
        (["a very long name of a class " * 3] * 9, Text, "what"),
        (["12 apples", "13 pears", "a cat"] * 9, Label, "what"),
    ],
    ids=range(13),
)
def test_what_a_column_is_follows_from_its_values(tmp_path: Path, values: Any, kind: type, header: str) -> None:
    said = table(tmp_path, column(list(values), header))()
    assert type(said.conditions[header]) is kind
    assert any(f"{header} is " in note for note in said.notes)


def test_what_is_asked_decides(tmp_path: Path) -> None:
    load = table(tmp_path, "path,a,b:c,d\n0.png,1,x,y\n1.png,2,x,z\n")
    said = load(asks=("a:label", "b:c"))
    assert said.conditions == {"a": Label(("1", "2")), "b:c": Label(("x",))}
    assert said.of("1.png") == {"a": "2", "b:c": "x"} and said.of("7.png") == {"a": None, "b:c": None}
    assert type(load(asks=("a:text",)).conditions["a"]) is Text
    assert load(apart=("a", "d")).conditions.keys() == {"b:c"}


@pytest.mark.parametrize(
    ("text", "name", "asks", "message"),
    [
        ("path,a\n0.png,1\n0.png,2\n", "t.csv", (), "row 3: 0.png is 2 and 1; expected one a each|'2' and '1'"),
        (
            "path,a\n" + "\n".join(f"{i}.png,{i}" for i in range(9)) + "\n9.png,12k",
            "t.csv",
            (),
            r"row 11 \(9.png\).*'12k'",
        ),
        ("path,a\n0.png,x\n", "t.csv", ("b",), "no column 'b'"),
        ("path,a\n0.png,x\n", "t.csv", ("a:number",), "'x', where 0 of 1"),
        ("path,a\n0.png,nan\n", "t.csv", ("a:number",), "no a is a finite number"),
        ("file,a\n0.png,x\n", "t.csv", (), "no column 'path'"),
        ("path,a\n,x\n", "t.csv", (), "row 2: no path"),
        ("path,a\n0.png,x,y\n", "t.csv", (), "3 fields"),
        ('{"path": "0.png", "a": [1]}', "t.jsonl", (), r"row 1: the a is \[1\]"),
        ('{"path": "0.png", "a": "\\ud83d"}', "t.jsonl", (), "half a sign"),
        ('{"path": "0.png"', "t.jsonl", (), "line 1 is no JSON"),
        ("[1]", "t.jsonl", (), "a JSON object on every line"),
        ("\n", "t.jsonl", (), "no rows"),
        ('{"path": 3}', "t.jsonl", (), "row 1: no path"),
        ('{"path": "0.png", "a": ' + "[" * 100_000, "t.jsonl", (), "no JSON"),
    ],
    ids=range(15),
)
def test_tables_that_cannot_be_are_refused(tmp_path: Path, text: str, name: str, asks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, text, name)(asks=asks)


def test_nothing_of_a_table_is_lost(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path,caption,none\n0.png,caf\u00e9,\n0.png,caf\u00e9,\n".encode("cp1252"))
    said = said_of("t.csv", tmp_path, ["0.png"], "picture")
    assert said.values == {"0.png": {"caption": "caf\u00e9"}}
    assert "t.csv is not UTF-8, and was read as cp1252" in said.notes
    assert "the column none of t.csv is empty, and not used" in said.notes
    with pytest.raises(DataError, match="no file"):
        said_of("absent.csv", tmp_path, [], "picture")
    big = json.dumps({"path": "0.png", "a": 10**400})
    (tmp_path / "t.jsonl").write_text(big + "\n" + json.dumps({"path": "1.png", "a": True}))
    with pytest.raises(DataError, match="'true'"):
        said_of("t.jsonl", tmp_path, ["0.png"], "picture", asks=("a:number",))


def test_a_table_may_say_the_class(tmp_path: Path) -> None:
    for kind in ("left", "right"):
        (tmp_path / kind).mkdir()
    for i, name in enumerate(NAMES):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(tmp_path / ("left", "right")[i % 2] / f"{name}.png")
    rows = [f"{('left', 'right')[i % 2]}/{name}.png,{'ab'[i % 2]}" for i, name in enumerate(NAMES)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    domain = Images.of(Folder(str(tmp_path), 8, test_share=0.0, table="t.csv"))
    assert domain.labels == {"label": ("a", "b")}
    assert {e.cond["label"] for e in domain.dataset("train")} == {"a", "b"}
    (tmp_path / "c.csv").write_text("path,caption\nleft/00.png,red\n")
    with pytest.raises(DataError, match="both say 'caption'"):
        Images.of(Folder(str(tmp_path), 8, table="c.csv", captions="c.csv"))
