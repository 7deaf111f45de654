"""What a person asks for, in words: `label=frog length=80 seconds=0.5,0.8`.

A label is read by its class names: what is written stands for the class of that name, whatever else it could mean
("1", "none", "dog,cat"). Only where no class has the name is a comma a list, `none` nothing, and a whole number the
number of a class. Everything else is a number, a text, or a list of them.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendiff.errors import RequestError


def asked(pairs: Sequence[str], labels: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """ "label=frog" "length=80" as keywords of a request.

    Args:
        pairs: name=value each.
        labels: The class names of each label, those of `Domain.labels`.

    Raises:
        RequestError: For a word without "=".
    """
    out: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise RequestError(f"The argument {pair!r} is not of the form name=value", "e.g. label=frog or length=80")
        if name in out:
            raise RequestError(
                f"{name} is said twice, {out[name]!r} and {text!r}", "once", f"{name}={out[name]},{text}"
            )
        classes = labels.get(name)
        read = number if classes is None else lambda item, classes=classes: class_word(item, classes)
        if classes is not None and _same(text, classes) is not None:
            out[name] = read(text)
            continue
        items = next(csv.reader([text], skipinitialspace=True), [""])
        out[name] = [read(item) for item in items] if len(items) > 1 else read(items[0] if items else "")
    return out


def class_word(text: str, classes: Sequence[str]) -> Any:
    """The class of this name; else None for "none", a number where no class is named by one, or the text itself."""
    same = _same(text, classes)
    if same is not None:
        return same
    if text.lower() == "none":
        return None
    whole = text.isascii() and text.isdigit() and not any(name.strip().isdigit() for name in classes)
    return int(text) if whole else text


def _same(text: str, classes: Sequence[str]) -> str | None:
    """The class name that a text is, in its own or another case."""
    if text in classes:
        return text
    return next((name for name in classes if name.lower() == text.lower()), None)


def number(text: str) -> Any:
    """An int, a float, None, or the text itself."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def count(text: str) -> int:
    """A whole number, at least 1: the type of an argument."""
    return _whole(text, 1)


def seed(text: str) -> int:
    """A whole number, at least 0: the type of an argument."""
    return _whole(text, 0)


def share(text: str) -> float:
    """A number above 0, at most 1: the type of an argument."""
    value = number(text)
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, at most 1")
    return float(value)


def minutes(text: str) -> float:
    """A positive, finite number of minutes: the type of an argument."""
    value = number(text)
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number of minutes, such as 0.5")
    return float(value)


def result_file(text: str) -> Path:
    """A file that can be written when the work is done: the type of an argument."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        why = "a folder" if path.is_dir() else "no place where a file can be written"
        raise argparse.ArgumentTypeError(f"{text!r} is {why}; name a file in a folder that is there")
    return path


def _whole(text: str, least: int) -> int:
    value = number(text)
    if not isinstance(value, int) or value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, at least {least}")
    return value
