"""The page, put together and written."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedtl.choice import ConfigError
from fedtl.comparison.result import At
from fedtl.comparison.table import curves_in_words, models_in_words
from fedtl.disk.durable import replacing
from fedtl.reports import options, plan, provenance, remarks, tables, words
from fedtl.reports.claim import claim
from fedtl.reports.columns import COLUMNS
from fedtl.reports.costs import runs_table
from fedtl.reports.curves import convergence
from fedtl.reports.distributions import distribution
from fedtl.reports.forest import forest
from fedtl.reports.holdings import holdings
from fedtl.reports.layout import Setting, across, settings
from fedtl.reports.material import Asked, Material, Source, gather
from fedtl.runs.history import Run
from fedtl.studies import Study

TEMPLATE, STYLE, SCRIPT = "report.html", "report.css", "report.js"
Picture = TypeVar("Picture")
MOST_SOURCES = 4
"""Folders that the answer's own command names; of more the command stands further below alone."""

MOST_SCORES = 5
"""Methods that a card of the answer lists; the table has all."""


def report(
    sources: Source | Study | Iterable[Source],
    output: str | Path = "report.html",
    *,
    score: str | None = None,
    metric: str | None = None,
    statistic: str = "weighted_mean",
    against: str | None = None,
    target: float | None = None,
    at: At = "last",
    read_data: bool = True,
    made: str = "",
) -> Path:
    """Write a study, or runs, as one HTML page that loads nothing; nothing is trained.

    The same records and arguments always give the same bytes.

    Args:
        sources: a study, or its folder; or runs, their folders, or folders that hold runs.
        output: the page.
        score: as for :func:`fedtl.comparison.compare`, and so are ``metric``, ``statistic``, ``against``, ``target``
            and ``at``.
        metric: likewise.
        statistic: likewise.
        against: likewise.
        target: likewise.
        at: likewise.
        read_data: also read the data sets, to draw which labels each client holds; else only clients' sizes are drawn.
        made: when or by whom the page was made, if that is to stand on it.

    Returns:
        The page's path.

    Raises:
        ConfigError: there is no such study, run, score, metric or group, or the page cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"cannot write a report as {str(output)!r}: the name must end in .html")
    if isinstance(sources, Study):
        sources = sources.folder
    listed = [sources] if isinstance(sources, Run | str | Path) else list(sources)
    asked = Asked(score, metric, statistic, against, target, at)
    page = render(gather(listed, asked), read_data=read_data, made=made)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write a report as {str(output)!r}: {error.strerror or error}") from error
    return output


def render(material: Material, *, read_data: bool = True, made: str = "") -> str:
    """The page's text."""
    loader = Environment(
        loader=PackageLoader("fedtl.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (_source(loader, name) for name in (STYLE, SCRIPT))
    content = _content(material, read_data)
    return loader.get_template(TEMPLATE).render(
        **content,
        sections=_sections(content),
        style=style,
        script=script,
        policy=_policy(style, script),
        made=made,
        new_id=_ids(),
    )


def _content(material: Material, read_data: bool) -> dict[str, Any]:
    """All that the template says, by the names that it uses."""
    from fedtl import __version__

    study, comparison, here = material.study, material.comparison, settings(material)
    became, complete = plan.became(material)
    different, shared = options.options(here)
    base_config, base_words = options.base_config(material)
    pictures = holdings(here, read_data)
    border = None if comparison is None else across(comparison, here)
    colours = {method.label: method.colour for setting in here for method in setting.methods}
    return {
        "version": __version__,
        "title": study.name if study else _title(material, list(colours)),
        "study": study,
        "runs": material.runs,
        "settings": here,
        "methods": list(colours.items()),
        "asked": plan.asked(material, here),
        "asked_facts": plan.asked_facts(study) if study else [],
        "became": became,
        "complete": complete,
        "when": provenance.when(material.runs),
        "claim": claim(material, here),
        "most_scores": MOST_SCORES,
        "notes": remarks.notes(material, here),
        "holdings": pictures,
        "bubbles": any(picture.bubbles for picture in pictures),
        "forests": _drawn(forest, here),
        "convergence": _drawn(convergence, here),
        "curves_are": "" if comparison is None else f"{comparison.metric} of {curves_in_words(comparison)}",
        "several_seeds": any(len(method.runs) > 1 for setting in here for method in setting.methods),
        "distributions": _drawn(distribution, here),
        "points_are": "" if comparison is None else f"{comparison.metric} of {models_in_words(comparison)}",
        "tables": {setting.name: tables.of_comparison(setting.comparison, setting.name) for setting in here},
        "across": [] if border is None else tables.of_differences(border),
        "ranks": tables.of_ranks(comparison),
        "columns": COLUMNS,
        "how_chosen": options.how_chosen(study),
        "search_facts": options.search_facts(study),
        "chosen": options.chosen(study),
        "trials": options.trials(study),
        "options": different,
        "shared": shared,
        "base_config": base_config,
        "base_words": base_words,
        "failures": plan.failures(material),
        "comparing": provenance.comparing(material),
        "short": len(material.sources) <= MOST_SOURCES,
        "commands": provenance.commands(material),
        "environment": provenance.environment(material.runs),
        "remarks": provenance.remarks(material.runs),
        "runs_table": runs_table(material, here),
    }


def _title(material: Material, methods: list[str]) -> str:
    runs = words.count(len(material.runs), "run")
    return f"{words.listed(methods)}: {runs}" if methods else runs


def _drawn(draw: Callable[[Setting], Picture | None], settings: Sequence[Setting]) -> list[Picture]:
    """A picture of each setting that has one."""
    return [picture for setting in settings if (picture := draw(setting)) is not None]


def _sections(content: dict[str, Any]) -> list[tuple[str, str]]:
    """The page's sections, those alone that it has."""
    named = (
        ("answer", "Answer", True),
        ("limits", "Notes", True),
        ("asked", "What was asked", True),
        ("holdings", "Who holds what", content["holdings"]),
        ("convergence", "Convergence", content["convergence"]),
        ("clients", "Each client", content["distributions"]),
        ("differences", "Differences", content["forests"]),
        ("table", "Tables", content["settings"]),
        ("options", "Hyperparameters", True),
        ("failures", "Failures", True),
        ("repeat", "Versions and commands", True),
    )
    return [(name, words) for name, words, there in named if there]


def _source(loader: Environment, name: str) -> Markup:
    """A file that goes into the page as it is: ours, and no template."""
    assert loader.loader is not None
    return Markup(loader.loader.get_source(loader, name)[0])


def _policy(style: str, script: str) -> str:
    """A content security policy: this style and this script by their hashes, and nothing from anywhere."""

    def quoted(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {quoted(style)}; script-src {quoted(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _ids() -> Callable[[str], str]:
    """What gives each element of the page an id of its own."""
    numbers = itertools.count(1)
    return lambda prefix: f"{prefix}-{next(numbers)}"
