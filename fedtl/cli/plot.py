"""``fedtl plot``: pictures of runs and studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtl.cli import printing
from fedtl.cli.options import MetricOption, OnlyOption
from fedtl.cli.printing import print_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedtl.comparison import Comparison
    from fedtl.comparison.find import Loaded
    from fedtl.runs.history import Run
    from fedtl.studies import Study

_SCORED = frozenset({"--metric", "--at", "--score"})
KINDS: Mapping[str, frozenset[str]] = {
    "compare": frozenset({"--metric", "--axis", "--score"}),
    "convergence": frozenset({"--metric", "--axis", "--score"}),
    "clients": frozenset({"--metric"}),
    "terms": frozenset({"--axis"}),
    "settings": _SCORED | {"--x"},
    "heat": _SCORED,
    "gains": _SCORED | {"--against"},
    "pareto": _SCORED,
    "personal-global": frozenset({"--metric"}),
    "ranks": _SCORED,
    "sensitivity": frozenset(),
    "similarity": frozenset(),
    "features": frozenset({"--projection"}),
}
"""What can be drawn, and which options say how."""

_OF_RECORDS = ("compare", "convergence", "clients", "terms")
_OF_ONE_RUN = ("similarity", "features")


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="STUDY|RUN...", hidden=True)],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", show_default=False, help="PNG or SVG; the kind's name, as heat.png."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            help="compare (convergence and clients; of runs, if not given), convergence, clients, terms; settings (of "
            "a study, if not given), heat, gains, pareto, personal-global, ranks, sensitivity; similarity, features.",
        ),
    ] = None,
    width: Annotated[str | None, typer.Option("--width", help="As 3.3in, a column's; or 8.4cm.")] = None,
    only: OnlyOption = None,
    metric: MetricOption = None,
    axis: Annotated[str | None, typer.Option("--axis", help="rounds, if not given, bytes, or seconds.")] = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", help="Which scores to draw, as global/server-test; repeatable.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The last round, if not given, or the best by validation.")
    ] = None,
    x: Annotated[str | None, typer.Option("--x", help="settings: the key along the axis, as alpha.")] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="METHOD", help="gains: over which baseline.")
    ] = None,
    projection: Annotated[
        str | None, typer.Option("--projection", help="features: pca, if not given, or tsne.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but the picture's path.")] = False,
) -> None:
    """Draw runs and studies.

    STUDY is a study's folder, RUN a run's folder or one that holds runs; runs that differ in their seed alone are
    one method. Without --kind a study of several settings is drawn over them, and runs as they converge and serve
    each client; their scores are printed.
    """
    from fedtl import plot as pictures
    from fedtl.choice import ConfigError, nearest
    from fedtl.comparison.find import load_all
    from fedtl.comparison.groups import group_runs
    from fedtl.comparison.only import only_groups, only_study
    from fedtl.plot.style import inches

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"--kind = {kind!r} is unknown: {nearest(kind, KINDS)}")
    inch = None if width is None else inches(width)
    words = only or ()
    options = {
        "--metric": metric,
        "--axis": axis,
        "--score": score or None,
        "--at": at,
        "--x": x,
        "--against": against,
        "--projection": projection,
    }
    kept: Sequence[Run] = ()
    if kind == "sensitivity":
        _check_options(kind, options)
        figure = _of_trials(runs, words, inch)
    else:
        loaded = load_all(runs)
        chosen = only_groups(group_runs(loaded.runs, loaded.study).groups, words)
        kept = [run for group in chosen for run in group.runs.values()] if words else loaded.runs
        if kind is None:
            several = loaded.study is not None and len({str(group.setting) for group in chosen}) > 1
            kind = "settings" if several else "compare"
        _check_options(kind, options)
        if kind in _OF_RECORDS:
            figure = _of_records(kind, kept, options, inch)
        elif kind in _OF_ONE_RUN:
            figure = _of_one_run(kind, kept, projection or "pca", inch)
        else:
            study = None if loaded.study is None else only_study(loaded.study, words, loaded.runs)
            figure = _of_comparison(kind, _compared(loaded, words, options), study, options, inch)
    written = pictures.save(figure, output or Path(f"{'convergence' if kind == 'compare' else kind}.png"))
    if not quiet and kind in _OF_RECORDS:
        print_scores(kept, metric)
    printing.out.print(f"{written}", markup=False, soft_wrap=True)


def _check_options(kind: str, options: Mapping[str, Any]) -> None:
    from fedtl.choice import ConfigError

    for name, value in options.items():
        if value is not None and name not in KINDS[kind]:
            raise ConfigError(f"{name} = {value!r}: a picture of the kind {kind!r} has no such option")


def _of_trials(folders: Sequence[Path], only: Sequence[str], width: float | None) -> Figure:
    """The picture of a search, of which no run need be finished that answers the study's question."""
    from fedtl import plot as pictures
    from fedtl.choice import ConfigError
    from fedtl.comparison.only import only_study
    from fedtl.studies import Study, is_study

    if len(folders) != 1 or not is_study(folders[0]):
        raise ConfigError("--kind sensitivity: the trials of a search are a study's; give one study's folder")
    return pictures.sensitivity(only_study(Study.load(folders[0]), only), width=width)


def _of_records(kind: str, runs: Sequence[Run], options: Mapping[str, Any], width: float | None) -> Figure:
    """Pictures of each run's rounds and clients."""
    from fedtl import plot as pictures
    from fedtl.choice import ConfigError
    from fedtl.runs.history import shared_metric

    metric, score = options["--metric"] or shared_metric(runs), options["--score"]
    axis: Any = options["--axis"] or "rounds"
    if axis not in ("rounds", "bytes", "seconds"):
        raise ConfigError(f"--axis = {axis!r}: give rounds, bytes or seconds")
    if kind == "compare":
        return pictures.compare(runs, metric, axis, score=score, width=width)
    if kind == "convergence":
        return pictures.convergence(runs, metric, axis, score=score, width=width)
    if kind == "clients":
        return pictures.per_client(runs, metric, width=width)
    return pictures.terms(runs, axis, width=width)


def _compared(loaded: Loaded, only: Sequence[str], options: Mapping[str, Any]) -> Comparison:
    """The comparison that a picture is drawn of."""
    from fedtl.choice import ConfigError
    from fedtl.comparison import compare

    scores = options["--score"] or [None]
    if len(scores) > 1:
        raise ConfigError(f"--score = {scores}: this picture has one; give one")
    at: Any = options["--at"] or "last"  # which is checked there
    return compare(loaded, score=scores[0], metric=options["--metric"], at=at, only=only, resamples=0)


def _of_comparison(
    kind: str, comparison: Comparison, study: Study | None, options: Mapping[str, Any], width: float | None
) -> Figure:
    """Pictures of methods over settings and clients."""
    from fedtl import plot as pictures

    if kind == "settings":
        return pictures.settings(comparison, study, options["--x"], width=width)
    if kind == "heat":
        return pictures.heat(comparison, study, width=width)
    if kind == "gains":
        return pictures.gains(comparison, options["--against"], width=width)
    if kind == "pareto":
        return pictures.pareto(comparison, width=width)
    if kind == "ranks":
        return pictures.ranks(comparison, width=width)
    return pictures.personal_global(comparison, width=width)


def _of_one_run(kind: str, runs: Sequence[Run], projection: str, width: float | None) -> Figure:
    """Pictures for which a run's model is opened on its data."""
    from fedtl import plot as pictures
    from fedtl.choice import ConfigError

    if len(runs) != 1:
        raise ConfigError(f"--kind {kind}: it shows one run, and these are {len(runs)}; give one run's folder")
    if kind == "similarity":
        from fedtl.export.similarity import similarity_of

        return pictures.similarity(similarity_of(runs[0]), width=width)
    from fedtl.export.domains import features_by_domain

    return pictures.features(features_by_domain(runs[0], projection), width=width)  # type: ignore[arg-type]
