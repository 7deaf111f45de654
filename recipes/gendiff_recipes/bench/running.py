"""Running a suite: which units there are, what each waits for, who does them, and what is kept.

    out/  suite.json                     what was declared last, and on what it ran
          models/DOMAIN/                 a run, where the suite trains the model; DOMAIN.json says of what declaration
          fitted/DOMAIN/METHOD/          tables
          real/DOMAIN/SEED/              real data in the samples' place
          cells/DOMAIN/METHOD/E-SEED/    a cell: result.json and a few samples

A unit's result holds the key of all that it depends on: what is declared of it, the models' weights and configs, the
text of the person's own parts. A unit with a result of its key is done; any other is done anew, as is one that failed.
A result is written whole, after its files: whatever stops the run, what is there counts and nothing half written does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendiff.config import read_json
from gendiff.errors import GendiffError, RequestError
from gendiff.executors import results
from gendiff.modelfile import model_path, write_whole
from gendiff_recipes.folder import Lock

from .cells import Job, do, file_digest, machine, part_paths, recipe_of
from .parts import digests, split, use_parts
from .suite import Suite, slug

FORM = 1
"""Of results; another number makes all anew."""
RESULT = "result.json"
OF_DOMAIN = ("n", "batch", "ask", "guidance", "measures", "judges", "reference", "split", "floor", "shown")
OF_METHOD = ("sampler", "guidance", "solver", "pilots", "rounds", "fine")


@dataclass
class Outcome:
    """What a run of a suite has found.

    Attributes:
        suite: What was declared.
        out: The folder.
        cells: A result for each cell, as it stands in its file; one with "error" failed.
        real: The same of real data, a result for each domain and seed.
        fitted: Of tables, a result for each domain and method that has any.
        done: Units that were done now.
        kept: Units that were done before.
    """

    suite: Suite
    out: Path
    cells: list[dict[str, Any]] = field(default_factory=list)
    real: list[dict[str, Any]] = field(default_factory=list)
    fitted: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    kept: int = 0

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The results that are none."""
        return [one for one in (*self.fitted, *self.real, *self.cells) if "error" in one]


def units(suite: Suite, out: Path, device: str) -> list[Job]:
    """Every unit, those that others wait for first."""
    own = [
        Job("train", suite, one.name, out=str((out / "models").resolve() / Path(slug(one.name))), device=device)
        for one in suite.domains if one.trained
    ]  # fmt: skip
    pairs = [(domain.name, method) for domain in suite.domains for method in suite.methods]
    own += [Job("fit", suite, d, m.name, device=device) for d, m in pairs if m.calibrates]
    own += [Job("real", suite, d.name, seed=seed, device=device) for d in suite.domains for seed in suite.seeds]
    cells = [
        Job("cell", suite, d, m.name, count, seed, device=device)
        for d, m in pairs for count in (m.evaluations or suite.evaluations) for seed in suite.seeds
    ]  # fmt: skip
    # The longest first, so that no worker is left with one at the end.
    return own + sorted(cells, key=lambda job: -job.evaluations * job.entry.n)


class Board:
    """The units of a suite in a folder, with their results.

    Args:
        suite: What is declared.
        out: The folder.
        device: Where samples are drawn.
    """

    def __init__(self, suite: Suite, out: Path, device: str) -> None:
        self.suite, self.out = suite, out
        self.jobs = {job.place: job for job in units(suite, out, device)}
        self.parts = digests(part_paths(suite))
        self.found: dict[str, dict[str, Any]] = {}
        self.files: dict[str, tuple[tuple[int, int], str]] = {}

    def digest(self, path: Path) -> str:
        """The digest of a model's file, read again when it has changed."""
        stat = path.stat()
        stamp = stat.st_mtime_ns, stat.st_size
        if self.files.get(str(path), ((0, 0), ""))[0] != stamp:
            self.files[str(path)] = stamp, file_digest(path)
        return self.files[str(path)][1]

    def needs(self, job: Job) -> list[str]:
        """The places of the units that one waits for."""
        entry, wanted = job.entry, []
        if job.kind != "train" and entry.trained:
            wanted.append(Job("train", self.suite, entry.name).place)
        if job.kind == "cell" and job.way.calibrates:
            wanted.append(Job("fit", self.suite, job.domain, job.method).place)
        return wanted

    def model(self, job: Job) -> Path:
        """The file of the model that draws in a unit."""
        if job.method and job.domain in job.way.models:
            return model_path(self.suite.path(job.way.models[job.domain]))
        return self.measured(job)

    def measured(self, job: Job) -> Path:
        """The file of a domain's own model."""
        if job.entry.trained:
            return Path(self.found[Job("train", self.suite, job.domain).place]["model"])
        return model_path(self.suite.path(job.entry.model))

    def complete(self, job: Job) -> Job:
        """A unit with all that it needs, once what it waits for is done.

        Raises:
            RequestError: For a model that is not there.
        """
        if job.kind == "train":
            return job
        model, own = self.model(job), self.measured(job)
        for path in (model, own):
            if not path.is_file():
                raise RequestError(
                    f"{job.domain}: there is no model {path}", "a model.safetensors, or the folder of a run"
                )
        job = dataclasses.replace(job, model=str(model), digest=self.digest(model), measured=str(own))
        if job.kind == "cell" and job.way.calibrates:
            fit = self.found[Job("fit", self.suite, job.domain, job.method).place]
            job = dataclasses.replace(job, tables=fit["tables"])
        return job

    def key(self, job: Job) -> str:
        """A digest of all that a unit's result depends on."""
        entry, told = job.entry, {"form": FORM, "kind": job.kind, "parts": self.parts_of(job)}
        if job.kind == "train":
            told |= {"recipe": entry.recipe, "domain": entry.domain, "changes": entry.changes}
        else:
            told |= {name: getattr(entry, name) for name in OF_DOMAIN}
            told |= {"model": job.digest, "measured": self.digest(Path(job.measured)), "device": job.device}
        if job.method:
            told |= {f"method.{name}": getattr(job.way, name) for name in OF_METHOD}
        if job.kind == "fit":
            told |= {"evaluations": job.way.evaluations or self.suite.evaluations}
        if job.kind in ("real", "cell"):
            told |= {"cell": [job.evaluations, job.seed, job.seed == self.suite.seeds[0]]}
        if job.tables is not None:
            told |= {"tables": job.tables}
        text = json.dumps(told, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def parts_of(self, job: Job) -> list[str]:
        """The digests of the person's own files that a unit may depend on: those with a solver, where it is named."""
        from gendiff.sampling import Loop
        from gendiff.sampling.solvers import Solver

        said = f"{job.way.sampler} {job.way.solver} {job.way.guidance}" if job.method else ""
        found = []
        for text in part_paths(self.suite):
            file, own = split(text)[0], use_parts([text])
            general = any(not issubclass(kind, Solver | Loop) for kind in own.values())
            if general or any(name in said for name in own):
                found.append(self.parts.get(file, ""))
        return sorted(found)

    def read(self, job: Job, key: str) -> dict[str, Any] | None:
        """A unit's result, if there is one of its key that is whole."""
        folder = self.out / job.place
        path = self.out / f"{job.place}.json" if job.kind == "train" else folder / RESULT
        try:
            found = read_json(path)
        except (GendiffError, OSError):
            return None
        if found.get("key") != key or "error" in found:
            return None
        if job.kind == "train":
            return found if found.get("model") and Path(found["model"]).is_file() else None
        return found if all((folder / name).is_file() for name in found.get("files", [])) else None

    def write(self, job: Job, key: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keeps a unit's result: its files, and at last what says that they are there."""
        files = dict(result.get("files", {}))
        said = {
            "key": key, "kind": job.kind, "domain": job.domain, "method": job.method, "evaluations": job.evaluations,
            "seed": job.seed, **result, "files": sorted(files),
        }  # fmt: skip
        text = f"{json.dumps(said, indent=1, ensure_ascii=False)}\n".encode()
        folder = self.out / job.place
        if job.kind == "train":
            write_whole(self.out / f"{job.place}.json", text)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            for name, content in files.items():
                write_whole(folder / name, content)
            write_whole(folder / RESULT, text)
        self.found[job.place] = said
        return said

    def make_room(self, job: Job, key: str) -> None:
        """Leaves of an earlier training only what is of the same declaration, to go on from."""
        path = self.out / f"{job.place}.json"
        try:
            before = read_json(path).get("key")
        except (GendiffError, OSError):
            before = None
        if before != key:
            shutil.rmtree(self.out / job.place, ignore_errors=True)
        write_whole(path, f"{json.dumps({'key': key})}\n".encode())


def with_content(job: Job, result: Mapping[str, Any]) -> Job | None:
    """The same unit with the bytes of its models, for a worker that lacks their files."""
    if not result.get("absent"):
        return None
    paths = {path: Path(path).read_bytes() for path in (job.model, job.measured) if Path(path).is_file()}
    return dataclasses.replace(job, content=paths)


def make_folder(out: Path) -> None:
    """Makes the folder of a benchmark, and refuses one that holds anything else.

    Raises:
        RequestError: For such a folder.
    """
    others = [one for one in out.iterdir() if one.name != ".lock"] if out.is_dir() else []
    if (out.exists() and not out.is_dir()) or (others and not (out / "suite.json").exists()):
        raise RequestError(f"{out} holds other things", "a new folder, or that of a benchmark", "--out bench")
    out.mkdir(parents=True, exist_ok=True)


def begin(suite: Suite, out: Path) -> None:
    """Says in the folder of a benchmark what is declared."""
    text = json.dumps({"suite": dataclasses.asdict(suite), "machine": machine()}, indent=1, ensure_ascii=False)
    write_whole(out / "suite.json", f"{text}\n".encode())


def check_suite(suite: Suite) -> None:
    """Refuses what could not be run, before anything is: parts, samplers, recipes, models.

    Raises:
        GendiffError: For the first of them.
    """
    from gendiff.cli.commands import guidance_of
    from gendiff.cli.expressions import known_kinds, parse_kind
    from gendiff.sampling import Loop
    from gendiff.sampling.solvers import Adams, Solver

    from .suite import CALIBRATED, OWN

    use_parts(part_paths(suite))
    for method in suite.methods:
        if method.sampler not in (OWN, CALIBRATED):
            parse_kind(method.sampler, known_kinds(), (Solver, Loop), f"sampler of {method.name}", like=Adams())
        if method.solver:
            parse_kind(method.solver, known_kinds(), (Solver,), f"solver of {method.name}")
    for one in (*suite.methods, *suite.domains):
        if isinstance(one.guidance, str):
            guidance_of(one.guidance)
    paths = [(one.name, one.model) for one in suite.domains if one.model]
    paths += [(name, path) for method in suite.methods for name, path in method.models.items()]
    for name, path in paths:
        if not model_path(suite.path(path)).is_file():
            raise RequestError(f"{name}: there is no model {path}", "a model.safetensors, or the folder of a run")
    for entry in suite.domains:
        if entry.trained:
            recipe_of(entry, suite)


def run_suite(
    suite: Suite,
    out: str | Path,
    *,
    executor: Executor | None = None,
    device: str = "cpu",
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Does every unit of a suite that is not done yet.

    Args:
        suite: What is declared.
        out: The benchmark's folder; what is done there is kept.
        executor: Who works: local processes, or the workers of a cluster, which find the data and the files of parts in
            the same places. Models are trained here, or by local processes. The measures are the same.
        device: Where samples are drawn.
        progress: Called with the share done, and what was done last.

    Returns:
        All results. A unit that fails is a result with "error".

    Raises:
        GendiffError: For a suite that cannot be run.
        RunError: Where another process works in the folder.
        WorkerError: For a unit that is lost again and again.
    """
    out = Path(out)
    check_suite(suite)
    make_folder(out)
    with Lock(out / ".lock"):
        begin(suite, out)
        return done(Board(suite, out, device), executor, progress)


def done(board: Board, executor: Executor | None, progress: Callable[[float, str], None] | None) -> Outcome:
    """Does every unit of a board that is not done yet, in a folder that nobody else works in."""
    outcome, waiting, total = Outcome(board.suite, board.out), dict(board.jobs), len(board.jobs)
    while waiting:
        ready = [job for job in waiting.values() if all(name in board.found for name in board.needs(job))]
        todo: list[tuple[Job, str]] = []
        for job in ready:
            del waiting[job.place]
            failed = next((board.found[n]["error"] for n in board.needs(job) if "error" in board.found[n]), None)
            if failed is not None:
                board.write(job, "", {"error": f"what it waits for failed: {failed}"})
                continue
            job = board.complete(job)
            key = board.key(job)
            before = board.read(job, key)
            if before is not None:
                board.found[job.place], outcome.kept = before, outcome.kept + 1
            else:
                if job.kind == "train":
                    board.make_room(job, key)
                todo.append((job, key))
        for job, key, result in worked(todo, executor):
            board.write(job, key, result)
            outcome.done += 1
            if progress is not None:
                progress(len(board.found) / total, job.place)
    rows = [board.found[name] for name in board.jobs]
    outcome.cells, outcome.real, outcome.fitted = (
        [one for one in rows if one["kind"] == kind] for kind in ("cell", "real", "fit")
    )
    return outcome


def worked(todo: Sequence[tuple[Job, str]], executor: Executor | None) -> Iterator[tuple[Job, str, dict[str, Any]]]:
    """Units with their keys and results, as they are done; where workers share no disk, trainings are done here."""
    keys = {job.place: key for job, key in todo}
    here = [job for job, _ in todo if job.kind == "train" and not isinstance(executor, ProcessPoolExecutor)]
    there = [job for job, _ in todo if job not in here]
    for jobs, who in ((here, None), (there, executor)):
        for job, result in results(do, jobs, who, again=with_content):
            yield job, keys[job.place], result
