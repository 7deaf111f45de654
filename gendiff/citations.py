"""BibTeX of what was used: `print(gendiff.cite(model))`, `print(gendiff.cite(Heun(18), EDMHead()))`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from torch import nn

USED_BY: dict[str, tuple[str, ...]] = {
    # heads
    "Eps": ("ho2020ddpm",),
    "V": ("salimans2022progressive",),
    "Velocity": ("lipman2023flow", "liu2023rectified"),
    "EDMHead": ("karras2022edm",),
    "Tangent": ("chen2024riemannian",),
    "Score": ("song2021sde",),
    "PathVelocity": ("ma2024sit",),
    # schedules
    "VP": ("song2021sde",),
    "VE": ("song2021sde",),
    "EDM": ("karras2022edm",),
    "Cosine": ("nichol2021improved",),
    "TrigFlow": ("lu2025scm",),
    "Sigmoid": ("jabri2023rin", "chen2023importance"),
    "Laplace": ("hang2024laplace",),
    "Linear": ("lipman2023flow", "liu2023rectified"),
    "Exponential": ("yim2023frameflow",),
    "Shifted": ("esser2024sd3", "hoogeboom2023simple"),
    "Discrete": ("ho2020ddpm",),
    "ZeroTerminal": ("lin2023zsnr",),
    # spaces and processes
    "Centered": ("kohler2020equivariant", "hoogeboom2022equivariant"),
    "Geodesic": ("chen2024riemannian",),
    "BrownianSO3": ("leach2022so3", "yim2023framediff"),
    "Absorbing": ("austin2021d3pm", "sahoo2024mdlm"),
    "UniformCategories": ("hoogeboom2021multinomial", "austin2021d3pm"),
    "DiscreteFlowMatching": ("campbell2024multiflow", "gat2024dfm"),
    # solvers
    "Euler": ("song2021ddim",),
    "DDIM": ("song2021ddim",),
    "DDPM": ("ho2020ddpm",),
    "EulerMaruyama": ("song2021sde",),
    "Heun": ("karras2022edm",),
    "Churn": ("karras2022edm",),
    "DPMSolver": ("lu2022dpm",),
    "DPMpp2S": ("lu2022dpmpp",),
    "DPMpp3S": ("lu2022dpmpp",),
    "DPMpp2M": ("lu2022dpmpp",),
    "DPMpp3M": ("lu2022dpmpp",),
    "Consistency": ("song2023consistency",),
    "FlowMap": ("kim2024ctm", "boffi2025flowmaps"),
    "Adams": ("zhang2023deis", "xue2023sasolver"),
    "Points": ("lu2022dpmpp",),
    "HalfSlope": ("xue2023sasolver",),
    "Circle": ("karras2022edm", "lu2025scm"),
    "UniPC": ("zhao2023unipc",),
    "PNDM": ("liu2022pndm",),
    "Langevin": ("song2021sde",),
    "AnnealedLangevin": ("song2019ncsn",),
    "Parallel": ("shih2023paradigms",),
    "Adaptive": ("dormand1980rk", "gustafsson1991control"),
    "EvenSteps": ("dormand1980rk",),
    "Hutchinson": ("hutchinson1989trace", "grathwohl2019ffjord"),
    # grids
    "Karras": ("karras2022edm",),
    "LogSNRGrid": ("lu2022dpm",),
    "BetaGrid": ("lee2024beta",),
    "ShiftedGrid": ("esser2024sd3",),
    "AlignYourSteps": ("sabour2024ays",),
    "Trailing": ("lin2023zsnr",),
    "UpAndDown": ("lugmayr2022repaint",),
    "Restart": ("xu2023restart",),
    "From": ("meng2022sdedit",),
    # training
    "LogNormal": ("karras2022edm",),
    "LogitNormal": ("esser2024sd3",),
    "Mode": ("esser2024sd3",),
    "CosineInterpolated": ("hoogeboom2023simple",),
    "LossHistogram": ("nichol2021improved",),
    "ImportanceTimes": ("nichol2021improved",),
    "MinSNR": ("hang2023minsnr",),
    "OptimalTransport": ("tong2024otcfm", "pooladian2023multisample"),
    "Sinkhorn": ("cuturi2013sinkhorn", "tong2024otcfm"),
    "KabschAligned": ("kabsch1976rotation", "klein2023equivariant", "song2023hybrid"),
    "Immiscible": ("li2024immiscible", "li2025miscibility"),
    "Paired": ("liu2023rectified",),
    "Profiles": ("karras2024edm2",),
    "LoRA": ("hu2021lora",),
    "Control": ("zhang2023controlnet",),
    # guidance, what is known, particles
    "Guided": ("ho2022cfg",),
    "CFG": ("ho2022cfg",),
    "Autoguidance": ("karras2024auto",),
    "ClassifierGuidance": ("dhariwal2021beat",),
    "APG": ("sadat2024apg",),
    "CFGZeroStar": ("fan2025cfgzero",),
    "GuidanceInterval": ("kynkaanniemi2024interval",),
    "CFGPerCondition": ("liu2022composable", "brooks2023instructpix2pix"),
    "CFGPlusPlus": ("chung2024cfgpp",),
    "CFGRescale": ("lin2023zsnr",),
    "Given": ("song2021sde", "lugmayr2022repaint"),
    "MMPS": ("rozet2024mmps",),
    "TMPD": ("boys2023tmpd",),
    "PiGDM": ("song2023pigdm",),
    "DiffPIR": ("zhu2023diffpir",),
    "DPS": ("chung2023dps",),
    "Reward": ("singhal2025fksteering",),
    "Likelihood": ("wu2023tds",),
    "ScaleInput": ("meng2023guided",),
    # few steps
    "MeanFlow": ("geng2025meanflow", "geng2025improved"),
    "ContinuousConsistency": ("lu2025scm",),
    "ConsistencyTraining": ("song2023consistency", "song2024ict", "geng2024ect"),
    "Shortcut": ("frans2025shortcut", "kim2024ctm"),
    "Progressive": ("salimans2022progressive",),
    "Reflow": ("liu2023rectified",),
    "MomentMatching": ("zhou2025imm",),
    "DistributionMatching": ("yin2024dmd",),
    "ScoreRegularized": ("zheng2025rcm",),
    "GuidanceDistillation": ("meng2023guided",),
    # numbers and networks
    "Noise": ("salmon2011philox",),
    "DiT": ("peebles2023dit",),
    "UNet": ("ronneberger2015unet", "dhariwal2021beat"),
    "Attention": ("henry2020qknorm",),
    "Rotary": ("su2021roformer",),
}


def parts_of(thing: Any, seen: set[int]) -> Iterator[Any]:
    """The thing and everything it is built of."""
    if id(thing) in seen or isinstance(thing, str | int | float | bool | None):
        return
    seen.add(id(thing))
    yield thing
    inner: list[Any] = []
    if isinstance(thing, Mapping):
        inner = list(thing.values())
    elif isinstance(thing, list | tuple):
        inner = list(thing)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        inner = [getattr(thing, f.name) for f in dataclasses.fields(thing)]
    elif isinstance(thing, nn.Module):
        inner = list(thing.children())
    inside = (
        "parts",
        "domain",
        "denoiser",
        "sampler",
        "head",
        "process",
        "space",
        "network",
        "positions",
        "adaptation",
    )
    for name in inside:
        inner += [getattr(thing, name)] if name in dir(thing) and not isinstance(thing, type) else []
    for item in inner:
        yield from parts_of(item, seen)


def papers() -> dict[str, str]:
    """The entries of papers.bib, by key."""
    text = files("gendiff").joinpath("papers.bib").read_text(encoding="utf8")
    entries = [entry.strip() for entry in text.strip().split("\n\n")]
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def cite(*things: Any) -> str:
    """BibTeX of the papers behind a model, sampler, head, schedule or anything built of them.

    A class of another package is cited by its attribute `citations`, a tuple of BibTeX entries.
    """
    known = papers()
    keys: dict[str, None] = {}
    extra: dict[str, None] = {}
    for thing in things:
        for part in parts_of(thing, set()):
            kind = type(part)
            ours = kind.__module__.partition(".")[0] == "gendiff"
            keys.update(dict.fromkeys(USED_BY.get(kind.__name__, ()) if ours else ()))
            recipe = getattr(part, "recipe", None)  # a model's, as JSON
            method = recipe.get("method") if isinstance(recipe, Mapping) else None
            if isinstance(method, Mapping):
                keys.update(dict.fromkeys(USED_BY.get(str(method.get("kind")), ())))
            extra.update(dict.fromkeys(vars(kind).get("citations", ())))
    return "\n\n".join([*(known[key] for key in keys), *extra])
