"""Breaks the code in known ways, one after the other, and runs the tests that must notice.

    python tests/mutants.py            # every mutant; some minutes
    python tests/mutants.py vlb cfg    # those whose name contains one of the words

Each mutant replaces one piece of text in one file of a copy of the packages. A mutant whose text is no longer there is
an error: the list follows the code. The last line says how many were caught; the exit status is 1 if one survived.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from mutants_molecules import MOLECULES  # noqa: E402 - beside this file, which may be loaded from anywhere
from mutants_proteins import PROTEINS  # noqa: E402


@dataclass(frozen=True)
class Mutant:
    """One change that makes the code wrong.

    Attributes:
        name: What is broken.
        path: The file, from the checkout's root.
        old: The text that is replaced; it occurs exactly once.
        new: What stands there instead.
        tests: The test files that must fail.
    """

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: list[Mutant] = [
    Mutant(
        "neighbours that are compared from elsewhere",
        "gendiff/training/fewstep/consistency.py",
        "square_error(leaf.space, goal, guess, goal)",
        "square_error(leaf.space, goal.roll(1, 0), guess, goal)",
        ("tests/core/test_fewstep.py",),
    ),
    Mutant(
        "hydrogen bonds that are held apart",
        "domains/gendiff_proteins/relaxation.py",
        "off = off.clamp_min(0) if one_sided > 0",
        "off = off.clamp_max(0) if one_sided > 0",
        ("tests/domains/test_proteins_relaxation.py",),
    ),
    Mutant(
        "a relaxation whose steps do not turn with the chain",
        "domains/gendiff_proteins/relaxation.py",
        "square.lerp_(slope.square().sum(-1, keepdim=True), 0.05)",
        "square.lerp_(slope.square()[..., :1], 0.05)",
        ("tests/domains/test_proteins_relaxation.py",),
    ),
    Mutant(
        "whole jumps that are told another end",
        "gendiff/training/fewstep/moments.py",
        "**self.toward(torch.zeros_like(t))}",
        "**self.toward(t)}",
        ("tests/core/test_fewstep.py",),
    ),
    Mutant(
        "matched examples that are taken for those of the flow",
        "gendiff/training/fewstep/moments.py",
        "((chosen, self.factor, super().losses), (~chosen, 1.0, flow.losses))",
        "((~chosen, self.factor, super().losses), (chosen, 1.0, flow.losses))",
        ("tests/core/test_fewstep.py",),
    ),
    Mutant(
        "a teacher that is told a scale and guided again",
        "gendiff/training/fewstep/base.py",
        'if takes(teacher, "guidance"):',
        "if False:",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a flow map's residual without its own frame",
        "gendiff/training/fewstep/jumps.py",
        "return leaf.space.scale(own, 1 / (leaf.norm(s, 1.0) * leaf.pace(t, 1.0)))",
        "return leaf.space.scale(own, 1 / leaf.pace(t, 1.0))",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a residual that stays in the chart of the end",
        "gendiff/training/fewstep/jumps.py",
        "own = slope if leaf.space.flat else leaf.space.carry(x, at, slope)",
        "own = slope",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a flow's velocity with half of sigma's slope",
        "gendiff/training/fewstep/jumps.py",
        "rate = down / sigma",
        "rate = down / sigma / 2",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "MeanFlow from data without the example in its residual",
        "gendiff/training/fewstep/meanflow.py",
        "return map_state(torch.add, r, difference(process, x, along, goal)), r",
        "return r, r",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a shortcut whose second jump is the first again",
        "gendiff/training/fewstep/semigroup.py",
        'end = jump(some.denoiser, process, there, u.clamp_min(1e-5), s, {**told, "to": s})',
        'end = jump(some.denoiser, process, x, u.clamp_min(1e-5), s, {**told, "to": s})',
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "samples that move away from the data",
        "gendiff/training/fewstep/moments.py",
        "leaf.space.tangent(y, leaf.space.scale(v, -1.0))",
        "leaf.space.tangent(y, leaf.space.scale(v, 1.0))",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a weight from data that knows the example",
        "gendiff/training/fewstep/base.py",
        "return loss if fixed is None else FROM_DATA(loss, fixed)",
        "return loss if fixed is None else FROM_DATA(loss)",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "moments without the distance between the two groups",
        "gendiff/training/fewstep/moments.py",
        "terms.append(kernel(leaf, y, yy) + kernel(leaf, z, zz) - 2 * kernel(leaf, y, zz))",
        "terms.append(kernel(leaf, y, yy) + kernel(leaf, z, zz) - kernel(leaf, y, zz))",
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a jump that tells the network its start",
        "gendiff/sampling/loop.py",
        '{**now, "to": row.to}',
        '{**now, "to": row.t}',
        ("tests/core/test_flow_maps.py", "tests/core/test_fewstep.py"),
    ),
    Mutant(
        "a scale that is told as one",
        "gendiff/nn/embeddings.py",
        "vector = vector + self.scale(torch.zeros_like(t) if guidance is None else guidance.to(t) - 1)",
        "vector = vector + self.scale(torch.zeros_like(t))",
        ("tests/recipes/test_fewstep_runs.py",),
    ),
    Mutant(
        "a benchmark's cell that is kept after a change",
        "recipes/gendiff_recipes/bench/running.py",
        'if found.get("key") != key or "error" in found:',
        'if "error" in found:',
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "a benchmark's result that counts without its files",
        "recipes/gendiff_recipes/bench/running.py",
        'return found if all((folder / name).is_file() for name in found.get("files", [])) else None',
        "return found",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "a benchmark that does not see a person's solver change",
        "recipes/gendiff_recipes/bench/running.py",
        "if general or any(name in said for name in own):",
        "if general:",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "solvers that get more evaluations than others",
        "recipes/gendiff_recipes/bench/cells.py",
        "while steps < wanted and count(steps + 1) <= wanted:",
        "while steps < wanted and count(steps + 1) <= wanted + 1:",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "branches of guidance that are not counted",
        "recipes/gendiff_recipes/bench/cells.py",
        "self.rows += tensors(given[0])[0].shape[0]",
        "self.rows += min(tensors(given[0])[0].shape[0], 4)",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "every seed's real data are the same",
        "recipes/gendiff_recipes/bench/cells.py",
        "chosen = subset(found.pool, entry.n, job.seed)",
        "chosen = subset(found.pool, entry.n, 0)",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "the intervals of many seeds at few",
        "recipes/gendiff_recipes/bench/tables.py",
        "student.ppf(0.975, k - 1)",
        "student.ppf(0.975, 10**6)",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "a preset with other betas than published",
        "recipes/gendiff_recipes/presets.py",
        "on(recipe, Discrete.linear(1000))",
        "on(recipe, Discrete.scaled_linear(1000))",
        ("tests/recipes/test_bench.py",),
    ),
    Mutant(
        "latents that see what is hidden",
        "gendiff/latents/latent.py",
        "self.codec.encode(torch.where(inner.keep, inner.x0, 0.0))",
        "self.codec.encode(inner.x0)",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "a table in one form of Unicode, files in the other",
        "gendiff/files.py",
        'return list(dict.fromkeys((path, composed(path), unicodedata.normalize("NFD", path))))',
        "return [path]",
        ("tests/domains/test_columns.py",),
    ),
    Mutant(
        "a file that is counted twice among those that changed",
        "recipes/gendiff_recipes/prepared.py",
        "newer = sorted(file for file in files if file.stat().st_mtime_ns > since)",
        "newer = sorted(file for file in files if file.stat().st_mtime_ns > since) * 2",
        ("tests/recipes/test_prepared.py",),
    ),
    Mutant(
        "moments of a resumed run in another order of memory than their weights",
        "recipes/gendiff_recipes/module.py",
        "return torch.empty_like(like, dtype=value.dtype).copy_(value)",
        "return value",
        ("tests/recipes/test_training.py",),
    ),
    Mutant(
        "a refiner that sees padding",
        "gendiff/nn/residual.py",
        "h = self.out(hide(F.silu(self.norm(h, real)), real))",
        "h = self.out(F.silu(self.norm(h, real)))",
        ("tests/core/test_nn.py",),
    ),
    Mutant(
        "a refiner in the place of what the patches give",
        "gendiff/nn/dit.py",
        "y = y + self.refiner(",
        "y = 0 * y + self.refiner(",
        ("tests/core/test_nn.py",),
    ),
    Mutant(
        "an adapter on another codec's latents",
        "recipes/gendiff_recipes/start.py",
        "if k in theirs and own[k] != theirs[k]}",
        "if k in theirs and len(own[k]) != len(theirs[k])}",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "latents whitened on one side only",
        "gendiff/latents/whitening.py",
        "self.colouring.copy_(old @ colour)",
        "self.colouring.copy_(old)",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "tiles with too small a margin",
        "gendiff/latents/autoencoder.py",
        "self.margin = math.ceil(",
        "self.margin = math.floor(",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "principal components without their deviations",
        "gendiff/latents/autoencoder.py",
        "self.synthesis.weight.copy_((basis * scale)",
        "self.synthesis.weight.copy_((basis / scale)",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "a divergence that rewards a small variance",
        "gendiff/latents/bottlenecks.py",
        "+ logvar.exp() - logvar - 1) / 2",
        "+ logvar.exp() + logvar - 1) / 2",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "a codec that is not measured",
        "gendiff/latents/latent.py",
        "or not found >= self.gate:",
        "or found < self.gate - 0.4:",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "latents of an autoencoder scaled before they are shifted",
        "gendiff/latents/pretrained.py",
        "return ((found - offset) * factor).to(x)",
        "return (found * factor - offset).to(x)",
        ("tests/core/test_pretrained_codecs.py",),
    ),
    Mutant(
        "pictures given to an autoencoder in the units of states",
        "gendiff/latents/pretrained.py",
        "scale = 2 / (units[0] * (high - low))",
        "scale = 2 / (high - low)",
        ("tests/core/test_pretrained_codecs.py",),
    ),
    Mutant(
        "an autoencoder that is not the one that was pinned",
        "gendiff/latents/pretrained.py",
        "if found != self.digest:",
        "if not found:",
        ("tests/core/test_pretrained_codecs.py",),
    ),
    Mutant(
        "an autoencoder measured anew by every fit",
        "gendiff/latents/pretrained.py",
        "        if self.fitted:\n            return self\n",
        "",
        ("tests/core/test_pretrained_codecs.py",),
    ),
    Mutant(
        "an adapted model on a scale of its own within latents",
        "gendiff/adaptation.py",
        "if getattr(domain, k) != getattr(before, k)}\n",
        'if getattr(domain, k) != getattr(before, k) and k != "codec"}\n',
        ("tests/core/test_pretrained_codecs.py",),
    ),
    Mutant(
        "features that are not of unit length",
        "gendiff/latents/losses.py",
        "return [f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in levels]",
        "return list(levels)",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "a feature network that follows the training's mode",
        "gendiff/latents/losses.py",
        "return super().train(False)",
        "return super().train(mode)",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "features made with the generators of the training",
        "gendiff/latents/losses.py",
        "torch.default_generator.manual_seed(0)",
        "torch.default_generator.seed()",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "an adaptive weight upside down",
        "gendiff/latents/adversarial.py",
        "(a / (b + 1e-6))",
        "(b / (a + 1e-6))",
        ("tests/core/test_latents.py",),
    ),
    Mutant(
        "a codec that helps its discriminator",
        "recipes/gendiff_recipes/module.py",
        'told["discriminator"] = self.oppose(x, y.detach())',
        'told["discriminator"] = self.oppose(x, y)',
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "a discriminator that is moved by the codec's loss",
        "recipes/gendiff_recipes/module.py",
        "        network.requires_grad_(False)\n        return loss.detach()",
        "        return loss.detach()",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "a discriminator that begins anew on resume",
        "recipes/gendiff_recipes/module.py",
        '        self.discriminator.load_state_dict(state["discriminator"])\n',
        "",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "a discriminator that counts from the first step",
        "recipes/gendiff_recipes/module.py",
        "self.step >= self.recipe.adversarial.start:",
        "self.step >= 0:",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "a discriminator's optimiser that forgets its moments on resume",
        "recipes/gendiff_recipes/module.py",
        'self.moments = state["opponent"]',
        "self.moments = None",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "windows that reach into padding",
        "recipes/gendiff_recipes/module.py",
        "lengths[:, None] - 1)",
        "lengths[:, None])",
        ("tests/recipes/test_codecs.py",),
    ),
    Mutant(
        "a list of neighbours that is never made again",
        "domains/gendiff_proteins/repulsion.py",
        "if self.at is not None and float(",
        "if self.at is not None or float(",
        ("tests/domains/test_proteins_repulsion.py",),
    ),
    Mutant(
        "a list of neighbours kept until a residue has moved by a whole skin",
        "domains/gendiff_proteins/repulsion.py",
        "< SKIN / 2:",
        "< SKIN:",
        ("tests/domains/test_proteins_repulsion.py",),
    ),
    Mutant(
        "pushes not shared among those that push",
        "domains/gendiff_proteins/repulsion.py",
        "total[:, :3] / total[:, 3:].clamp_min(1)",
        "total[:, :3]",
        ("tests/domains/test_proteins_repulsion.py",),
    ),
    Mutant(
        "an adapter that begins elsewhere than its base",
        "gendiff/training/adapters.py",
        "self.up = nn.Parameter(torch.zeros(rows, rank, dtype=like.dtype, device=like.device))",
        "self.up = nn.Parameter(torch.full((rows, rank), 1e-6, dtype=like.dtype, device=like.device))",
        ("tests/core/test_adapters.py",),
    ),
    Mutant(
        "a low-rank change without alpha",
        "gendiff/training/adapters.py",
        "(self.scale * self.up @ self.down)",
        "(self.up @ self.down)",
        ("tests/core/test_adapters.py",),
    ),
    Mutant(
        "old rows train beside new ones",
        "gendiff/training/adapters.py",
        "trains = weight.name in begun.new or weight.name in but",
        "trains = weight.name in (*begun.new, *begun.rows) or weight.name in but",
        ("tests/core/test_adapters.py",),
    ),
    Mutant(
        "a side branch whose middle does not join",
        "gendiff/nn/unet.py",
        "h = h + next(more).to(h.dtype)",
        "h = h + 0 * next(more).to(h.dtype)",
        ("tests/core/test_adapters.py",),
    ),
    Mutant(
        "an adapter on any base",
        "gendiff/adaptation.py",
        "if found != adaptation.digest:",
        "if len(found) != len(adaptation.digest):",
        ("tests/core/test_adapters.py",),
    ),
    Mutant(
        "an adapted network that trains in evaluation mode",
        "gendiff/adaptation.py",
        "return adapter.attach(network, base, begun).train(training), begun",
        "return adapter.attach(network, base, begun).train(base.training), begun",
        ("tests/recipes/test_adapted_runs.py",),
    ),
    Mutant(
        "an adapted model on the scale of new data",
        "recipes/gendiff_recipes/prepared.py",
        "domain = domain if base is None else on_scale_of(domain, recipe.domain, base)",
        "domain = domain if base is None else domain",
        ("tests/recipes/test_adapted_runs.py",),
    ),
    Mutant(
        "particles drawn whatever their weights",
        "gendiff/guidance/particles.py",
        "    return torch.searchsorted(ends, places * ends[:, -1:]).clamp_max(weights.shape[1] - 1)",
        "    return (places * weights.shape[1]).long()",
        ("tests/core/test_particles.py",),
    ),
    Mutant(
        "the Gaussian bound without its half",
        "gendiff/processes/gaussian.py",
        "return 0.5 * per_sample(then - now, square) * square",
        "return per_sample(then - now, square) * square",
        ("tests/core/test_likelihood.py",),
    ),
    Mutant(
        "training without the importance correction",
        "recipes/gendiff_recipes/module.py",
        'losses["loss"] = losses["loss"] * drawn_from.correction(t, process).to(losses["loss"])',
        'losses["loss"] = losses["loss"] * 1.0',
        ("tests/recipes/test_training.py",),
    ),
    Mutant(
        "remasking by the share unsquared",
        "gendiff/processes/categories.py",
        "share = min(churn / sigma, 1.0) ** 2 if sigma > 0",
        "share = min(churn / sigma, 1.0) if sigma > 0",
        ("tests/core/test_categories.py",),
    ),
    Mutant(
        "masked diffusion forgets the classes that are shown",
        "gendiff/processes/categories.py",
        "return torch.where(broadcast_mask(x == self.classes, logs), logs, self.on.logs(x).to(logs.dtype))",
        "return logs",
        ("tests/core/test_categories.py",),
    ),
    Mutant(
        "CFG++'s noise dropped by measurements",
        "gendiff/guidance/inverse.py",
        "            return moved(whole, agreed.x0)",
        "            return agreed.x0",
        ("tests/core/test_inverse.py", "tests/core/test_guidance_edges.py"),
    ),
    Mutant(
        "rescaling counts padded sites",
        "gendiff/guidance/rules.py",
        "    real = space.real(torch.ones_like(x))\n",
        "    real = torch.ones_like(x)\n",
        ("tests/core/test_guidance_rules.py", "tests/core/test_guidance_edges.py"),
    ),
    Mutant(
        "an interval ignores its part",
        "gendiff/guidance/rules.py",
        "        sigma = level(process, t, self.part)\n",
        "        sigma = level(process, t, None)\n",
        ("tests/core/test_guidance_rules.py", "tests/core/test_guidance_edges.py"),
    ),
    Mutant(
        "the measured part's own schedule ignored",
        "gendiff/guidance/inverse.py",
        "return schedule_of(self.process, part)(own_time(self.t, part))",
        "return schedule_of(self.process, None)(own_time(self.t, None))",
        ("tests/core/test_inverse.py", "tests/core/test_guidance_edges.py"),
    ),
    Mutant(
        "reflow scales its noise",
        "gendiff/training/couplings.py",
        "    return z, sample(denoiser, like, solver=solver, noise=noise, cond=cond)",
        "    return 0.9 * z, sample(denoiser, like, solver=solver, noise=noise, cond=cond)",
        ("tests/core/test_couplings.py",),
    ),
    Mutant(
        "Sinkhorn's epsilon over all conditions",
        "gendiff/training/couplings.py",
        "mean = same.double() @ torch.where(same, cost, 0.0).sum(1) / (counts * counts)",
        "mean = cost.mean().expand(len(cost))",
        ("tests/core/test_couplings.py",),
    ),
    Mutant(
        "APG projects on curved spaces",
        "gendiff/guidance/rules.py",
        "        if isinstance(space, Euclidean | Centered):\n            share = dot",
        "        if True:\n            share = dot",
        ("tests/core/test_guidance_rules.py", "tests/core/test_guidance_edges.py"),
    ),
    Mutant(
        "a likelihood's error not controlled",
        "gendiff/sampling/ode.py",
        "            if wanted is not None:\n                r =",
        "            if False:\n                r =",
        ("tests/core/test_ode.py", "tests/core/test_likelihood.py"),
    ),
    Mutant(
        "CosineInterpolated reversed",
        "gendiff/training/times.py",
        "            return -2 * torch.log(torch.tan(first + u * (last - first))) + shift",
        "            return -2 * torch.log(torch.tan(last + u * (first - last))) + shift",
        ("tests/core/test_published_formulas.py", "tests/core/test_times.py"),
    ),
    Mutant(
        "averages leave buffers where they were",
        "gendiff/training/ema.py",
        "            self.buffers[name].copy_(b)\n",
        "            pass\n",
        ("tests/core/test_losses_ema.py",),
    ),
    Mutant(
        "CFG extrapolates from the wrong end",
        "gendiff/guidance/rules.py",
        "process.space.lerp(free, full, self.scale)",
        "process.space.lerp(full, free, self.scale)",
        ("tests/core/test_guidance_rules.py", "tests/core/test_given_guidance.py"),
    ),
    Mutant(
        "Adams of order 4 from 15 steps on",
        "gendiff/sampling/solvers/multistep.py",
        "return (3 if self.steps >= 15 else 2) if",
        "return (4 if self.steps >= 15 else 2) if",
        ("tests/benchmarks/test_defaults.py",),
    ),
    Mutant(
        "PowerGrid forgets data_std",
        "gendiff/sampling/grids/continuous.py",
        "schedule, d = leaf.schedule, leaf.data_std or 1.0",
        "schedule, d = leaf.schedule, 1.0",
        ("tests/core/test_data_std.py",),
    ),
    Mutant(
        "Circle forgets data_std",
        "gendiff/sampling/solvers/views.py",
        "return self.share * (self.width or leaf.data_std or 1.0)",
        "return self.share * (self.width or 1.0)",
        ("tests/core/test_data_std.py",),
    ),
    Mutant(
        "EDMHead keeps its sigma_data to itself",
        "gendiff/denoisers/heads.py",
        "return replace(process, data_std=self.sigma_data) if told else process",
        "return process",
        ("tests/core/test_data_std.py",),
    ),
    Mutant(
        "operators not sliced with their samples",
        "gendiff/guidance/operators.py",
        "value = shared_rows(value, rows, device) if name in self.by_sample else value.to(device=device)",
        "value = value.to(device=device)",
        ("tests/core/test_inverse.py",),
    ),
    Mutant(
        "particles lost by a guess of -inf",
        "gendiff/guidance/particles.py",
        "return torch.where(allowed, groups, least - math.log(k)).flatten()",
        "return phi",
        ("tests/core/test_guidance_edges.py",),
    ),
    Mutant(
        "no particle allowed, no warning and NaN weights",
        "gendiff/guidance/particles.py",
        "weights = torch.where(total[:, None] == -math.inf, -math.log(k), log_w - total[:, None])",
        "weights = log_w - total[:, None]",
        ("tests/core/test_guidance_edges.py",),
    ),
    Mutant(
        "From goes above its strength",
        "gendiff/guidance/editing.py",
        "here = self.start if t >= below else t",
        "here = t",
        ("tests/core/test_guidance_edges.py",),
    ),
    Mutant(
        "BrownianSO3 taken for straight",
        "gendiff/processes/brownian.py",
        "return False  # the angle",
        "return True  # the angle",
        ("tests/core/test_brownian.py",),
    ),
    Mutant(
        "a model's network with the domain's own clock",
        "gendiff/model.py",
        "        domain = domain.with_process(process, head)\n"
        "        return Model(domain, Denoiser(make_network(domain, size),",
        "        own, domain = domain, domain.with_process(process, head)\n"
        "        return Model(domain, Denoiser(make_network(own, size),",
        ("tests/core/test_model_files.py",),
    ),
    Mutant(
        "a text that is dropped is still read",
        "gendiff/conditions/base.py",
        'return {**batch, "mask": batch["mask"] & ~gone[:, None]}',
        "return dict(batch)",
        ("tests/core/test_conditions.py",),
    ),
    Mutant(
        "a number of nothing is the number zero",
        "gendiff/nn/embeddings.py",
        "torch.where(there[:, None] > 0, self.layers(self.features(z)), self.nothing)",
        "self.layers(self.features(z)) + 0 * self.nothing",
        ("tests/core/test_conditions.py",),
    ),
    Mutant(
        "terms of guidance by condition are averaged",
        "gendiff/guidance/rules.py",
        "weights = (*[1.0] * len(terms), 1.0 - len(terms))",
        "weights = (*[1.0 / len(terms)] * len(terms), 0.0)",
        ("tests/core/test_condition_guidance.py",),
    ),
    Mutant(
        "sites attend to padded words",
        "gendiff/nn/attention.py",
        "allowed = None if mask is None else mask[:, None, None, :]",
        "allowed = None",
        ("tests/core/test_conditions.py",),
    ),
    Mutant(
        "what was embedded is not dropped",
        "gendiff/conditions/base.py",
        'name: {**both, "asked": both["nothing"]} if name in gone else both',
        "name: both",
        ("tests/core/test_conditions.py",),
    ),
    Mutant(
        "a field counts its padded sites",
        "gendiff/nn/embeddings.py",
        "x = x if mask is None else x * mask[:, None]",
        "x = x * 1",
        ("tests/core/test_conditions.py",),
    ),
    Mutant(
        "the loss never tells the prediction before",
        "gendiff/training/losses.py",
        "if float(common.uniform((1,))) >= objective.previous:",
        "if float(common.uniform((1,))) >= -1:",
        ("tests/core/test_previous.py",),
    ),
    Mutant(
        "a way up keeps the prediction before",
        "gendiff/sampling/loop.py",
        "history, shown, previous = [], None, None",
        "history, shown = [], None",
        ("tests/core/test_previous.py",),
    ),
    Mutant(
        "singlestep steps go on from where they are",
        "gendiff/sampling/solvers/multistep.py",
        "redo=place > 0",
        "redo=False",
        ("tests/core/test_published_rules.py",),
    ),
    Mutant(
        "SA-Solver's noise at every level",
        "gendiff/sampling/solvers/multistep.py",
        "return eta if between(leaf, t, self.low, self.high) else 0.0",
        "return eta",
        ("tests/core/test_published_rules.py",),
    ),
    Mutant(
        "weights of examples are forgotten",
        "recipes/gendiff_recipes/module.py",
        'losses["loss"] = losses["loss"] * batch["weight"].to(losses["loss"])',
        'losses["loss"] = losses["loss"] * 1.0',
        ("tests/recipes/test_runs.py",),
    ),
    Mutant(
        "a weaker model hears what the better one embedded",
        "gendiff/guidance/wrappers.py",
        'asked = {name: value for name, value in cond.items() if name != "embedded"}',
        "asked = dict(cond)",
        ("tests/core/test_previous.py",),
    ),
    Mutant(
        "shards kept as they arrive",
        "recipes/gendiff_recipes/remote.py",
        "if content[:16] == path.name[-16:]:",
        "if content:",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "a cache that lets go the newest",
        "recipes/gendiff_recipes/remote.py",
        "in sorted(held):",
        "in sorted(held, reverse=True):",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "a cache without bound",
        "recipes/gendiff_recipes/remote.py",
        "excess = sum(size for *_, size in held) - self.room",
        "excess = 0.0",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "batches in another order when looking ahead",
        "recipes/gendiff_recipes/remote.py",
        "held.append((batch, size))",
        "held.appendleft((batch, size))",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "no shard asked for early",
        "recipes/gendiff_recipes/remote.py",
        "jobs.put((number, name))",
        "pass",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "a shard that the disk lost, for good",
        "recipes/gendiff_recipes/remote.py",
        "if not self.cache.forget(self.name):",
        "if self.cache.forget(self.name):",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "every device takes the first one's share",
        "recipes/gendiff_recipes/data.py",
        "rank, world = (trainer.global_rank, trainer.world_size)",
        "rank, world = (0, trainer.world_size)",
        ("tests/recipes/test_remote.py",),
    ),
    Mutant(
        "the page answers under any host name",
        "recipes/gendiff_recipes/page/server.py",
        'if said.get_all("Host", []) not in [[host] for host in own.hosts]:',
        'if not said.get_all("Host", []):',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page answers other origins",
        "recipes/gendiff_recipes/page/server.py",
        "if origin is not None and origin not in",
        "if origin is None and origin not in",
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page needs no token",
        "recipes/gendiff_recipes/page/server.py",
        'if self.command == "POST" and not hmac',
        'if self.command == "PUT" and not hmac',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page reads whatever comes",
        "recipes/gendiff_recipes/page/server.py",
        "if int(length) > most:",
        "if int(length) < 0:",
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "a file lies under the name it had on the page",
        "recipes/gendiff_recipes/page/asking.py",
        'path = self.folder / f"{key}{suffix}"',
        "path = self.folder / plain",
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page shows another seed than it draws with",
        "recipes/gendiff_recipes/page/asking.py",
        'words += ["-n", str(n), "--seed", str(start)]',
        'words += ["-n", str(n), "--seed", str(start + (values is typed))]',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page forgets the guidance of Python lines",
        "recipes/gendiff_recipes/page/lines.py",
        'for name in ("guidance", "sampler", "steps"):',
        'for name in ("sampler", "steps"):',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "the page draws two requests at a time",
        "recipes/gendiff_recipes/page/studio.py",
        "if last is not None and last.state not in ENDED:\n                raise",
        'if last is not None and last.state == "drawing":\n                raise',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "a cancelled sampling goes on",
        "recipes/gendiff_recipes/page/studio.py",
        "        if self.stop.is_set():\n            raise Cancelled",
        "        if self.stop.is_set():\n            return",
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "an error of one field stops the check of others",
        "recipes/gendiff_recipes/page/asking.py",
        "for name, text in alone.items():",
        "for name, text in list(alone.items())[:1]:",
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "every piece draws the noise of the first",
        "gendiff/generation.py",
        "part.stop - part.start, draws.begin + part.start",
        "part.stop - part.start, part.start",
        ("tests/core/test_drawing.py",),
    ),
    Mutant(
        "a worker draws with whatever model its file holds",
        "gendiff/drawing.py",
        "if found is not None and identity(found) != piece.key:",
        "if found is not None and identity(found) == '':",
        ("tests/core/test_drawing.py",),
    ),
    Mutant(
        "a block that is run again draws other numbers",
        "gendiff/nn/recomputing.py",
        "use_reentrant=False, **kwargs)",
        "use_reentrant=False, preserve_rng_state=False, **kwargs)",
        ("tests/core/test_recomputing.py",),
    ),
    Mutant(
        "a lost piece is left out",
        "gendiff/executors.py",
        "                    give(job, times + 1)\n                    continue",
        "                    continue",
        ("tests/core/test_drawing.py",),
    ),
    Mutant(
        "a cluster without workers is waited for without an end",
        "gendiff/executors.py",
        "            watch.look(bool(done))\n",
        "",
        ("tests/core/test_executors.py",),
    ),
    Mutant(
        "workers that are back are counted as gone",
        "gendiff/executors.py",
        "        if some:\n            self.since = None\n",
        "        if some:\n            pass\n",
        ("tests/core/test_executors.py",),
    ),
    Mutant(
        "the page opens without its secret",
        "recipes/gendiff_recipes/page/server.py",
        'if not (path == "/" and own.knows(self.query.get("token", ""))) and',
        'if path != "/" and',
        ("tests/recipes/test_page.py",),
    ),
    Mutant(
        "a compiled network takes batches of any length as they are",
        "recipes/gendiff_recipes/training.py",
        "multiple=COMPILED if options.compile else 1",
        "multiple=1",
        ("tests/recipes/test_compiled_runs.py",),
    ),
    Mutant(
        "a compiled network takes every shape for the last one",
        "recipes/gendiff_recipes/training.py",
        "network.compile(dynamic=True if several else None)",
        "network.compile(dynamic=False)",
        ("tests/recipes/test_compiled_runs.py",),
    ),
    Mutant(
        "intervals are those of the whole set",
        "gendiff/evaluation/measures.py",
        "picks = [rng.permutation(n)[: n // 2] for _ in range(halves)]",
        "picks = [rng.permutation(n)[: n - 1] for _ in range(halves)]",
        ("tests/core/test_measures.py",),
    ),
    Mutant(
        "requests are not shuffled",
        "gendiff/evaluation/scores.py",
        '"shuffled": [(asked[i], one) for i, one in zip(order, found, strict=True)],',
        '"shuffled": list(zip(asked, found, strict=True)),',
        ("tests/core/test_measures.py",),
    ),
    Mutant(
        "real data stand in the place of what they are compared with",
        "gendiff/evaluation/scores.py",
        'place = known["reference" if learned else "real"]',
        'place = known["reference"]',
        ("tests/core/test_measures.py", "tests/recipes/test_evaluation.py"),
    ),
    Mutant(
        "a site that was not asked counts",
        "gendiff/conditions/sites.py",
        "counted = (padded[0] >= 0) & (padded[0] < len(self.classes))",
        "counted = padded[0] >= 0",
        ("tests/core/test_measures.py",),
    ),
    *(Mutant(*one) for one in (*PROTEINS, *MOLECULES)),
]


def run(mutant: Mutant, copy: Path) -> tuple[bool, str]:
    """Whether the tests notice, and the line that says how."""
    path = copy / mutant.path
    text = path.read_text(encoding="utf8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.path} holds its text {text.count(mutant.old)} times; follow the code")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf8")
    try:
        paths = [str(copy), str(copy / "domains"), str(copy / "recipes")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *mutant.tests,
        ]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    finally:
        path.write_text(text, encoding="utf8")
    last = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
    return done.returncode == 1 and bool(last), last or done.stdout.strip().splitlines()[-1]


def main(words: list[str]) -> int:
    """Runs the chosen mutants; returns the exit status."""
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".git", ".venv", "runs", "demo", "site", "__pycache__", ".*_cache"),
        )
        os.environ.setdefault("GENDIFF_DATA", str(ROOT.parent / "shared" / "data"))
        os.environ.setdefault("GENDIFF_GOLDENS", str(ROOT.parent / "shared" / "goldens"))
        for mutant in chosen:
            since = time.perf_counter()
            caught, line = run(mutant, copy)
            print(
                f"{'caught  ' if caught else 'SURVIVES'} {time.perf_counter() - since:5.1f} s  {mutant.name}: {line}",
                flush=True,
            )
            survivors += [] if caught else [mutant.name]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
