"""What a benchmark compares: methods x domains x evaluations x seeds, as a TOML or JSON file says it.

    name = "few steps"
    evaluations = [4, 8, 16]                 # of the network, for every sample
    seeds = 3                                # or [0, 1, 2]
    parts = ["my.py:MySolver"]               # classes of your own, from files beside this one

    [methods]
    DDIM = "DDIM()"                          # a solver; its steps follow from the evaluations
    fitted = {sampler = "calibrated", pilots = 64, rounds = 0}
    distilled = {sampler = "FlowMap()", models = {clothes = "few.safetensors"}}

    [domains.clothes]
    model = "../runs/fashion"                # a model there is, or one that is trained first:
    # recipe = "images.fashion"              #   a recipe of a name, or a recipe.json;  or  domain = "Torsions()"
    # changes = ["preset=edm", "trainer.minutes=4"]
    n = 64

Paths are looked for beside the file, then from here. Every key is read or refused.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gendiff.config import read_json
from gendiff.errors import Range, RecipeError, check, nearest, refuse

OWN, CALIBRATED = "own", "calibrated"
"""Words in the place of a sampler: the model's own, and one whose tables are fitted to the model."""
TAKEN = ("real data", "chance")
"""Rows of tables that are no methods."""
SMALL, LARGE = 1, 2**31
COUNT = Range(SMALL, LARGE, text="a whole number, at least 1")
SEED = Range(0, LARGE, text="a whole number, 0 or more")


def slug(name: str) -> str:
    """A name as one of a folder."""
    return re.sub(r"[^A-Za-z0-9._+]+", "-", name).strip("-.") or "-"


@dataclass(frozen=True)
class Method:
    """How samples are drawn.

    Attributes:
        name: In the tables.
        sampler: A solver as it is written, `Adams(times=PowerGrid(1.1))`; "own" for the model's own; "calibrated" for
            tables that are fitted to the model first.
        guidance: Instead of the domain's: a number, or a rule as it is written; None for the domain's.
        models: Another model for some domains, by their names: a distilled one.
        evaluations: Those of the suite that it takes part in; all if there are none.
        solver: Of "calibrated": the solver to fit; "" for `Adams()`.
        pilots: Of "calibrated": trajectories to fit to.
        rounds: Of "calibrated": refinements.
        fine: Of "calibrated": steps of the trajectories.
    """

    name: str
    sampler: str
    guidance: float | str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    evaluations: tuple[int, ...] = ()
    solver: str = ""
    pilots: int = 256
    rounds: int = 4
    fine: int = 96

    def __post_init__(self) -> None:
        check(
            self, pilots=Range(8, LARGE, text="a whole number, at least 8"), rounds=SEED, fine=COUNT, evaluations=COUNT
        )
        for name in ("name", "sampler"):
            if not getattr(self, name).strip():
                refuse(self, name, "a text")
        if self.sampler != CALIBRATED:
            for name in ("solver", "pilots", "rounds", "fine"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    refuse(self, name, f'nothing beside sampler={self.sampler!r}: it is read of sampler="{CALIBRATED}"')

    @property
    def calibrates(self) -> bool:
        """Whether something is fitted to the model first."""
        return self.sampler == CALIBRATED


@dataclass(frozen=True)
class Entry:
    """A domain with its model, and what is asked and measured there.

    Attributes:
        name: In the tables.
        model: A model's file or the folder of its run; "" for one that is trained first.
        recipe: What is trained first: a recipe of a name with its own arguments, or a recipe.json.
        domain: In the place of a recipe, a domain without one: the name of an installed domain, or a domain of `parts`
            as it is written, `Torsions(length=8)`.
        changes: Of what is trained, "path=value" each.
        n: Samples of a cell.
        batch: Samples at a time.
        ask: Keywords of the request; what is not asked is planned, classes in turn (`Model.plan`).
        guidance: A number, or a rule as it is written; None for the model's own.
        measures: Those of the domain that are measured; all but those against the training data, if none are named.
        judges: Of the domain, who measure beside it.
        reference: Real examples that samples are compared with; as many as samples by default.
        split: Where they are from.
        floor: Where the real examples are from that take the samples' place.
        shown: Samples of the first seed that the page shows.
    """

    name: str
    model: str = ""
    recipe: str = ""
    domain: str = ""
    changes: tuple[str, ...] = ()
    n: int = 64
    batch: int = 64
    ask: Mapping[str, Any] = field(default_factory=dict)
    guidance: float | str | None = None
    measures: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    reference: int | None = None
    split: str = "test"
    floor: str = "train"
    shown: int = 4

    def __post_init__(self) -> None:
        two = Range(2, LARGE, text="a whole number, at least 2")
        check(self, n=two, batch=COUNT, reference=two, shown=SEED)
        if not self.name.strip():
            refuse(self, "name", "a text")
        said = [name for name in ("model", "recipe", "domain") if getattr(self, name)]
        if len(said) != 1:
            got = " and ".join(said) or "none"
            raise RecipeError(
                f"The domain {self.name!r} names {got} of model, recipe, domain", "exactly one of them",
                'model = "model.safetensors", or recipe = "images.digits"',
            )  # fmt: skip
        if self.model and self.changes:
            refuse(self, "changes", "nothing beside a model: they are of what is trained")
        for name in ("split", "floor"):
            if getattr(self, name) not in ("train", "test"):
                refuse(self, name, f"train or test.{nearest(getattr(self, name), ('train', 'test'))}")

    @property
    def trained(self) -> bool:
        """Whether its model is trained first."""
        return not self.model


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: Its title.
        domains: What is sampled.
        methods: How.
        evaluations: Of the network, for every sample; guidance adds branches to each and is counted beside them.
        seeds: Of the samples; every method has the same noise.
        parts: Classes of a person's own, "FILE.py:Name" or "FILE.py" for all of it.
        folder: Where paths are looked for first.
    """

    name: str
    domains: tuple[Entry, ...]
    methods: tuple[Method, ...]
    evaluations: tuple[int, ...]
    seeds: tuple[int, ...] = (0,)
    parts: tuple[str, ...] = ()
    folder: str = "."

    def __post_init__(self) -> None:
        check(self, evaluations=COUNT, seeds=SEED)
        for name in ("domains", "methods", "evaluations", "seeds"):
            values = getattr(self, name)
            if not values:
                refuse(self, name, "at least one")
            keys = [slug(one.name) if name in ("domains", "methods") else one for one in values]
            twice = next((one for k, one in enumerate(keys) if one in keys[:k]), None)
            if twice is not None:
                raise RecipeError(f"{self.name}: {name} has {twice!r} twice", "each once")
        taken = next((one.name for one in self.methods if one.name in TAKEN), None)
        if taken is not None:
            raise RecipeError(f"A method is called {taken!r}", "another name: it stands beside the methods in tables")
        known = [one.name for one in self.domains]
        for method in self.methods:
            for name in method.models:
                if name not in known:
                    raise RecipeError(
                        f"The method {method.name!r} has a model for {name!r}",
                        f"a domain of the suite: {', '.join(known)}.{nearest(name, known)}",
                    )
            odd = [count for count in method.evaluations if count not in self.evaluations]
            if odd:
                got = f"The method {method.name!r} has evaluations={odd[0]}"
                raise RecipeError(got, f"some of the suite's: {', '.join(map(str, self.evaluations))}")

    def entry(self, name: str) -> Entry:
        """The domain of a name."""
        return next(one for one in self.domains if one.name == name)

    def method(self, name: str) -> Method:
        """The method of a name."""
        return next(one for one in self.methods if one.name == name)

    def path(self, text: str) -> Path:
        """A file or folder that the suite names: beside its own file, else from here."""
        beside = Path(self.folder) / text
        return (beside if beside.exists() or not Path(text).exists() else Path(text)).resolve()


def read_suite(path: str | Path, parts: Sequence[str] = ()) -> Suite:
    """The suite that a TOML or JSON file declares.

    Args:
        path: The file.
        parts: More classes of a person's own, from here.

    Raises:
        RecipeError: For a file that is none, an unknown key with the nearest, or a value that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"There is no suite {path}", "a TOML or JSON file", "gendiff bench SUITE.toml --out DIR")
    if path.suffix == ".json":
        data = read_json(path)
    else:
        try:
            data = tomllib.loads(path.read_text(encoding="utf8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"{path} is no TOML ({error})", "methods and domains, as `gendiff bench --help` says"
            ) from error
    here = [
        str(Path(text.rpartition(":")[0] or text).resolve()) + text[len(text.rpartition(":")[0] or text) :]
        for text in parts
    ]
    return suite_of(data, path, here)


def suite_of(data: Mapping[str, Any], path: Path, parts: Sequence[str] = ()) -> Suite:
    """The suite of a parsed file."""
    where, data = path.name, dict(data)
    known(data, Suite, where, but=("folder",))
    parts_said = data.get("parts", [])
    if not isinstance(parts_said, list):
        raise RecipeError(f"{where} has parts={parts_said!r}", "a list of files", 'parts = ["my.py:MySolver"]')
    seeds = data.get("seeds", 1)
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise RecipeError(
                f"{where} has seeds={seeds}", "a number of seeds, at least 1, or a list of them", "seeds = 3"
            )
        seeds = list(range(seeds))
    methods, domains = (listed(data.get(name, {}), name, where) for name in ("methods", "domains"))
    return Suite(
        name=data.get("name", path.stem),
        domains=tuple(made(Entry, name, own, f"{where}: domains.{name}") for name, own in domains.items()),
        methods=tuple(
            made(Method, name, {"sampler": own} if isinstance(own, str) else own, f"{where}: methods.{name}")
            for name, own in methods.items()
        ),
        evaluations=frozen(data.get("evaluations", [])),
        seeds=frozen(seeds),
        parts=(*parts_said, *parts),
        folder=str(path.parent.resolve()),
    )


def listed(value: Any, name: str, where: str) -> Mapping[str, Any]:
    """A table of entries by their names. Raises RecipeError for anything else."""
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} has {name}={value!r}", "a table by names", f"[{name}.NAME]")
    return value


def made(kind: type, name: str, own: Any, where: str) -> Any:
    """A `Method` or `Entry` of its table. Raises RecipeError for keys that nobody reads."""
    if not isinstance(own, Mapping):
        raise RecipeError(f"{where} is {own!r}", "a table", f"{{{', '.join(list(fields(kind))[1:4])}, ...}}")
    known(own, kind, where, but=("name",))
    if kind is Method and "sampler" not in own:
        raise RecipeError(f"{where} has no sampler", 'a solver, "own" or "calibrated"', 'sampler = "DDIM()"')
    return kind(name=name, **{key: frozen(value) for key, value in own.items()})


def fields(kind: type) -> list[str]:
    """The names of a dataclass's fields."""
    return [f.name for f in dataclasses.fields(kind)]


def known(data: Mapping[str, Any], kind: type, where: str, but: Sequence[str] = ()) -> None:
    """Refuses a key that is no field. Raises RecipeError with the nearest."""
    names = [name for name in fields(kind) if name not in but]
    for key in data:
        if key not in names:
            raise RecipeError(f"{where} has {key!r}", f"some of {', '.join(names)}.{nearest(key, names)}")


def frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value
