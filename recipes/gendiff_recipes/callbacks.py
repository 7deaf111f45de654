"""What happens after every optimiser step, in this order.

`Clock` counts the step and its time, and stops a run whose loss is not finite; `EMAWeights` averages; `LearnTimes`
tells `ImportanceTimes` the losses; `SampleLogger` and `MetricLogger` look at samples; `Report` hands the row to the
loggers; `Keeper` writes the checkpoint, which therefore holds all that the step has changed, and ends the run.
"""

from __future__ import annotations

import contextlib
import mimetypes
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from gendiff.errors import RequestError
from gendiff.evaluation import Scores, measure_of, score
from gendiff.latents import Codec
from gendiff.model import Model
from gendiff.progress import progress_bar
from gendiff.samples import write_samples
from gendiff.training import EMA, ImportanceTimes

from .folder import Folder, RunError, Table, written
from .module import Coding, Denoising, Learning
from .sharding import fill, full, shared_like

EVERY = 10
"""Steps between two rows for the loggers."""
SMALLER = (
    "The checkpoints are of steps before it. Begin anew with a smaller optimizer.lr or optimizer.clip, or in float32 "
    "(trainer.precision=float32)"
)


class AfterStep(L.Callback):
    """Acts after every optimiser step, which may take several batches (`trainer.accumulate`)."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % pl_module.recipe.trainer.accumulate == 0:
            self.after(trainer, pl_module)

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        """What is done after a step."""
        raise NotImplementedError


class Signals:
    """Ctrl-C, SIGTERM and a lost terminal ask the run to stop after this step; a second Ctrl-C stops it at once."""

    NAMES = ("SIGINT", "SIGTERM", "SIGHUP")

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.install()
        return self

    def install(self) -> None:
        """Takes over the signals, except those that are ignored (nohup). Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in self.NAMES:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self.before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self.got)

    def got(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        os.write(2, b"\nStopping after this step, with a checkpoint.\n")

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self.before = {}


class Clock(AfterStep):
    """Counts steps and training time; decides, for all devices alike, on what each of them may find by itself.

    Devices agree at ticks: after every step on a processor, else about four times a second, because to agree they wait
    for one another. There they exchange the time of the first device, a signal that any has got, and the first step
    with a loss that is not finite.

    Args:
        signals: Asked at every tick.
        minutes: Between two checkpoints.
    """

    TICK = 0.25

    def __init__(self, signals: Signals, minutes: float) -> None:
        self.signals, self.minutes = signals, minutes
        self.signal: int | None = None
        self.due = False
        self.since = self.saved = 0.0
        self.waited, self.steps, self.tick = 0.0, 0, 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.signals.install()  # Lightning has put its own in their place
        pace = pl_module.pace
        pace.times = trainer.strategy.broadcast(pace.times)
        if not trainer.is_global_zero:
            pace.path = None
        self.saved = time.monotonic()
        self.go_on()

    def go_on(self) -> None:
        """The time of the next step begins."""
        self.since = time.perf_counter()

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        self.waited += time.perf_counter() - self.since
        self.steps += 1
        module.step += 1
        step, pace, self.due = module.step, module.pace, False
        if step < self.tick:
            if not pace.known(step):
                pace.add(pace.spent(step - 1))
            return
        alone = trainer.world_size == 1 and module.device.type == "cpu"
        usual = self.waited / self.steps
        following = 1 if alone else min(max(int(self.TICK / max(usual, 1e-6)), 1), 50)
        spent = pace.spent(step - 1) + self.steps * pace.counted(usual)
        bad = [at for at, loss in module.recent if not bool(torch.isfinite(loss))]
        due = time.monotonic() - self.saved >= 60 * self.minutes
        own = torch.tensor([spent, following, due, self.signals.number or 0, min(bad, default=0)], dtype=torch.float64)
        if trainer.world_size > 1:
            own = torch.as_tensor(module.all_gather(own.to(module.device))).reshape(-1, 5).cpu()
            own = torch.cat([own[0, :3], own[:, 3:].max(0).values])
        spent, following, due, number, first = own.tolist()
        if not pace.known(step):
            pace.add(spent)
        self.tick, self.due, self.signal = step + int(following), bool(due), int(number) or None
        self.waited, self.steps, module.recent = 0.0, 0, []
        if first:
            raise RunError(f"The loss of step {int(first)} is not finite", "finite losses", SMALLER)


class EMAWeights(AfterStep):
    """Keeps the EMA of the network and never touches the weights mid-step.

    Args:
        decay: The EMA's decay.
        state: Of an EMA to go on with.
    """

    def __init__(self, decay: float, state: Mapping[str, Any] | None = None) -> None:
        self.decay, self.state = decay, state
        self.ema: EMA | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.ema = EMA(pl_module.network, self.decay)
        if self.state is not None:
            state, own = dict(self.state), self.ema.average
            if pl_module.put_by:
                average = state["average"].items()
                state["average"] = {name: shared_like(own[name], v) if name in own else v for name, v in average}
            self.ema.load_state_dict(state)
            self.state = None

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        assert self.ema is not None
        self.ema.update(module.network)

    def whole(self) -> dict[str, Any]:
        """The state of the average, whole; all devices call it."""
        assert self.ema is not None
        return full(self.ema.state_dict())

    @contextmanager
    def applied(self, module: Learning) -> Iterator[None]:
        """The averaged weights, for the length of a block; all devices call it.

        Of weights that are shared out, the whole network holds them, on the first device alone.
        """
        assert self.ema is not None
        if not module.put_by:
            with self.ema.applied(module.network):
                yield
            return
        state, own, (network,) = self.whole(), module.network, module.put_by
        if module.global_rank == 0:
            fill(network, {**state["average"], **state["buffers"]})
            network.to(module.device).train(own.training)
            module.replace_network(network)
        try:
            yield
        finally:
            module.replace_network(own)
            network.to("cpu")


class LearnTimes(AfterStep):
    """Tells `ImportanceTimes` the losses of all devices, so that all go on from the same histogram."""

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        times = module.recipe.times
        if not isinstance(module, Denoising) or module.learned is None or not isinstance(times, ImportanceTimes):
            return
        if module.step % times.every == 0:
            t, losses = module.told()
            module.learned.update(t, losses, module.denoiser.process)
            module.seen = []


class SampleLogger(AfterStep):
    """Draws samples with the averaged weights: files in a folder, pictures and sound to the logger.

    Args:
        model: The model in training.
        averaging: Whose weights to draw with.
        folder: Where `step_000500/` goes.
        every: Steps between.
        n: How many.
        what: What to ask the domain for; the same every time, with the same seed, so that progress shows.
    """

    def __init__(
        self, model: Model, averaging: EMAWeights, folder: Path, *, every: int, n: int, what: dict[str, Any]
    ) -> None:
        self.model, self.averaging, self.folder = model, averaging, folder
        self.every, self.n, self.what = every, n, what

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        step = module.step
        if not self.every or step % self.every:
            return
        folder = self.folder / f"step_{step:06d}"
        manifest = {"step": step, "seed": 0, "guidance": self.model.guidance, "request": self.what}
        with self.averaging.applied(module):
            if not trainer.is_global_zero:
                return
            artifacts = self.model.sample(self.n, seed=0, **self.what)
            with written(folder, "room for samples; the checkpoints are whole"):
                write_samples(self.model, artifacts, folder, manifest, overwrite=True)
        for path in sorted(folder.iterdir()):
            show(trainer, path, step)


def show(trainer: L.Trainer, path: Path, step: int) -> None:
    """Hands a picture or sound to the TensorBoard logger, by the file's type."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        if kind == "image/png" and (path.name == "all.png" or path.stem.startswith("step_")):
            from matplotlib import image

            pixels = np.asarray(image.imread(path))
            logger.experiment.add_image(
                "samples", pixels if pixels.ndim == 3 else pixels[..., None], step, dataformats="HWC"
            )
        elif kind in ("audio/x-wav", "audio/wav"):
            import soundfile

            samples, rate = soundfile.read(path, dtype="float32")
            logger.experiment.add_audio(f"samples/{path.stem}", torch.from_numpy(samples)[None], step, sample_rate=rate)


class ReconstructionLogger(AfterStep):
    """Draws what a codec makes of some artifacts, with the averaged weights: each, and below it its reconstruction.

    Args:
        codec: In training.
        averaging: Whose weights to use.
        folder: Where `step_000500.png` goes.
        artifacts: To look at.
        every: Steps between.
    """

    def __init__(self, codec: Codec, averaging: EMAWeights, folder: Path, artifacts: list[Any], every: int) -> None:
        self.codec, self.averaging, self.folder = codec, averaging, folder
        self.artifacts, self.every = artifacts, every

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        step, domain = module.step, self.codec.domain
        if not self.every or step % self.every or not isinstance(module, Coding):
            return
        with self.averaging.applied(module), written(self.folder, "room for pictures; the checkpoints are whole"):
            if not trainer.is_global_zero:
                return
            made = [domain.decode(self.codec.restored(domain.encode(a), module.autoencoder)) for a in self.artifacts]
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"step_{step:06d}.png"
            with contextlib.suppress(RequestError):  # a domain that draws no pictures
                domain.plot([*self.artifacts, *made], path, labels=["real"] * len(made) + ["codec"] * len(made))
        if path.exists():
            show(trainer, path, step)


class MetricLogger(AfterStep):
    """Every metric of the domain, on samples drawn with the averaged weights, as `metrics/NAME` in the step's row.

    Args:
        model: The model in training.
        averaging: Whose weights to draw with.
        reference: Real artifacts to compare with.
        every: Steps between.
        n: How many samples.
        what: What to ask the domain for.
    """

    def __init__(
        self, model: Model, averaging: EMAWeights, reference: list[Any], *, every: int, n: int, what: dict[str, Any]
    ) -> None:
        self.model, self.averaging, self.reference = model, averaging, reference
        self.every, self.n, self.what = every, n, what

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        if not self.every or module.step % self.every:
            return
        with self.averaging.applied(module):
            if not trainer.is_global_zero:
                return
            artifacts = self.model.sample(self.n, seed=1, **self.what)
        measures = [measure_of(name, f) for name, f in self.model.domain.metrics().items()]
        rows = score(measures, artifacts, self.reference, halves=0)
        module.row |= {f"metrics/{name}": value for name, value in Scores(tuple(rows)).values().items()}


class CSV(Logger):
    """metrics.csv as one of Lightning's loggers."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.table.add(step or 0, metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe is beside it."""


class Report(AfterStep):
    """Hands a row to the loggers: losses averaged over devices, the learning rate and the pace.

    Every `EVERY` steps, and whenever there are metrics. Milliseconds a step are of training alone.
    """

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        row, module.row = module.row, {}
        step, every = module.step, min(EVERY, module.recipe.trainer.steps)
        if step % every == 0:
            names = [name for name in row if name.startswith("train/")]
            values = torch.stack([torch.as_tensor(row[name]).float() for name in names])
            means = torch.as_tensor(trainer.strategy.reduce(values, reduce_op="mean")).tolist()
            row |= dict(zip(names, means, strict=True))
            row["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
            seconds = (module.pace.spent(step) - module.pace.spent(step - every)) / every
            if seconds > 0:
                row["train/ms_per_step"] = 1000 * seconds
                row["train/examples_per_second"] = module.recipe.trainer.batch / seconds
        else:
            row = {name: value for name, value in row.items() if name.startswith("metrics/")}
        if row and trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(row, step)


class ProgressBar(AfterStep):
    """A progress bar over the share of the run that is over, by steps or by time, with the loss.

    Args:
        title: Before the bar.
    """

    def __init__(self, title: str) -> None:
        self.bar = progress_bar(title)
        self._tick: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._tick = self.bar.__enter__()

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        if self._tick is not None and module.step % EVERY == 0:
            loss = float(module.row.get("train/loss", float("nan")))
            self._tick(module.progress(), f"step {module.step}, loss {loss:.3g}")

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self._tick is not None:
            self._tick(pl_module.progress())
            self.bar.__exit__(None, None, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._tick is not None:
            self.bar.__exit__(None, None, None)


class Keeper(AfterStep):
    """Writes checkpoints, of step 0 too, and ends the run: by its budget or by a signal.

    Args:
        folder: The run's.
        clock: Which has asked all devices.
        averaging: The EMA to save.
        table: The metrics, which must be on the disk before a checkpoint says that they are.
        facts: What else to write down: recipe, data.
        saved: The step of the newest checkpoint there is.
    """

    def __init__(
        self, folder: Folder, clock: Clock, averaging: EMAWeights, table: Table, facts: Mapping[str, Any],
        saved: int | None,
    ) -> None:  # fmt: skip
        self.folder, self.clock, self.averaging, self.table = folder, clock, averaging, table
        self.facts, self.saved = facts, saved

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.saved != pl_module.step:
            self.save(trainer, pl_module)

    def after(self, trainer: L.Trainer, module: Learning) -> None:
        options, step = module.recipe.trainer, module.step
        ended = module.progress() >= 1
        if ended or self.clock.signal or self.clock.due or (options.checkpoint and step % options.checkpoint == 0):
            self.save(trainer, module)
        if ended or self.clock.signal:
            trainer.should_stop = True
        self.clock.go_on()

    def save(self, trainer: L.Trainer, module: Learning) -> None:
        """Writes a checkpoint, on one device; all of them call this, and all stop if it fails.

        Raises:
            RunError: If a weight is not finite, or the file cannot be written.
        """
        told = None if module.learned is None else module.told()
        step = module.step
        network, average = full(module.network_state()), self.averaging.whole()
        optimizer = full(trainer.optimizers[0].state_dict()["state"])
        floats = [p for p in network.values() if p.numel() and p.is_floating_point()]
        norms = torch.stack([p.detach().abs().max().float() for p in floats])
        wrong: tuple[str, ...] = ()
        if not bool(torch.isfinite(norms).all()):
            wrong = f"After step {step} there are weights that are not finite", "finite weights", SMALLER
        if not wrong and trainer.is_global_zero:
            names = [name for name, _ in module.trained()]
            state = {
                **self.facts,
                "step": step,
                "spent": module.pace.spent(step),
                "network": network,
                "ema": average,
                "optimizer": {names[i]: moments for i, moments in optimizer.items()},
                "times": None if module.learned is None else {**module.learned.state_dict(), "told": told},
                "beside": module.beside(),
            }
            try:
                self.table.sync()
                module.pace.sync()
                self.folder.save(step, state)
            except RunError as error:
                wrong = error.got, error.expected, error.fix
        wrong = trainer.strategy.broadcast(wrong)
        if wrong:
            raise RunError(*wrong)
        self.saved, self.clock.saved = step, time.monotonic()
