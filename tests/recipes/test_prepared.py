"""A prepared store: the same batches bit for bit, whoever encoded, whatever interrupted, and nothing lost."""

from __future__ import annotations

import argparse
import errno
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks.interruptions import Chains, Cut, Pairs, cut_at, recipe
from gendiff import Codec, Domain, Examples, Latent, Rejected
from gendiff.cli import main
from gendiff.domain import Made
from gendiff.errors import DataError, RecipeError
from gendiff.lazy import Kept, Lazy, digest
from gendiff_audio import Audio, Tones
from gendiff_images import Folder, Images
from gendiff_images.sources import Digits
from gendiff_proteins import Ideal, Proteins
from gendiff_recipes import prepared, shards
from gendiff_recipes.commands import Prepare
from gendiff_recipes.data import Batches, BatchStream, Data, Encoded
from gendiff_recipes.folder import RunError
from gendiff_recipes.prepared import Prepared, fitted, prepare
from gendiff_recipes.recipe import Recipe, Trainer
from gendiff_recipes.training import train, training_data


@dataclass(frozen=True)
class Mixed(Pairs):
    """Bundles of several types, of which some are of another shape; what is said of each is a number of its own."""

    name: ClassVar[str] = "mixed"

    def encode(self, artifact: Any) -> Any:
        own = artifact.double()
        return {"x": own, "half": own.bfloat16(), "kind": (own > 0).long(), "sign": own > 0, "none": own[:0]}

    def lengths(self, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(1, 4, size=self.count)


sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "gendiff_torsions"))
Torsions = import_module("gendiff_torsions").Torsions


pytestmark = pytest.mark.usefixtures("strangers")


DOMAINS: dict[str, Domain] = {
    "images": Images.of(Digits()),
    "audio": Audio(source=Tones(count=24)),
    "proteins": Proteins(source=Ideal(count=24, min_length=20, max_length=40)),
    "torsions": Torsions(pieces=40),
    "ragged": Chains(),
    "mixed": Mixed(),
}


def recipe_of(name: str) -> Recipe:
    limit = 60 if name == "images" else None
    return Recipe(f"test.{name}", DOMAINS[name], drop=0.0, limit=limit, trainer=Trainer(batch=8))


def contents(store: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((store / "shards").iterdir())}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, Tensor) else a == b


def batches(domain: Domain, data: Data, workers: int = 0, start: int = 0, stop: int = 9) -> list[Any]:
    loader = Batches(domain, data, batch=8, start=start, stop=stop, seed=3, workers=workers).train_dataloader()
    return list(loader)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(prepared, "SHARD", 32 if "texts" in request.fixturenames else 2**9)  # four texts a shard


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", DOMAINS)
def test_batches_from_a_store_are_those_without_one(name: str, tmp_path: Path) -> None:
    """Of every domain, with any number of workers that prepare or load, cut anywhere: the same bits."""
    asked = recipe_of(name)
    plain, examples = fitted(asked, None)
    encoded = Encoded(plain.domain, examples)
    lazy = Encoded(plain.domain, examples, most=1)
    for workers in (0, 2, 4):
        report = prepare(asked, tmp_path / str(workers), workers=workers)
        assert f"{len(examples)} examples" in report and f"{len(examples)} made, 0 there" in report
    assert contents(tmp_path / "0") == contents(tmp_path / "2") == contents(tmp_path / "4")
    assert len(contents(tmp_path / "0")) > 1
    store = Prepared(tmp_path / "2")
    domain = store.domain(asked)
    assert domain == plain.domain and store.fingerprint == encoded.fingerprint and len(store) == len(encoded)
    assert (store.lengths, store.groups) == (encoded.lengths, encoded.groups)
    assert (encoded.groups is not None) == (name == "mixed") and (encoded.lengths is not None) == domain.ragged
    whole = batches(domain, encoded)
    for workers in (0, 2, 4):
        assert all(same(a, b) for a, b in zip(whole, batches(domain, store, workers), strict=True))
    assert all(same(a, b) for a, b in zip(whole, batches(domain, lazy), strict=True))
    assert all(same(a, b) for a, b in zip(whole[5:], batches(domain, store, 2, start=5), strict=True))


@pytest.mark.parametrize("lengths", [None, np.arange(103) % 17])
def test_devices_share_batches_of_groups(lengths: Any) -> None:
    """With groups of shapes: equal shapes in a batch, no example twice in an epoch, the same cut or shared anywhere."""
    groups = [0] * 60 + [1] * 38 + [2] * 5

    def stream(**more: Any) -> list[Any]:
        return list(BatchStream(103, 8, seed=3, lengths=lengths, groups=groups, **{"stop": 30, **more}))

    whole = stream()
    assert all(len({groups[e] for e, _, _ in batch}) == 1 for batch in whole)
    epoch = [e for batch in whole[:12] for e, _, _ in batch]  # 7 + 4 + 1 batches
    assert all(epoch.count(e) == 1 for e in set(epoch) if groups[e] < 2) and len(set(epoch)) == 56 + 32 + 5
    assert stream(start=17) == whole[17:]
    halves = [stream(rank=rank, world=2) for rank in range(2)]
    assert all(sorted(a + b) == sorted(c) for a, b, c in zip(*halves, whole, strict=True))


@dataclass(frozen=True)
class Texts(Pairs):
    """Numbers in files of a folder."""

    name: ClassVar[str] = "texts"
    folder: str = ""
    scale: float = 1.0

    def encode(self, artifact: Tensor) -> Tensor:
        with (Path(self.folder).parent / "encoded").open("a") as file:
            file.write(f"{float(artifact[0, 0])}\n")
        return artifact * self.scale

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        names = sorted(p.name for p in Path(self.folder).glob("*.txt"))
        values = Lazy(names, Kept(Reader(self.folder)))
        return Examples(Made(values, [{"kind": 0}] * len(names), names), [Rejected("odd", "no number")], ["a.doc"])


@dataclass(frozen=True)
class Reader:
    folder: str

    def __call__(self, name: str) -> Tensor:
        return torch.full((1, 2), float((Path(self.folder) / name).read_text()))


@pytest.fixture
def texts(tmp_path: Path) -> Recipe:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:03}.txt").write_text(str(i))
    return Recipe("test.texts", Texts(folder=str(folder)), drop=0.0)


def encoded_since(asked: Recipe) -> list[float]:
    """What was encoded since the last call, without the one example that tells how large a state is."""
    told = Path(asked.domain.folder).parent / "encoded"  # type: ignore[attr-defined]
    lines = told.read_text().split() if told.exists() else []
    told.write_text("")
    return sorted(map(float, lines[1:]))


def test_what_has_changed_is_made_again_and_nothing_else(texts: Recipe, tmp_path: Path) -> None:
    store, folder = tmp_path / "store", tmp_path / "texts"
    assert "40 made, 0 there already" in prepare(texts, store) and len(encoded_since(texts)) == 40
    before = contents(store)
    assert len(before) == 10
    assert "0 made, 40 there already" in prepare(texts, store) and encoded_since(texts) == []
    assert contents(store) == before
    (folder / "007.txt").write_text("70")
    (folder / "000a.txt").write_text("0.5")  # all behind it move on by a place
    report = prepare(texts, store)
    assert "41 examples" in report and "2 made, 39 there already" in report and encoded_since(texts) == [0.5, 70.0]
    assert [float(Prepared(store)[i][0][0, 0]) for i in (0, 1, 8, 40)] == [0, 0.5, 70, 39]
    other = replace(texts, domain=replace(texts.domain, scale=2.0))  # type: ignore[type-var]
    assert "41 made" in prepare(other, store)
    assert len(contents(store)) == 11  # none of the old ones is left
    assert "1 rejected" in report and "odd" in report and "1 other files" in report


def test_a_shard_cut_in_the_middle_is_named_and_made_again(texts: Recipe, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(texts, store)
    before = contents(store)
    cut, spoilt = [store / "shards" / name for name in list(before)[2:4]]
    cut.write_bytes(cut.read_bytes()[:-5])
    content = bytearray(spoilt.read_bytes())
    content[-1] ^= 1
    with pytest.raises(DataError, match=f"{cut.name} has .* bytes of .*Prepare again"):
        Prepared(store)
    cut.unlink()
    with pytest.raises(DataError, match=f"{cut.name} cannot be read"):
        Prepared(store)
    cut.write_bytes(b"")
    encoded_since(texts)
    spoilt.write_bytes(content)
    report = prepare(texts, store)
    assert cut.name in report and spoilt.name in report and "made again" in report
    assert encoded_since(texts) == [8.0, 9.0, 10.0, 11.0, 15.0] and contents(store) == before
    spoilt.write_bytes(content)
    data = Prepared(store)
    with pytest.raises(DataError, match=f"{spoilt.name} is damaged at byte"):
        data[15]
    assert float(data[14][0][0, 0]) == 14


def slow(asked: Recipe, store: Path, workers: int) -> None:
    shards.encoded = lambda *args, old=shards.encoded: (time.sleep(0.02), old(*args))[1]  # type: ignore[assignment,misc]
    prepare(asked, store, workers=workers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_the_middle_what_is_done_is_kept(texts: Recipe, tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    prepare(texts, tmp_path / "whole")
    for least in (1, 3, 6):
        process = multiprocessing.get_context("fork").Process(target=slow, args=(texts, store, workers))
        process.start()
        while process.is_alive() and len([*store.glob("shards/[0-9]*")]) < least:
            time.sleep(0.01)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    with pytest.raises(DataError, match=r"is not finished.*gendiff prepare"):
        Prepared(store)
    time.sleep(0.3)  # orphaned workers end
    done = len([*store.glob("shards/[0-9]*")])
    encoded_since(texts)
    report = prepare(texts, store)
    assert done >= 6 and f"{40 - 4 * done} made, {4 * done} there already" in report
    assert len(encoded_since(texts)) == 40 - 4 * done
    assert contents(store) == contents(tmp_path / "whole")


def test_a_full_disk_loses_nothing(texts: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, written = tmp_path / "store", []

    def write(path: Path, content: bytes) -> Path:
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        return whole(path, content)

    whole = shards.write_whole
    monkeypatch.setattr(shards, "write_whole", write)
    with pytest.raises(RunError, match=r"No space left.*what is done is kept.*Make room"):
        prepare(texts, store)
    monkeypatch.undo()
    monkeypatch.setattr(prepared, "SHARD", 32)
    assert "20 made, 20 there already" in prepare(texts, store)
    prepare(texts, tmp_path / "whole")
    assert contents(store) == contents(tmp_path / "whole")
    before = (store / "store.json").read_bytes()
    monkeypatch.setattr(prepared, "write_whole", write)
    with pytest.raises(RunError, match="No space left"):
        prepare(replace(texts, limit=20), store)
    assert (store / "store.json").read_bytes() == before and len(Prepared(store)) == 40


def test_what_cannot_be_encoded_is_reported(texts: Recipe, tmp_path: Path) -> None:
    (tmp_path / "texts" / "003.txt").write_text("nan")
    (tmp_path / "texts" / "017.txt").write_text("inf")
    report = prepare(texts, tmp_path / "store", workers=2)
    data = Prepared(tmp_path / "store")
    assert "38 examples" in report and "38 read, 3 rejected" in report and "003.txt" in report and "017.txt" in report
    assert len(data) == 38 and len(data.rejected) == 3 and "not finite" in data.rejected[1].reason
    assert data.about[0].startswith("test.texts: 38 examples; kind: left 38")
    for i in range(40):
        (tmp_path / "texts" / f"{i:03}.txt").write_text("nan")
    with pytest.raises(DataError, match="No example can be used"):
        prepare(texts, tmp_path / "store")
    assert len(Prepared(tmp_path / "store")) == 38


class Frail(ThreadPoolExecutor):
    """Loses every third job."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        if args[0].number % 3 == 0:
            future = Future()
            future.set_exception(BrokenExecutor("the worker is gone"))
        return future


def test_any_executor_and_a_lost_worker_give_the_same(texts: Recipe, tmp_path: Path) -> None:
    pools: list[Executor | None] = [None, ThreadPoolExecutor(2), Frail(2)]
    for i, pool in enumerate(pools):
        assert "40 made" in prepare(texts, tmp_path / str(i), executor=pool)
    assert contents(tmp_path / "0") == contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_store_of_something_else_is_refused(texts: Recipe, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(texts, store)
    other = replace(texts, domain=replace(texts.domain, scale=2.0), limit=7)  # type: ignore[type-var]
    with pytest.raises(RecipeError, match=r"domain.scale \(1.0, now 2.0\), another limit \(None, now 7\)"):
        Prepared(store).domain(other)
    with pytest.raises(RecipeError, match=r"domain\.scale"):
        train(replace(other, trainer=Trainer(prepared=str(store), steps=1)), tmp_path / "run", quiet=True)
    with pytest.raises(DataError, match="is no prepared store"):
        Prepared(tmp_path / "texts")
    with pytest.raises(RecipeError, match="something else"):
        prepare(texts, tmp_path / "texts")
    with prepared.held(store), pytest.raises(RunError, match="in use by"):
        prepare(texts, store)


@pytest.mark.parametrize("domain", [Pairs(), Chains()])
def test_a_run_goes_on_with_a_store_or_without(domain: Domain, tmp_path: Path) -> None:
    """The same weights with and without a store, also where a run changes from one to the other."""
    short = recipe(domain, steps=12, checkpoint=4, measure=0, show=0)
    prepare(short, tmp_path / "store")
    stored = short.override(f"trainer.prepared={str(tmp_path / 'store')!r}")
    whole = train(short, tmp_path / "a", quiet=True)
    read = train(stored, tmp_path / "b", quiet=True)
    weights = [model.denoiser.network.state_dict() for model in (whole, read)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    for first, then in ((short, stored), (stored, short)):
        out = tmp_path / f"cut{first is short}"
        with cut_at(6, "stepped"), pytest.raises(Cut):
            train(first, out, quiet=True)
        again = train(then, out, resume=True, quiet=True).denoiser.network.state_dict()
        assert all(torch.equal(value, again[key]) for key, value in weights[0].items())
    saved = Recipe.load(tmp_path / "b" / "recipe.json", [type(domain)])
    assert Prepared(tmp_path / "store").domain(saved) == saved.domain


def test_the_command_prepares_and_says_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["images.digits", "limit=50", "--out", str(tmp_path / "store"), "--workers", "2"]
    parser, command = argparse.ArgumentParser(), Prepare()
    command.arguments(parser, words)
    command.run(parser.parse_intermixed_args(words))
    assert "50 examples in" in capsys.readouterr().out
    more = ["trainer.steps=1", "trainer.show=0", "--quiet", "--out", str(tmp_path / "run")]
    call = ["train", "images.digits", "--prepared", str(tmp_path / "store"), *more]
    assert main(call) == 2 and "another limit (50, now None)" in capsys.readouterr().err
    assert main([*call, "limit=50"]) == 0 and "50 examples; label" in capsys.readouterr().err
    assert main([*call[:2], *more[:-2], "--out", str(tmp_path / "run"), "trainer.steps=2", "limit=50", "--resume"]) == 0


def test_what_is_made_is_remembered_while_there_is_room() -> None:
    calls: list[int] = []

    def make(key: int) -> np.ndarray:
        calls.append(key)
        return np.full(100, key, np.float32)

    values = Lazy(range(6), Kept(make, most=1300))
    assert [float(x[0]) for x in values] == [float(x[0]) for x in values] == [0, 1, 2, 3, 4, 5]
    assert calls == [0, 1, 2, 3, 4, 5, 3, 4, 5]
    assert [float(x[0]) for x in values[2:4]] == [2, 3] and calls[9:] == [3]


def test_digests_tell_values_apart() -> None:
    @dataclass
    class Thing:
        a: Any
        b: str = ""
        c: list[int] = field(default_factory=list)

    things = [
        Thing(np.zeros(3)), Thing(np.zeros(3, np.float32)), Thing(torch.zeros(3)), Thing(np.zeros((1, 3))),
        Thing(np.zeros(3), "x"), Thing({"a": 1}), Thing({"a": 1.0}), Thing([1, [2, 3]]), Thing([[1, 2], 3]),
        Thing(None),
    ]  # fmt: skip
    assert len({digest(thing) for thing in things}) == len(things)
    assert digest(Thing(np.arange(6).reshape(2, 3).T)) == digest(Thing(np.arange(6).reshape(2, 3).T.copy()))


@pytest.mark.parametrize("latent", [False, True])
def test_files_that_changed_after_a_store_was_prepared_are_said(tmp_path: Path, latent: bool) -> None:
    """A picture, a table; not hidden files, nor the store itself; prepared again, nothing is said."""
    data = tmp_path / "data"
    home = data / "flat"
    home.mkdir(parents=True)
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(home / f"{i:02}.png")
    (home / "t.csv").write_text("path,kind\n" + "".join(f"{i:02}.png,{'ab'[i % 2]}\n" for i in range(12)))
    domain: Domain = Images.of(Folder("flat", 8, test_share=0.0, table="t.csv"), root=data)
    if latent:
        codec = Codec(domain, {"latent": 3, "stride": 4, "widths": (6,), "blocks": 1, "deep": 1})
        domain = Latent(domain, codec.with_network(codec.built(), {"explained": 0.9}))
    own = Recipe("test.flat", domain, drop=0.0, trainer=Trainer(batch=8))
    store = home / "store"

    def said() -> list[str]:
        return Prepared(store).changed(own, data)

    prepare(own, store, data=data)
    (home / ".hidden").write_text("")
    assert said() == []
    for name in ("03.png", "t.csv"):
        (home / name).write_bytes((home / name).read_bytes())
        (one,) = said()
        assert one.startswith(f"{home / name} changed after") and "`gendiff prepare test.flat" in one
        assert training_data(own.override(f"trainer.prepared={store}"), data, None)[2][-1] == said()[0]
        prepare(own, store, data=data)
        assert said() == []
    for name in ("03.png", "t.csv"):
        (home / name).write_bytes((home / name).read_bytes())
    assert said()[0].startswith(f"{home / '03.png'} and 1 more changed")
    assert Prepared(store).changed(own, tmp_path) == []  # the data are not there
