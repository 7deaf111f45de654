"""A model from its file, and whether its file would give it back.

Nothing in a file is run or unpickled; it may name classes of gendiff, of installed packages, and those handed over
(`parts`). A run asks `check_loadable` before its first step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gendiff.adaptation import base_path, read_adaptation
from gendiff.config import Kinds, classes_in, core_kinds, from_config, kind_name, parse_json, to_config
from gendiff.domain import Domain, sealed
from gendiff.errors import CheckpointError, GendiffError, RecipeError, UnknownName
from gendiff.model import Model, check_names
from gendiff.modelfile import (
    Rebuilt,
    as_checkpoint_error,
    check_size,
    digest,
    divided,
    domain_type,
    kinds_of,
    make_network,
    open_model,
    package_of,
    read_config,
    read_domain,
    rebuild,
    require_digest,
)


@torch.inference_mode(False)  # weights made in the mode could never be differentiated
def load(path: str | Path, *, device: torch.device | str = "cpu", parts: Sequence[type] = ()) -> Model:
    """A model from a file that `Model.save` wrote (or the folder that holds model.safetensors).

    Nothing in the file is run, and nothing but the file is read: what its data source names is looked at when data are
    asked for. Memory stays below a few times that of the weights. An adapter's file is loaded on its base, which is
    read from where the adapter's file says it was, or from as far beside it, and refused if its weights are others.

    Args:
        path: The file or folder.
        device: Where to.
        parts: Classes of your own that the file names, e.g. `[Square, MyDomain]`, where no package registers them.

    Raises:
        CheckpointError: If the file is damaged, of another format, has keys nobody reads or weights that do not fit.
        UnknownName: If its domain is not known.
    """
    where = str(path)
    with open_model(path) as (file, config):
        if "adapter" in config:
            adaptation, beside = read_adaptation(config, where, kinds_of(config, where, parts))
            found = base_path(adaptation, beside, file.path)
            if "adapter" in read_config(found):
                raise CheckpointError(f"The base of {where}, {found}, is an adapter", "a whole model")
            return load(found, device=device, parts=parts).with_adapter(file.path, parts=parts)
        try:
            domain, process, head, sampler, size = rebuild(config, where, parts)
        except GendiffError as error:
            if isinstance(error, UnknownName) and error.kind == "domain":
                raise
            raise as_checkpoint_error(error) from error
        check_names(domain)
        shapes, more = divided(file.shapes)
        check_size(domain, size, shapes, f"{where}: network")
        with sealed():
            network = make_network(domain, size)
        weights = {name: file.tensor(name) for name in file.shapes}
        if "weights_sha256" in file.metadata:
            require_digest(file.metadata["weights_sha256"], digest(weights), file.path, "weights")
        own, theirs = divided(weights)
        network.load_state_dict(own)
        try:
            domain = domain.carry(more, theirs.__getitem__, where)
        except GendiffError as error:
            raise as_checkpoint_error(error) from error
    model = Model.read(config, Rebuilt(domain, process, head, sampler, size), network)
    model.origin = file.path
    return model.to(device)


def check_loadable(model: Model, *others: Any) -> tuple[type, ...]:
    """Refuses a model whose file could not be loaded again, before time is spent on its weights.

    Args:
        model: Its config goes to JSON and back, and its network is built anew.
        others: More that must survive the way through JSON, such as the recipe's times and objective.

    Returns:
        The classes that `load` must be given as `parts`: those that no package and no `gendiff.register` makes known.

    Raises:
        RecipeError: For what has no JSON, comes back as something else, or cannot be found again.
        CheckpointError: For a network that its size does not describe.
    """
    own = model.domain
    described = (own, model.denoiser.process, model.denoiser.head, model.sampler, model.size)
    text = json.dumps([model.config(), *(to_config(other) for other in others)])
    config, *rest = parse_json(text, "The model's config")
    parts = [
        cls for cls in dict.fromkeys(classes_in([*described, *others])) if cls is not core_kinds().get(cls.__name__)
    ]
    again = rebuild(config, "The model's config", parts)
    kinds = read_domain(config["domain"], "The model's domain", parts)[1]
    for before, after in zip(
        (*described, *others), (*again, *(from_config(data, kinds=kinds) for data in rest)), strict=True
    ):
        if to_config(after) != to_config(before) or list(classes_in(after)) != list(classes_in(before)):
            raise RecipeError(
                f"{before!r:.200} comes back from a file as {after!r:.200}", "fields that say all that it is"
            )
    weights = model.denoiser.network.state_dict()
    check_size(again.domain, again.size, {k: tuple(v.shape) for k, v in weights.items()}, "The model's network")
    return tuple(cls for cls in parts if not found_alone(cls, own, config["domain"]))


def found_alone(cls: type, domain: Domain, config: Mapping[str, Any]) -> bool:
    """Whether `load` finds a class that a file of this domain names, without being given it."""
    try:
        if cls is type(domain):
            return domain_type(config, "domain") is cls
        return Kinds(package_of(type(domain))).find(kind_name(cls), "config") is cls
    except GendiffError:
        return False
