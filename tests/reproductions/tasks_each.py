"""Every task besides classification: what clients gain from each other, by the metrics of the task.

    python -m tests.reproductions.tasks_each [--seeds 3] [--jobs 2]

Ten clients; data that are embedded (breast-cancer, diabetes) or made by a stated law, whose clients differ (α = 0.5,
for sequences 0.3); 30 rounds of one epoch, mini-batches of 10, η = 0.05 (0.5 for sequences); clients are weighted by
their samples. Nothing is tuned. Runs what is missing below RAW, and writes a table into OUT/TASK.md, between its two
marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fedtl
from fedtl.tasks import TASKS, read_task
from tests.reproductions.experiments import Experiment, arguments, header, row, runs_for, spread, write_between_marks

METHODS: dict[str, dict[str, Any]] = {
    "local": {},
    "fedavg": {"weighting": "samples"},
    "ditto": {"weighting": "samples", "lam": 0.1},
    "central": {},
}

DATA: dict[str, dict[str, Any]] = {
    "binary": {"name": "breast-cancer", "partition": {"name": "dirichlet", "alpha": 0.5, "min_size": 10}},
    "multilabel": {"name": "made"},
    "regression": {"name": "diabetes", "partition": {"name": "dirichlet", "alpha": 0.5, "min_size": 10}},
    "next_token": {"name": "made", "dimension": 20, "alpha": 0.3, "normalise": "none"},
    "survival": {"name": "made"},
}

MODELS = ("personal/clients", "global/clients")


def config(task: str, method: str, seed: int) -> dict[str, Any]:
    """A run's config."""
    model = {"name": "gru", "width": 16} if task == "next_token" else {"name": "mlp", "hidden": [16]}
    lr = 0.5 if task == "next_token" else 0.05
    return {
        "name": f"each-{task}",
        "seed": seed,
        "rounds": 30,
        "data": {"clients": 10, "task": task, **DATA[task]},
        "model": model,
        "strategy": {"name": method, "lr": lr, "batch_size": 10, "local_epochs": 1, **METHODS[method]},
        "evaluate": {"every": 5},
    }


def table(task: str, runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per method, with the task's metrics over clients."""
    metrics = [*read_task(task).metrics, "loss"]
    pooled = [metric for metric in metrics if metric not in ("loss", "mae")]  # whose pooled value is the mean itself
    of_all = [f"{metric}, pooled" for metric in pooled]
    lines = header("method", "model", *metrics, *of_all, f"worst decile's {metrics[0]}", "seeds")
    for method in METHODS:
        mine = [run for run in runs if run.name == f"each-{task}" and run.method == method]
        if not mine:
            continue
        score = next(model for model in MODELS if model in mine[0].last())
        means = [spread([run.last(metric)[score].value for run in mine], 3) for metric in metrics]
        means += [spread([run.last(metric, "pooled")[score].value for run in mine], 3) for metric in pooled]
        worst = spread([run.last(metrics[0], "worst_decile")[score].value for run in mine], 3)
        lines.append(row(method, score.partition("/")[0], *means, worst, len(mine)))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/tasks", "results/tasks/raw/each", seeds=3)
    parser.add_argument("--tasks", nargs="*", default=[task for task in TASKS if task in DATA], choices=DATA)
    options = parser.parse_args()
    experiments = [
        Experiment(options.raw / f"{task}-{method}-{seed}", config(task, method, seed))
        for seed in range(options.seeds)
        for task in options.tasks
        for method in METHODS
    ]
    runs = runs_for(experiments, parser, options)
    for task in options.tasks:
        text = table(task, runs)
        write_between_marks(text, options.out / f"{task.replace('_', '-')}.md", f"The task {task}")
        print(task, text, sep="\n")


if __name__ == "__main__":
    main()
