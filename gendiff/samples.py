"""A folder of samples that says how they were made: files, a picture of them all, and manifest.json.

    samples/  0000.png 0001.png ... all.png manifest.json

The manifest holds what draws them again: the request, seed, guidance, sampler, and the digest of the model. It is
written first, with the names of all files to come and "complete" false, and again at the end, with "complete" true;
every file appears whole or not at all. So whatever stops the drawing leaves the samples drawn so far, and no folder
mixes the samples of two requests.
"""

from __future__ import annotations

import functools
import inspect
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from gendiff.domain import Domain
from gendiff.errors import RequestError, nearest
from gendiff.model import Model
from gendiff.modelfile import digest, write_whole

MANIFEST = "manifest.json"
SHOWN = 1000  # numbers of a tensor that are written out


def jsonable(value: Any) -> Any:
    """What a manifest can hold of a value: numbers, texts and lists as they are, anything else by its repr, and of many
    numbers their digest.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        many = f"{value.dtype} {list(value.shape)}, SHA-256 "
        return jsonable(value.tolist()) if value.numel() <= SHOWN else many + digest({"": value})
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    return [jsonable(v) for v in value] if isinstance(value, list | tuple | range) else repr(value)


def captions(domain: Domain, request: Mapping[str, Any], n: int) -> list[str]:
    """What each of n samples was asked for by, in words."""
    words: list[list[str]] = [[] for _ in range(n)]
    for name, own in domain.conditions.items():
        asked = request.get(name)
        for line, value in zip(
            words, list(asked) if asked is not None and not own.single(asked) else [asked] * n, strict=False
        ):
            if value is not None:
                line.append(own.words(value))
    return [" ".join(line) for line in words]


def ending(domain: Domain, wanted: str | None) -> str:
    """The ending of a domain's files; a wanted one with or without its dot.

    Raises:
        RequestError: For a format that the domain does not write.
    """
    suffix = domain.suffix if wanted is None else f".{wanted.lower().lstrip('.')}"
    if suffix not in domain.suffixes:
        known = ", ".join(domain.suffixes)
        raise RequestError(
            f"The domain {domain.name} does not write {suffix}", f"{known}.{nearest(suffix, domain.suffixes)}"
        )
    return suffix


def draw_together(domain: Domain, artifacts: Sequence[Any], path: Path, captions: Sequence[str]) -> None:
    """The picture that a domain draws of artifacts (`Domain.plot`), with their captions where it takes them."""
    captioned = any(captions) and "labels" in inspect.signature(domain.plot).parameters
    domain.plot(artifacts, path, **({"labels": list(captions)} if captioned else {}))


class SampleFolder:
    """Samples written as they are drawn.

        with SampleFolder(model, "out", 200, {"seed": 0, "label": "frog"}) as folder:
            model.sample(200, label="frog", arrived=folder.add, raw=folder.keep)

    Where the domain finishes samples (`Domain.finish`), the raw ones are written beside them.

    Args:
        model: What draws; its digest, domain and sampler go to the manifest.
        folder: Where to: a new or empty folder, or one of earlier samples with `overwrite`.
        n: How many samples will come.
        manifest: What else to write down, e.g. seed, guidance, request, sampler (the model's own if absent), step.
        overwrite: Replace the samples of an earlier request: the files its manifest names, and no others.
        suffix: The files' ending, one of `Domain.suffixes`; the domain's usual one by default.
        raw: Whether samples will also come as they were before the domain finished them, where it does (`keep`).

    Raises:
        RequestError: For a format that the domain does not write; for a folder with samples, without `overwrite`; for
            one with anything else in it, in any case.
    """

    def __init__(
        self,
        model: Model,
        folder: str | Path,
        n: int,
        manifest: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        suffix: str | None = None,
        raw: bool = True,
    ) -> None:
        self.model, self.folder, self.n = model, Path(folder), n
        self.artifacts: list[Any] = []
        self.captions = captions(model.domain, (manifest or {}).get("request", {}), n)
        width, suffix = max(4, len(str(n - 1))), ending(model.domain, suffix)
        self.names = [f"{i:0{width}d}{suffix}" for i in range(n)]
        self.raw = [f"raw-{name}" for name in self.names] if raw and model.domain.finishes else []
        self.kept = 0
        self.drawn = type(model.domain).plot is not Domain.plot
        clear(self.folder, overwrite)
        from gendiff import __version__

        self.manifest = {
            "complete": False,
            "n": n,
            "domain": model.domain.name,
            "model": model.digest,
            "sampler": repr(model.sampler),
            "version": __version__,
            **jsonable(manifest or {}),
            "files": [*self.names, *self.raw, *(["all.png"] if self.drawn else [])],
            **({"finished": True} if model.domain.finishes else {}),
            **({"raw": self.raw} if self.raw else {}),
        }

    def __enter__(self) -> SampleFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise RequestError(
                f"Nothing can be written to {self.folder} ({error.strerror or error})", "A folder for samples",
                "Name another: --out FOLDER",
            ) from error  # fmt: skip
        return self

    def _write(self) -> None:
        write_whole(self.folder / MANIFEST, f"{json.dumps(self.manifest, indent=2)}\n".encode())

    def _file(self, name: str, write: Callable[[Path], None]) -> None:
        part = self.folder / f".part-{name}"
        try:
            write(part)
            part.replace(self.folder / name)
        finally:
            part.unlink(missing_ok=True)

    def add(self, artifacts: Sequence[Any]) -> None:
        """Writes the next samples, each to its own numbered file."""
        for artifact in artifacts:
            self._put(artifact, len(self.artifacts), self.names)
            self.artifacts.append(artifact)

    def keep(self, raw: Sequence[Any]) -> None:
        """Writes the next samples as they were before the domain finished them, beside the finished ones."""
        for artifact in raw:
            self._put(artifact, self.kept, self.raw)
            self.kept += 1

    def _put(self, artifact: Any, i: int, names: Sequence[str]) -> None:
        write: Callable[..., None] = self.model.domain.write
        if "remarks" in inspect.signature(write).parameters:  # files that hold text say how they were made
            write = functools.partial(write, remarks=self._remarks(i))
        self._file(names[i], lambda path: write(artifact, path))

    def _remarks(self, i: int) -> list[str]:
        """What the manifest says of sample i, a line each."""
        own = ("complete", "n", "files", "finished", "raw")
        known = {k: v for k, v in self.manifest.items() if k not in own}
        return [
            f"gendiff sample {i} of {self.n}",
            *(f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in known.items()),
        ]

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None:
            return
        if self.drawn:
            self._file("all.png", lambda path: draw_together(self.model.domain, self.artifacts, path, self.captions))
        if self.raw and not self.kept:
            self.manifest = {key: value for key, value in self.manifest.items() if key != "raw"}
            self.manifest["files"] = [name for name in self.manifest["files"] if name not in self.raw]
        self.manifest["complete"] = True
        self._write()


def write_samples(
    model: Model,
    artifacts: Sequence[Any],
    folder: str | Path,
    manifest: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Samples that are all drawn already to a folder of their own, with a manifest: see `SampleFolder`."""
    with SampleFolder(model, folder, len(artifacts), manifest, overwrite=overwrite, raw=False) as out:
        out.add(artifacts)
    return out.folder


def clear(folder: Path, overwrite: bool) -> None:
    """Makes room in a folder: nothing in an empty one; with `overwrite`, the files of an earlier manifest go.

    Raises:
        RequestError: If there is anything else in it, or samples without `overwrite`.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RequestError(f"{folder} is a file", "a folder for samples", "Name another: --out FOLDER")
    found = sorted(path.name for path in folder.iterdir())
    if not found:
        return
    own = {MANIFEST}
    if MANIFEST in found:
        try:
            own |= set(json.loads((folder / MANIFEST).read_text(encoding="utf8"))["files"])
        except (ValueError, TypeError, KeyError):
            own = set()
    left = {name for name in found if name.startswith((".part-", f".{MANIFEST}."))}
    other = [name for name in found if name not in own | left]
    if other:
        raise RequestError(
            f"{folder} holds {len(other)} things that are no samples of an earlier request, first {other[0]!r}",
            "a new folder, so that nothing else is among the samples",
            f"Name another, e.g. --out {shlex.quote(str(folder) + '-2')}",
        )
    if not overwrite:
        raise RequestError(
            f"{folder} holds the samples of an earlier request ({folder / MANIFEST} says which)",
            "a new folder, so that nothing old is among the samples",
            f"Name another, e.g. --out {shlex.quote(str(folder) + '-2')}, or replace them with --overwrite",
        )
    # The manifest goes last: a clearing that is interrupted can be done again.
    for name in sorted(set(found), key=lambda name: name == MANIFEST):
        (folder / name).unlink(missing_ok=True)
