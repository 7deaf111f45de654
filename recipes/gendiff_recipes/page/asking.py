"""What was typed on the page, checked, as the arguments of `gendiff sample`.

The page asks for nothing that the shell could not: what was typed becomes words of the command line, which are read by
the command's own parser and readers. Whatever is wrong is told by field, all of it at once.

    {"asked": {"label": {"how": "value", "value": "bag"}, "like": {"how": "value", "value": "3f..."}},
     "guidance": {"label": "3"}, "n": "4", "seed": "0", "sampler": "", "steps": ""}

`how` is "value", "none" (nothing is asked) or "turn" (nothing is said). The value of a file is the key of its upload.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import secrets
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendiff.cli.commands import Sample, guidance_of, sample_options, sampler_of
from gendiff.cli.words import asked as words_asked
from gendiff.cli.words import count, seed
from gendiff.conditions import told_of
from gendiff.errors import GendiffError, RequestError, nearest
from gendiff.model import Model

from .fields import FormField

MOST, LONGEST, UPLOADS = 256, 10_000, 32  # samples, letters of a line, and files that are kept
FORM = ""
"""The key of what is wrong with no field alone."""


class Refused(Exception):
    """What was typed cannot be asked: what is wrong, by field."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.errors = dict(errors)
        super().__init__(str(self.errors))


@dataclass(frozen=True)
class Upload:
    """A file from the page.

    Attributes:
        path: Where it lies, under a name of ours.
        name: What it was called, without folders.
        owner: The condition that has read it.
    """

    path: Path
    name: str
    owner: str


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Attributes:
        args: Of `gendiff sample`; its command is the line that repeats it.
        options: Keywords of `model.sample`.
        typed: By name, what was typed.
        uploads: By condition.
    """

    args: argparse.Namespace
    options: Mapping[str, Any]
    typed: Mapping[str, str]
    uploads: Mapping[str, Upload] = field(default_factory=dict)


class Uploads:
    """Files from the page, read and refused when they come; the oldest go.

    Args:
        folder: Where to put them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, dict[str, Upload]()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, model: Model, name: str, called: str, content: bytes) -> str:
        """Keeps a file for a condition, and gives its key.

        Raises:
            RequestError: For a file that the condition does not read.
        """
        own = model.domain.conditions.get(name)
        if own is None or not own.files:
            raise RequestError(f"a file for {name!r}", "one for a condition that takes files")
        plain = file_name(called)
        suffix = Path(plain).suffix.lower()
        if suffix not in own.files:
            hint = nearest(suffix, own.files)
            raise RequestError(f"a file called {plain!r}", f"one that ends in {', '.join(own.files)}.{hint}")
        key = secrets.token_hex(8)
        path = self.folder / f"{key}{suffix}"
        path.write_bytes(content)
        try:
            with told_of(name, own):
                own.encode(own.read(str(path)))
        except GendiffError as error:
            path.unlink()
            raise RequestError(words_of(error, name).replace(str(path), plain)) from None
        self.kept[key] = Upload(path, plain, name)
        while len(self.kept) > UPLOADS:
            self.kept.pop(next(iter(self.kept))).path.unlink(missing_ok=True)
        return key


def file_name(called: str) -> str:
    """The name of a file without its folders, and without what is no letter."""
    last = called.replace("\\", "/").rpartition("/")[2]
    kept = "".join(c for c in last if c.isprintable()).strip().lstrip(".-")
    return kept[-100:] or "file"


def words_of(error: Exception, name: str) -> str:
    """An error in words, to stand beside the field that it is about."""
    return str(error).removeprefix(f"{name}: ")


@contextlib.contextmanager
def told(errors: dict[str, str], key: str, name: str = "") -> Iterator[None]:
    """What is raised inside is kept under a key."""
    try:
        yield
    except (GendiffError, argparse.ArgumentTypeError) as error:
        errors.setdefault(key, words_of(error, name))


def line_of(value: Any) -> str:
    """A line that was typed.

    Raises:
        RequestError: For anything else.
    """
    if not isinstance(value, str) or len(value) > LONGEST:
        got = f"a text of {len(value)} letters" if isinstance(value, str) else type(value).__name__
        raise RequestError(got, f"a line of at most {LONGEST} letters")
    odd = next((c for c in value if unicodedata.category(c) in ("Cc", "Cs")), None)
    if odd is not None:
        raise RequestError(f"a text with the sign {odd!r}", "a line of letters")
    return value.strip()


def part(form: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of what came, by name; nothing of what is none."""
    found = form.get(key)
    return found if isinstance(found, Mapping) else {}


def read_form(
    model: Model,
    path: Path,
    device: str,
    known: list[FormField],
    form: Mapping[str, Any],
    uploads: Mapping[str, Upload],
) -> Asked:
    """The request that a form asks for.

    Args:
        model: Which is asked.
        path: Its file, as `gendiff ui` was told.
        device: As `gendiff ui` was told.
        known: The fields of the form.
        form: What came from the page.
        uploads: Files, by their keys.

    Raises:
        Refused: With everything that is wrong.
    """
    errors: dict[str, str] = {}
    typed, used = said(known, form, uploads, errors)
    n = number(form, "n", "1", count, errors)
    if n is not None and n > MOST:
        errors["n"] = f"{n} samples; at most {MOST} on the page, more by `gendiff sample`"
    start = number(form, "seed", "0", seed, errors)
    sampler, steps = how(model, form, errors)
    guidance = guidance_text(model, known, form, errors)
    check_asked(model, min(n or 1, MOST), typed, used, errors)
    if errors:
        raise Refused(errors)

    def arguments(values: Mapping[str, str]) -> list[str]:
        words = ["sample", str(path), *(f"{name}={value}" for name, value in values.items())]
        words += ["-n", str(n), "--seed", str(start)]
        for option, value in (("--guidance", guidance), ("--sampler", sampler), ("--steps", steps)):
            words += [f"{option}={value}"] if value.startswith("-") else [option, value] if value else []
        return words + ([] if device == "auto" else ["--device", device])

    parser = argparse.ArgumentParser()
    Sample().arguments(parser, [])
    real = {name: str(used[name].path) if name in used else value for name, value in typed.items()}
    args = parser.parse_intermixed_args(arguments(real)[1:])
    args.command = shlex.join(["gendiff", *arguments(typed)])
    with told(errors, FORM):
        return Asked(args, sample_options(model, args), typed, used)
    raise Refused(errors)


def said(
    known: list[FormField], form: Mapping[str, Any], uploads: Mapping[str, Upload], errors: dict[str, str]
) -> tuple[dict[str, str], dict[str, Upload]]:
    """What was said, by field, as it is typed in a shell; and the files among it."""
    typed: dict[str, str] = {}
    used: dict[str, Upload] = {}
    for own in known:
        entry = part(part(form, "asked"), own.name)
        key, manner = f"asked.{own.name}", entry.get("how", "turn")
        if manner == "none" and own.none and own.turn:
            typed[own.name] = "none"
        if manner != "value":
            continue
        with told(errors, key):
            text = line_of(entry.get("value", ""))
            if not text:
                raise RequestError("nothing was said", own.hint or "a value")
            if own.kind == "file":
                upload = uploads.get(text)
                if upload is None or upload.owner != own.name:
                    raise RequestError("a file that is no longer here", "one that is chosen anew")
                names = [other.name for other in used.values()]
                text = upload.name if upload.name not in names else f"{own.name}-{upload.name}"
                used[own.name] = Upload(upload.path, text, own.name)
            typed[own.name] = text
    return typed, used


def number(form: Mapping[str, Any], key: str, default: str, kind: Callable[[str], int], errors: dict[str, str]) -> Any:
    """A whole number of a field; None for one that is wrong."""
    with told(errors, key):
        return kind(line_of(form.get(key, default)) or default)
    return None


def how(model: Model, form: Mapping[str, Any], errors: dict[str, str]) -> tuple[str, str]:
    """Sampler and steps as typed; empty for the model's own."""
    import dataclasses

    from gendiff.sampling import replace_solver, table
    from gendiff.sampling.solvers import Solver

    texts = {"sampler": "", "steps": ""}
    for key in texts:
        with told(errors, key):
            texts[key] = line_of(form.get(key, ""))
    solver = model.sampler
    with told(errors, "sampler"):
        solver = sampler_of(texts["sampler"] or None, model) or solver
        if isinstance(solver, Solver) and texts["sampler"]:
            table(solver, model.denoiser.process)
    if texts["steps"]:
        with told(errors, "steps"):
            steps = count(texts["steps"])
            if steps > LONGEST:
                raise RequestError(f"{steps} steps", f"at most {LONGEST}")
            replace_solver(solver, lambda inner: dataclasses.replace(inner, steps=steps))
    return texts["sampler"], texts["steps"]


def guidance_text(model: Model, known: list[FormField], form: Mapping[str, Any], errors: dict[str, str]) -> str:
    """The guidance as typed in a shell: a number, or numbers by condition; empty for the model's own."""
    names = [own.name for own in known if own.condition]
    found: dict[str, float] = {}
    for name in names:
        with told(errors, f"guidance.{name}"):
            text = line_of(part(form, "guidance").get(name, ""))
            if not text:
                continue
            try:
                found[name] = float(text)
            except ValueError:
                found[name] = math.nan
            if not math.isfinite(found[name]):
                raise RequestError(f"{text!r}", "a number; 1 is off")
    if not found:
        return ""
    own = model.guidance
    if len(names) == 1:
        text = repr(next(iter(found.values())))
    else:
        every = {**(own if isinstance(own, Mapping) else {}), **found}
        text = f"{{{', '.join(f'{json.dumps(name)}: {value!r}' for name, value in every.items())}}}"
    with told(errors, f"guidance.{next(iter(found))}"):
        model.per_condition(guidance_of(text))
    return text


def check_asked(
    model: Model, n: int, typed: Mapping[str, str], used: Mapping[str, Upload], errors: dict[str, str]
) -> None:
    """Finds the fields whose values cannot be asked for: each alone, then all together."""
    domain = model.domain

    def wrong(names: list[str], of: str) -> str | None:
        real = [f"{name}={used[name].path if name in used else typed[name]}" for name in names]
        try:
            what = words_asked(real, domain.conditions)
            domain.request(n, **domain.sized(n, model.plan(n, **what)))
        except GendiffError as error:
            text = words_of(error, of)
        except Exception as error:  # noqa: BLE001  a stranger's request may raise anything at what was typed
            text = f"{typed.get(of, '')!r}: {type(error).__name__}: {error}"
        else:
            return None
        for upload in used.values():
            text = text.replace(str(upload.path), upload.name)
        return text

    alone = {name: text for name in typed if (text := wrong([name], name)) is not None}
    for name, text in alone.items():
        errors.setdefault(f"asked.{name}", text)
    everything = list(typed)
    if alone or (text := wrong(everything, FORM)) is None:
        return
    mends = [name for name in reversed(everything) if wrong([o for o in everything if o != name], FORM) is None]
    errors.setdefault(f"asked.{mends[0]}" if mends else FORM, text.removeprefix(f"{mends[0]}: ") if mends else text)
