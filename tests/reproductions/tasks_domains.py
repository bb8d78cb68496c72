"""Digits in four looks: what each look's clients get by each method, and a look that no client has.

    python -m tests.reproductions.tasks_domains [--seeds 3] [--jobs 2]

The config domains/digits-domains as it ships: scikit-learn's digits plain, inverted, rotated by 45 degrees and over
patches of photographs, no digit in two looks, two clients of each; cnn-bn, 30 rounds of one epoch. Nothing is tuned.
Runs what is missing below RAW, and writes two tables into OUT/domains.md, between its two marks: every method's
accuracy at each look's clients, and FedAvg's on each look with and without clients of that look.
"""

from __future__ import annotations

from collections.abc import Sequence

import fedtl
from tests.reproductions.experiments import Experiment, arguments, header, row, runs_for, spread, write_between_marks

LOOKS = ("plain", "inverted", "rotated", "photographs")
METHODS: dict[str, tuple[str, ...]] = {
    "local": (),
    "fedavg": (),
    "fedprox": ("strategy.mu=0.01",),
    "fedbn": (),
}


def experiments(seed: int) -> dict[str, tuple[str, ...]]:
    """A seed's runs by their folders' names, with their overrides."""
    by_method = {
        f"{method}-{seed}": (f"strategy.name={method}", *options, f"seed={seed}") for method, options in METHODS.items()
    }
    # As many clients of each look as before.
    held_out = {f"without-{look}-{seed}": (f"data.held_out={look}", "data.clients=6", f"seed={seed}") for look in LOOKS}
    return {**by_method, **held_out}


def by_method(runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per method, with the accuracy of the model that serves each look's clients."""
    lines = header("method", "model", *LOOKS, "mean over clients", "seeds")
    for method in METHODS:
        mine = [run for run in runs if run.method == method and not run.config["data"]["held_out"]]
        if mine:
            model = "personal" if "personal/clients" in mine[0].last() else "global"
            scores = [f"{model}/clients/{look}" for look in LOOKS] + [f"{model}/clients"]
            lines.append(row(method, model, *(per_cent(mine, score) for score in scores), len(mine)))
    return "\n".join(lines) + "\n"


def by_look(runs: Sequence[fedtl.Run]) -> str:
    """Markdown: a row per look, with FedAvg's accuracy on it where no client has it, and where two have."""
    lines = header("look", "held out", "mean of the others' clients", "with two clients of it", "seeds")
    together = [run for run in runs if run.method == "fedavg" and not run.config["data"]["held_out"]]
    for look in LOOKS:
        without = [run for run in runs if run.config["data"]["held_out"] == [look]]
        if without:
            cells = [
                per_cent(without, f"global/held-out/{look}"),
                per_cent(without, "global/clients"),
                per_cent(together, f"global/clients/{look}"),
            ]
            lines.append(row(look, *cells, len(without)))
    return "\n".join(lines) + "\n"


def per_cent(runs: Sequence[fedtl.Run], score: str) -> str:
    """The last round's accuracy over seeds."""
    return spread([100 * run.last()[score].value for run in runs])


def main() -> None:
    """Run and tabulate."""
    parser = arguments(__doc__, "results/tasks", "results/tasks/raw/domains")
    options = parser.parse_args()
    planned = [
        Experiment(options.raw / name, "domains/digits-domains", overrides)
        for seed in range(options.seeds)
        for name, overrides in experiments(seed).items()
    ]
    runs = runs_for(planned, parser, options)
    text = f"{by_method(runs)}\n{by_look(runs)}"
    write_between_marks(text, options.out / "domains.md", "Digits in four looks")
    print(text)


if __name__ == "__main__":
    main()
