"""Pictures for gendiff: sources, the domain `Images`, contact sheets, and a judge."""

from __future__ import annotations

from gendiff_images.captioned import ClipArt, Emoji, Several, Sprites
from gendiff_images.distances import copies, novelty
from gendiff_images.domain import Images, cifar10, digits, fashion, mnist
from gendiff_images.grid import Sheet, save_grid
from gendiff_images.io import read, write
from gendiff_images.judge import Judge
from gendiff_images.masked import Masked, without
from gendiff_images.sources import CIFAR10, MNIST, Arrays, Digits, Fashion, Folder, PictureSource

__all__ = [
    "CIFAR10",
    "MNIST",
    "Arrays",
    "ClipArt",
    "Digits",
    "Emoji",
    "Fashion",
    "Folder",
    "Images",
    "Judge",
    "Masked",
    "PictureSource",
    "Several",
    "Sheet",
    "Sprites",
    "cifar10",
    "copies",
    "digits",
    "fashion",
    "mnist",
    "novelty",
    "read",
    "save_grid",
    "without",
    "write",
]
