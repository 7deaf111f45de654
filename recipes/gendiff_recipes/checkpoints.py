"""Checkpoints: one file each, whole or absent, proved by a digest, and nothing in them is ever unpickled.

    checkpoints/step-00000120.ckpt        safetensors, with one JSON text for all that is no tensor

A checkpoint is written to a temporary file in its own folder, brought to the disk, and renamed. It begins with the
SHA-256 of everything in it, so a file that was cut, or of which a bit has turned, is known and passed over.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendiff.errors import CheckpointError

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
KEPT = 2
UNKNOWN = "0" * 64


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A tree of dicts, lists, plain values and tensors as JSON; the tensors go to `tensors` under a number."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous()
        return {"tensor": key}
    if isinstance(value, Mapping):
        return {"dict": [[key, pack(item, tensors)] for key, item in value.items()]}
    return [pack(item, tensors) for item in value] if isinstance(value, list | tuple) else value


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """`pack` undone; tuples come back as lists."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    return tensors[value["tensor"]] if "tensor" in value else {k: unpack(v, tensors) for k, v in value["dict"]}


def raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the host."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint: afterwards it is on the disk, whole.

    Raises:
        OSError: If the disk is full or gone; nothing is left behind, and what was there before is as it was.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(pack(state, tensors))
    header: dict[str, Any] = {"__metadata__": {"gendiff": text, "sha256": UNKNOWN}}
    at = 0
    for key, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[key] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    found = hashlib.sha256(head)
    for tensor in tensors.values():
        found.update(raw(tensor))
    head = head.replace(UNKNOWN.encode(), found.hexdigest().encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            for tensor in tensors.values():
                file.write(raw(tensor))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Brings a folder's list of names to the disk, so that a rename survives a power cut."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, tensors on the host.

    Raises:
        CheckpointError: If the file is cut, damaged or no checkpoint.
    """
    try:
        data = bytearray(path.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        head = bytes(data[8 : 8 + length])
        header = json.loads(head)
        told = header["__metadata__"]["sha256"]
        text = header.pop("__metadata__")["gendiff"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is cut or damaged ({error})", "a whole checkpoint") from error
    found = hashlib.sha256(head.replace(told.encode(), UNKNOWN.encode()))
    found.update(memoryview(data)[8 + length :])
    if found.hexdigest() != told:
        raise CheckpointError(f"{path} is cut or damaged: its digest does not fit", "a whole checkpoint")
    types = {name: dtype for dtype, name in TYPES.items()}
    tensors = {}
    for key, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        flat = torch.frombuffer(data[begin:end], dtype=types[entry["dtype"]]) if end > begin else torch.empty(0)
        tensors[key] = flat.to(types[entry["dtype"]]).reshape(entry["shape"])
    return unpack(json.loads(text), tensors)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:08d}.ckpt"


def listed(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def newest(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | CheckpointError]]:
    """The checkpoints of a folder, newest first, each with what is in it or what is wrong with it."""
    for path in listed(folder):
        try:
            yield path, read_checkpoint(path)
        except CheckpointError as error:
            yield path, error


def forget(folder: Path, step: int) -> None:
    """Deletes all checkpoints but the last `KEPT` up to a step, and what an interrupted write has left."""
    for path in folder.glob("*.part"):
        path.unlink(missing_ok=True)
    for path in [p for p in listed(folder) if p.name <= path_of(folder, step).name][KEPT:]:
        path.unlink(missing_ok=True)
