"""Model files and what a model says of itself: whole files, digests, hostile ones, parts of strangers, one process."""

from __future__ import annotations

import json
import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as serialise
from torch import Tensor, nn

import gendiff
from gendiff import (
    VP,
    Cosine,
    Domain,
    EDMHead,
    Example,
    Examples,
    Exponential,
    Gaussian,
    Geodesic,
    Heads,
    Joint,
    Linear,
    Model,
    Polynomial,
    Request,
    Sphere,
    Tangent,
    TrigFlow,
    V,
    Velocity,
)
from gendiff.config import core_kinds
from gendiff.denoisers import Eps, Head
from gendiff.errors import CheckpointError, GendiffError, RequestError
from gendiff.modelfile import DIGESTS, ModelFile, digest, write_whole
from gendiff.processes import Process, schedule_of
from gendiff.random import Noise
from gendiff.spaces import SO3, Centered, State
from gendiff_audio import Audio, LogMel
from gendiff_images import Folder, Images
from gendiff_proteins import Ideal, Proteins, Structures
from gendiff_recipes.recipe import Recipe


class Flow(nn.Module):
    """A network that knows the clock of its process, as the one of proteins does."""

    def __init__(self, clock: Callable[[Any], Any], width: int = 4) -> None:
        super().__init__()
        self.kappa = clock
        self.body = nn.Linear(3, width), nn.Linear(width, 3)
        self.first, self.last = self.body

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.last(self.first(x).tanh() * self.kappa(t)[:, None])


@dataclass(frozen=True)
class Globe(Domain):
    """Points of the sphere."""

    name: ClassVar[str] = "globe"
    bend: float = 2.0

    @property
    def process(self) -> Process:
        return Geodesic(Sphere(), Exponential(self.bend))

    def encode(self, artifact: Tensor) -> State:
        return artifact

    def decode(self, x: State) -> Tensor:
        return x

    def request(self, n: int, *, latitude: float | None = None) -> Request:
        return Request(torch.empty(n, 3))

    def ranges(self) -> dict[str, tuple[float, float]]:
        return {"latitude": (-80.0, 70.0)}

    def network(self, **size: Any) -> nn.Module:
        return Flow(schedule_of(self.process).clock, **size)

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        points = Noise.of(0, 8).normal((8, 3))
        return Examples([Example(p / p.norm()) for p in points])


class Point:
    name = "globe"

    def load(self) -> type:
        return Globe


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from gendiff.discovery import registered

    monkeypatch.setattr(
        "gendiff.discovery.registered",
        lambda group: {**registered(group), **({"globe": Point()} if group == "domains" else {})},
    )


# One process


def chain(pos: Any, rot: Any) -> Joint:
    return Joint(pos=Gaussian(pos, Centered()), rot=Geodesic(SO3(), rot))


FRAMES: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "pair": 4}
CASES: list[tuple[Domain, dict[str, Any], Process | None, Head | None]] = [
    (Globe(), {}, None, None),
    (Globe(), {}, Geodesic(Sphere(), Linear()), None),
    (Globe(), {"width": 5}, Geodesic(Sphere(), Exponential(4.0)), Tangent()),
    (Proteins(source=Ideal()), FRAMES, None, None),
    (Proteins(source=Ideal()), FRAMES, chain(Linear(), Linear()), None),
    (Proteins(source=Ideal()), FRAMES, chain(Polynomial(), Exponential(5.0)), Heads(pos=V(), rot=Tangent())),
    (Images(size=8), {"channels": (8,), "blocks": 1}, None, None),
    (Images(size=8), {"channels": (8,), "blocks": 1}, Gaussian(VP()), V()),
    (Images(size=8), {"channels": (8,), "blocks": 1}, Gaussian(Cosine()), Eps()),
    (Audio(), {"channels": (8, 8)}, None, None),
    (Audio(), {"channels": (8, 8)}, Gaussian(TrigFlow()), V()),
]


@pytest.mark.parametrize(("domain", "size", "process", "head"), CASES, ids=range(len(CASES)))
def test_the_network_the_domain_and_the_file_have_one_process(
    domain: Domain, size: dict[str, Any], process: Process | None, head: Head | None, tmp_path: Path
) -> None:
    made = Model.new(domain, process=process, head=head, **size)
    recipe = Recipe(name="x.y", domain=domain, network=size, process=process, head=head)
    by_recipe = Model.new(recipe.domain, process=recipe.process, head=recipe.head, **recipe.network)
    read = gendiff.load(made.save(tmp_path / "m.safetensors"))
    refitted = Model(domain, read.denoiser, size=size)
    for model in (made, by_recipe, read, refitted):
        assert model.denoiser.process == (process or domain.process)
        assert model.denoiser.head == (head or domain.head)
        assert model.domain.process == model.denoiser.process and model.domain.head == model.denoiser.head
        assert model.domain == domain
        kappa = getattr(model.denoiser.network, "kappa", None)
        assert (kappa is None) == isinstance(domain, Images | Audio)
        if kappa is not None:
            clock = schedule_of(model.denoiser.process, "rot" if isinstance(domain, Proteins) else None).clock
            for t in (0.1, 0.5, 0.9):
                assert float(kappa(torch.tensor(t, dtype=torch.float64))) == pytest.approx(clock(t), abs=1e-12)


def test_a_domain_keeps_its_own_process_when_another_is_chosen() -> None:
    domain = Globe(3.0)
    other = domain.with_process(Geodesic(Sphere(), Linear()))
    assert domain.process == Geodesic(Sphere(), Exponential(3.0)) and other.process == Geodesic(Sphere(), Linear())
    assert domain.with_process(domain.process) is domain and other.with_process() is other
    assert other.with_process(domain.process).process == domain.process
    assert Images().with_process(Gaussian(VP()), V()).with_process(head=Velocity()).head == Velocity()
    assert Audio().head == EDMHead(1.0)


# Whole files


@pytest.fixture
def model() -> Model:
    return Model.new(Globe(), width=6)


def test_a_planted_link_is_replaced_and_nothing_is_left_beside(model: Model, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    path = tmp_path / "folder" / "m.safetensors"
    path.parent.mkdir()
    path.symlink_to(victim)
    for name in ("m.safetensors.part", ".m.safetensors.part"):
        (path.parent / name).symlink_to(victim)
    model.save(path)
    assert victim.read_bytes() == b"precious" and not path.is_symlink()
    (path.parent / "m.safetensors.part").unlink()
    (path.parent / ".m.safetensors.part").unlink()
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]
    gendiff.load(path)


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a"]


def save_often(path: Path, width: int, times: int) -> None:
    torch.set_num_threads(1)
    made = Model.new(Globe(), width=width)
    for _ in range(times):
        made.save(path)


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_savers_and_loaders_of_one_file_never_meet_a_broken_one(model: Model, tmp_path: Path, how: str) -> None:
    path = model.save(tmp_path / "m.safetensors")
    start: Any = threading.Thread if how == "threads" else multiprocessing.get_context("fork").Process
    savers = [start(target=save_often, args=(path, width, 40)) for width in (300, 6, 77)]
    for saver in savers:
        saver.start()
    seen, loads = set(), 0
    while loads < 60 or any(saver.is_alive() for saver in savers):
        read = gendiff.load(path)
        assert read.denoiser.network.first.out_features == read.size["width"]  # type: ignore[union-attr]
        seen.add(read.size["width"])
        loads += 1
    for saver in savers:
        saver.join()
    assert seen <= {6, 77, 300} and len(seen) > 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


# What a model says of itself


def test_a_model_says_what_it_is_and_what_may_be_asked(model: Model) -> None:
    model = Model(model.domain, model.denoiser, size=model.size, metrics={"energy": 0.5})
    info = model.info()
    assert json.loads(json.dumps(info)) == info
    assert info["request"] == {"latitude": {"default": None, "trained": [-80.0, 70.0]}}
    assert info["network"] == {"class": "Flow", "size": {"width": 6}} and info["parameters"] == 4 * 6 + 7 * 3
    assert info["metrics"] == {"energy": 0.5} and info["domain"]["name"] == "globe" and info["labels"] == {}
    assert info["digest"] == digest(model.denoiser.network.state_dict())
    chains = Model.new(Proteins(source=Ideal(8, 32, 48)), **FRAMES).info()
    assert chains["request"]["length"]["trained"] == [32, 48] and chains["labels"]["fold"][0] == "alpha"
    clips = Model.new(Audio(lengths=(25, 50)), channels=(8, 8)).info()
    assert clips["request"]["seconds"]["trained"] == [0.4, 0.8]


@pytest.mark.parametrize("device", ["cuda:7", "nonsense", "meta:"])
def test_a_device_that_is_not_there_is_refused_and_nothing_moved(model: Model, tmp_path: Path, device: str) -> None:
    with pytest.raises(RequestError, match=device):
        model.to(device)
    with pytest.raises(RequestError, match=r'device="cpu"'):
        gendiff.load(model.save(tmp_path / "m.safetensors"), device=device)
    assert model.device == torch.device("cpu")


# Damaged and hostile files


def test_each_bit_counts(tmp_path: Path) -> None:
    """A flipped bit anywhere, in the header, the config or the weights, is refused."""
    path = Model.new(Globe(), width=64).save(tmp_path / "m.safetensors")
    whole = path.read_bytes()
    bits = torch.randint(8 * len(whole), (240,), generator=torch.Generator().manual_seed(0)).tolist()
    weights = 8 * (8 + int.from_bytes(whole[:8], "little"))
    assert sum(bit >= weights for bit in bits) > 60 and sum(bit < weights for bit in bits) > 60
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            gendiff.load(path)
    path.write_bytes(whole)
    gendiff.load(path)


def rewritten(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The file with its config changed, and without digests: as a stranger may write it, or gendiff 0.1.0 did."""
    with path.open("rb") as stream:
        file = ModelFile(stream, path)
        weights = {name: file.tensor(name) for name in file.shapes}
        config = json.loads(file.metadata["gendiff"])
    text = change(config)
    path.write_bytes(serialise(weights, {"gendiff": text if isinstance(text, str) else json.dumps(config)}))
    return path


def test_a_file_without_digests_is_an_older_one_and_loads(model: Model, tmp_path: Path) -> None:
    def older(config: dict[str, Any]) -> None:
        config["domain"].pop("kind")

    again = gendiff.load(rewritten(model.save(tmp_path / "m.safetensors"), older))
    assert digest(again.denoiser.network.state_dict()) == digest(model.denoiser.network.state_dict())


def nested(levels: int) -> str:
    return '{"format": 1, "recipe": ' + "[" * levels + "]" * levels + "}"


HOSTILE = {
    "deep": (lambda c: nested(100), "nested too deeply"),
    "deeper": (lambda c: nested(100_000), "nested too deeply"),
    "huge integer": (lambda c: c["domain"].update(bend=10**30), "digits"),
    "endless integer": (lambda c: json.dumps(c).replace("2.0", "9" * 10_000), "digits"),
    "null": (lambda c: c["domain"].update(bend=None), "domain.bend is None"),
    "nan": (lambda c: c["domain"].update(bend=float("nan")), "finite"),
    "infinity": (lambda c: c["process"]["schedule"].update(rate=float("inf")), "finite"),
    "text": (lambda c: c["domain"].update(bend="2"), "type float"),
    "bool": (lambda c: c["sampler"].update(steps=True), "type int"),
    "fraction": (lambda c: c["sampler"].update(steps=2.5), "type int"),
    "a domain as sampler": (lambda c: c.update(sampler={**c["domain"], "kind": "Globe"}), "name|Solver"),
    "a head as process": (lambda c: c.update(process=c["head"]), "Process"),
    "a grid as schedule": (lambda c: c["process"].update(schedule={"kind": "LinearGrid"}), "Schedule"),
    "a head in a bundle": (lambda c: c.update(process={"kind": "Joint", "parts": {"a": c["head"]}}), "Process"),
    "no table": (lambda c: c.update(domain=[1]), "domain"),
    "no kind": (lambda c: c["head"].update(kind=None), "kind"),
    "wide": (lambda c: c["network"].update(width=10**7), "sizes|fit"),
    "wider": (lambda c: c["network"].update(width=2**62), "sizes"),
    "narrow": (lambda c: c["network"].update(width=5), "first.weight"),
    "none": (lambda c: c["network"].update(width=None), "TypeError"),
    "negative": (lambda c: c["network"].update(width=-3), "no network"),
    "twice": (lambda c: json.dumps(c)[:-1] + ', "format": 1}', "twice"),
    "metrics": (lambda c: c.update(metrics={"a": "b"}), "metrics"),
    "recipe": (lambda c: c.update(recipe=3), "recipe"),
    "long": (lambda c: c["recipe"].update(a="x" * 5_000_000), "characters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_refused_in_words(name: str, model: Model, tmp_path: Path) -> None:
    change, says = HOSTILE[name]
    path = rewritten(model.save(tmp_path / "m.safetensors"), change)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=says) as caught:
        gendiff.load(path)
    assert time.process_time() - start < 2 and len(str(caught.value)) < 2500


def test_a_network_beyond_its_file_is_given_up_at_once_and_without_memory(tmp_path: Path) -> None:
    tiny = {"channels": (8,), "blocks": 1}
    paths = [
        (Model.new(Images(size=8), **tiny), {"blocks": 10**4}),
        (Model.new(Images(size=8), **tiny), {"blocks": 10**7}),
        (Model.new(Images(size=8), **tiny), {"channels": [8] * 10**4}),
        (Model.new(Images(size=8), **tiny), {"channels": [10**4, 10**4], "attention": None}),
        (Model.new(Images(size=8), width=16, depth=1, heads=2), {"depth": 10**4}),
        (Model.new(Proteins(source=Ideal()), **FRAMES), {"depth": 10**4}),
        (Model.new(Proteins(source=Ideal()), **FRAMES), {"pair": 10**4}),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for made, size in paths:
        path = rewritten(made.save(tmp_path / "m.safetensors"), lambda c, size=size: c["network"].update(size))
        start = time.process_time()
        with pytest.raises(CheckpointError, match=r"parts|sizes|fit|multiple"):
            gendiff.load(path)
        assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_loading_looks_at_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("hush,hush\n1,2\n")
    sounds = {"kind": "Sounds", "path": "/", "manifest": str(secret), "columns": ["label"], "classes": None}
    model = Model.new(Audio(), channels=(8, 8))
    path = rewritten(model.save(tmp_path / "m.safetensors"), lambda c: c["domain"].update(source=sounds))
    looked: list[str] = []
    own: dict[str, Any] = dict(vars(Path))
    for name in ("rglob", "iterdir", "is_dir", "exists", "open", "read_text"):

        def watched(self: Path, *args: Any, name: str = name, **more: Any) -> Any:
            looked.extend([str(self)] if self in (Path("/"), secret) else [])
            return own[name](self, *args, **more)

        monkeypatch.setattr(Path, name, watched)
    with pytest.raises(CheckpointError, match="asks for the data in '/'") as caught:
        gendiff.load(path)
    assert not looked and "hush" not in str(caught.value)
    pictures = Model.new(Images(size=8, source=Folder("/", size=8)), channels=(8,), blocks=1)
    chains = Model.new(Proteins(source=Structures("/")), **FRAMES)
    for made in (pictures, chains):
        assert gendiff.load(made.save(tmp_path / "n.safetensors")).domain == made.domain
    assert not looked


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "parts", "steps", "a"]), inner, max_size=3)
        | st.fixed_dictionaries({"kind": st.sampled_from([*core_kinds(), "Globe", "Sounds", "Path", "Popen"])})
    ),
    max_leaves=6,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in items for place in places(item, (*at, key)))]


@settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)
@given(data=st.data())
def test_no_config_does_worse_than_a_clear_error(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"

    def change(config: dict[str, Any]) -> None:
        for place in data.draw(st.lists(st.sampled_from(places(config)[1:]), min_size=1, max_size=3)):
            inside: Any = config
            for key in place[:-1]:
                there = range(len(inside)) if isinstance(inside, list) else inside if isinstance(inside, dict) else ()
                if key not in there:  # an earlier change took it away
                    return
                inside = inside[key]
            if isinstance(inside, dict):
                inside[place[-1]] = data.draw(JUNK)

    rewritten(Model.new(Globe(), width=6).save(path), change)
    start = time.process_time()
    try:
        loaded = gendiff.load(path)
    except GendiffError as error:
        assert len(str(error)) < 2500
    else:
        assert isinstance(loaded.domain, Globe) and isinstance(loaded.denoiser.process, Process)
    assert time.process_time() - start < 5


# Sizes


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Images(size=(64, 0)), r"\(64, 0\)"),
        (lambda: Images(size=8).network(width=16, depth=0), r"depth=0"),
        (lambda: Images(size=8).network(width=16, heads=0), r"heads=0"),
        (lambda: Images(size=8).network(width=16, dropout=1.5), r"dropout=1\.5"),
        (lambda: Images(size=8).network(channels=(0,)), r"channels=\(0,\)"),
        (lambda: Images(size=8).network(channels=(8,), blocks=0), r"blocks=0"),
        (lambda: Images(size=8).network(channels=(8.5,)), r"channels=\(8\.5,\)"),  # type: ignore[arg-type]
        (lambda: Images(size=8).network(channels=(8,), patch=-1), r"patch=-1"),
        (lambda: Audio().network(channels=()), r"channels=\(\)"),
        (lambda: Proteins(source=Ideal()).network(depth=0), r"depth=0"),
        (lambda: Proteins(source=Ideal()).network(width="wide"), r"width='wide'"),  # type: ignore[arg-type]
        (lambda: LogMel(n_fft=2**30), "1 to 65536 points"),
    ],
    ids=range(12),
)
def test_sizes_that_make_no_network_are_refused_where_they_are_given(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(GendiffError, match=says):
        make()


def test_shipped_weights_carry_their_digests(root: Path) -> None:
    paths = sorted((root / "weights").glob("*.safetensors"))
    assert len(paths) >= 2
    for path in paths:
        with path.open("rb") as stream:
            file = ModelFile(stream, path)
            weights = {name: file.tensor(name) for name in file.shapes}
        assert set(file.metadata) == {"gendiff", *DIGESTS} and file.metadata["weights_sha256"] == digest(weights)


def test_a_model_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    model = Model.new(Images(size=8, channels=1), channels=(8,), blocks=1)
    with pytest.raises(CheckpointError, match=r"Model.save: .*size="):
        Model(model.domain, model.denoiser).save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())
    again = Model(model.domain, model.denoiser, size=model.size).save(tmp_path / "m.safetensors")
    assert gendiff.load(again).digest == model.digest
