"""A prepared store at a URL: the batches of the local one bit for bit, whatever the line and the disk do to it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor

from benchmarks.interruptions import Chains, Cut, Pairs, cut_at, recipe, together
from gendiff.cli import main
from gendiff.errors import DataError, RecipeError
from gendiff.lazy import digest
from gendiff_recipes import prepared, remote
from gendiff_recipes.data import Batches, BatchStream
from gendiff_recipes.folder import RunError
from gendiff_recipes.module import Denoising
from gendiff_recipes.prepared import Prepared, prepare
from gendiff_recipes.recipe import Recipe
from gendiff_recipes.remote import Cache, look_ahead
from gendiff_recipes.training import train

DOMAINS = {"pairs": Pairs(), "chains": Chains()}


class Frail(MemoryFileSystem):
    """What is in memory, over a line that does as `trouble` says, by name of the shard and number of the try."""

    protocol = "frail"
    cachable = False
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    trouble: Any = None
    fetched: list[str] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("frail://", "memory://"))

    def get_file(self, rpath: str, lpath: Any = None, *args: Any, **kwargs: Any) -> None:
        name = Path(rpath).name
        Frail.fetched.append(name)
        content = self.cat_file(rpath)
        if Frail.trouble is not None:
            content = Frail.trouble(content, Frail.fetched.count(name))
        Path(lpath).write_bytes(content)


@pytest.fixture(scope="module", autouse=True)
def _reachable(strangers: None) -> None:
    """frail:// is known to fsspec, and the small domains are installed."""
    fsspec.register_implementation("frail", Frail, clobber=True)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GENDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "SHARD", 32)  # a few examples a shard
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    Frail.trouble, Frail.fetched = None, []
    Frail.store.clear()
    yield tmp_path / "cache" / "shards"
    Frail.trouble = None


def recipe_of(name: str) -> Recipe:
    return recipe(DOMAINS[name], steps=12, checkpoint=4, measure=0, show=0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of pairs, 4 examples a shard, also at frail://bucket/store."""
    prepare(recipe_of("pairs"), tmp_path / "store")
    upload(tmp_path / "store")
    return tmp_path / "store"


def upload(store: Path) -> None:
    for path in store.rglob("*"):
        if path.is_file() and path.name != ".lock":
            Frail().pipe_file(f"/bucket/store/{path.relative_to(store).as_posix()}", path.read_bytes())


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a.dtype == b.dtype and torch.equal(a, b) if isinstance(a, Tensor) else a == b


def batches(data: Prepared, name: str = "pairs", workers: int = 0, start: int = 0, stop: int = 15) -> list[Any]:
    domain = data.domain(recipe_of(name))
    return list(Batches(domain, data, batch=8, start=start, stop=stop, seed=3, workers=workers).train_dataloader())


def held(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in cache.glob("[0-9]*")}


class Web(SimpleHTTPRequestHandler):
    """Serves a folder, but for what is forbidden, and cuts every third shard short the first time."""

    cut: set[str] = set()  # noqa: RUF012

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        if "forbidden" in self.path:
            self.send_error(403)
        elif "/shards/" in self.path and self.path.endswith(("0", "1", "2", "3")) and self.path not in self.cut:
            Web.cut.add(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"a part")
            self.close_connection = True
        else:
            super().do_GET()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", DOMAINS)
def test_batches_from_a_url_are_those_of_the_folder(name: str, tmp_path: Path, web: str, cache: Path) -> None:
    """By HTTP that breaks off, and from memory; with 0 and 2 workers; from any batch on; once more from the cache."""
    prepare(recipe_of(name), tmp_path / "store")
    upload(tmp_path / "store")
    local = Prepared(tmp_path / "store")
    whole = batches(local, name)
    for url in (f"{web}/store", "frail://bucket/store/"):
        for workers in (0, 2):
            for path in cache.glob("[0-9]*") if workers else ():
                path.unlink()
            data = Prepared(url)
            assert (data.fingerprint, data.lengths, data.about) == (local.fingerprint, local.lengths, local.about)
            assert same(whole, batches(data, name, workers))
            assert same(whole[7:], batches(data, name, workers, start=7))
    shards = {path.name: path.read_bytes() for path in (tmp_path / "store" / "shards").iterdir()}
    assert set(held(cache)) == set(shards) and len(shards) > 5
    assert all((cache / shard).read_bytes() == content for shard, content in shards.items())
    assert not [path for path in cache.iterdir() if path.name.endswith(".part")]
    Frail.fetched = []
    Frail.trouble = lambda content, number: pytest.fail("it is there")
    assert same(whole, batches(Prepared("frail://bucket/store"), name))


def test_a_file_url_is_read_in_place(store: Path, cache: Path) -> None:
    data = Prepared(f"file://{store}")
    assert data.path == store and same(batches(data), batches(Prepared(store))) and not cache.exists()


def test_the_cache_keeps_to_its_room_and_lets_go_the_oldest(store: Path, cache: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in (store / "shards").iterdir()}
    names, most = sorted(sizes), max(sizes.values())
    kept = Cache("frail://bucket/store", cache, 3 * most)
    for name in (*names[:3], names[0], names[3]):  # the second is now the oldest
        kept.open(name).close()
        time.sleep(0.02)
    assert set(held(cache)) == {names[0], names[2], names[3]}
    dead, alive = cache / ".a.part", cache / ".b.part"
    dead.touch()
    alive.touch()
    os.utime(dead, (0, time.time() - 2 * remote.STALE))
    with pytest.warns(UserWarning, match=r"are kept on this machine.*trainer\.cache_gb=1"):
        data = Prepared("frail://bucket/store", 3 * most)
    assert same(batches(data), batches(Prepared(store)))
    assert sum(held(cache).values()) <= 3 * most and not dead.exists() and alive.exists()
    file = kept.open(names[0])
    (cache / names[0]).unlink()
    assert len(file.read()) == sizes[names[0]]  # what is open stays, whatever another process lets go
    file.close()
    tiny = Cache("frail://bucket/store", cache, 1)
    with tiny.open(names[1]) as file:
        assert len(file.read()) == sizes[names[1]] and list(held(cache)) == [names[1]]


def read_all(number: int, url: str, room: float, whole: Any, out: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = batches(Prepared(url, room), start=number)
    out.put(same(whole[number:], found))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("shards", [2, 100])
def test_processes_share_a_cache(store: Path, cache: Path, shards: int) -> None:
    """Four at once, also in a room that is always too small; where there is room, each shard is fetched once."""
    whole, context = batches(Prepared(store)), multiprocessing.get_context("fork")
    sizes, calls = [path.stat().st_size for path in (store / "shards").iterdir()], store.parent / "calls"

    def trouble(content: bytes, number: int) -> bytes:
        with calls.open("a") as file:
            file.write("x")
        time.sleep(0.002)
        return content

    Frail.trouble, out = trouble, context.Queue()
    room = shards * max(sizes)
    args = [(i, "frail://bucket/store", room, whole, out) for i in range(4)]
    processes = [context.Process(target=read_all, args=one) for one in args]
    for process in processes:
        process.start()
    assert all(out.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    if shards == 100:
        assert len(calls.read_text()) == len(sizes) == len(held(cache))
    else:
        assert len(calls.read_text()) > len(sizes) and sum(held(cache).values()) <= 5 * room


def test_what_arrives_damaged_is_fetched_again_and_then_refused(store: Path, cache: Path) -> None:
    whole = batches(Prepared(store))
    for spoil in (lambda c: c[:-7], lambda c: b"", lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: c + b"x"):
        for path in cache.glob("[0-9]*"):
            path.unlink()
        Frail.fetched = []
        Frail.trouble = lambda content, number, spoil=spoil: spoil(content) if number == 1 else content
        assert same(batches(Prepared("frail://bucket/store")), whole)
        assert len(Frail.fetched) == 2 * len(set(Frail.fetched))
    Frail.trouble = lambda content, number: content[:-7]
    for path in cache.glob("[0-9]*"):
        path.unlink()
    name = sorted(p.name for p in (store / "shards").iterdir())[0]
    with pytest.raises(DataError, match=f"bucket/store/shards/{name} arrived twice with other content.*Copy"):
        _ = Prepared("frail://bucket/store")[0]
    assert list(held(cache)) == []


def test_what_the_disk_lost_is_fetched_again(store: Path, cache: Path) -> None:
    data, whole = Prepared("frail://bucket/store"), batches(Prepared(store))
    assert same(batches(data), whole)
    for i, path in enumerate(sorted(cache.glob("[0-9]*"))):
        content = path.read_bytes()
        path.write_bytes([content[:-9], b"", content[:-1] + bytes([content[-1] ^ 1])][i % 3])
    assert same(batches(data), whole)
    data.known = bytes(len(data.known))  # headers of another store
    with pytest.raises(DataError, match=r"damaged at byte.*Copy the whole store"):
        _ = data[0]


def test_a_line_that_comes_back_is_no_error(store: Path) -> None:
    def shaky(content: bytes, number: int) -> bytes:
        if number < 3:
            raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
        return content

    Frail.trouble = shaky
    assert same(batches(Prepared("frail://bucket/store")), batches(Prepared(store)))

    def gone(content: bytes, number: int) -> bytes:
        raise ConnectionResetError(errno.ECONNRESET, "reset by peer")

    Frail.trouble, fresh = gone, Prepared("frail://bucket/store", 1e9)
    for path in Path(os.environ["GENDIFF_CACHE"]).glob("shards/[0-9]*"):
        path.unlink()
    with pytest.raises(DataError, match=r"cannot be read \(ConnectionResetError.*Resume when"):
        _ = fresh[0]


def full(content: bytes, number: int) -> bytes:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_said(store: Path) -> None:
    Frail.trouble = full
    with pytest.raises(RunError, match=r"cache/shards cannot be written \(No space left.*Make room"):
        _ = Prepared("frail://bucket/store")[0]


def test_what_cannot_be_read_says_why(store: Path, web: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for url, why in {
        "frail://bucket/other": r"frail://bucket/other/store.json is not there.*Copy the whole store",
        f"{web}/nowhere": r"nowhere/store.json is not there",
        f"{web}/forbidden": r"forbidden/store.json may not be read.*403.*credentials where the library for http://",
        "s3://bucket/store": r"s3://bucket/store/store.json needs a package \(Install s3fs.*pip install",
        "teleport://bucket/store": r"Protocol not known: teleport.*a URL that fsspec knows",
        "http://127.0.0.1:9/store": r"127.0.0.1:9/store/store.json cannot be read \(Client",
    }.items():
        with pytest.raises(DataError, match=why):
            Prepared(url)
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    with pytest.raises(RunError, match=r"shards cannot be written.*GENDIFF_CACHE=FOLDER"):
        _ = Prepared("frail://bucket/store")[0]
    system, index = Frail(), (store / "store.json").read_bytes()
    headers = Prepared(store).index["headers"]
    for content, why in {
        index.replace(b'"headers": "' + headers.encode(), b'"old": "'): r"has no file of headers.*Prepare it again",
        index.replace(b'"shards": [\n  "', b'"shards": [\n  "../'): r"has no file of headers",
        index.replace(b'"format": 1', b'"format": 9'): r"has the format 9",
        b"\xff": r"store.json is not text",
    }.items():
        assert content != index
        system.pipe_file("/bucket/store/store.json", content)
        with pytest.raises(DataError, match=why):
            Prepared("frail://bucket/store")
    system.pipe_file("/bucket/store/store.json", index)
    system.pipe_file(f"/bucket/store/{headers}", (store / headers).read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{headers} is damaged"):
        Prepared("frail://bucket/store")
    system.rm_file(f"/bucket/store/{headers}")
    with pytest.raises(DataError, match=rf"{headers} is not there"):
        Prepared("frail://bucket/store")


def test_a_store_is_prepared_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match=r"memory://x is a URL.*Prepare into a folder, copy that there"):
        prepare(recipe_of("pairs"), "memory://x")
    assert main(["prepare", "images.digits", "--out", "memory://x", "--quiet"]) == 2
    assert "is a URL" in capsys.readouterr().err and not Path("memory:").exists()
    prepare(recipe_of("pairs"), tmp_path / "store")
    old = [path.name for path in (tmp_path / "store").glob("headers-*")]
    prepare(replace(recipe_of("pairs"), limit=20), tmp_path / "store")
    new = [path.name for path in (tmp_path / "store").glob("headers-*")]
    assert len(old) == len(new) == 1 and old != new


def test_shards_are_fetched_before_they_are_needed(store: Path, cache: Path) -> None:
    data = Prepared("frail://bucket/store")
    stream = BatchStream(len(data), 2, seed=1, stop=25)
    ahead = iter(data.batches(stream))
    first = next(ahead)
    needed = {Path(data.shards[data.rows[e, 0]].path).name for b in list(stream)[:17] for e, *_ in b}
    until = time.time() + 20
    while set(held(cache)) != needed and time.time() < until:
        time.sleep(0.01)
    assert set(held(cache)) == needed
    assert [first, *ahead] == list(stream) and len(data.batches(stream)) == 25  # type: ignore[arg-type]
    assert Prepared(store).batches(stream) is stream


def test_looking_ahead_leaves_room_for_what_is_needed_now(cache: Path) -> None:
    """Where the whole does not fit, half the room is asked for early; a thread that is late leaves out what is over."""
    calls: list[str] = []
    gate = threading.Event()

    class Told(Cache):
        def open(self, name: str) -> Any:
            gate.wait(20)
            calls.append(name)
            return (cache.parent / "x").open("ab")

    cache.parent.mkdir(parents=True)
    told = Told("", cache, 100)

    def needs(batch: int) -> dict[str, int]:
        return {f"{batch}a": 10, f"{batch}b": 10}

    def settled(*names: str) -> list[str]:
        until = time.time() + 20
        while not set(names) <= set(calls) and time.time() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        return sorted(calls)

    ahead = look_ahead(range(40), told, needs, 1000)
    assert next(ahead) == 0
    gate.set()
    assert settled("0a", "1b") == ["0a", "0b", "1a", "1b"]
    gate.clear()
    calls.clear()
    ahead = look_ahead(range(40), told, needs, 100)
    assert [next(ahead) for _ in range(10)] == list(range(10))
    gate.set()
    late = settled("9a", "9b", "10a", "25a", "25b")
    assert {"9a", "9b", "10a", "25b"} <= set(late) and "26a" not in late
    assert len([name for name in late if int(name[:-1]) < 9]) <= remote.THREADS
    assert list(ahead) == list(range(10, 40))


def test_a_run_goes_on_with_a_url(store: Path, cache: Path, tmp_path: Path) -> None:
    """Cut where it reads a folder or a URL, resumed with the other: the same weights."""
    short = recipe_of("pairs")
    local = short.override(f"trainer.prepared={str(store)!r}")
    afar = short.override("trainer.prepared='frail://bucket/store'", "trainer.cache_gb=0.5")
    whole = train(short, tmp_path / "whole", quiet=True).denoiser.network.state_dict()
    for first, then in ((local, afar), (afar, local)):
        out = tmp_path / f"cut{first is local}"
        with cut_at(6, "stepped"), pytest.raises(Cut):
            train(first, out, quiet=True)
        again = train(then, out, resume=True, quiet=True).denoiser.network.state_dict()
        assert all(torch.equal(value, again[key]) for key, value in whole.items())
    assert held(cache)
    assert main(["train", str(tmp_path / "whole"), "--prepared", "frail://bucket/gone", "--quiet"]) == 2


def told(batch: dict[str, Any]) -> dict[str, str]:
    """The examples of a batch by their places: a digest of each one's bits, without its padding."""
    found, cond = {}, {key: value for key, value in batch["cond"].items() if key != "mask"}
    for i, place in enumerate(batch["place"].tolist()):
        mask = batch["cond"].get("mask")
        own = [batch["x0"][i] if mask is None else batch["x0"][i][mask[i]], *(cond[key][i] for key in sorted(cond))]
        found[str(place)] = digest([x.contiguous() for x in own])
    return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("name", "place"), [("pairs", "folder"), ("chains", "url")])
def test_two_processes_see_the_batches_of_one(
    name: str, place: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined by gloo, of one store: each has every other place of each batch, none is missing or other by a bit."""
    prepare(recipe_of(name), tmp_path / "store")
    upload(tmp_path / "store")
    url = str(tmp_path / "store") if place == "folder" else "frail://bucket/store"
    run = recipe_of(name).override(f"trainer.prepared='{url}'", f"trainer.workers={2 * (place == 'url')}")
    step = Denoising.training_step

    def note(self: Denoising, batch: dict[str, Any], *args: Any) -> Any:
        with (tmp_path / f"seen-{self.trainer.world_size}-{self.trainer.global_rank}").open("a") as file:
            file.write(json.dumps([batch["number"], told(batch)]) + "\n")
        return step(self, batch, *args)

    monkeypatch.setattr(Denoising, "training_step", note)
    train(run, tmp_path / "alone", quiet=True)
    two = replace(run, trainer=replace(run.trainer, devices=2))
    assert together(lambda: train(two, tmp_path / "both", quiet=True)) == [0, 0]
    one, first, second = [
        dict(map(json.loads, (tmp_path / f"seen-{rank}").read_text().splitlines())) for rank in ("1-0", "2-0", "2-1")
    ]
    assert list(one) == list(first) == list(second) == list(range(12))
    for number, whole in one.items():
        assert list(whole) == list("01234567") and len(set(whole.values())) == 8
        assert list(first[number]) == list("0246") and list(second[number]) == list("1357")
        assert {**first[number], **second[number]} == whole
    assert cache.exists() == (place == "url")
