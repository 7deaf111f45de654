r"""Model files: safetensors with one JSON text, read without trust and written whole.

    header | JSON: format, domain, network, process, head, sampler, recipe, metrics, digests | weights

A file is read through one handle. Its digests (SHA-256 of the config and of the weights) are checked where it has them;
values must have the types that the fields they fill declare; a network is built without memory first and compared with
the header, so that a hostile config costs neither memory nor time; nothing is unpickled and no code is run. A file is
written beside its place under a name of its own, flushed, and moved over the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import os
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gendiff.config import (
    Kinds,
    check_name,
    check_type,
    complete,
    from_config,
    kind_name,
    parse_json,
    to_config,
    unread,
)
from gendiff.denoisers import Head
from gendiff.discovery import domain_class, registered_parts
from gendiff.domain import Domain, sealed
from gendiff.errors import (
    CheckpointError,
    GendiffError,
    RecipeError,
)
from gendiff.processes import Process
from gendiff.sampling import Loop
from gendiff.sampling.solvers import Solver

FORMAT = 1

HINTS = {
    "domain": Mapping, "network": Mapping, "process": Mapping, "head": Mapping, "sampler": Mapping, "recipe": Mapping,
    "metrics": Mapping[str, float | None],
}  # fmt: skip

CARRIED = "@"
"""Before the names of weights in a model's file that are its domain's; no network's begins so."""

ADAPTED = ("adapter", "base")
"""What the config of an adapter has beside: how it adapts, and which model."""

LONGEST_HEADER = 64 * 2**20

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

DIGESTS = ("config_sha256", "weights_sha256")


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, type, shape and bytes, in the order of their names: hex."""
    out = hashlib.sha256()
    for name, value in sorted(weights.items()):
        out.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        out.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return out.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 of a text: hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_whole(path: str | Path, content: bytes) -> Path:
    """Writes a file so that readers, other writers and a crash see the old one or the new one, never a part.

    The content goes to a new file of its own name in the same folder, to the disk, and then takes the place of `path`;
    a link at `path` is replaced, not followed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def domain_config(domain: Domain) -> dict[str, Any]:
    """A domain's JSON-able form: the name of its entry point, its class, and its fields."""
    return {"name": getattr(domain, "name", type(domain).__name__.lower()), **to_config(domain)}


def read_domain(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> tuple[Domain, Kinds]:
    """The domain that `domain_config` described, and the classes that its file may name.

    Args:
        config: With "name", and "kind" for a class that is not the one registered under that name.
        where: What is being read, for messages.
        parts: Classes known beside the registered ones.

    Raises:
        UnknownName: If neither an entry point nor the parts have it.
        RecipeError: If a field does not fit.
    """
    complete(config, ["name"], where)
    cls = domain_type(config, where, parts)
    kinds = Kinds(package_of(cls), parts=parts)
    fields = {**{k: v for k, v in config.items() if k != "name"}, "kind": cls.__name__}
    return from_config(fields, where=where, means=cls, kinds=kinds, hint=Domain), kinds


def kinds_of(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> Kinds:
    """The classes that a model's config may name.

    Raises:
        UnknownName: If its domain is not known.
    """
    return read_domain(config["domain"], f"{where}: domain", parts)[1]


def domain_type(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> type:
    """The class of the domain that a config names: one of the parts, or what is registered under its name."""
    name, kind = config["name"], config.get("kind")
    check_name(name, f"the name in {where}")
    for part in (*parts, *registered_parts()):
        own = kind in (part.__name__, kind_name(part)) if kind else getattr(part, "name", None) == name
        if own and issubclass(part, Domain):
            return part
    cls = domain_class(name)
    return cls if kind in (None, cls.__name__) else Kinds(package_of(cls)).find(kind, where)


def make_network(domain: Domain, size: Mapping[str, Any]) -> nn.Module:
    """The domain's network of a size, or the class that stands under "kind" with the rest as its arguments."""
    kind = size.get("kind")
    if kind is None:
        return domain.network(**size)
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise RecipeError(f"The network has the kind {kind!r}", "a class of torch.nn.Module", "kind=MyNet, width=64")
    return kind(**{name: value for name, value in size.items() if name != "kind"})


def as_checkpoint_error(error: GendiffError) -> CheckpointError:
    """What is wrong with a file, cut to a readable length: a file may hold texts of any."""
    parts = (error.got, error.expected, error.fix)
    return CheckpointError(*(part if len(part) <= 600 else part[:600] + " ..." for part in parts))


class ModelFile:
    """An open safetensors file: the length of a header in 8 bytes, the header in JSON, the tensors end to end.

    One handle reads all of it, so who replaces the file meanwhile does not change what is read; safetensors' own reader
    opens its path twice.

    Attributes:
        metadata: Texts by name; the config is under "gendiff".
        shapes: Of the tensors, by name.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(size - 8, LONGEST_HEADER):
                raise RecipeError(f"a header of {length:,} bytes in a file of {size:,}")
            header = parse_json(file.read(length).decode("utf8"), "its header", LONGEST_HEADER)
            check_type(header, Mapping[str, Mapping], "its header")
            self.metadata: dict[str, str] = header.pop("__metadata__", {})
            check_type(self.metadata, Mapping[str, str], "its metadata")
            self.places = {name: place_of(name, entry) for name, entry in header.items()}
            end = 0
            for _, _, begin, after in sorted(self.places.values(), key=lambda place: place[2:]):
                if begin != end:
                    raise RecipeError("tensors that do not lie end to end")
                end = after
            if 8 + length + end != size:
                raise RecipeError(f"tensors of {end:,} bytes in a file of {size:,}")
        except (GendiffError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{path} cannot be read as safetensors ({getattr(error, 'got', error)})",
                "an undamaged model file",
                "Copy it again",
            ) from error
        self.start = 8 + length
        self.shapes = {name: place[1] for name, place in self.places.items()}

    def tensor(self, name: str) -> Tensor:
        """A tensor, in memory of its own."""
        dtype, shape, begin, end = self.places[name]
        if begin == end:
            return torch.empty(shape, dtype=dtype)
        self.file.seek(self.start + begin)
        return torch.frombuffer(bytearray(self.file.read(end - begin)), dtype=dtype).reshape(shape)


def place_of(name: str, entry: Mapping[str, Any]) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """Type, shape, and first and last offset of a tensor, from its entry in the header."""
    complete(entry, ["dtype", "shape", "data_offsets"], name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    plain = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    if not plain or entry["dtype"] not in DTYPES or any(type(n) is not int or n < 0 for n in (*shape, *offsets)):
        raise RecipeError(f"{name!r} is {entry!r:.200}")
    dtype = DTYPES[entry["dtype"]]
    if offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise RecipeError(f"{name!r} of shape {shape!r:.200} has {offsets[1] - offsets[0]:,} bytes")
    return dtype, tuple(shape), *offsets


@contextlib.contextmanager
def open_model(path: str | Path, hints: Mapping[str, Any] = HINTS) -> Iterator[tuple[ModelFile, dict[str, Any]]]:
    """An open model file and its config, with the keys of `hints` and values of these types; by default a model's.

    Raises:
        CheckpointError: If it is missing, damaged, not gendiff's, or of another format.
    """
    path = model_path(path)
    try:
        with path.open("rb") as stream:
            file = ModelFile(stream, path)
            yield file, checked_config(file.metadata, path, hints)
    except FileNotFoundError as error:
        raise CheckpointError(f"There is no model file {path}", "a .safetensors file that Model.save wrote") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "a file that this user may read") from error


def model_path(path: str | Path) -> Path:
    """The model file itself, or the one in a run's folder: its model, or the adapter that it trained."""
    path = Path(path)
    if not path.is_dir():
        return path
    whole, adapter = path / "model.safetensors", path / "adapter.safetensors"
    return adapter if adapter.exists() and not whole.exists() else whole


def checked_config(metadata: Mapping[str, str], path: Path, hints: Mapping[str, Any] = HINTS) -> dict[str, Any]:
    """The config in a model file's metadata, checked for its format, its digest and its keys."""
    text, keys = metadata.get("gendiff"), ("format", "version", *hints)
    if text is None:
        raise CheckpointError(f"{path} is safetensors, but no gendiff model", "a file that Model.save wrote")
    try:
        unread(metadata, ["gendiff", *DIGESTS], f"{path}: metadata")
        if set(metadata) & set(DIGESTS):
            complete(metadata, list(DIGESTS), f"{path}: metadata")
            require_digest(metadata["config_sha256"], text_digest(text), path, "config")
        config = parse_json(text, f"The config in {path}")
        if not isinstance(config, dict):
            raise RecipeError(f"The config in {path} is a {type(config).__name__}", f"a table of {', '.join(keys)}")
        if config.get("format") != FORMAT:
            raise RecipeError(
                f"{path} has format {config.get('format')!r} (written by gendiff {config.get('version', 'unknown')})",
                f"format {FORMAT}",
                "Load it with the gendiff version that wrote it",
            )
        is_codec = "bottleneck" in config
        if is_codec != ("bottleneck" in hints):
            raise RecipeError(
                f"{path} holds a {'codec' if is_codec else 'model'}", f"a {'model' if is_codec else 'codec'}",
                "gendiff.Codec.load(path) reads a codec" if is_codec else "gendiff.load(path) reads a model",
            )  # fmt: skip
        more = ADAPTED if any(key in config for key in ADAPTED) and not is_codec else ()
        unread(config, [*keys, *more], str(path))
        complete(config, [*keys, *more], str(path))
        for key, hint in {**hints, **dict.fromkeys(more, Mapping)}.items():
            check_type(config[key], hint, f"{path}: {key}")
        complete(config["domain"], ["name"], f"{path}: domain")
    except GendiffError as error:
        raise as_checkpoint_error(error) from error
    return config


def require_digest(wanted: str, found: str, path: Path, what: str) -> None:
    """Raises CheckpointError unless two digests agree."""
    if wanted != found:
        raise CheckpointError(
            f"The {what} of {path} has the SHA-256 {found[:12]}..., the file says {wanted[:12]!r}...",
            "an undamaged model file",
            "Copy it again",
        )


def read_config(path: str | Path) -> dict[str, Any]:
    """The config of a model file, checked for its format.

    Raises:
        CheckpointError: If it is missing, damaged, not gendiff's, or of another format.
    """
    with open_model(path) as (_, config):
        return config


class Rebuilt(NamedTuple):
    """What a model's config describes, beside weights, recipe and metrics."""

    domain: Domain
    process: Process
    head: Head
    sampler: Solver | Loop
    size: dict[str, Any]


def rebuild(config: Mapping[str, Any], where: str, parts: Sequence[type] = ()) -> Rebuilt:
    """The parts of a model from its config; its domain has the model's process and head.

    Raises:
        UnknownName: For a domain that is not known.
        CheckpointError: For a key nobody reads, or a value that does not fit.
    """
    with sealed():
        domain, kinds = read_domain(config["domain"], f"{where}: domain", parts)

        def part(key: str, hint: Any) -> Any:
            return from_config(config[key], where=f"{where}: {key}", kinds=kinds, hint=hint)

        process, head, sampler = part("process", Process), part("head", Head), part("sampler", Solver | Loop)
        return Rebuilt(domain.with_process(process, head), process, head, sampler, dict(part("network", Mapping)))


def divided(named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What stands in a model's file by name: the network's, and the domain's (`Domain.carried`)."""
    own = {name: value for name, value in named.items() if not name.startswith(CARRIED)}
    return own, {name[len(CARRIED) :]: value for name, value in named.items() if name.startswith(CARRIED)}


def check_size(domain: Domain, size: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], where: str) -> None:
    """Refuses a size whose network has not the weights of a file, before memory is taken for it.

    The network is built without memory for its large tensors, and given up once it has far more modules than the file
    has tensors.

    Args:
        shapes: The shape of each tensor in the file, by name.

    Raises:
        CheckpointError: For sizes that cannot be built, or weights of other names or shapes.
    """
    network = described(domain, size, shapes, where)
    own = {name: tuple(x.shape) for name, x in network.state_dict().items()}
    odd = sorted(set(own) ^ set(shapes)) or [k for k in own if own[k] != tuple(shapes[k])]
    if odd:
        raise CheckpointError(
            f"{where}: {len(odd)} weights do not fit the network, first {odd[0]!r}",
            f"the weights of {type(network).__name__}({size!r:.200})",
        )


def described(domain: Domain, size: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], where: str) -> nn.Module:
    """The network of a size, built without memory for its large tensors, as far as it is no larger than weights of
    these shapes may be.

    Raises:
        CheckpointError: For sizes that cannot be built.
    """
    entries = sum(math.prod(shape) for shape in shapes.values())
    maker = size.get("kind", domain.network)
    taken = inspect.signature(maker).parameters.values()
    try:
        if all(p.kind is not p.VAR_KEYWORD for p in taken):
            unread(size, ["kind", *(p.name for p in taken)] if "kind" in size else [p.name for p in taken], where)
        for number in numbers_in(size):
            if abs(number) > max(entries, 2**16):
                raise RecipeError(f"{where} holds {number:.6g}", f"sizes of a network of {entries:,} weights")
        with at_most(16 * len(shapes) + 1024, where), sealed():
            try:
                with Weightless():
                    network = make_network(domain, size)
            except (NotImplementedError, RuntimeError) as error:
                # A network that looks at numbers while it is built needs memory; its sizes are bounded all the same.
                longest = max((max(shape, default=1) for shape in shapes.values()), default=1)
                if "meta" not in str(error) or any(abs(number) > 4 * longest for number in numbers_in(size)):
                    raise
                network = make_network(domain, size)
    except GendiffError as error:
        raise as_checkpoint_error(error) from error
    except Exception as error:
        raise CheckpointError(
            f"{where}: no network can be built of {size!r:.200} ({type(error).__name__}: {error!s:.200})",
            "the sizes it was trained with",
        ) from error
    return network


class Weightless(TorchFunctionMode):
    """Large tensors that are made within it take no memory, and no random numbers are drawn for them.

    Small ones are real: torch needs seconds of imports to compute without memory.
    """

    MADE = frozenset({"empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "logspace", "eye"})
    DRAWN = frozenset({"normal_", "uniform_", "trunc_normal_", "bernoulli_", "random_"})
    SMALL = 4096

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name in self.MADE and given.get("device") is None:
            counts = numbers_in([*args, given.get("size"), given.get("steps"), given.get("end")])
            if math.prod(max(int(n), 1) for n in counts if math.isfinite(n)) > self.SMALL:
                given["device"] = "meta"
        first = args[0] if args else given.get("tensor")
        if name in self.DRAWN and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **given)


def numbers_in(value: Any) -> Iterator[float]:
    """All numbers in nested plain values."""
    if isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value


@contextlib.contextmanager
def at_most(count: int, where: str) -> Iterator[None]:
    """Within it, a thread that registers more modules, parameters and buffers than this raises RecipeError."""
    thread, seen = threading.get_ident(), 0

    def registered(*args: Any) -> None:
        nonlocal seen
        seen += threading.get_ident() == thread
        if seen > count:
            raise RecipeError(
                f"{where} describes a network of more than {count:,} parts", "those of the file's weights"
            )

    kinds = torch.nn.modules.module
    hooks = [
        kinds.register_module_module_registration_hook(registered),
        kinds.register_module_parameter_registration_hook(registered),
        kinds.register_module_buffer_registration_hook(registered),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def package_of(cls: type) -> ModuleType:
    """The package, or single module, that defines a class."""
    return sys.modules[cls.__module__.partition(".")[0]]
