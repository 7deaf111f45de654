"""What a person asks for, in words: `label=frog length=80 seconds=0.5,0.8`.

What is asked of a condition it reads itself (`Condition.read`): a class by its name, a text whole, numbers with commas
between them. Everything else is a number, a text, or a list of them.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff.errors import RequestError

if TYPE_CHECKING:
    from gendiff.conditions import Condition


def asked(pairs: Sequence[str], conditions: Mapping[str, Condition]) -> dict[str, Any]:
    """ "label=frog" "length=80" as keywords of a request.

    Args:
        pairs: name=value each.
        conditions: Those of the domain, which read what is theirs.

    Raises:
        RequestError: For a word without "=", and what a condition cannot read.
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
        own = conditions.get(name)
        if own is not None:
            from gendiff.conditions import told_of

            with told_of(name, own):
                out[name] = own.read(text)
            continue
        items = next(csv.reader([text], skipinitialspace=True), [""]) or [""]
        out[name] = [number(item) for item in items] if len(items) > 1 else number(items[0])
    return out


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
