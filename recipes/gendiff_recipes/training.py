"""`train(recipe, "runs/fashion")`: from a recipe to a folder with the averaged model, and back to a `Model`."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gendiff.errors import RecipeError
from gendiff.model import Model, check_loadable

from .callbacks import EMAWeights, MetricLogger, ProgressBar, SampleLogger, Throughput
from .data import Batches
from .evaluation import default_request, subset
from .module import Denoising
from .recipe import Recipe

PRECISIONS = ("auto", "float32", "bfloat16", "float64")


def bf16_is_fast() -> bool:
    """Whether this machine computes in bfloat16 natively: a GPU that does, or a CPU with AVX512-BF16 or AMX."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    return (
        "avx512_bf16" in torch.backends.cpu.get_cpu_capability().lower() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with "auto" decided for this machine."""
    options = recipe.trainer
    if options.precision == "auto":
        options = dataclasses.replace(options, precision="bfloat16" if bf16_is_fast() else "float32")
    if options.precision not in PRECISIONS:
        raise RecipeError(f"{recipe.name}: precision {options.precision!r}", f"one of {', '.join(PRECISIONS)}")
    if options.batch % options.devices:
        raise RecipeError(
            f"{recipe.name}: batch {options.batch} on {options.devices} devices", "a multiple of the devices"
        )
    return dataclasses.replace(recipe, trainer=options)


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    data: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Model:
    """Trains a recipe.

    Args:
        recipe: What to train.
        out: Folder for model.safetensors, recipe.json, metrics.csv, samples/ and last.ckpt.
        data: The data folder, instead of GENDIFF_DATA.
        resume: Go on from last.ckpt in `out`, exactly as if never interrupted.
        quiet: No progress bar.

    Returns:
        The model with averaged weights, also saved as `out`/model.safetensors.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "last.ckpt"
    if resume and not checkpoint.exists():
        raise RecipeError(f"There is nothing to resume in {out}", "a last.ckpt", "Train without resuming")
    recipe = resolve(recipe)
    options = recipe.trainer
    examples = recipe.domain.dataset("train", None if data is None else Path(data))
    if recipe.limit is not None:
        examples = examples[: recipe.limit]
    if examples.rejected:
        warnings.warn(f"{recipe.name}: {examples.report()}", stacklevel=2)
    domain = recipe.domain.fit(examples.artifacts)
    recipe = dataclasses.replace(recipe, domain=domain)
    recipe.save(out / "recipe.json")

    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        model = Model.new(domain, process=recipe.process, head=recipe.head, **recipe.network)
    model.denoiser.precision = torch.bfloat16 if options.precision == "bfloat16" else None
    model.sampler = recipe.sampler or model.sampler
    model.recipe = recipe.config()
    parts = check_loadable(model, recipe.times, recipe.objective)
    if parts and not quiet:
        print(f"The model will be loaded by gendiff.load({str(out)!r}, parts=[{', '.join(p.__name__ for p in parts)}])")
    if options.compile:
        model.denoiser.network.compile()
    module = Denoising(model.denoiser, domain, recipe)
    averaging = EMAWeights(recipe.ema)
    reference = domain.dataset("test", None if data is None else Path(data)).artifacts if options.measure else []

    def asked(n: int) -> dict[str, Any]:
        return {"guidance": recipe.guidance, **default_request(domain, n)}

    with calm():
        trainer = L.Trainer(
            max_steps=options.steps,
            max_epochs=-1,
            accelerator=options.accelerator,
            devices=options.devices,
            strategy="ddp" if options.devices > 1 else "auto",
            precision="64-true" if options.precision == "float64" else "32-true",
            gradient_clip_val=recipe.optimizer.clip,
            logger=[
                CSVLogger(out, name="", version="", flush_logs_every_n_steps=10),
                TensorBoardLogger(out, name="", version="tensorboard"),
            ],
            log_every_n_steps=min(10, options.steps),
            callbacks=[
                averaging,
                Throughput(),
                SampleLogger(
                    model,
                    averaging,
                    out / "samples",
                    every=options.show,
                    n=options.samples,
                    what=asked(options.samples),
                ),
                MetricLogger(
                    model,
                    averaging,
                    subset(reference, options.measured, 0),
                    every=options.measure,
                    n=options.measured,
                    what=asked(options.measured),
                ),
                ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=options.checkpoint),
                *([] if quiet else [ProgressBar(recipe.name)]),
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=out,
        )
    batches = Batches(domain, examples, batch=options.batch, steps=options.steps, seed=options.seed)
    with calm():
        trainer.fit(module, batches, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
    assert averaging.ema is not None
    averaging.ema.to("cpu")
    model.to("cpu")
    averaging.ema.copy_to(model.denoiser.network)
    model.denoiser.precision = None
    model.denoiser.eval()
    if trainer.is_global_zero:
        model.save(out / "model.safetensors")
        summary = {
            "steps": trainer.global_step,
            "seconds": module.spent,
            "precision": options.precision,
            "examples": len(examples),
        }
        (out / "training.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf8")
    return model


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
