r"""The one LightningModule: any domain, any process, any head.

A step draws stratified times, noise keyed by (seed, place in the batch, batch number), drops some labels, and takes the
mean of `gendiff.training.denoising_loss`. All randomness is a function of the seed and the batch's number, so a resumed
run repeats the uninterrupted one exactly, on any number of devices.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gendiff.denoisers import Denoiser
from gendiff.domain import Domain
from gendiff.random import Noise
from gendiff.spaces import tensors
from gendiff.training import Binned, ImportanceTimes, denoising_loss, stratified

from .recipe import Recipe


class Denoising(L.LightningModule):
    """Trains a denoiser by a recipe.

    Args:
        denoiser: The model.
        domain: Gives augmentation, labels and the auxiliary loss.
        recipe: Everything else.
    """

    def __init__(self, denoiser: Denoiser, domain: Domain, recipe: Recipe) -> None:
        super().__init__()
        self.denoiser, self.domain, self.recipe = denoiser, domain, recipe
        self.spent = 0.0
        self._since: float | None = None
        self.learned = recipe.times.started() if isinstance(recipe.times, ImportanceTimes) else None
        self.seen: list[Tensor] = []  # times and losses since the last look, float64 [2, b]

    def drop(self, cond: dict[str, Any], noise: Noise) -> dict[str, Any]:
        """Labels at "none" for a share of the batch: all labels of an example together."""
        if not self.recipe.drop or not self.domain.labels:
            return cond
        without = self.domain.without(cond)
        gone = noise.fork("drop").uniform((len(noise.index),)) < self.recipe.drop
        return {k: torch.where(gone, without[k], v) if k in self.domain.labels else v for k, v in cond.items()}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        recipe, place = self.recipe, batch["place"]
        noise = Noise(recipe.trainer.seed, place).fork("train").at(int(batch["number"]))
        x0 = self.domain.augment(batch["x0"], noise.fork("augment"))
        cond = self.drop(batch["cond"], noise)
        world, rank = self.trainer.world_size, self.trainer.global_rank
        common = Noise.of(recipe.trainer.seed, 1).fork("times").at(int(batch["number"]))
        u = stratified(recipe.trainer.batch, common)[rank::world]
        process = self.denoiser.process
        drawn_from = recipe.times if self.learned is None else self.learned.snapshot()
        t = drawn_from.quantile(u, process)
        losses = denoising_loss(
            self.denoiser, x0, t, noise, objective=recipe.objective, auxiliary=self.domain.auxiliary, **cond
        )
        if isinstance(drawn_from, Binned):
            self.seen.append(torch.stack([t.to(tensors(x0)[0].device), losses["loss"].detach().double()]))
            losses["loss"] = losses["loss"] * drawn_from.correction(t, process).to(losses["loss"])
        means = {name: value.mean() for name, value in losses.items()}
        self.log_dict({f"train/{k}": v.detach() for k, v in means.items()}, on_step=True, batch_size=len(place))
        return means["loss"]

    def progress(self) -> float:
        """The share of the run that is over, by steps or by training time, whichever is further."""
        trainer = self.recipe.trainer
        by_time = self.spent / (60 * trainer.minutes) if trainer.minutes else 0.0
        return min(max(self.global_step / trainer.steps, by_time), 1.0)

    def configure_optimizers(self) -> Any:
        o = self.recipe.optimizer
        optimizer = torch.optim.AdamW(
            self.denoiser.parameters(), lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, foreach=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: o.factor(step, self.progress()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._since is not None:
            self.spent += time.perf_counter() - self._since
        times = self.recipe.times
        if self.learned is not None and isinstance(times, ImportanceTimes) and self.global_step % times.every == 0:
            # Every device is told all losses, so that all go on from the same histogram.
            own = torch.cat(self.seen, 1)
            seen = torch.as_tensor(self.all_gather(own)).reshape(-1, *own.shape)
            self.learned.update(seen[:, 0].flatten(), seen[:, 1].flatten(), self.denoiser.process)
            self.seen = []
        minutes = self.recipe.trainer.minutes
        if minutes and self.spent >= 60 * minutes:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spent"] = self.spent
        if self.learned is not None:
            checkpoint["learned"] = {**self.learned.state_dict(), "seen": [s.cpu() for s in self.seen]}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.spent = checkpoint["spent"]
        if self.learned is not None:
            self.learned.load_state_dict(checkpoint["learned"])
            self.seen = [s.to(self.device) for s in checkpoint["learned"]["seen"]]
