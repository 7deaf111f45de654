"""BibTeX of what was used: `print(gendiff.cite(model))`, `print(gendiff.cite(Heun(18), EDMHead()))`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

PAPERS: dict[str, tuple[str, str, str, int]] = {
    "ho2020ddpm": ("Ho, Jonathan and Jain, Ajay and Abbeel, Pieter", "Denoising Diffusion Probabilistic Models", "NeurIPS", 2020),
    "song2021ddim": ("Song, Jiaming and Meng, Chenlin and Ermon, Stefano", "Denoising Diffusion Implicit Models", "ICLR", 2021),
    "song2021sde": ("Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and Ermon, Stefano and Poole, Ben",
                    "Score-Based Generative Modeling through Stochastic Differential Equations", "ICLR", 2021),
    "nichol2021improved": ("Nichol, Alex and Dhariwal, Prafulla", "Improved Denoising Diffusion Probabilistic Models", "ICML", 2021),
    "karras2022edm": ("Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
                      "Elucidating the Design Space of Diffusion-Based Generative Models", "NeurIPS", 2022),
    "lu2022dpmpp": ("Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
                    "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", "arXiv:2211.01095", 2022),
    "salimans2022progressive": ("Salimans, Tim and Ho, Jonathan", "Progressive Distillation for Fast Sampling of Diffusion Models", "ICLR", 2022),
    "ho2022cfg": ("Ho, Jonathan and Salimans, Tim", "Classifier-Free Diffusion Guidance", "arXiv:2207.12598", 2022),
    "karras2024auto": ("Karras, Tero and Aittala, Miika and Kynk{\\\"a}{\\\"a}nniemi, Tuomas and Lehtinen, Jaakko and Aila, Timo and Laine, Samuli",
                       "Guiding a Diffusion Model with a Bad Version of Itself", "NeurIPS", 2024),
    "lipman2023flow": ("Lipman, Yaron and Chen, Ricky T. Q. and Ben-Hamu, Heli and Nickel, Maximilian and Le, Matt",
                       "Flow Matching for Generative Modeling", "ICLR", 2023),
    "liu2023rectified": ("Liu, Xingchao and Gong, Chengyue and Liu, Qiang", "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", "ICLR", 2023),
    "chen2024riemannian": ("Chen, Ricky T. Q. and Lipman, Yaron", "Flow Matching on General Geometries", "ICLR", 2024),
    "yim2023frameflow": ("Yim, Jason and Campbell, Andrew and Foong, Andrew Y. K. and others",
                         "Fast Protein Backbone Generation with SE(3) Flow Matching", "arXiv:2310.05297", 2023),
    "esser2024sd3": ("Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and others",
                     "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", "ICML", 2024),
    "lin2023zsnr": ("Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao",
                    "Common Diffusion Noise Schedules and Sample Steps are Flawed", "arXiv:2305.08891", 2023),
    "lugmayr2022repaint": ("Lugmayr, Andreas and Danelljan, Martin and Romero, Andres and Yu, Fisher and Timofte, Radu and Van Gool, Luc",
                           "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", "CVPR", 2022),
    "hang2023minsnr": ("Hang, Tiankai and Gu, Shuyang and Li, Chen and others", "Efficient Diffusion Training via Min-SNR Weighting Strategy", "ICCV", 2023),
    "kohler2020equivariant": ("K{\\\"o}hler, Jonas and Klein, Leon and No{\\'e}, Frank", "Equivariant Flows: Exact Likelihood Generative Learning for Symmetric Densities", "ICML", 2020),
    "jumper2021alphafold": ("Jumper, John and Evans, Richard and Pritzel, Alexander and others", "Highly accurate protein structure prediction with AlphaFold", "Nature", 2021),
    "peebles2023dit": ("Peebles, William and Xie, Saining", "Scalable Diffusion Models with Transformers", "ICCV", 2023),
    "salmon2011philox": ("Salmon, John K. and Moraes, Mark A. and Dror, Ron O. and Shaw, David E.", "Parallel Random Numbers: As Easy as 1, 2, 3", "SC", 2011),
}  # fmt: skip

USED_BY: dict[str, tuple[str, ...]] = {
    "Eps": ("ho2020ddpm",), "V": ("salimans2022progressive",), "Velocity": ("lipman2023flow", "liu2023rectified"),
    "EDMHead": ("karras2022edm",), "Tangent": ("chen2024riemannian",),
    "VP": ("song2021sde",), "VE": ("song2021sde",), "Cosine": ("nichol2021improved",), "EDM": ("karras2022edm",),
    "Linear": ("lipman2023flow", "liu2023rectified"), "Exponential": ("yim2023frameflow",), "Shifted": ("esser2024sd3",),
    "Discrete": ("ho2020ddpm",), "Geodesic": ("chen2024riemannian",), "Centered": ("kohler2020equivariant",),
    "DDIM": ("song2021ddim",), "Euler": ("song2021ddim",), "DDPM": ("ho2020ddpm",), "Heun": ("karras2022edm",),
    "DPMpp2M": ("lu2022dpmpp",), "Karras": ("karras2022edm",), "UpAndDown": ("lugmayr2022repaint",), "Given": ("lugmayr2022repaint",),
    "Guided": ("ho2022cfg",), "Autoguided": ("karras2024auto",), "LogNormal": ("karras2022edm",), "LogitNormal": ("esser2024sd3",),
    "MinSNR": ("hang2023minsnr",), "Trailing": ("lin2023zsnr",), "Noise": ("salmon2011philox",), "DiT": ("peebles2023dit",),
}  # fmt: skip


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


def bibtex(key: str) -> str:
    """One entry."""
    authors, title, venue, year = PAPERS[key]
    return f"@misc{{{key},\n  author = {{{authors}}},\n  title = {{{title}}},\n  howpublished = {{{venue}}},\n  year = {{{year}}}\n}}"


def cite(*things: Any) -> str:
    """BibTeX of the papers behind a model, sampler, head, schedule or anything built of them.

    A class of another package is cited by its attribute `citations`, a tuple of BibTeX entries.
    """
    keys: dict[str, None] = {}
    extra: dict[str, None] = {}
    for thing in things:
        for part in parts_of(thing, set()):
            keys.update(dict.fromkeys(USED_BY.get(type(part).__name__, ())))
            extra.update(dict.fromkeys(vars(type(part)).get("citations", ())))
    return "\n\n".join([*(bibtex(key) for key in keys), *extra])
