r"""What is trained, as LightningModules: `Denoising`, for any domain, process and head, and `Coding`, for codecs.

A step of `Denoising` draws stratified times, noise keyed by (seed, place in the batch, batch number), drops some
conditions, and takes the mean of `gendiff.training.denoising_loss`. All randomness is a function of the seed and the
batch's number, dropout's too: a resumed run repeats the uninterrupted one exactly. Times and noise do not depend on the
number of devices or of parts a batch is taken in; what a network draws by itself (dropout) does.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from gendiff.denoisers import Denoiser
from gendiff.domain import Domain
from gendiff.latents import Autoencoder, Codec
from gendiff.latents.adversarial import adaptive_weight, hinge
from gendiff.latents.losses import Features
from gendiff.random import Noise
from gendiff.spaces import tensors, widened
from gendiff.training import (
    Binned,
    DistributionMatching,
    ImportanceTimes,
    Lesson,
    LossHistogram,
    denoising_loss,
    stratified,
    trained_state,
)

from .folder import Pace
from .recipe import CodecRecipe, Recipe


def seed_everything(device: torch.device, *key: int) -> None:
    """Sets the generators that networks draw from by themselves (torch's, numpy's, Python's) by a key."""
    number = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":  # torch.manual_seed would ask for every kind of device, at a millisecond a call
        getattr(torch, device.type).manual_seed(number)
    np.random.seed(number & 0xFFFFFFFF)  # noqa: NPY002
    random.seed(number)


def laid_out(like: Tensor, value: Any) -> Any:
    """A tensor of another's shape, in memory as that is: a fused step takes number after number as they lie, and the
    moments of a file lie in rows, where those of a picture's convolutions lie by channels. What else comes passes.
    """
    if not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return torch.empty_like(like, dtype=value.dtype).copy_(value)


class Learning(L.LightningModule):
    """What every training shares: steps, their time, the optimiser and its learning rate.

    Args:
        domain: Gives augmentation and conditions.
        recipe: Everything else.

    Attributes:
        step: Optimiser steps taken, over all the times that the run was resumed.
        pace: The training time after each of them.
        row: What this step has to say to the loggers.
        recent: Detached losses since they were last looked at, each with its step.
        learned: A histogram of times that is learned along, of a training that has one.
    """

    learned: LossHistogram | None = None

    def __init__(self, domain: Domain, recipe: Recipe) -> None:
        super().__init__()
        self.domain, self.recipe = domain, recipe
        self.step = 0
        self.pace = Pace(None)
        self.row: dict[str, Any] = {}
        self.recent: list[tuple[int, Tensor]] = []
        self.resumed: dict[str, dict[str, Any]] | None = None  # the optimiser's state by parameter, to go on with
        self.put_by: list[nn.Module] = []  # the whole network, while one that is shared out trains in its place

    @property
    def learner(self) -> nn.Module:
        """The module whose parameters train."""
        raise NotImplementedError

    @property
    def network(self) -> nn.Module:
        """What is saved and averaged."""
        raise NotImplementedError

    def replace_network(self, network: nn.Module) -> None:
        """Puts another network of the same names into its place."""
        raise NotImplementedError

    def configure_model(self) -> None:
        """Shares the weights out, where the strategy says so."""
        if self.recipe.trainer.strategy == "fsdp2" and self.device_mesh is not None and not self.put_by:
            from .sharding import sharded

            self.put_by = [self.network]
            self.replace_network(sharded(self.network, self.device_mesh["data_parallel"]))

    def put_back_whole(self) -> None:
        """The whole network in its place again; its weights are those from before."""
        for network in self.put_by:
            self.replace_network(network)
        self.put_by = []

    def losses(self, x0: Any, cond: dict[str, Any], noise: Noise, batch: Mapping[str, Any], part: int) -> Any:
        """The losses of the samples of a batch by name, each [B]; "loss" is the one to follow.

        Args:
            x0: Clean states, augmented.
            cond: What is asked of them.
            noise: Of this batch.
            batch: As it was loaded.
            part: Which part of the batch of the step it is.
        """
        raise NotImplementedError

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that train, by name, as the optimiser numbers them."""
        return [(name, p) for name, p in self.learner.named_parameters() if p.requires_grad]

    def network_state(self) -> dict[str, Tensor]:
        """The weights that a checkpoint holds."""
        return self.network.state_dict()

    def told(self) -> Tensor | None:
        """What the learned histogram has not yet been told, of all devices, which all call this."""
        return None

    def beside(self) -> dict[str, Any] | None:
        """What else a step changes, for a checkpoint; None by default."""
        return None

    def take_beside(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `beside` gave."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        recipe, place, number = self.recipe, batch["place"], int(batch["number"])
        parts = recipe.trainer.accumulate
        part = batch_idx % parts
        seed_everything(self.device, recipe.trainer.seed, number, self.trainer.global_rank, part)
        noise = Noise(recipe.trainer.seed, place).fork("train").at(number)
        x0 = self.domain.augment(batch["x0"], noise.fork("augment"))
        losses = self.losses(x0, batch["cond"], noise, batch, part)
        if "weight" in batch:
            losses["loss"] = losses["loss"] * batch["weight"].to(losses["loss"])
        means = {name: value.mean() for name, value in losses.items()}
        self.recent.append((self.step + 1, means["loss"].detach()))
        for name, value in means.items():
            so_far = self.row.get(f"train/{name}", 0.0) if part else 0.0
            self.row[f"train/{name}"] = so_far + value.detach() / parts
        return means["loss"]

    def progress(self) -> float:
        """The share of the run that is over, by steps or by training time, whichever is further."""
        trainer = self.recipe.trainer
        by_time = self.pace.spent(self.step) / (60 * trainer.minutes) if trainer.minutes else 0.0
        return min(max(self.step / trainer.steps, by_time), 1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        o = self.recipe.optimizer
        optimizer = torch.optim.AdamW(
            [p for _, p in self.trained()], lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, fused=True
        )
        if self.resumed is not None:
            cut = self.cutter()
            own = {name: (place, weight) for place, (name, weight) in enumerate(self.trained())}
            moments = {}
            for name, one in self.resumed.items():
                place, weight = own[name]
                moments[place] = {key: cut(weight, value) for key, value in one.items()}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
            self.resumed = None
        return optimizer

    def cutter(self) -> Callable[[Tensor, Any], Any]:
        """What lays a whole moment of the optimiser out as its weight is."""
        if not self.put_by:
            return laid_out
        from .sharding import shared_like

        return shared_like

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        rate = self.recipe.optimizer.lr * self.recipe.optimizer.factor(self.step, self.progress())
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate


class Denoising(Learning):
    """Trains a denoiser by a recipe.

    Args:
        denoiser: The model.
        domain: Gives augmentation, conditions and the auxiliary loss.
        recipe: Everything else.
        teacher: Of a few-step method.

    Attributes:
        seen: Times and losses since `ImportanceTimes` was last told, float64 [2, b] each, with their places.
        critic: Learns beside a student by distribution matching; None else.
    """

    def __init__(self, denoiser: Denoiser, domain: Domain, recipe: Recipe, teacher: Denoiser | None = None) -> None:
        super().__init__(domain, recipe)
        self.denoiser = denoiser
        self.beside_it = [] if teacher is None else [teacher]  # in a list: no part of what trains or is saved
        method = recipe.method
        if teacher is not None and isinstance(method, DistributionMatching):
            self.beside_it.append(copy.deepcopy(teacher))
            self.beside_it[1].requires_grad_(True)
        self.critic_step: torch.optim.Optimizer | None = None
        self.critic_state: Mapping[str, Any] | None = None
        self.learned = recipe.times.started() if isinstance(recipe.times, ImportanceTimes) else None
        self.seen: list[Tensor] = []
        self.told_before: Tensor | None = None  # what all devices had seen when the checkpoint was written

    @property
    def learner(self) -> nn.Module:
        return self.denoiser

    @property
    def network(self) -> nn.Module:
        return self.denoiser.network

    def replace_network(self, network: nn.Module) -> None:
        self.denoiser.network = network

    def drop(self, cond: dict[str, Any], noise: Noise) -> dict[str, Any]:
        """Nothing asked by all conditions of a share of the examples, or by single ones where the recipe names them."""
        drop = self.recipe.drop if isinstance(self.recipe.drop, Mapping) else {"all": self.recipe.drop}
        out, n = dict(cond), len(noise.index)
        for name, share in drop.items() if self.domain.conditions else ():
            stream = noise.fork("drop") if name == "all" else noise.fork("drop").fork(name)
            if not share:
                continue
            gone = stream.uniform((n,)) < share
            for own in self.domain.conditions if name == "all" else [name]:
                out[own] = self.domain.conditions[own].drop(out[own], gone)
        return out

    def losses(self, x0: Any, cond: dict[str, Any], noise: Noise, batch: Mapping[str, Any], part: int) -> Any:
        recipe, process = self.recipe, self.denoiser.process
        cond = self.drop(cond, noise)
        common = Noise.of(recipe.trainer.seed, 1).fork("times").at(int(batch["number"]))
        first, slots = self.trainer.global_rank + self.trainer.world_size * part, self.slots
        u = stratified(recipe.trainer.batch, common)[first::slots]
        drawn_from = recipe.times if self.learned is None else self.learned.snapshot()
        if recipe.method is not None:
            places = torch.arange(recipe.trainer.batch)[first::slots]
            choices = Noise(recipe.trainer.seed, places).fork("choices").at(int(batch["number"]))
            return self.lesson_losses(Lesson(
                self.denoiser, widened(x0), u, noise, cond, recipe.times, recipe.objective, self.teacher,
                self.domain.without, self.progress(), self.critic, choices,
            ))  # fmt: skip
        t = drawn_from.quantile(u, process)
        losses = denoising_loss(
            self.denoiser, x0, t, noise, objective=recipe.objective, auxiliary=self.domain.losses, **cond
        )
        if isinstance(drawn_from, Binned):
            self.seen.append(torch.stack([t.to(tensors(x0)[0].device), losses["loss"].detach().double()]))
            losses["loss"] = losses["loss"] * drawn_from.correction(t, process).to(losses["loss"])
        return losses

    @property
    def teacher(self) -> Denoiser | None:
        return self.beside_it[0].to(self.device) if self.beside_it else None

    @property
    def critic(self) -> Denoiser | None:
        return self.beside_it[1].to(self.device) if len(self.beside_it) > 1 else None

    def lesson_losses(self, lesson: Lesson) -> dict[str, Tensor]:
        """The losses of a few-step method; its critic, if it has one, learns first, by an optimiser of its own."""
        method, critic = self.recipe.method, lesson.critic
        assert method is not None
        if critic is None or not isinstance(method, DistributionMatching) or not (steps := method.critics(lesson)):
            return method.losses(lesson)
        if self.critic_step is None:
            o = self.recipe.optimizer
            self.critic_step = torch.optim.AdamW(critic.parameters(), lr=o.lr, betas=(0.0, o.betas[1]), eps=o.eps)
            if self.critic_state is not None:
                self.critic_step.load_state_dict(self.critic_state["optimizer"])
        for group in self.critic_step.param_groups:
            group["lr"] = self.recipe.optimizer.lr * self.recipe.optimizer.factor(self.step, self.progress())
        told = []
        for again in range(steps):
            name = f"critic {again}"
            choices = None if lesson.choices is None else lesson.choices.fork(name)
            own = method.critic_losses(replace(lesson, noise=lesson.noise.fork(name), choices=choices))
            own.mean().backward()
            self.critic_step.step()
            self.critic_step.zero_grad()
            told.append(own.detach())
        critic.requires_grad_(False)
        losses = method.losses(lesson)
        critic.requires_grad_(True)
        return {**losses, "critic": torch.stack(told).mean(0)}

    def beside(self) -> dict[str, Any] | None:
        if self.critic is None or self.critic_step is None:
            return None
        return {"critic": self.critic.state_dict(), "optimizer": self.critic_step.state_dict()}

    def take_beside(self, state: Mapping[str, Any]) -> None:
        assert self.critic is not None
        self.critic.load_state_dict(state["critic"])
        self.critic_state = state

    @property
    def slots(self) -> int:
        """How many lists a batch is dealt out to, place by place: devices times parts."""
        return self.trainer.world_size * self.recipe.trainer.accumulate

    def in_places(self, gathered: Tensor) -> Tensor:
        """What all devices have [world, 2, steps * parts * b], in the order of the batch: [2, steps * batch]."""
        world, parts = len(gathered), self.recipe.trainer.accumulate
        share = self.recipe.trainer.batch // (world * parts)
        # Place p of a batch is number p // slots of the list p % slots = rank + world * part.
        dealt = gathered.reshape(world, 2, -1, parts, share)
        return dealt.permute(1, 2, 4, 3, 0).reshape(2, -1)

    def own(self, told: Tensor) -> Tensor:
        """This device's share [2, steps * parts * b] of what is in the order of the batch: `in_places` undone."""
        world, parts = self.trainer.world_size, self.recipe.trainer.accumulate
        dealt = told.reshape(2, -1, self.recipe.trainer.batch // (world * parts), parts, world)
        return dealt[..., self.trainer.global_rank].transpose(2, 3).reshape(2, -1)

    def told(self) -> Tensor:
        """What all devices have seen since the last look, in the order of the batches: [2, n]. All devices call it."""
        if not self.seen:
            return torch.empty(2, 0, dtype=torch.float64)
        own = torch.cat(self.seen, 1)
        return self.in_places(torch.as_tensor(self.all_gather(own)).reshape(-1, *own.shape))

    def network_state(self) -> dict[str, Tensor]:
        """All weights, or of an adapter those that are not its base's."""
        return super().network_state() if self.recipe.adapter is None else trained_state(self.denoiser.network)

    def on_train_start(self) -> None:
        if self.told_before is not None:
            self.seen = [self.own(self.told_before).to(self.device)] if self.told_before.numel() else []
            self.told_before = None


class Coding(Learning):
    """Trains a codec by a recipe, and a discriminator against it where the recipe says so.

    In a step the discriminator goes first, by an optimiser of its own and on reconstructions without a gradient; then
    it stands still, and the codec's loss passes through it.

    Args:
        codec: Says how the states lie on their grid.
        network: Its network.
        recipe: Everything else.
        features: Of the perceptual loss, where that counts.
    """

    recipe: CodecRecipe

    def __init__(
        self, codec: Codec, network: Autoencoder, recipe: CodecRecipe, features: Features | None = None
    ) -> None:
        super().__init__(codec.domain, recipe)
        self.grid, self.autoencoder, self.features = codec.grid, network, features
        own, grid = recipe.adversarial, codec.grid
        self.discriminator = own.discriminator(grid.dims, grid.channels, recipe.trainer.seed)
        self.opponent: torch.optim.Optimizer | None = None
        self.moments: dict[int, dict[str, Any]] | None = None  # of the opponent, to go on with

    @property
    def learner(self) -> nn.Module:
        return self.autoencoder

    @property
    def network(self) -> nn.Module:
        return self.autoencoder

    def replace_network(self, network: nn.Module) -> None:
        assert isinstance(network, Autoencoder)
        self.autoencoder = network

    def losses(self, x0: Any, cond: dict[str, Any], noise: Noise, batch: Mapping[str, Any], part: int) -> Any:
        x = self.window(self.grid.channels_first(x0), cond.get("mask"), noise.fork("window"))
        y, own = self.autoencoder(x, noise.fork("bottleneck"))
        terms = self.recipe.loss(y, x, self.features)
        told = {}
        if self.discriminator is not None and self.step >= self.recipe.adversarial.start:
            told["discriminator"] = self.oppose(x, y.detach())
            terms["adversarial"] = self.fool(y, torch.stack([*terms.values()]).sum(0))
        return {"loss": torch.stack([*terms.values(), own]).sum(0), **terms, "bottleneck": own, **told}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        if self.discriminator is not None:
            own = self.recipe.adversarial
            self.opponent = torch.optim.AdamW(
                self.discriminator.parameters(), lr=own.lr, betas=own.betas, weight_decay=0.0, fused=True
            )
            if self.moments is not None:
                weights = list(self.discriminator.parameters())
                moments = {
                    place: {key: laid_out(weights[place], value) for key, value in one.items()}
                    for place, one in self.moments.items()
                }
                self.opponent.load_state_dict({**self.opponent.state_dict(), "state": moments})
                self.moments = None
        return optimizer

    def oppose(self, x: Tensor, y: Tensor) -> Tensor:
        """A step of the discriminator on states x and reconstructions y, without a gradient in them; its loss, [B]."""
        recipe, network, opponent = self.recipe, self.discriminator, self.opponent
        assert network is not None
        assert opponent is not None
        for group in opponent.param_groups:
            group["lr"] = recipe.adversarial.lr * recipe.optimizer.factor(self.step, self.progress())
        network.requires_grad_(True)
        loss = hinge(network(x), network(y))
        loss.mean().backward()
        opponent.step()
        opponent.zero_grad()
        network.requires_grad_(False)
        return loss.detach()

    def fool(self, y: Tensor, reconstruction: Tensor) -> Tensor:
        """The codec's loss by the discriminator, [B], weighed against that of the reconstruction, [B]."""
        assert self.discriminator is not None
        loss = -self.discriminator(y).flatten(1).mean(1)
        balance = adaptive_weight(reconstruction.mean(), loss.mean(), self.autoencoder.last)
        return self.recipe.adversarial.weight * balance * loss

    def beside(self) -> dict[str, Any] | None:
        if self.discriminator is None or self.opponent is None:
            return None
        return {"discriminator": self.discriminator.state_dict(), "opponent": self.opponent.state_dict()["state"]}

    def take_beside(self, state: Mapping[str, Any]) -> None:
        assert self.discriminator is not None
        self.discriminator.load_state_dict(state["discriminator"])
        self.moments = state["opponent"]

    def window(self, x: Tensor, mask: Tensor | None, noise: Noise) -> Tensor:
        """States [B, C, *sites] whose sites fit the stride: whole, or of ragged ones a part of each, of equal length,
        drawn at random from its real sites.
        """
        stride = self.autoencoder.stride
        if mask is None:
            return self.autoencoder.padded(x)
        lengths = mask.sum(1)
        length = max(min(int(lengths.min()), self.recipe.segment) // stride * stride, stride)
        room = (lengths - length + 1).clamp_min(1)
        first = (noise.uniform((len(x),)).to(x.device) * room).long()
        place = torch.minimum(first[:, None] + torch.arange(length, device=x.device), lengths[:, None] - 1)
        return x.gather(2, place[:, None].expand(-1, x.shape[1], -1))
