"""BibTeX of what was used: `print(gendiff.cite(model))`, `print(gendiff.cite(Heun(18), EDMHead()))`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

USED_BY: dict[str, tuple[str, ...]] = {
    "Eps": ("ho2020ddpm",),
    "V": ("salimans2022progressive",),
    "Velocity": (
        "lipman2023flow",
        "liu2023rectified",
    ),
    "EDMHead": ("karras2022edm",),
    "Tangent": ("chen2024riemannian",),
    "VP": ("song2021sde",),
    "VE": ("song2021sde",),
    "Cosine": ("nichol2021improved",),
    "EDM": ("karras2022edm",),
    "Linear": (
        "lipman2023flow",
        "liu2023rectified",
    ),
    "Exponential": ("yim2023frameflow",),
    "Shifted": ("esser2024sd3",),
    "Discrete": ("ho2020ddpm",),
    "Geodesic": ("chen2024riemannian",),
    "Centered": ("kohler2020equivariant",),
    "DDIM": ("song2021ddim",),
    "Euler": ("song2021ddim",),
    "DDPM": ("ho2020ddpm",),
    "Heun": ("karras2022edm",),
    "EulerMaruyama": ("song2021sde",),
    "Langevin": ("song2021sde",),
    "AnnealedLangevin": ("song2019ncsn",),
    "Parallel": ("shih2023paradigms",),
    "DPMpp2M": ("lu2022dpmpp",),
    "Circle": ("karras2022edm", "lu2025scm"),
    "Adaptive": ("dormand1980rk", "gustafsson1991control"),
    "EvenSteps": ("dormand1980rk",),
    "Karras": ("karras2022edm",),
    "UpAndDown": ("lugmayr2022repaint",),
    "Given": ("lugmayr2022repaint",),
    "Guided": ("ho2022cfg",),
    "Autoguided": ("karras2024auto",),
    "LogNormal": ("karras2022edm",),
    "LogitNormal": ("esser2024sd3",),
    "MinSNR": ("hang2023minsnr",),
    "Trailing": ("lin2023zsnr",),
    "Noise": ("salmon2011philox",),
    "DiT": ("peebles2023dit",),
    "TrigFlow": ("lu2025scm",),
    "Sigmoid": ("jabri2023rin",),
    "Laplace": ("hang2024laplace",),
    "ZeroTerminal": ("lin2023zsnr",),
    "Score": ("song2021sde",),
    "PathVelocity": ("ma2024sit",),
    "Mode": ("esser2024sd3",),
    "CosineInterpolated": ("hoogeboom2023simple",),
    "LossBins": ("nichol2021improved",),
    "Learned": ("nichol2021improved",),
    "BetaGrid": ("lee2024beta",),
    "AlignYourSteps": ("sabour2024ays",),
    "Restart": ("xu2023restart",),
    "Transport": ("tong2024otcfm",),
    "Sinkhorn": ("cuturi2013sinkhorn", "tong2024otcfm"),
    "Aligned": ("klein2023equivariant",),
    "Immiscible": ("li2024immiscible",),
    "Paired": ("liu2023rectified",),
    "Profiles": ("karras2024edm2",),
    "Reward": ("singhal2025fksteering",),
    "Likelihood": ("wu2023tds",),
    "MMPS": ("rozet2024mmps",),
    "TMPD": ("boys2023tmpd",),
    "PiGDM": ("song2023pigdm",),
    "DiffPIR": ("zhu2023diffpir",),
    "DPS": ("chung2023dps",),
    "APG": ("sadat2024apg",),
    "ZeroStar": ("fan2025cfgzero",),
    "Within": ("kynkaanniemi2024interval",),
    "PlusPlus": ("chung2024cfgpp",),
    "Rescaled": ("lin2023zsnr",),
    "Classified": ("dhariwal2021beat",),
    "Absorbing": ("austin2021d3pm", "sahoo2024mdlm"),
    "UniformCategories": ("austin2021d3pm",),
    "RateMatching": ("campbell2024multiflow", "gat2024dfm"),
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
    for name in ("parts", "domain", "denoiser", "sampler", "head", "process", "space", "network"):
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
            keys.update(dict.fromkeys(USED_BY.get(type(part).__name__, ())))
            extra.update(dict.fromkeys(vars(type(part)).get("citations", ())))
    return "\n\n".join([*(known[key] for key in keys), *extra])
