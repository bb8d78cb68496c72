"""Heart disease at four hospitals: what each hospital gains from the others, in AUC.

    FEDTL_DATA=... python -m tests.reproductions.tasks_heart [--seeds 5] [--jobs 2]

UCI's four files as FLamby has them (740 patients, 10 features, a hospital is a client), a quarter of each hospital's
patients for testing, which its file alone decides; logistic regression, 30 rounds of one epoch, mini-batches of 4,
η = 0.05; clients are weighted by their patients. Nothing is tuned. Runs what is missing below RAW, and writes the table
into OUT/heart-disease.md, between its two marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import fedtl
from fedtl.data.sets.heart import HOSPITALS
from tests.reproductions.experiments import Experiment, arguments, header, row, runs_for, spread, write_between_marks

METHODS: dict[str, dict[str, Any]] = {
    "local": {},
    "fedavg": {"weighting": "samples"},
    "ditto": {"weighting": "samples", "lam": 0.1},
    "central": {},
}
GAPS: dict[str, dict[str, Any]] = {
    "left out": {},
    "filled": {
        "missing": "median",
        "indicators": True,
        "leave_out": [],
        "categorical": ["cp", "restecg", "slope", "thal"],
    },
}
"""How gaps are treated: as FLamby does, or all 920 patients and 13 features with medians and indicators."""

MODELS = ("personal/clients", "global/clients")


def config(method: str, gaps: str, seed: int) -> dict[str, Any]:
    """A run's config."""
    return {
        "name": f"heart-{gaps.replace(' ', '-')}",
        "seed": seed,
        "rounds": 30,
        "data": {"name": "heart-disease", **GAPS[gaps]},
        "model": {"name": "logistic"},
        "strategy": {"name": method, "lr": 0.05, "batch_size": 4, "local_epochs": 1, **METHODS[method]},
        "evaluate": {"every": 5, "metrics": ["auc", "balanced_accuracy"]},
    }


def table(runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per treatment of gaps and method, with each hospital's AUC."""
    lines = header("gaps", "method", "model", *HOSPITALS, "mean by patients", "pooled", "accuracy", "seeds")
    for gaps in GAPS:
        for method in METHODS:
            mine = [run for run in runs if run.name == f"heart-{gaps.replace(' ', '-')}" and run.method == method]
            if mine:
                score = next(model for model in MODELS if model in mine[0].last())
                lines.append(row(gaps, method, score.partition("/")[0], *cells(mine, score), len(mine)))
    return "\n".join(lines) + "\n"


def cells(runs: Sequence[fedtl.Run], score: str) -> list[str]:
    """Each hospital's AUC, their mean, the AUC of all test patients together, and the accuracy in per cent."""
    each = [np.pad(run.client_scores("auc")[score], (0, 4))[:4] for run in runs]
    return [
        *("not defined" if np.isnan(values).any() else spread(list(values), 3) for values in zip(*each)),
        spread([run.last("auc")[score].value for run in runs], 3),
        spread([run.last("auc", "pooled")[score].value for run in runs], 3),
        spread([100 * run.last()[score].value for run in runs]),
    ]


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/tasks", "results/tasks/raw/heart-disease", seeds=5)
    options = parser.parse_args()
    experiments = [
        Experiment(options.raw / f"{gaps.replace(' ', '-')}-{method}-{seed}", config(method, gaps, seed))
        for seed in range(options.seeds)
        for gaps in GAPS
        for method in METHODS
    ]
    text = table(runs_for(experiments, parser, options))
    write_between_marks(text, options.out / "heart-disease.md", "Heart disease at four hospitals")
    print(text)


if __name__ == "__main__":
    main()
