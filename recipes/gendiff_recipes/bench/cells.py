"""One unit of work of a benchmark: a model that is trained, tables that are fitted, real data measured, or a cell.

    cell(domain, method, evaluations, seed) -> measures, seconds, evaluations as they were counted, a few samples

Each is a function of what is declared and of the model's bytes: whoever does it, on one thread, finds the same measures
to the bit. What many share is made once in a process: a model, the real examples and what measures see in them.

Evaluations are counted where they happen, at the network: `calls` a sample's trajectory takes, and `passes`, in which
each branch of guidance counts by itself (a guided evaluation is one call of two passes).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import shlex
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import gendiff
from gendiff.cli.commands import guidance_of
from gendiff.cli.expressions import known_kinds, parse_kind
from gendiff.config import from_config, to_config
from gendiff.discovery import domain_class, registered
from gendiff.domain import Domain
from gendiff.drawing import so_many_threads
from gendiff.errors import DataError, GendiffError, UnknownName
from gendiff.evaluation import Judge, Measure, measure_of
from gendiff.evaluation.scores import Described
from gendiff.model import Model
from gendiff.modelfile import open_model
from gendiff.samples import captions, draw_together
from gendiff.sampling import Loop, replace_solver
from gendiff.sampling.solvers import Calibrated, Solver
from gendiff.spaces import tensors
from gendiff_recipes.evaluation import asked_for, asked_lengths, judges_of, obedience, subset
from gendiff_recipes.folder import RunError
from gendiff_recipes.recipe import Recipe
from gendiff_recipes.showing import KINDS

from .parts import split, use_parts
from .suite import OWN, Entry, Method, Suite, slug

KEPT = 4
"""Models, and sets of real examples, that a process keeps."""
POWER = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Job:
    """A unit of work, all of it plain data.

    Attributes:
        kind: "train", "fit", "real" or "cell".
        suite: All that is declared.
        domain, method, evaluations, seed: Which unit.
        model: The file of the model that draws.
        digest: Of that file.
        measured: The file of the domain's own model, by whose domain samples are measured.
        tables: What was fitted, as JSON-able config.
        out: Of "train": the run's folder.
        device: Where to draw.
        content: The bytes of the files, for a worker that lacks them.
    """

    kind: str
    suite: Suite
    domain: str
    method: str = ""
    evaluations: int = 0
    seed: int = 0
    model: str = ""
    digest: str = ""
    measured: str = ""
    tables: Mapping[str, Any] | None = None
    out: str = ""
    device: str = "cpu"
    content: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def entry(self) -> Entry:
        return self.suite.entry(self.domain)

    @property
    def way(self) -> Method:
        return self.suite.method(self.method)

    @property
    def place(self) -> str:
        """Where its result lies, below the folder of the benchmark."""
        domain, method = slug(self.domain), slug(self.method)
        places = {
            "train": f"models/{domain}", "fit": f"fitted/{domain}/{method}", "real": f"real/{domain}/{self.seed}",
            "cell": f"cells/{domain}/{method}/{self.evaluations}-{self.seed}",
        }  # fmt: skip
        return places[self.kind]


def file_digest(path: Path) -> str:
    """A digest of a model's file: of what it says its weights and its config are, which loading it holds it to; of its
    bytes, where it says nothing."""
    try:
        with open_model(path) as (file, _):
            own = [file.metadata[name] for name in ("weights_sha256", "config_sha256")]
    except (GendiffError, KeyError):
        own = [hashlib.sha256(path.read_bytes()).hexdigest()]
    return " ".join(own)


def part_paths(suite: Suite) -> list[str]:
    """The suite's parts with full paths."""
    return [f"{suite.path(path)}{':' if name else ''}{name}" for path, name in map(split, suite.parts)]


def do(job: Job) -> dict[str, Any]:
    """The result of a unit, JSON-able but for "files" (name -> bytes); {"error": ...} of one that fails, {"absent":
    True} where this process lacks the model's file.
    """
    try:
        with so_many_threads(1), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            use_parts(part_paths(job.suite))
            found = WORK[job.kind](job)
    except Absent:
        return {"absent": True}
    except Exception as error:  # noqa: BLE001 - it stands in the table, and the rest goes on
        text = "".join(traceback.format_exception(error))
        return {"error": f"{type(error).__name__}: {error}", "traceback": text[-4000:], "machine": machine()}
    notes = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
    return {**found, "machine": machine(), "warnings": list(dict.fromkeys([*found.get("warnings", []), *notes]))}


class Absent(Exception):
    """This process does not find a model's file."""


models: dict[str, Model] = {}
real: dict[str, Real] = {}


def kept(store: dict[str, Any], key: str, make: Callable[[], Any]) -> Any:
    """What a key names, made if this process does not have it; the one used last stands last, the oldest go."""
    store[key] = store.pop(key) if key in store else make()
    for old in list(store)[:-KEPT]:
        del store[old]
    return store[key]


def model_of(job: Job, path: str) -> Model:
    """The model of a file, loaded once in a process."""
    found = Path(path)
    stamp = "" if not found.exists() else f"{found.stat().st_mtime_ns} {found.stat().st_size}"
    digest = job.digest if path == job.model else ""

    def load() -> Model:
        if path in job.content:
            with tempfile.TemporaryDirectory() as folder:
                there = Path(folder) / found.name
                there.write_bytes(job.content[path])
                return gendiff.load(there, device=job.device)
        if not found.exists() or (digest and file_digest(found) != digest):
            raise Absent(path)
        return gendiff.load(found, device=job.device)

    return kept(models, f"{path} {stamp or digest} {job.device}", load)


# Training


def trained(job: Job) -> dict[str, Any]:
    """Trains the model of a domain in its folder, going on where it was."""
    from gendiff_recipes.training import train

    out, since = Path(job.out), time.perf_counter()
    recipe = recipe_of(job.entry, job.suite)
    if not any(text.partition("=")[0].strip() == "trainer.threads" for text in job.entry.changes):
        recipe = recipe.override("trainer.threads=1")
    try:
        train(recipe, out, resume=out.exists(), quiet=True)
    except RunError:
        train(recipe, out, overwrite=True, quiet=True)
    path = out / recipe.file
    facts = json.loads((out / "training.json").read_text(encoding="utf8"))
    return {"model": str(path), "seconds": time.perf_counter() - since, "training": facts}


def recipe_of(entry: Entry, suite: Suite) -> Recipe:
    """The recipe of a domain that is trained.

    Raises:
        RecipeError, UnknownName: For one that is not known, or changes that do not fit.
    """
    from gendiff_recipes.commands import recipe_of as recipe_named

    if entry.domain:
        domain = domain_of(entry.domain)
        return Recipe(f"{domain.name}.{entry.name}", domain).override(*entry.changes)
    words = shlex.split(entry.recipe)
    first = suite.path(words[0])
    word = (
        str(first) if words[0].endswith(".json") or (first.is_dir() and (first / "recipe.json").exists()) else words[0]
    )
    more = [str(suite.path(text)) if suite.path(text).exists() else text for text in words[1:]]
    return recipe_named(word, [*more, *entry.changes], {})


def domain_of(text: str) -> Domain:
    """A domain by the name of an installed one, or as it is written, "Torsions(length=8)"."""
    if text in registered("domains"):
        return domain_class(text)()
    kinds = {name: kind for name, kind in known_kinds().items() if issubclass(kind, Domain)}
    name = text.partition("(")[0].strip()
    if name not in kinds:
        raise UnknownName("domain", name, [*kinds, *registered("domains")], 'Name its file: parts = ["my.py:MyDomain"]')
    return parse_kind(text, known_kinds(), (Domain,), "domain")


# Samplers


def sampler_of(job: Job, model: Model) -> Solver | Loop:
    """The sampler of a cell, with as many steps as make its evaluations, or the most below."""
    text = job.way.sampler
    if text == OWN:
        sampler: Any = model.sampler
    elif job.way.calibrates:
        sampler = from_config(job.tables, where="tables")
    else:
        like = model.sampler.otherwise if isinstance(model.sampler, Calibrated) else model.sampler
        sampler = parse_kind(text, known_kinds(), (Solver, Loop), "sampler", like=like)
    process = model.denoiser.process
    if not isinstance(sampler, Solver) and not any(isinstance(own, Solver) for own in vars(sampler).values()):
        return sampler
    return replace_solver(sampler, lambda solver: with_evaluations(solver, process, job.evaluations))


def with_evaluations(solver: Any, process: Any, wanted: int) -> Any:
    """A solver with the most steps that take at most so many evaluations; with one step where even that takes more."""

    def count(steps: int) -> int:
        return dataclasses.replace(solver, steps=steps).evaluations(process)

    steps = min(max(wanted * wanted // max(count(wanted), 1), 1), wanted)
    while steps > 1 and count(steps) > wanted:
        steps -= 1
    while steps < wanted and count(steps + 1) <= wanted:
        steps += 1
    return dataclasses.replace(solver, steps=steps)


def fitted(job: Job) -> dict[str, Any]:
    """The tables that are fitted to a model for all evaluations of a method."""
    model, method = model_of(job, job.model), job.way
    solver = parse_kind(method.solver, known_kinds(), (Solver,), "solver") if method.solver else None
    own, clock = model.sampler, Clock()
    try:
        with clock:
            found = model.calibrate(
                method.evaluations or job.suite.evaluations, solver=solver, pilots=method.pilots, rounds=method.rounds,
                fine=method.fine, guidance=guidance_in(job), **job.entry.ask,
            )  # fmt: skip
    finally:
        model.sampler = own
    return {"tables": to_config(found), "notes": list(found.notes), **clock.found}


def guidance_in(job: Job) -> Any:
    """The guidance of a unit; None for the model's own."""
    said = job.entry.guidance if not job.method or job.way.guidance is None else job.way.guidance
    return said if said is None or isinstance(said, int | float) else guidance_of(said)


# Counting


class Count:
    """How often a network is called, and with how many samples, for a while."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.calls, self.rows = network, 0, 0

    def __enter__(self) -> Count:
        self.handle = self.network.register_forward_pre_hook(self._see)
        return self

    def _see(self, module: Any, given: tuple[Any, ...]) -> None:
        self.calls += 1
        self.rows += tensors(given[0])[0].shape[0]

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


class Clock:
    """Wall and processor seconds of a piece of work, and joules where the processor counts them (of all its cores,
    whoever uses them)."""

    def __enter__(self) -> Clock:
        self.power, self.wall, self.cpu = counters(), time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.found: dict[str, float] = {
            "seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu,
        }  # fmt: skip
        after = counters()
        if after and after.keys() == self.power.keys():
            spent = ((after[k][0] - before) % most for k, (before, most) in self.power.items())
            self.found["joules"] = sum(spent) / 1e6


def counters(root: Path | None = None) -> dict[str, tuple[int, int]]:
    """The microjoules that each processor package has used, and where its counter begins anew; none if unreadable."""
    found = {}
    for zone in sorted((root or POWER).glob("intel-rapl:*")):
        if zone.name.count(":") != 1:
            continue
        try:
            now, most = (int((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            continue
        found[zone.name] = now, most + 1
    return found


# Real data


@dataclass
class Real:
    """The real examples of a domain, and who measures.

    Attributes:
        domain: That of the model.
        measures: With who they are by; "" for the domain.
        judges: Beside it.
        names: Of the rows that are wanted; None for all.
        reference: What samples are compared with.
        training: What the model learned from, for measures against it.
        pool: The real examples that take the samples' place.
    """

    domain: Domain
    measures: list[tuple[Measure, str]]
    judges: list[Judge]
    names: tuple[str, ...] | None
    reference: Described
    training: Described | None
    pool: list[Any]


def real_of(job: Job) -> Real:
    """The real examples of a domain, read once in a process."""
    entry, path = job.entry, Path(job.measured)
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    key = json.dumps([job.measured, stamp, dataclasses.asdict(entry)], default=str)
    return kept(real, key, lambda: read_real(entry, model_of(job, job.measured)))


def read_real(entry: Entry, model: Model) -> Real:
    """The real examples of a domain that are like what is asked for, and the measures.

    Raises:
        DataError: Without two of each kind.
        UnknownName: For a measure or judge that the domain does not have.
    """
    domain = model.domain
    plan = model.plan(entry.n, **entry.ask)
    lengths = asked_lengths(domain, entry.n, domain.sized(entry.n, plan), entry.ask)
    sets = {name: domain.dataset(name) for name in ("train", "test")}
    judges = judges_of(domain, entry.judges, sets["train"], sets["test"])
    measures = [(measure_of(name, f), "") for name, f in domain.metrics().items()]
    measures += [(own, judge.name) for judge in judges for own in judge.measures]
    observers = [("", domain.observed()), *((judge.name, judge.observed) for judge in judges)]
    asked = [
        (own, by)
        for by, seen in observers
        for name in seen
        if name in domain.conditions
        for own in domain.conditions[name].agreement(name)
    ]
    known = [named(*one) for one in [*measures, *asked]]
    for name in entry.measures:
        if name not in known:
            raise UnknownName(f"measure of {entry.name}", name, known)
    if entry.measures:
        measures = [one for one in measures if named(*one) in entry.measures]
    else:
        measures = [one for one in measures if one[0].against != "training"]
    alike = {name: asked_for(domain, own, entry.ask, lengths) for name, own in sets.items()}
    count = entry.reference or entry.n
    chosen = subset(alike[entry.split], count, 0)
    pool = alike[entry.floor]
    if entry.floor == entry.split:
        taken = {id(one) for one in chosen}
        pool = [one for one in pool if id(one) not in taken]
    if len(chosen) < 2 or len(pool) < 2:
        raise DataError(
            f"{entry.name}: {len(chosen)} {entry.split} examples and {len(pool)} {entry.floor} ones beside them are "
            "like what is asked for", "at least two of each",
        )  # fmt: skip
    learned = any(own.against == "training" for own, _ in measures)
    training = Described([one.artifact for one in alike["train"]]) if learned else None
    reference = Described([one.artifact for one in chosen])
    return Real(domain, measures, judges, entry.measures or None, reference, training, pool)


def named(measure: Measure, by: str) -> str:
    """A measure's name in tables."""
    return f"{measure.name} ({by})" if by else measure.name


def measured(found: Real, samples: Sequence[Any], plan: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every measure of some samples, by name: value, unit, direction, and chance where shuffled requests have one."""
    rows: dict[str, dict[str, Any]] = {}
    own = Described(samples)
    for measure, by in found.measures:
        other = found.training if measure.against == "training" else found.reference
        assert other is not None
        row = rows[named(measure, by)] = {"unit": measure.unit, "better": measure.better, "about": measure.about}
        try:
            measure.enough(samples, other.artifacts)
        except DataError as error:
            row.update(value=None, note=f"{error.got}: {error.expected}")
            continue
        against = [] if measure.against == "nothing" else other.by(measure.features)
        row["value"] = number(measure.estimate(own.by(measure.features), against, 0).value)
    for told in obedience(found.domain, plan, samples, [], found.judges, halves=0):
        if found.names is None or told.name in found.names:
            measure = told.measure
            rows[told.name] = {
                "unit": measure.unit, "better": measure.better, "about": measure.about,
                "value": None if told.samples is None else number(told.samples.value),
                "chance": None if told.shuffled is None else number(told.shuffled.value),
            }  # fmt: skip
    return rows


def number(value: float) -> float | None:
    """A number as JSON has it: None for one that is not finite."""
    return float(value) if math.isfinite(value) else None


def floor(job: Job) -> dict[str, Any]:
    """The measures of real examples in the samples' place."""
    found, entry = real_of(job), job.entry
    chosen = subset(found.pool, entry.n, job.seed)
    plan = {name: [e.cond.get(name) for e in chosen] for name in found.domain.conditions}
    return {"n": len(chosen), "measures": measured(found, [e.artifact for e in chosen], plan)}


# A cell


def cell(job: Job) -> dict[str, Any]:
    """Draws the samples of a cell and measures them."""
    model, entry = model_of(job, job.model), job.entry
    found, sampler = real_of(job), sampler_of(job, model)
    plan, clock = model.plan(entry.n, **entry.ask), Clock()
    guidance = guidance_in(job)
    with Count(model.denoiser.network) as count, clock:
        samples = model.sample(entry.n, sampler=sampler, guidance=guidance, seed=job.seed, batch=entry.batch, plan=plan)
    batches = -(-entry.n // entry.batch)
    calls, passes = count.calls / batches, count.rows / entry.n
    few = samples[: entry.shown] if job.seed == job.suite.seeds[0] else []
    words = captions(model.domain, plan, entry.n)[: len(few)]
    return {
        "n": entry.n,
        "calls": calls,
        "passes": passes,
        "exact": calls == job.evaluations,
        "steps": steps_of(sampler),
        "sampler": brief(sampler),
        "guidance": repr(model.guidance if guidance is None else guidance),
        "measures": measured(found, samples, plan),
        **clock.found,
        "captions": words,
        "files": pictured(model.domain, few, words),
    }


def steps_of(sampler: Any) -> int | None:
    """The steps of a sampler, or of the solver in it."""
    inner = [own for own in vars(sampler).values() if isinstance(own, Solver)]
    return getattr(sampler, "steps", inner[0].steps if inner else None)


def brief(sampler: Any) -> str:
    """A sampler as text, without the numbers of its tables."""
    if isinstance(sampler, Calibrated):
        return f"Calibrated({sampler.steps}, {sampler.solver!r}, guidance={sampler.guidance})"
    return repr(sampler)


def pictured(domain: Domain, artifacts: Sequence[Any], words: Sequence[str]) -> dict[str, bytes]:
    """A few samples as files: each by itself, and for what a page cannot show so, the domain's picture of them all."""
    if not artifacts:
        return {}
    suffix = next((one for one in domain.suffixes if one in KINDS), domain.suffix)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for i, artifact in enumerate(artifacts):
            domain.write(artifact, home / f"{i:04d}{suffix}")
        if suffix not in KINDS and type(domain).plot is not Domain.plot:
            draw_together(domain, artifacts, home / "all.png", words)
        return {path.name: path.read_bytes() for path in sorted(home.iterdir())}


def machine() -> dict[str, Any]:
    """What the work was done on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gendiff": gendiff.__version__,
        "platform": platform.platform(),
        "processor": processor(),
    }


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


WORK: dict[str, Callable[[Job], dict[str, Any]]] = {"train": trained, "fit": fitted, "real": floor, "cell": cell}
