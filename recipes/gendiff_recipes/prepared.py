"""A prepared store: a training set encoded once, on disk, and read from there state by state.

    store.json      what was prepared: the recipe's domain, before it was fitted to the examples and after; the shards,
                    in order; what was rejected
    headers-DIGEST  the headers of all shards, one after the other: what a reader from afar needs (see `remote`)
    shards/         files of some 16 MiB of whole examples (see `shards`)

The key of an example is a digest of its artifact, of what is said of it, and of the encoding (the fitted domain's
config and the version): one that is there is taken over, one that has changed is made again. A shard appears whole or
not at all and carries the digests of its records, so whatever interrupts the preparing, what is done is kept. Shards
are made by an executor, in any order, with the same bytes.

Records are read at their place and not mapped: pages that were ever touched would count as this process's memory.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Sampler

import gendiff
from gendiff.adaptation import on_scale_of
from gendiff.config import classes_in, read_json
from gendiff.domain import Domain, Examples, Made, Rejected
from gendiff.errors import DataError, GendiffError, RecipeError
from gendiff.executors import local, results
from gendiff.files import data_root
from gendiff.lazy import Lazy, digest
from gendiff.modelfile import domain_config, read_domain, write_whole
from gendiff.spaces import State, tensors

from .data import BatchStream, Data, Fact, one_thread, return_memory
from .evaluation import about_examples
from .folder import Lock, written
from .recipe import Recipe, leaves
from .remote import CACHE_GB, Fetched, is_url, local_path, look_ahead, open_store
from .shards import ROOM, Done, Job, Shard, header_of, make, unpack

SHARD = 2**24  # bytes of records, if all are as large as the first
FORMAT = 1


@contextmanager
def held(store: Path) -> Iterator[None]:
    """One process at a time prepares a store."""
    with written(store, "a folder that can be written"):
        (store / "shards").mkdir(parents=True, exist_ok=True)
    lock = Lock(store / ".lock")
    lock.take()
    try:
        yield
    finally:
        lock.release()


def about(recipe: Recipe) -> dict[str, Any]:
    """What examples are prepared from, JSON-able."""
    return json.loads(json.dumps({"domain": domain_config(recipe.domain), "limit": recipe.limit}))


def prepare(
    recipe: Recipe, out: str | Path, *, data: str | Path | None = None, workers: int = 0,
    executor: Executor | None = None, progress: Callable[[float, str], None] | None = None,
) -> str:  # fmt: skip
    """Encodes the training examples of a recipe into a store, from which `trainer.prepared` trains.

    Again over the same store, it makes what is missing, damaged or has changed. A store that is not finished, or that
    is being prepared anew, is left as it was by whatever interrupts.

    Args:
        recipe: Its domain and `limit` count.
        out: The store's folder.
        data: The data folder, instead of GENDIFF_DATA.
        workers: Local processes that encode; 0 encodes in this one. The store's bytes do not depend on it.
        executor: Who encodes instead, on machines that share the store's folder: Dask's, MPI's, submitit's by
            `gendiff.executors.Jobs`.
        progress: Called with the share done, and a note.

    Returns:
        The report: how many are prepared, made and taken over, and each that was rejected, with the reason.

    Raises:
        DataError: If no example can be used.
        RunError: If another process prepares there, or the disk is full; what is done is kept.
    """
    if is_url(out):
        fix = "Prepare into a folder, copy that there, and train --prepared URL"
        raise RecipeError(f"A store is prepared on a disk, and {out} is a URL", "a folder", fix)
    store, asked = Path(out).resolve(), about(recipe)
    if store.exists() and not (store / "shards").is_dir() and any(store.iterdir()):
        raise RecipeError(f"{store} holds something else than a store", "a new folder", "--out STORE")
    with held(store):
        recipe, examples = fitted(recipe, None if data is None else Path(data))
        domain = domain_config(recipe.domain)
        encoding = digest([json.dumps(domain, sort_keys=True), gendiff.__version__, FORMAT])
        for left in (store / "shards").glob(".*.part"):
            left.unlink()
        before = tuple(sorted((p.name, p.stat().st_mtime_ns) for p in (store / "shards").iterdir()))
        each = share_of(recipe.domain, examples)
        jobs = (
            Job(store, k, i, recipe.domain, Examples(examples.items[i : i + each]), encoding, before)
            for k, i in enumerate(range(0, len(examples), each))
        )
        pool = executor or local(workers, "fork")  # as the loaders of batches
        done: list[Done] = []
        try:
            for _, one in results(make, jobs, pool):
                done.append(one)
                return_memory()
                if progress is not None:
                    progress(min(len(done) * each / len(examples), 1.0), f"{sum(d.count for d in done)} examples")
        finally:
            if pool is not None and executor is None:
                pool.shutdown(cancel_futures=True)
        shards = sorted(one.name for one in done)
        refused = {i: Rejected(*why) for name in shards for i, *why in Shard(store / "shards" / name).rejected}
        count, kept = sum(one.count for one in done), sum(one.kept for one in done)
        used = [i for i in range(len(examples)) if i not in refused]
        conds, names = examples.conds, examples.names
        said = Made(used, [conds[i] for i in used], [names[i] for i in used])
        whole = Examples(said, [*examples.rejected, *refused.values()], examples.others, examples.notes)
        if not count:
            raise DataError(f"No example can be used ({whole.report()})", "at least one example")
        headers = b"".join(header_of(store / "shards" / name) for name in shards)
        index = {
            "format": FORMAT, "version": gendiff.__version__, "asked": asked, "domain": domain,
            "shards": shards, "headers": f"headers-{hashlib.sha256(headers).hexdigest()[:16]}",
            "rejected": [[r.name, r.reason] for r in whole.rejected], "report": whole.report(),
            "about": about_examples(recipe, whole),
        }  # fmt: skip
        with written(store, ROOM):
            write_whole(store / index["headers"], headers)
            write_whole(store / "store.json", (json.dumps(index, indent=1) + "\n").encode())
        for name in {name for name, _ in before} - set(shards):
            (store / "shards" / name).unlink()
        for path in store.glob("headers-*"):
            if path.name != index["headers"]:
                path.unlink()
    told = sorted({text for one in done for text in one.damaged})
    counts = f"{count} examples in {store}: {count - kept} made, {kept} there already"
    return "\n".join([counts, *(f"{text}: made again" for text in told), whole.report()])


def fitted(recipe: Recipe, data: Path | None, base: Domain | None = None) -> tuple[Recipe, Examples]:
    """The recipe with its domain fitted to its training examples, and these; states are on the scale of a base."""
    examples = recipe.domain.dataset("train", data)
    if recipe.limit is not None:
        examples = examples[: recipe.limit]
    with one_thread():
        artifacts = Lazy(range(len(examples)), partial(artifact_of, examples.artifacts))
        domain = recipe.domain.fit(artifacts)
        domain = domain if base is None else on_scale_of(domain, recipe.domain, base)
        domain = domain.fit_conditions(examples)
    return_memory()
    return replace(recipe, domain=domain), examples


def artifact_of(artifacts: Sequence[Any], index: int) -> Any:
    """An artifact, before which what others before it have left goes back to the system."""
    return_memory(every=1.0)
    return artifacts[index]


def share_of(domain: Domain, examples: Examples) -> int:
    """Examples of a shard: a function of the first that can be encoded alone."""
    for example in examples:
        try:
            size = sum(x.nbytes for x in tensors(domain.encode(example.artifact)))
        except GendiffError:
            continue
        return min(max(SHARD // max(size, 1), 1), 4096)
    return 1


class Prepared(Data):
    """A store as training data.

    Args:
        path: The store's folder, or a URL that it was copied to: its shards are then fetched when they are needed, and
            kept in a folder of this machine (see `remote`).
        room: Bytes of shards that are kept.

    Attributes:
        about: What a run tells of the examples.
        report: What was rejected, and why.

    Raises:
        DataError: For a store that is not there, not finished, or damaged, naming the shard.
    """

    def __init__(self, path: str | Path, room: float = 1e9 * CACHE_GB) -> None:
        folder = local_path(path)
        self.path = path if folder is None else folder
        index, shards = open_store(str(path), room) if folder is None else open_folder(folder)
        if index.get("format") != FORMAT:
            raise DataError(f"{self.path} has the format {index.get('format')}", f"{FORMAT}", "Prepare it anew")
        self.index, self.about, self.report = index, list(index["about"]), index["report"]
        self.rejected = [Rejected(*pair) for pair in index["rejected"]]
        self.shards, self.room = shards(), room
        rows, facts, known, self.layouts = [], [], [], []
        for k, shard in enumerate(self.shards):
            at, first = 0, len(self.layouts)
            self.layouts += shard.layouts
            for item in shard.items:
                rows.append((k, at, item["size"], first + item["layout"]))
                known.append(item["digest"])
                at += item["size"]
                bits, moments, said, shapes, *rest = item["fact"]
                facts.append(Fact(bits, tuple(moments), said, tuple(tuple(shape) for shape in shapes), *rest))
            shard.items = []
        whole = sum(shard.size for shard in self.shards)
        if folder is None and whole > room:
            few = f"{self.path} has {whole / 1e9:.3g} GB and {room / 1e9:.3g} are kept on this machine"
            fix = f"a machine with room: trainer.cache_gb={math.ceil(whole / 1e9)}"
            warnings.warn(f"{few}: most examples will wait for a shard to be fetched again; {fix}", stacklevel=4)
        self.rows, self.known = np.array(rows, np.int64), b"".join(map(bytes.fromhex, known))
        self.describe(facts)

    def domain(self, recipe: Recipe) -> Domain:
        """The domain of a recipe as it was fitted to these examples.

        Raises:
            RecipeError: For a recipe of other examples or another encoding, naming every difference.
        """
        now, then = about(recipe), self.index["asked"]
        if now != then and now != {**then, "domain": self.index["domain"]}:
            a, b = leaves(then), leaves(now)
            differ = [f"{k} ({a.get(k)!r}, now {b.get(k)!r})" for k in {**a, **b} if a.get(k) != b.get(k)]
            fix = f"gendiff prepare {recipe.name} ... --out STORE, with the same changes as the training"
            got = f"The store {self.path} was prepared with another {', another '.join(differ)}"
            raise RecipeError(got, "the same domain and limit", fix)
        return read_domain(self.index["domain"], f"the store {self.path}", list(classes_in(recipe.domain)))[0]

    def changed(self, recipe: Recipe, data: Path | None) -> list[str]:
        """What to say of files of the examples' source that were written after the store was; nothing where it is at a
        URL, or they are not here.
        """
        if not isinstance(self.path, Path):
            return []
        index = self.path / "store.json"
        since, own = index.stat().st_mtime_ns, self.path.resolve()
        places = places_of(about(recipe)["domain"], data)
        files = {
            file.resolve() for place in places for file in ([place] if place.is_file() else files_below(place, own))
        }
        newer = sorted(file for file in files if file.stat().st_mtime_ns > since)
        if not newer:
            return []
        more = f" and {len(newer) - 1} more" if newer[1:] else ""
        fix = f"`gendiff prepare {recipe.name} ... --out {self.path}` takes over what is the same"
        return [f"{newer[0]}{more} changed after {self.path} was prepared, from which it is trained; {fix}."]

    def __getitem__(self, index: int) -> tuple[State, dict[str, Any]]:
        k, at, size, layout = self.rows[index].tolist()
        record = self.shards[k].record(at, size, self.known[32 * index : 32 * index + 32].hex())
        found = unpack(self.layouts[layout], record)
        return found["state"], found.get("asked", {})

    def batches(self, stream: BatchStream) -> Sampler[list[tuple[int, int, int]]]:
        """A stream of batches, whose shards are fetched early from a store at a URL."""
        return Ahead(stream, self) if any(isinstance(shard, Fetched) for shard in self.shards) else stream


def places_of(config: Any, data: Path | None) -> list[Path]:
    """The files and folders that the fields of a source name (`path`, a table), here or below the data folder."""
    if not isinstance(config, Mapping):
        return []
    found = [place for key, own in config.items() if key != "source" for place in places_of(own, data)]
    own = config.get("source")
    texts = [text for text in own.values() if isinstance(text, str) and text] if isinstance(own, Mapping) else []
    homes = [Path(), data_root(data)]
    for text in texts:
        place = next((p for home in homes if (p := home / Path(text).expanduser()).exists()), None)
        if place is not None:
            found.append(place)
            homes = [place, *homes] if place.is_dir() else homes
    return found


def files_below(folder: Path, apart: Path) -> Iterator[Path]:
    """The files below a folder, without those of another one and hidden ones."""
    for home, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and (Path(home) / name).resolve() != apart]
        yield from (path for name in names if name[0] != "." and (path := Path(home) / name).is_file())


class Ahead(Sampler[list[tuple[int, int, int]]]):
    """The batches of a stream, whose shards are asked for some batches earlier."""

    def __init__(self, stream: BatchStream, store: Prepared) -> None:
        self.stream, self.store = stream, store

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        shards, first = self.store.shards, self.store.shards[0]
        assert isinstance(first, Fetched)

        def needs(batch: list[tuple[int, int, int]]) -> dict[str, int]:
            own = [shards[k] for k in self.store.rows[[example for example, _, _ in batch], 0].tolist()]
            return {shard.name: shard.size for shard in own if isinstance(shard, Fetched)}

        return look_ahead(self.stream, first.cache, needs, sum(shard.size for shard in shards))


def open_folder(folder: Path) -> tuple[dict[str, Any], Callable[[], list[Shard]]]:
    """The index of a store in a folder, and what reads the headers of its shards."""
    if not (folder / "store.json").exists():
        got = "is not finished" if (folder / "shards").is_dir() else "is no prepared store"
        raise DataError(f"{folder} {got}", "one that is", f"gendiff prepare RECIPE --out {folder}")
    index = read_json(folder / "store.json")
    return index, lambda: [Shard(folder / "shards" / Path(name).name) for name in index["shards"]]
