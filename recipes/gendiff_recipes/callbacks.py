"""Callbacks: averaged weights, samples to look at and listen to, throughput."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from gendiff.model import Model
from gendiff.progress import progress_bar
from gendiff.training import EMA

from .module import Denoising


class EMAWeights(L.Callback):
    """Keeps the EMA of the network, saves it with every checkpoint, and never touches the weights mid-step.

    Args:
        decay: The EMA's decay.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.ema: EMA | None = None
        self._loaded: dict[str, Any] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Denoising)
        self.ema = EMA(pl_module.denoiser.network, self.decay)
        if self._loaded is not None:
            self.ema.load_state_dict(self._loaded)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert self.ema is not None
        self.ema.update(pl_module.denoiser.network)

    @contextmanager
    def applied(self, module: Denoising) -> Iterator[None]:
        """The averaged weights, for the length of a block."""
        assert self.ema is not None
        with self.ema.applied(module.denoiser.network):
            yield

    def state_dict(self) -> dict[str, Any]:
        return {} if self.ema is None else self.ema.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.ema is not None and state_dict:
            self.ema.load_state_dict(state_dict)
        self._loaded = state_dict or None


class SampleLogger(L.Callback):
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
        self.model, self.averaging, self.folder, self.every, self.n, self.what = (
            model,
            averaging,
            folder,
            every,
            n,
            what,
        )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if not self.every or step % self.every or not trainer.is_global_zero:
            return
        with self.averaging.applied(pl_module):
            artifacts = self.model.sample(self.n, seed=0, **self.what)
        folder = self.folder / f"step_{step:06d}"
        save_artifacts(self.model, artifacts, folder)
        for path in sorted(folder.iterdir()):
            show(trainer, path, step)


def save_artifacts(model: Model, artifacts: list[Any], folder: Path) -> None:
    """Every artifact in its own file, and one picture of them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, artifact in enumerate(artifacts):
        model.domain.write(artifact, folder / f"{i:03d}{model.domain.suffix}")
    model.domain.plot(artifacts, folder / "all.png")


def show(trainer: L.Trainer, path: Path, step: int) -> None:
    """Hands a picture or sound to the TensorBoard logger, by the file's type."""
    from lightning.pytorch.loggers import TensorBoardLogger

    kind = mimetypes.guess_type(path.name)[0] or ""
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        if kind == "image/png" and path.name == "all.png":
            from matplotlib import image

            pixels = np.asarray(image.imread(path))
            logger.experiment.add_image(
                "samples", pixels if pixels.ndim == 3 else pixels[..., None], step, dataformats="HWC"
            )
        elif kind in ("audio/x-wav", "audio/wav"):
            import soundfile

            samples, rate = soundfile.read(path, dtype="float32")
            logger.experiment.add_audio(f"samples/{path.stem}", torch.from_numpy(samples)[None], step, sample_rate=rate)


class MetricLogger(L.Callback):
    """Logs every metric of the domain, on samples drawn with the averaged weights, as `metrics/NAME`.

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

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if not self.every or trainer.global_step % self.every or not trainer.is_global_zero:
            return
        with self.averaging.applied(pl_module):
            artifacts = self.model.sample(self.n, seed=1, **self.what)
        metrics = self.model.domain.metrics()
        found = {f"metrics/{name}": float(metric(artifacts, self.reference)) for name, metric in metrics.items()}
        for logger in trainer.loggers:
            logger.log_metrics(found, trainer.global_step)


class ProgressBar(L.Callback):
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

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._tick is not None and trainer.global_step % 10 == 0:
            self._tick(pl_module.progress(), f"step {trainer.global_step}, loss {float(outputs['loss']):.3g}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._tick is not None:
            self._tick(1.0)
            self.bar.__exit__(None, None, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._tick is not None:
            self.bar.__exit__(None, None, None)


class Throughput(L.Callback):
    """Logs milliseconds a step and examples a second, averaged over `every` steps."""

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._since: float | None = None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every:
            return
        spent = pl_module.spent
        if self._since is not None and spent > self._since:
            per_step = (spent - self._since) / self.every
            pl_module.log("train/ms_per_step", 1000 * per_step)
            pl_module.log("train/examples_per_second", pl_module.recipe.trainer.batch / per_step)
        self._since = spent
