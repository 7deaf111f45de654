"""Arrays, tables and archives of strangers: bounded memory, and no exception but DataError."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gendiff import files
from gendiff.errors import DataError
from gendiff.files import archive_members, listed_name, load_array, open_arrays, read_rows


def npy(shape: str, data: bytes, dtype: str = "'|u1'") -> bytes:
    """An array file with a header of one's own."""
    head = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def test_arrays_are_read_when_asked_for(tmp_path: Path) -> None:
    x, y = np.arange(12.0).reshape(3, 4), np.array(["a", "b"])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=x, y=y)
        with open_arrays(tmp_path / "a.npz") as z:
            assert np.array_equal(z["x"], x) and np.array_equal(z["y"], y)
            assert z.shape("x") == ((3, 4), np.dtype("f8"))
            assert "x" in z and "z" not in z and z.get("z") is None
            with pytest.raises(DataError, match=r"no array 'xx'.*it has x, y"):
                z["xx"]
    np.save(tmp_path / "a.npy", np.asfortranarray(x))
    assert np.array_equal(load_array(tmp_path / "a.npy"), x)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable"),
        (b"\x93NUMPY", "not readable"),
        (npy("(10**9,)", b"abc"), "not readable"),
        (npy("(4000000000000,)", b"abc"), "announces 4,000,000,000,000 bytes"),
        (npy("(4,)", b"abc"), "announces 4 bytes, and 3 follow"),
        (npy("(2,)", b"abc"), "announces 2 bytes, and 3 follow"),
        (npy("(-1,)", b"abc"), "lengths of zero or more"),
        (npy("(1,)", b"abcdefgh", "'|O'"), "Python objects"),
        (npy("(3,)", b"abc", "[]*10**7"), "not readable"),
        (npy("((((3,", b"abc"), "not readable"),
    ],
)
def test_arrays_that_lie_about_themselves(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_array(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with open_arrays(tmp_path / "a.npz") as z:
        for ask in (z.__getitem__, z.mapped):
            with pytest.raises(DataError, match=message):
                ask("x")


def test_arrays_that_lie_unpacked_stay_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    x = {"x": np.arange(24.0).reshape(4, 3, 2), "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)), "e": np.zeros(0)}
    for save in (np.savez, np.savez_compressed):
        save(path, **x)
        with open_arrays(path) as z:
            for name, array in x.items():
                found = z.mapped(name)
                assert found.dtype == array.dtype and np.array_equal(found, array)
                assert isinstance(found, np.memmap) == (save is np.savez and name != "e")
    np.savez(path, **x)
    content = bytearray(path.read_bytes())
    content[content.find(x["x"].tobytes()) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"), open_arrays(path) as z:
        z.mapped("x")


def test_what_unpacks_to_far_more_than_it_takes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LEAST", 2**16)
    bomb = bytes(2**22)
    np.savez_compressed(tmp_path / "a.npz", x=np.frombuffer(bomb, np.uint8))
    with pytest.raises(DataError, match="unpacks to 4,194,"):
        open_arrays(tmp_path / "a.npz")
    member, longname = tarfile.TarInfo("a.wav"), tarfile.TarInfo("x" * 2**22)
    member.size = len(bomb)
    for name, mode, info in (
        ("a.tar.gz", "w:gz", member),
        ("a.tar.xz", "w:xz", member),
        ("b.tar.gz", "w:gz", longname),
    ):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            archive.addfile(info, io.BytesIO(bomb))
        with pytest.raises(DataError, match="unpacks to"):
            list(archive_members(tmp_path / name, {".wav"}, [], []))
    sparse = bytearray(tarfile.TarInfo("s.wav").tobuf(tarfile.GNU_FORMAT))
    sparse[156:157] = b"S"
    sparse[483:495] = b"77777777777\0"
    sparse[148:156] = b"%06o\0 " % (sum(sparse[:148]) + 8 * 32 + sum(sparse[156:512]))
    (tmp_path / "s.tar").write_bytes(bytes(sparse) + bytes(1024))
    with pytest.raises(DataError, match="unpacks to a sparse file"):
        list(archive_members(tmp_path / "s.tar", {".wav"}, [], []))


def test_an_archive_says_what_it_holds_beside_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (
            ("./a.wav", b"1"),
            ("b/c.WAV", b"22"),
            ("a.wav", b"3"),
            ("t.txt", b"4"),
            ("../up.wav", b"5"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (
            ("l.wav", tarfile.SYMTYPE),
            ("h.wav", tarfile.LNKTYPE),
            ("p.wav", tarfile.FIFOTYPE),
            ("d", tarfile.DIRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.wav"
            archive.addfile(info)
    left: list[tuple[str, str]] = []
    others: list[str] = []
    assert list(archive_members(tmp_path / "a.tar", {".wav"}, left, others)) == [("a.wav", b"1"), ("b/c.WAV", b"22")]
    assert left == [
        ("a.wav", "a second file of this name"),
        ("../up.wav", "a name that leads out of the archive"),
        ("l.wav", "a link, not a file"),
        ("h.wav", "a link, not a file"),
        ("p.wav", "a device or pipe, not a file"),
    ]
    assert others == ["t.txt"]
    data = (tmp_path / "a.tar").read_bytes()
    for cut, message in ((3 * 512 - 100, "damaged or cut at byte 1,024"), (3 * 512 + 1, "not readable|ends inside")):
        (tmp_path / "b.tar").write_bytes(data[:cut])
        with pytest.raises(DataError, match=message):
            list(archive_members(tmp_path / "b.tar", {".wav"}, [], []))
    (tmp_path / "b.tar").write_bytes(data[:1024] + b"!" + data[1025:])  # a header that is none, in the middle
    with pytest.raises(DataError, match="damaged or cut at byte 1,024"):
        list(archive_members(tmp_path / "b.tar", {".wav"}, [], []))
    (tmp_path / "b.tar").write_bytes(data[: 4 * 512])
    left.clear()
    assert [name for name, _ in archive_members(tmp_path / "b.tar", {".wav"}, left, [])] == ["a.wav", "b/c.WAV"]
    assert left == [("b.tar", "the archive lacks the mark of its end: it may be cut")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "columns"),
        (b"path,label\n", "no rows"),
        (b"path,path\na,b\n", "different names"),
        (b"path,\na,b\n", "different names"),
        (b"path,label\na\n", "line 2: 1 fields.*2: path, label"),
        (b"path,label\na,b\nc,d,e\n", "line 3: 3 fields"),
        (b"path,label\n\xff\xfe,b\n", "not UTF-8"),
        (b"path,label\na\0,b\n", "zero bytes"),
        (b'path,label\n"a,b\n', "not readable"),
        (b"path,label\n" + b"a" * 200_000 + b",b\n", "not readable"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "a.csv")


def test_tables_are_read_with_a_mark_of_order_and_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes('path,text\r\na.png,"a, ""b""\nc"\r\n\r\nb.png,é\r\n'.encode("utf-8-sig"))
    assert read_rows(tmp_path / "a.csv") == [
        {"path": "a.png", "text": 'a, "b"\nc'},
        {"path": "b.png", "text": "é"},
    ]
    with pytest.raises(DataError, match="there is no file"):
        read_rows(tmp_path / "b.csv")


@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("told", [False, True])
def test_tables_are_read_as_spreadsheets_write_them(tmp_path: Path, mark: str, told: bool) -> None:
    text = "path, text\r\na.png,b\r\n,\r\n\r\nc.png,\r\n,\r\n".replace(",", mark)
    (tmp_path / "a.csv").write_bytes((f"sep={mark}\r\n" * told + text).encode("utf-8-sig"))
    assert read_rows(tmp_path / "a.csv") == [{"path": "a.png", "text": "b"}, {"path": "c.png", "text": ""}]


def test_a_file_in_a_table_is_named_from_the_folder_the_table_or_the_root(tmp_path: Path) -> None:
    folder, table = tmp_path / "sounds", tmp_path / "table.csv"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b.wav").touch()
    (tmp_path / "c.wav").touch()
    for said in ("a/b.wav", " ./a/b.wav", "a\\b.wav", "sounds/a/b.wav", r".\sounds\a\b.wav", str(folder / "a/b.wav")):
        assert listed_name(said, folder, table) == "a/b.wav", said
    for said in ("c.wav", "../c.wav", "a/absent.wav", "/etc/passwd"):
        assert listed_name(said, folder, table) == said
