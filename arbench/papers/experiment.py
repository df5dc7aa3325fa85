"""The papers' tables and figures as data: YAML in `experiments/`, read into frozen dataclasses, with inheritance.

A file says `base: NAME` to take everything that it does not say itself from `experiments/NAME.yaml`; its `defaults`
hold for every row that runs; a row says `base: ROW` to start from another row of its file. A user's own file is named
by its path; its base is a shipped one or another file of its folder (`base: other.yaml`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from arbench.generators.methods import all_settings
from arbench.machine.yaml_file import read_keys
from arbench.registry import unknown_name
from arbench.validation import Count, Limits, Seed, check, check_fields, check_names, hints_of

TASKS = ("generate", "bench", "reconstruct", "quoted")
# Values of `weights` beside the names of weights cards.
SHIPPED, RANDOM, TRAINED, UNRELEASED = "shipped", "random", "trained", "unreleased"
SUFFIXES = (".yaml", ".yml")
NAME = r"\w[\w.+=-]*"  # of a row and of a user's file: folders are called so
Built = TypeVar("Built")
# Settings that a run of a row may have otherwise: what differs is in the record, and tables tell it apart.
FREE = ("num_images", "dtype", "seed", "batch_size", "metrics")


@dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """How the published scores of a row were made."""

    evaluator: str = ""
    extractor: str = "inception"
    reference: str = ""
    image_size: Count | None = None
    resize: str = ""

    def __post_init__(self) -> None:
        check_fields(EvaluationProtocol, vars(self))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: what is run, with which weights and settings, and where its published values stand.

    `task` is generate (images and scores), bench (time only), reconstruct (a tokenizer's round trip) or quoted
    (another group's method, never run here). `weights` and `tokenizer_weights` are names of weights cards, or
    "shipped", "random" (where only time is measured), "trained" (from scratch, as `training` says) or "unreleased".
    `published` is `paper/table/row` of `results/published`, None where nothing is printed. `unprinted` names the
    settings that the paper does not print, `unsupported` what arbench lacks to run the row.
    """

    name: str
    label: str
    group: str = ""
    task: Annotated[str, Limits(choices=TASKS)] = "generate"
    method: str | None = None
    model: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    tokenizer_weights: str | None = None
    which: Annotated[str, Limits(choices=("ema", "raw"), called="kind of weights")] = "ema"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    labels: Annotated[str, Limits(choices=("balanced", "random"), called="label mode")] = "balanced"
    num_images: Count = 50_000
    batch_size: Count | None = None
    dtype: str = "auto"
    seeds: tuple[Seed, ...] = (0,)
    metrics: tuple[str, ...] = ("fid", "is", "precision", "recall")
    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    training: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None
    unprinted: tuple[str, ...] = ()
    unsupported: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(Row, vars(self))
        settings = all_settings()
        check_names("sampling setting", self.sampling, settings)
        check_names("setting that is not printed", self.unprinted, (*settings, "training"))
        if self.task in ("generate", "bench") and not (self.method and self.model):
            raise ValueError("a row that runs needs `method` and `model`")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a run of this row, all but its files: keywords of `arbench.run`."""
        return {
            "method": self.method,
            "model": self.model,
            "config": self.config,
            "tokenizer": self.tokenizer,
            "tokenizer_config": self.tokenizer_config,
            "which": self.which,
            "label_mode": self.labels,
            "num_images": self.num_images,
            "dtype": self.dtype,
            "seed": self.seeds[0],
            "batch_size": self.batch_size or "auto",
            "metrics": self.metrics,
            **self.sampling,
        }

    def departures(self, given: Mapping[str, Any]) -> list[str]:
        """Those of the `given` settings with which a run is no run of this row: others than it has, or other weights.

        Where the row names released weights, or has none yet, any file is taken for them.
        """
        own, settings = self.settings, all_settings()
        changed = [name for name in given if name in (*own, *settings) and name not in FREE]
        changed = [name for name in changed if given[name] != own.get(name)]
        for name, told in (("weights", self.weights), ("tokenizer_weights", self.tokenizer_weights)):
            file = given.get(name)
            if file is not None and file != told and (told in (None, SHIPPED) or str(file) == RANDOM):
                changed.append(name)
        return changed

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with anything that the row says of what one seed of it measures.

        Fields at their defaults are left out, so that a new field with a default changes no row's digest.
        """
        told = ("name", "label", "group", "published", "unprinted", "unsupported", "notes", "seeds")
        plain, mine = _plain_row(), dataclasses.asdict(self).items()
        deciding = {key: value for key, value in mine if key not in told and value != plain[key]}
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:8]


@cache
def _plain_row() -> dict[str, Any]:
    """Every field of a row at its default."""
    return dataclasses.asdict(Row(name="", label="", task="quoted"))


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of a paper: its rows, the columns it prints, and what to know when reading it.

    `tolerance` is, by quantity, how far a measured value may lie from the published one, as a share of it, before
    it is marked; `plot` holds the quantities `x` and `y` of a figure; `path` is where a user's own file lies.
    """

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    tolerance: Mapping[str, float] = field(default_factory=dict)
    plot: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: str = ""

    @property
    def told(self) -> str:
        """How a command line names it: the path of a user's file, else the name."""
        return self.path or self.name

    def __post_init__(self) -> None:
        check_fields(Experiment, vars(self))
        check_names("axis", self.plot, ("x", "y"))

    def row(self, name: str) -> Row:
        """The row called `name`; ValueError names the nearest where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise unknown_name(f"row of {self.name}", name, [row.name for row in self.rows])

    def row_source(self, name: str) -> dict[str, str]:
        """What `source` of a record says of the row that it measures; by the digest a row changed since is told."""
        row = self.row(name)
        return {"experiment": self.name, "row": row.name, "row_digest": row.digest, "label": row.label}


def package_folder(name: str) -> Path:
    """The folder `experiments` or `results`: inside the package in a wheel, beside it in a checkout."""
    package = Path(str(files("arbench")))
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{name}/ is neither inside nor beside the package arbench; install it anew")


@cache
def experiment_names() -> tuple[str, ...]:
    """Every table and figure by name, as `mar/table4`."""
    folders = sorted((f for f in package_folder("experiments").iterdir() if f.is_dir()), key=lambda f: f.name)
    return tuple(
        f"{folder.name}/{name[: -len('.yaml')]}"
        for folder in folders
        for name in sorted(file.name for file in folder.iterdir())
        if name.endswith(".yaml")
    )


def load_experiment(name: str) -> Experiment:
    """Read the experiment called `name`, or a user's own file where that is a path to YAML.

    Raises ValueError, naming file and nearest valid choice, for an unknown experiment, key, base or setting, and
    OSError for a file that cannot be read.
    """
    return _load_file(Path(name)) if is_experiment_file(name) else _load_shipped(name)


def is_experiment_file(name: str) -> bool:
    """Whether `name` is spelt as the path of a user's own experiment."""
    return name.endswith(SUFFIXES)


@cache
def _load_shipped(name: str) -> Experiment:
    if name not in experiment_names():
        raise unknown_name("experiment", name, experiment_names())
    return build_experiment(name, _with_base(name))


def _load_file(file: Path) -> Experiment:
    """A user's file, called by its stem. Nothing is printed for its rows unless they name what."""
    _check_name(str(file), "the name of an experiment's file", file.stem)
    content = _file_with_base(file)
    content = {"title": file.stem, "source": file.name, "columns": ["fid", "is_mean"], **content}
    check(f"{file}: defaults", content.get("defaults", {}), Mapping)
    content["defaults"] = {"published": None, **content.get("defaults", {})}
    built = build_experiment(file.stem, content, where=str(file))
    return dataclasses.replace(built, path=str(file))


def _file_with_base(file: Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A user's file over its base: a shipped experiment by name, or a file beside it, never one elsewhere."""
    content = read_keys(file)
    base = content.pop("base", None)
    if base is None:
        return content
    check(f"{file}: base", base, str)
    if not base.endswith(SUFFIXES):
        if base not in base_names():
            raise ValueError(f"{file}: {unknown_name('base', base, base_names())}")
        return _merge(_with_base(base), content)
    beside = file.parent / base
    if Path(base) != Path(beside.name) or beside.resolve().parent != file.parent.resolve():
        raise ValueError(f"{file}: base {base!r} lies elsewhere; expected a file in the same folder, or a shipped base")
    if beside.name in (*seen, file.name):
        raise ValueError(f"{file}: the bases form a circle ({' → '.join((*seen, file.name, base))})")
    if not beside.is_file():
        known = [other.name for other in file.parent.iterdir() if other.name.endswith(SUFFIXES)]
        raise ValueError(f"{file}: {unknown_name('base file', base, known)}")
    return _merge(_file_with_base(beside, (*seen, file.name)), content)


@cache
def base_names() -> tuple[str, ...]:
    """What a user's file may start from: every shipped file by name, tables and what they have in common."""
    shared = (file.name for file in package_folder("experiments").iterdir() if file.name.endswith(".yaml"))
    return (*sorted(name.removesuffix(".yaml") for name in shared), *experiment_names())


def build_experiment(name: str, content: Mapping[str, Any], where: str = "") -> Experiment:
    """The `Experiment` of a file's content, its base already merged in. Raises ValueError as `load_experiment`.

    Error lines name the file as `where` says, else as `name`.
    """
    content, told = dict(content), where or name
    defaults, rows = content.pop("defaults", {}), content.pop("rows", {})
    for key, part in (("defaults", defaults), ("rows", rows)):
        check(f"{told}: {key}", part, Mapping)
    for key in content:
        if key in ("name", "path"):
            raise ValueError(f"{told}: unknown key {key!r}; an experiment is called by its file")
    made = tuple(_build_row(name, told, key, rows, defaults) for key in rows)
    if not made:
        raise ValueError(f"{told}: an experiment needs at least one row")
    return _build(Experiment, told, {**content, "name": name, "rows": made})


def _build_row(name: str, file: str, key: str, rows: Mapping[str, Any], defaults: Mapping[str, Any]) -> Row:
    where = f"{file}: row {key!r}"
    _check_name(file, "a row", key)
    check(f"{file}: row {key!r}", rows[key] or {}, Mapping)
    content = _with_base_row(where, key, rows)
    content.setdefault("published", defaults.get("published", f"{name}/{key}"))
    if content.get("task") != "quoted":
        content = _merge(defaults, content)
    for part in ("config", "sampling", "tokenizer_config"):  # null takes back what a base says
        if part in content:
            check(f"{where}: {part}", content[part], Mapping)
            content[part] = {setting: value for setting, value in content[part].items() if value is not None}
    content["protocol"] = _build(EvaluationProtocol, f"{where}, protocol", content.get("protocol") or {})
    row = _build(Row, where, {"label": key, **content, "name": key})
    if not row.seeds:
        raise ValueError(f"{where}: seeds is empty; expected at least one")
    return row


def _with_base_row(where: str, key: str, rows: Mapping[str, Any], seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A row's content over that of the row it starts from."""
    content = dict(rows[key] or {})
    base = content.pop("base", None)
    if base is None:
        return content
    check(f"{where}: base", base, str)
    if base not in rows:
        raise ValueError(f"{where}: {unknown_name('base row', base, rows)}")
    if base in (*seen, key):
        raise ValueError(f"{where}: the base rows form a circle ({' → '.join((*seen, key, base))})")
    return _merge(_with_base_row(where, base, rows, (*seen, key)), content)


def _with_base(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """A file's content over that of its base file."""
    file = package_folder("experiments") / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"experiments/{name}.yaml does not exist; it is the base of {seen[-1]}.yaml")
    content = read_keys(file)
    base = content.pop("base", None)
    if base is None:
        return content
    if base in (*seen, name):
        raise ValueError(f"experiments/{name}.yaml: the bases form a circle ({' → '.join((*seen, name, base))})")
    return _merge(_with_base(base, (*seen, name)), content)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: mappings are merged, notes follow one another, everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(known, value)
        elif key == "notes" and known:
            merged[key] = [*known, *value]
        else:
            merged[key] = value
    return merged


def _build(cls: type[Built], where: str, content: Mapping[str, Any]) -> Built:
    """A dataclass from a mapping: unknown keys are errors, lists become tuples."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    try:
        check_names("key", content, hints_of(cls))  # type: ignore[arg-type]
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def _check_name(where: str, what: str, name: object) -> None:
    """Rows and experiments name folders: ValueError for what could lead elsewhere."""
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(f"{where}: {name!r} cannot be {what}; expected letters, digits and any of . _ + = -")
