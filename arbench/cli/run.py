"""`arbench run`: sample, evaluate, record; one model, a row of a paper's table, or all methods."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from arbench.cli import options
from arbench.registry import unknown_name

if TYPE_CHECKING:
    from arbench.papers.experiment import Experiment, Row
    from arbench.runs.request import RunRequest

ALL = "all"
EXAMPLES = """Examples:

  arbench run --method mar

  arbench run --method all --num-images 500

  arbench run --experiment mar/table4 --row mar-b --weights mar-base.safetensors --tokenizer-weights kl16.ckpt

  torchrun --nproc_per_node=8 -m arbench run --method mar --num-images 50000
"""

LabelMode = Annotated[str, typer.Option("--label-mode", help="Classes asked for: balanced or random.")]
Evaluate = Annotated[bool, typer.Option("--evaluate/--no-evaluate", help="Score the images.")]
Extractor = Annotated[
    Optional[str], typer.Option("--extractor", help="inception, digits-cnn or module:Class; several as a,b.")
]
Metrics = Annotated[Optional[str], typer.Option("--metrics", help="Comma-separated: fid,is,precision,recall,kid …")]
InceptionWeights = Annotated[Optional[str], typer.Option("--inception-weights", help="Inception's weights file.")]
OnTheFly = Annotated[
    bool,
    typer.Option(
        "--on-the-fly",
        help="Extract features while sampling, on every process; the extractor then counts to the peak memory.",
    ),
]
NumImages = Annotated[
    Optional[int], typer.Option("--num-images", help="How many images; 500 where the row does not say.")
]
Out = Annotated[Optional[Path], typer.Option("--out", "-o", help="Where the run folder goes; runs/ if left out.")]
ExportNpz = Annotated[bool, typer.Option("--export-npz", help="Also write samples.npz for the ADM evaluator.")]
ExperimentName = Annotated[
    Optional[str], typer.Option("--experiment", help="A paper's table, e.g. mar/table4, or a file: my.yaml.")
]
RowName = Annotated[Optional[str], typer.Option("--row", help="The row of the experiment.")]


def register(app: typer.Typer) -> None:
    """Add `run` to the app."""
    app.command("run", epilog=EXAMPLES)(run)


@options.with_sampling
def run(
    ctx: typer.Context,
    method: options.Method = None,
    model: options.Model = None,
    tokenizer: options.Tokenizer = None,
    weights: options.Weights = None,
    tokenizer_weights: options.TokenizerWeights = None,
    which: options.Which = "ema",
    experiment: ExperimentName = None,
    row: RowName = None,
    num_images: NumImages = None,
    label_mode: LabelMode = "balanced",
    seed: options.Seed = 0,
    out: Out = None,
    resume: options.Resume = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    dtype: options.Precision = "auto",
    decode_dtype: options.DecodeDtype = "float32",
    engine: options.Engine = "auto",
    evaluate: Evaluate = True,
    reference: options.Reference = None,
    extractor: Extractor = None,
    metrics: Metrics = None,
    inception_weights: InceptionWeights = None,
    on_the_fly: OnTheFly = False,
    export_npz: ExportNpz = False,
    log: options.Log = None,
) -> None:
    """Sample, evaluate, write a run folder, print the table row; alone it runs a small model on handwritten digits."""
    asked = options.given_options(ctx)
    if method == ALL:
        compare_methods({name: value for name, value in asked.items() if name != "method"})
        return
    request = build_request(asked)
    from arbench.runs.execute import execute

    path, record = execute(request, say=say)
    if record:
        for scored in (record, *record["other_extractors"].values()):
            for warning in scored["metric_protocol"].get("warnings", ()):
                say(f"note: {warning}")
        from arbench.cli.screen import print_tables
        from arbench.report.tables import records_table

        print_tables([records_table([record])])
        print(f"\n{path}")


def build_request(asked: Mapping[str, Any]) -> RunRequest:
    """The request of the given options, over those of the experiment's row where one is named."""
    from arbench.runs.request import RunRequest

    settings = parsed(asked)
    table, name = settings.pop("experiment", None), settings.pop("row", None)
    if table is None:
        if name is not None:
            raise ValueError(f"--row {name} needs an experiment; expected --experiment NAME --row {name}")
        return RunRequest.of(**settings)
    experiment, row = find_row(table, name)
    request = RunRequest.of(**{**row.settings, **row_files(row, settings), **settings})
    changed = [f"--{option.replace('_', '-')}" for option in row.departures(settings)]
    if changed:
        say(f"with {', '.join(changed)} changed this is no run of {row.name}: tables will not show it there")
        return request
    return replace(request, source=experiment.row_source(row.name))


def parsed(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a run takes them: lists and numbers read from their text."""
    settings = dict(asked)
    if "metrics" in asked:
        settings["metrics"] = [name.strip() for name in asked["metrics"].split(",") if name.strip()]
    if "log" in asked:
        settings["log"] = [name.strip() for name in asked["log"].split(",") if name.strip()]
    if "," in asked.get("extractor", ""):
        settings["extractor"] = [name.strip() for name in asked["extractor"].split(",") if name.strip()]
    if "batch_size" in asked:
        settings["batch_size"] = parse_batch_size(asked["batch_size"])
    return settings


def parse_batch_size(text: str) -> int | str:
    """A number, or "auto"."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def find_row(experiment: str, name: str | None) -> tuple[Experiment, Row]:
    """A table and a row of it that makes images; its only row where none is named.

    Raises ValueError for an unknown experiment or row, and for one that makes no images or cannot be run here.
    """
    from arbench.papers.experiment import load_experiment

    table = load_experiment(experiment)
    names = [row.name for row in table.rows if row.task == "generate"]
    if name is None and len(table.rows) > 1:
        raise ValueError(f"--experiment {experiment}: expected --row with one of: {', '.join(names)}")
    row = table.rows[0] if name is None else table.row(name)
    if row.task != "generate":
        raise unknown_name(f"generating row of {experiment}", row.name, names)
    if row.unsupported:
        raise ValueError(f"row {row.name} of {experiment} cannot be run: {row.unsupported}")
    return table, row


def row_files(row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The weights and the reference that the row names, as far as the command line leaves them open.

    Raises ValueError for weights that nobody has released.
    """
    from arbench.papers.experiment import SHIPPED, TRAINED, UNRELEASED
    from arbench.papers.plan import weights_file

    files: dict[str, Any] = {}
    for option, name in (("weights", row.weights), ("tokenizer_weights", row.tokenizer_weights)):
        if option in settings:
            continue
        if name in (TRAINED, UNRELEASED):
            how = "trained from scratch, as `arbench reproduce` does" if name == TRAINED else "not released"
            raise ValueError(f"row {row.name}: its {option} are {how}; expected --{option.replace('_', '-')} FILE")
        files[option] = weights_file(name or SHIPPED)
    if row.protocol.reference and "reference" not in settings:
        files.update(reference=row.protocol.reference, extractor=row.protocol.extractor)
    return files


def compare_methods(asked: Mapping[str, Any]) -> None:
    """`--method all`: the methods one after another, one table and one speed/accuracy plot."""
    from arbench.runs.compare import compare

    table, files = compare(parsed(asked), say=say)
    if table:
        from arbench.cli.screen import print_tables

        print_tables([table])
        print("", *files, sep="\n")


def say(line: str) -> None:
    """Tell the user something that is no result: on standard error."""
    print(line, file=sys.stderr)
