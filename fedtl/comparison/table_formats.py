"""A table of scores as text, Markdown, LaTeX, and CSV."""

from __future__ import annotations

import csv
import io
import re
import textwrap
from collections.abc import Callable, Mapping

from fedtl.comparison.formats import score_cell
from fedtl.comparison.latex import PACKAGES, floating, latex_text
from fedtl.comparison.table import Entry, ScoreTable

BEST, TIED = "> ", "* "
"""What stands before a number where nothing can be bold or raised."""

FORMATS = ("text", "markdown", "latex", "csv")


def formatted(table: ScoreTable, form: str) -> str:
    """The table in one of :data:`FORMATS`."""
    writers: Mapping[str, Callable[[ScoreTable], str]] = {
        "text": text,
        "markdown": markdown,
        "latex": latex,
        "csv": as_csv,
    }
    return writers[form](table)


def text(table: ScoreTable) -> str:
    """Columns of one width, numbers below each other."""
    rows = [[method, *(_text_cell(table, entry) for entry in row)] for method, row in zip(table.methods, table.entries)]
    columns = [_aligned("method", [row[0] for row in rows])]
    columns += [
        _aligned(label, _below_each_other([row[place] for row in rows])) for place, label in enumerate(table.labels, 1)
    ]
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns)]
    lines.insert(1, "-" * max(map(len, lines)))
    caption = textwrap.wrap(table.caption(f"marked {BEST.strip()}"), max(80, len(lines[1])))
    return "\n".join([*lines, "", *caption])


def markdown(table: ScoreTable) -> str:
    """A table as GitHub shows it, its caption below."""

    def cell(entry: Entry) -> str:
        words = _number(table, entry)
        return f"**{words}**" if entry.best else rf"{words} \*" if entry.tied else words

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [
        line([_markdown_text(word) for word in ("method", *table.labels)]),
        line(["---", *["--:"] * len(table.labels)]),
        *(
            line([_markdown_text(method), *map(cell, row)])
            for method, row in zip(table.methods, table.entries, strict=True)
        ),
    ]
    return "\n".join([*lines, "", _markdown_text(table.caption())])


def latex(table: ScoreTable) -> str:
    """A floating table, for the packages booktabs and graphicx; means end, and signs stand, below each other."""
    columns, header, cells = "l", ["method"], [[latex_text(method)] for method in table.methods]
    for place, label in enumerate(table.labels):
        halves = [_latex_halves(table, row[place]) for row in table.entries]
        two = any(rest for _, rest in halves)
        columns += "r@{}l" if two else "r"
        header.append(rf"\multicolumn{{2}}{{c}}{{{latex_text(label)}}}" if two else latex_text(label))
        for row, (mean, rest) in zip(cells, halves):
            row += [mean, rest] if two else [mean]
    table_of_lines = floating(latex_text(table.caption()), columns, " & ".join(header), list(map(" & ".join, cells)))
    return f"{PACKAGES}\n{table_of_lines}"


def _latex_halves(table: ScoreTable, entry: Entry) -> tuple[str, str]:
    """The mean, and what follows it."""
    mean, space, rest = _number(table, entry).partition(" ")
    mean, rest = latex_text(mean), f"~{latex_text(rest)}" if space else ""
    if entry.best:
        mean = rf"\textbf{{{mean}}}"
    return mean, rest + (r"\rlap{$^{*}$}" if entry.tied else "")


def as_csv(table: ScoreTable) -> str:
    """A row for each method and setting, with plain numbers, for programs."""
    keys = list(dict.fromkeys(key for setting in table.settings for key in setting))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    numbers = ["mean", "deviation", "seeds", "planned", "best", "tied", "over"]
    writer.writerow(["method", *keys, "metric", "score", "round", *numbers])
    for method, row in zip(table.methods, table.entries, strict=True):
        for setting, entry in zip(table.settings, row, strict=True):
            value = entry.value
            mean, deviation = ("", "") if value is None else (value.mean, value.deviation)
            where = [setting.get(key, "") for key in keys]
            about = [method, *where, table.metric, entry.score, table.at]
            marks = [entry.seeds, entry.planned, int(entry.best), int(entry.tied), entry.part]
            writer.writerow([*about, mean, "" if deviation is None else deviation, *marks])
    return file.getvalue().rstrip("\n")


def _number(table: ScoreTable, entry: Entry) -> str:
    """The mean and its deviation, with what must be said of the cell alone."""
    words = score_cell(table.metric, entry.value)
    if entry.part:
        words += "+"
    if 0 < entry.seeds < entry.planned:
        words += f" ({entry.seeds}/{entry.planned})"
    return words


def _text_cell(table: ScoreTable, entry: Entry) -> str:
    mark = BEST if entry.best else TIED if entry.tied else "  "
    return mark + _number(table, entry)


def _below_each_other(cells: list[str]) -> list[str]:
    """Cells whose means end at the same place, whatever follows."""
    parts = [(cell[:2], *cell[2:].partition(" ")) for cell in cells]
    width = max(len(mean) for _, mean, _, _ in parts)
    return [mark + mean.rjust(width) + space + rest for mark, mean, space, rest in parts]


def _aligned(header: str, cells: list[str]) -> list[str]:
    width = max(len(header), *map(len, cells))
    return [each.ljust(width) for each in (header, *cells)]


def _markdown_text(words: str) -> str:
    """Text in which no letter is a mark of Markdown."""
    return re.sub(r"([\\`*\[\]<|]|(?<!\w)_|_(?!\w))", r"\\\1", words)
