"""BinaryCIF (Sehnal et al. 2020): the tables of mmCIF in msgpack, each column packed by a chain of encodings.

    ByteArray             numbers as bytes, little endian
    IntegerPacking        sums of small integers, where the largest and smallest say that the number goes on
    Delta                 differences, from an origin
    RunLength             value, count, value, count
    FixedPoint            integers over a factor
    IntervalQuantization  integers that number steps of an interval
    StringArray           one long string, cut at offsets; -1 is none

Only the columns of _atom_site are unpacked. No length in the file is trusted beyond `MOST_ROWS`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gendiff.errors import MissingExtra

from .parsing import AtomSites, Damaged, Parsed

MOST_ROWS = 8_000_000
_TYPES = {1: "<i1", 2: "<i2", 3: "<i4", 4: "<u1", 5: "<u2", 6: "<u4", 32: "<f4", 33: "<f8"}
_READ = (
    *("group_PDB", "label_atom_id", "auth_atom_id", "label_comp_id", "auth_comp_id", "label_asym_id", "auth_asym_id"),
    *("label_seq_id", "auth_seq_id", "pdbx_PDB_ins_code", "label_alt_id", "type_symbol", "occupancy"),
    *("pdbx_PDB_model_num", "Cartn_x", "Cartn_y", "Cartn_z"),
)


def parse_binary(raw: bytes, block: str | None = None) -> tuple[Parsed | None, list[str], list[str]]:
    """Residues of one data block of a BinaryCIF file, as `parsing.parse_mmcif` returns them.

    Raises:
        Damaged: a file that is no BinaryCIF, or whose atoms cannot be unpacked.
        MissingExtra: without msgpack.
    """
    try:
        import msgpack
    except ImportError:
        raise MissingExtra("Reading BinaryCIF", "msgpack", "proteins") from None
    try:
        content = msgpack.unpackb(raw, max_array_len=MOST_ROWS, max_map_len=100_000)
        blocks = {str(b["header"]): b for b in content["dataBlocks"]}
        tables = {
            name: category
            for name, b in blocks.items()
            for category in b["categories"]
            if str(category["name"]).lower() == "_atom_site"
        }
        chosen = block if block is not None else next(iter(tables), None)
        if chosen not in tables:
            return None, list(tables), list(blocks)
        table = tables[chosen]
        rows = int(table["rowCount"])
        if not 0 <= rows <= MOST_ROWS:
            raise Damaged(f"an _atom_site table of {rows} rows")
        columns = {c["name"]: _column(c, rows) for c in table["columns"] if c["name"] in _READ}
    except Damaged:
        raise
    except Exception as error:  # msgpack and numpy raise anything from KeyError to MemoryError on damaged bytes
        raise Damaged(f"{type(error).__name__}: {error}"[:200]) from error
    sites = AtomSites([name.lower() for name in columns])
    for place, values in enumerate(zip(*columns.values(), strict=True), start=1):
        sites.add(values, place)
    return sites.finish(), list(tables), list(blocks)


def _column(column: Any, rows: int) -> list[str]:
    """The values of a column as text; what its mask hides is "."."""
    values = _unpack(column["data"], rows)
    if len(values) != rows:
        raise Damaged(f"the column {column['name']} has {len(values)} values for {rows} rows")
    text = [str(v) for v in values.tolist()] if isinstance(values, np.ndarray) else values
    if column.get("mask"):
        mask = _unpack(column["mask"], rows)
        text = [v if not hidden else "." for v, hidden in zip(text, mask, strict=True)]
    return text


def _unpack(packed: Any, rows: int) -> Any:
    values: Any = packed["data"]
    for step in reversed(packed["encoding"]):
        values = _decode(values, step, rows)
    return values


def _decode(values: Any, step: Any, rows: int) -> Any:
    kind = step["kind"]
    if kind == "ByteArray":
        return np.frombuffer(values, dtype=_TYPES[step["type"]])
    if kind == "StringArray":
        places = _unpack({"data": values, "encoding": step["dataEncoding"]}, rows).astype(np.int64)
        offsets = _unpack({"data": step["offsets"], "encoding": step["offsetEncoding"]}, rows).astype(np.int64)
        long = step["stringData"]
        words = [long[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
        if len(places) and (places.max() >= len(words) or places.min() < -1):
            raise Damaged("a string that is not there")
        return [*map([*words, "?"].__getitem__, places.tolist())]
    values = np.asarray(values)
    if kind == "FixedPoint":
        return np.round(values / float(step["factor"]), 6)
    if kind == "IntervalQuantization":
        width = (step["max"] - step["min"]) / max(int(step["numSteps"]) - 1, 1)
        return step["min"] + values * width
    if kind == "RunLength":
        numbers, counts = values[::2].astype(np.int64), values[1::2].astype(np.int64)
        if len(numbers) != len(counts) or (counts < 0).any() or counts.sum() > 2 * MOST_ROWS:
            raise Damaged("runs of impossible length")
        return np.repeat(numbers, counts)
    if kind == "Delta":
        return np.cumsum(values.astype(np.int64)) + int(step["origin"])
    if kind == "IntegerPacking":
        return _sums(values.astype(np.int64), int(step["byteCount"]), bool(step["isUnsigned"]))
    raise Damaged(f"an unknown encoding {kind!r}")


def _sums(values: np.ndarray, size: int, unsigned: bool) -> np.ndarray:
    """Integers from the packed ones: every value at a limit is added to the one that follows."""
    top = (1 << 8 * size) - 1 if unsigned else (1 << 8 * size - 1) - 1
    low = None if unsigned else -top - 1
    goes_on = (values == top) | (values == low) if low is not None else values == top
    ends = np.flatnonzero(~goes_on)
    return np.diff(np.concatenate([[0], np.cumsum(values)[ends]]))
