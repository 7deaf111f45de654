"""`train(recipe, "runs/fashion")`: from a recipe to a folder with the averaged model, and back to a `Model`.

A run's folder is a transaction (see `folder`). Wherever a run is interrupted, resuming it goes on to the same bits: the
batch, its noise, its times and its dropout are functions of (seed, number of the batch), and everything that a step
changes is in the checkpoint. To the bit means: on as many devices and threads as before. A budget in minutes is kept by
times that are written down as steps are taken (`Pace`): steps taken again repeat them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import random
import secrets
import shlex
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.fx.experimental._config as symbolic
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import nn

import gendiff
from gendiff.adaptation import on_scale_of
from gendiff.config import classes_in, read_json
from gendiff.domain import Domain
from gendiff.errors import GendiffError, RecipeError
from gendiff.model import Model
from gendiff.nn import recomputed
from gendiff.training import load_trained

from .callbacks import CSV, Clock, EMAWeights, Keeper, ProgressBar, Report, Signals
from .data import Batches, Data, Encoded, same_data
from .evaluation import about_examples, about_warmup
from .folder import Folder, Pace, Table, rank
from .module import Denoising, Learning
from .prepared import Prepared, fitted
from .recipe import CodecRecipe, Recipe, Trainer, leaves
from .start import base_of, like_base
from .tasks import CodecTask, ModelTask, Task

# What may change when a run goes on: how long, on what, and how often it is looked at. Anything else is another run.
FREE = (
    "name", "sampler", "guidance", "trainer.steps", "trainer.minutes", "trainer.accelerator", "trainer.devices",
    "trainer.nodes", "trainer.compile", "trainer.workers", "trainer.accumulate", "trainer.strategy", "trainer.threads",
    "trainer.checkpoint_activations",
    "trainer.logger", "trainer.checkpoint", "trainer.checkpoint_minutes", "trainer.show", "trainer.samples",
    "trainer.measure", "trainer.measured", "trainer.prepared", "trainer.cache_gb",
)  # fmt: skip
ROUNDING = (
    "trainer.accelerator", "trainer.devices", "trainer.nodes", "trainer.compile", "trainer.accumulate",
    "trainer.strategy", "trainer.threads",
)  # fmt: skip


COMPILED = 16
"""Ragged batches of a compiled network are padded to a multiple of this: what patches and levels need is all there."""


class Interrupted(SystemExit):
    """A run that a signal has ended, after a checkpoint: a script that does not catch it ends with 128 + the signal.

    Attributes:
        step: Of the checkpoint.
        message: What happened and the line that resumes.
    """

    def __init__(self, code: int, step: int, message: str) -> None:
        super().__init__(code)
        self.step, self.message = step, message


def bf16_is_fast() -> bool:
    """Whether this machine computes in bfloat16 natively: a GPU that does, or a CPU with AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return (
        "avx512_bf16" in torch.backends.cpu.get_cpu_capability().lower() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def resolve(recipe: Recipe, before: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe with "auto" decided for this machine, or as it was decided `before`.

    Raises:
        RecipeError: For a batch that the devices and parts cannot share.
    """
    options = recipe.trainer
    if options.precision == "auto":
        decided = "bfloat16" if recipe.mixed and bf16_is_fast() else "float32"
        options = dataclasses.replace(options, precision=(before or {}).get("precision", decided))
    slots = options.world * options.accumulate
    if options.batch % slots:
        raise RecipeError(
            f"{recipe.name}: a batch of {options.batch} on {options.world} devices"
            + (f", in {options.accumulate} parts" if options.accumulate > 1 else ""),
            "a multiple of the devices" + (f" times the parts, {slots}" if options.accumulate > 1 else ""),
            f"trainer.batch={-(-options.batch // slots) * slots}",
        )
    return dataclasses.replace(recipe, trainer=options)


def is_leader(options: Trainer) -> bool:
    """Whether this process is the first of those that train together."""
    return options.world == 1 or rank() == 0


def usable_processors() -> int:
    """Processors that this process may use: its affinity, and the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = Path("/sys/fs/cgroup/cpu.max")
    if limit.exists():
        quota, _, period = limit.read_text().partition(" ")
        if quota.isdigit() and period.strip().isdigit():
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(count, 1)


@contextmanager
def machine(options: Trainer) -> Iterator[None]:
    """Threads, denormals and random generators as training wants them, and afterwards as they were."""
    threads = torch.get_num_threads()
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    tiny = torch.tensor(1e-308, dtype=torch.float64)
    flushed = bool(tiny / 16 == 0)
    torch.set_num_threads(options.threads or max(1, min(threads, usable_processors() // options.devices)))
    torch.set_flush_denormal(options.flush_denormals)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def agree(old: Mapping[str, Any], new: Mapping[str, Any], data: tuple[Any, Any], taken: int) -> list[str]:
    """Whether a run of the recipe `old` may go on as `new`.

    Args:
        old: The recipe of the run, JSON-able.
        new: The one to go on with.
        data: Fingerprints of the data, then and now; None then if no step was taken.
        taken: Steps taken.

    Returns:
        What has changed, a sentence each.

    Raises:
        RecipeError: If it would be another run, naming every field, its old and its new value.
    """
    a, b = leaves(old), leaves(new)
    absent = "nothing"
    changed = {k: (a.get(k, absent), b.get(k, absent)) for k in {**a, **b} if a.get(k, absent) != b.get(k, absent)}
    then, now = data
    same, exact = then is None or same_data(then, now), then is None or then["bits"] == now["bits"]
    free = {k: v for k, v in changed.items() if (k.startswith("domain.source") and same) or k.startswith(FREE)}
    other = [f"{k} ({a!r}, now {b!r})" for k, (a, b) in changed.items() if k not in free]
    if then is not None and not same:
        now_is = f"now {now['examples']}" if then["examples"] != now["examples"] else "now others"
        other.append(f"set of examples ({then['examples']}, {now_is})")
    if other:
        raise RecipeError(
            f"This run cannot go on with another {', another '.join(other)}",
            "the recipe that it began with, except for its budget, devices, workers, checkpoints and looks",
            "Resume it with its own recipe.json, or train in another folder",
        )
    if b["trainer.steps"] < taken:
        raise RecipeError(
            f"trainer.steps={b['trainer.steps']} is less than the {taken} steps that were taken", f"at least {taken}"
        )
    said = [f"{k} was {a!r} and is {b!r}." for k, (a, b) in free.items()]
    if any(k in free for k in ("trainer.steps", "trainer.minutes")):
        said.append("The learning rate is planned anew, over the whole of the new budget.")
    if any(k in free for k in ROUNDING):
        said.append("Sums are formed in another order: the run goes on to rounding, no longer to the bit.")
    if not exact:
        said.append("The data are the same to rounding, but not to the bit.")
    return said


def completed(old: Mapping[str, Any], recipe: Recipe) -> Mapping[str, Any]:
    """A run's recipe with the fields that it did not have yet when it was written, at their defaults.

    Args:
        old: As it stands in the run.
        recipe: The one to go on with, whose classes `old` may name.
    """
    try:
        return json.loads(json.dumps(Recipe.of(old, list(classes_in(recipe))).config()))
    except GendiffError:
        return old  # of other classes: `agree` says which


def loggers(names: tuple[str, ...], out: Path, name: str, table: Table, step: int) -> list[Logger]:
    """The loggers by name. On resume each goes on where the checkpoint stands."""
    made: list[Logger] = []
    for kind in names:
        if kind == "csv":
            made.append(CSV(table))
        elif kind == "tensorboard":
            made.append(TensorBoardLogger(out, name="", version="tensorboard", purge_step=step + 1 if step else None))
        else:
            made.append(wandb_logger(out, name))
    return made


def check_wandb() -> None:
    """Refuses the logger wandb where its package is not installed."""
    try:
        import wandb  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise RecipeError(
            "trainer.logger names wandb, and the package wandb is not installed",
            "csv or tensorboard",
            "pip install wandb",
        ) from error


def wandb_logger(out: Path, name: str) -> Logger:
    """Weights & Biases; a resumed run goes on in the same run of theirs."""
    from lightning.pytorch.loggers import WandbLogger

    kept = out / "wandb" / "run_id.txt"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(secrets.token_hex(6), encoding="utf8")
    return WandbLogger(project=name.partition(".")[0], name=out.name, id=kept.read_text(), save_dir=out, resume="allow")


def say(leader: bool, *sentences: str) -> None:
    """Tells the user, on the terminal."""
    if leader:
        for sentence in sentences:
            print(sentence, file=sys.stderr, flush=True)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    start: Model | str | Path | None = None,
    quiet: bool = False,
) -> Any:
    """Trains a recipe.

    Args:
        recipe: What to train.
        out: The run's folder: model.safetensors, recipe.json, metrics.csv, samples/ and checkpoints/.
        data: The data folder, instead of GENDIFF_DATA.
        resume: Go on from the newest complete checkpoint in `out`, exactly as if never interrupted. Of the recipe only
            the budget, devices, workers, checkpoints and looks may have changed; all of that is said. A larger budget
            plans the learning rate anew. A run whose budget is used up is given back as it is.
        overwrite: Delete the run that is in `out` and begin anew.
        start: A model, or its file, whose weights to begin from; see `begin_from`. A recipe with an adapter needs it,
            and a run that is resumed finds it by itself, where it was.
        quiet: No progress bar.

    Returns:
        The model with averaged weights, or the `Codec` of a `CodecRecipe`, also saved as `out`/model.safetensors, or
        `out`/adapter.safetensors.

    Raises:
        RunError: If `out` holds a run and neither `resume` nor `overwrite` is given, if another process trains there,
            if there is nothing to resume, if the disk is full, or for a loss that is not finite. Checkpoints written
            before stand.
        RecipeError: If a resumed run would become another one.
        Interrupted: After Ctrl-C or SIGTERM, with a checkpoint of the last step.
    """
    if resume and (overwrite or (start is not None and not recipe.based)):
        raise RecipeError(
            f"train(resume=True) got {'overwrite=True' if overwrite else 'start='}",
            "one of them",
            "Leave the other out",
        )
    if start is not None and not isinstance(start, Model):
        start = gendiff.load(start)
    if "wandb" in recipe.trainer.logger:
        check_wandb()
    out, data = Path(out), None if data is None else Path(data)
    leader = is_leader(recipe.trainer)
    with Folder(out, leader=leader) as folder:
        said = folder.begin(resume=resume, overwrite=overwrite)
        before = folder.config() if resume else None
        recipe = resolve(recipe, None if before is None else before.get("trainer"))
        with machine(recipe.trainer):
            return run(recipe, folder, data, before, start, said, quiet)


def run(
    recipe: Recipe,
    folder: Folder,
    data: Path | None,
    before: Mapping[str, Any] | None,
    start: Model | None,
    said: list[str],
    quiet: bool,
) -> Any:
    """`train` with the folder at hand: its recipe `before`, and what is to be said already."""
    options, out, state, leader = recipe.trainer, folder.path, folder.state, folder.leader
    if recipe.based:
        start = base_of(recipe, out, start, before is not None)
    if recipe.adapter is not None:
        assert start is not None
        recipe, changed = like_base(recipe, start)
        said = [*changed, *said]
    recipe, encoded, told = training_data(recipe, data, None if not recipe.based or start is None else start.domain)
    config, taken = recipe.config(), 0
    said = [*told, *about_warmup(recipe), *said]
    if before is not None:
        taken = state["step"] if state is not None else 0
        before = completed(before, recipe)
        said += agree(before, json.loads(json.dumps(config)), (state and state["data"], encoded.fingerprint), taken)
        said.append(f"Resuming {out} from step {taken}.")

    torch.manual_seed(options.seed)
    task: Task = CodecTask(recipe, data) if isinstance(recipe, CodecRecipe) else ModelTask(recipe, start)
    said += task.check(out)
    begun = None
    if start is not None:
        begun = task.begin_from(start)
        said.append(begun["said"])
    elif state is None:
        task.begin(encoded)
    module = task.module
    if state is not None:
        restore(module, state)

    folder.clear(None if before is None else taken)
    say(leader, *said)
    if leader:
        folder.write("recipe.json", config)
        if begun is not None and start is not None:
            folder.write("start.json", {**begun, "path": task.origin(start, out)})
    module.pace = Pace(out / "pace.f64" if leader else None, taken, state["spent"] if state is not None else 0.0)
    ended = state is not None and module.progress() >= 1
    if not ended:
        with Signals() as signals:
            fit(task, folder, encoded, data, signals, quiet)
        state = newest_state(folder)
        finished(recipe, out, state, signals, leader, data)
    else:
        say(leader, f"The budget of {out} is used up; a larger trainer.steps or trainer.minutes would go on.")
    assert state is not None
    take_average(module, state)
    path = out / recipe.file
    if leader and written_steps(out) != state["step"]:
        told = task.finish(encoded, data)
        task.save(path)
        say(leader, *told)
        folder.write(
            "training.json",
            {
                "steps": state["step"], "seconds": state["spent"], "precision": options.precision,
                "examples": len(encoded),
            },
        )  # fmt: skip
    return task.result(path)


@contextmanager
def compiled(network: nn.Module, data: Data) -> Iterator[None]:
    """A network that is compiled when it is first called; for batches of several shapes with sizes as variables from
    the start, of which none is taken for another that happens to be as large: one graph, or two, and not one more for
    every shape.
    """
    lengths = {-(-length // COMPILED) for length in data.lengths or ()}
    several = len(lengths) > 1 or data.groups is not None
    with symbolic.patch(use_duck_shape=False) if several else nullcontext():  # type: ignore[attr-defined]
        network.compile(dynamic=True if several else None)
        yield


def take_average(module: Learning, state: Mapping[str, Any]) -> None:
    """Puts the averaged weights of a checkpoint into the network of a module, on the host."""
    network = module.to("cpu").network
    put_back(network, module.recipe, state["network"])
    averaged = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in state["ema"]["average"].items():
            averaged[name].copy_(value)
    network.eval()


def put_back(network: torch.nn.Module, recipe: Recipe, weights: Mapping[str, Any]) -> None:
    """Puts the weights of a checkpoint into a network: all, or those that an adapter trains."""
    if recipe.adapter is None:
        network.load_state_dict(weights)
    else:
        load_trained(network, weights)


def training_data(recipe: Recipe, data: Path | None, base: Domain | None) -> tuple[Recipe, Data, list[str]]:
    """The recipe with its domain fitted, its training examples as states, and what is to be said of them.

    States are on the scale of those of a base, where a model is adapted.

    Raises:
        RecipeError: For a store on another scale.
    """
    if recipe.trainer.prepared:
        store = Prepared(recipe.trainer.prepared, 1e9 * recipe.trainer.cache_gb)
        before, recipe = recipe, dataclasses.replace(recipe, domain=store.domain(recipe))
        if base is not None and on_scale_of(recipe.domain, before.domain, base) != recipe.domain:
            raise RecipeError(
                f"{recipe.trainer.prepared} holds states of another scale than those of the model that is adapted",
                "examples that are encoded for it", "Leave --prepared out",
            )  # fmt: skip
        encoded, rejected, report = store, store.rejected, store.report
        told = [*store.about, *store.changed(before, data)]
    else:
        recipe, examples = fitted(recipe, data, base)
        encoded, rejected, report = Encoded(recipe.domain, examples), examples.rejected, examples.report()
        told = [*about_examples(recipe, examples), *encoded.about]
    if rejected:
        warnings.warn(f"{recipe.name}: {report}", stacklevel=4)
    return recipe, encoded, told


def written_steps(out: Path) -> int | None:
    """The steps of the model that is in a run's folder; None if there is none, or what says so is damaged."""
    path = out / "training.json"
    try:
        there = any((out / name).exists() for name in ("model.safetensors", "adapter.safetensors"))
        return read_json(path).get("steps") if path.exists() and there else None
    except RecipeError:
        return None


def newest_state(folder: Folder) -> dict[str, Any]:
    """What the newest checkpoint of a run holds."""
    folder.begin(resume=True, overwrite=False)
    assert folder.state is not None
    return folder.state


def restore(module: Learning, state: Mapping[str, Any]) -> None:
    """Puts what a checkpoint holds into the module; EMA and optimisers wait for their device."""
    module.step = state["step"]
    put_back(module.network, module.recipe, state["network"])
    module.resumed = state["optimizer"]
    if state.get("beside") is not None:
        module.take_beside(state["beside"])
    if isinstance(module, Denoising) and module.learned is not None:
        module.learned.load_state_dict(state["times"])
        module.told_before = state["times"]["told"]


def fit(task: Task, folder: Folder, encoded: Data, data: Path | None, signals: Signals, quiet: bool) -> None:
    """Takes the steps that are left."""
    module = task.module
    recipe, domain, state = module.recipe, module.domain, folder.state
    options, out = recipe.trainer, folder.path
    averaging = EMAWeights(recipe.ema, None if state is None else state["ema"])
    clock = Clock(signals, options.checkpoint_minutes)
    table = Table(out / "metrics.csv", module.step if folder.leader else None)
    facts = {"recipe": recipe.config(), "data": encoded.fingerprint, "version": gendiff.__version__}
    batches = Batches(
        domain, encoded, batch=options.batch, start=module.step, stop=options.steps, seed=options.seed,
        parts=options.accumulate, workers=options.workers, multiple=COMPILED if options.compile else 1,
    )  # fmt: skip
    with calm():
        trainer = L.Trainer(
            max_epochs=1,
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=strategy_of(options),
            precision="64-true" if options.precision == "float64" else "32-true",
            gradient_clip_val=recipe.optimizer.clip or None,
            accumulate_grad_batches=options.accumulate,
            logger=loggers(options.logger, out, recipe.name, table, module.step),
            callbacks=[
                clock,
                averaging,
                *task.looks(averaging, out, data),
                *([] if quiet else [ProgressBar(recipe.name)]),
                Report(),
                Keeper(folder, clock, averaging, table, facts, None if state is None else state["step"]),
            ],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=out,
        )
        try:
            with (
                compiled(module.network, encoded) if options.compile else nullcontext(),
                recomputed(module.network) if options.checkpoint_activations else nullcontext(),
            ):
                trainer.fit(module, batches)
            module.put_back_whole()
        except SystemExit as error:  # a second Ctrl-C, of which Lightning makes exit status 1
            if signals.number is None:
                raise
            raise Interrupted(128 + signals.number, newest_state(folder)["step"], "Stopped at once.") from error


def strategy_of(options: Trainer) -> str | Strategy:
    """Lightning's strategy of a trainer's options."""
    if options.strategy != "fsdp2":
        return "ddp" if options.world > 1 and options.strategy == "auto" else options.strategy
    return ModelParallelStrategy(options.world, 1) if options.world > 1 else "auto"


def finished(
    recipe: Recipe, out: Path, state: Mapping[str, Any], signals: Signals, leader: bool, data: Path | None
) -> None:
    """Raises Interrupted, having said how to go on, if a signal came before the budget was used up."""
    options, step = recipe.trainer, state["step"]
    over = step >= options.steps or (options.minutes is not None and state["spent"] >= 60 * options.minutes)
    if over:
        return
    number = signals.number or signal.SIGTERM
    words = ["gendiff", "train", str(out / "recipe.json"), "--out", str(out), *(["--data", str(data)] if data else [])]
    message = (
        f"Stopped by {signal.Signals(number).name} after step {step}, with a checkpoint. To go on:\n"
        f"  {shlex.join([*words, '--resume'])}"
    )
    say(leader, message)
    # A process that was launched by the first one must not end with an error: it would take the first one with it.
    raise Interrupted(128 + number if leader else 0, step, message)


class calm:
    """Silences Lightning's notes on what it found where; its errors and the library's own warnings pass."""

    def __init__(self) -> None:
        self.catch = warnings.catch_warnings()
        self.loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
        self.levels = [logger.level for logger in self.loggers]

    def __enter__(self) -> None:
        self.catch.__enter__()
        warnings.filterwarnings("ignore", module="lightning.*")
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        self.catch.__exit__(None, None, None)
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
