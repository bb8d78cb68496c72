"""Studies whose records are written by hand: what reads records alone is tested on them, and no model is trained."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from numpy.typing import NDArray

from fedtl.studies import Cell, Planned, Study

ALPHA = "data.partition.alpha"
ROUNDS = (0, 1, 2)
Values = Callable[[str, Mapping[str, Any], int, int], NDArray[np.float64]]
"""Method, setting, seed and round to the clients' accuracies under the model that serves them."""


def steps(clients: int = 6, gap: float = 0.1) -> Values:
    """Each method is better than the next one for every client, by as much in all settings."""

    def values(method: str, setting: Mapping[str, Any], seed: int, round: int) -> NDArray[np.float64]:
        behind = gap * sum(map(ord, method[:1])) % 1  # "a" before "b" before "c"
        return 0.9 - behind / 10 - 0.01 * seed + 0.02 * round + np.linspace(-0.1, 0.0, clients)

    return values


def made_up_study(
    folder: Path,
    values: Values,
    methods: Sequence[str] = ("pfedme", "fedavg", "local"),
    axes: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    failed: Collection[tuple[str, int, int]] = (),
    trials: Sequence[Planned] = (),
) -> Study:
    """A study of variants in all settings; FedAvg has a global model alone, local training personalised ones alone.

    Args:
        folder: where it is written.
        values: of its clients.
        methods: the variants; one that is no method's name is a variant of pFedMe.
        axes: the settings; two α if None.
        seeds: of all cells.
        failed: (variant, number of the setting, seed) of runs that failed.
        trials: of a search, besides.
    """
    axes = {ALPHA: (0.1, 1.0)} if axes is None else axes
    settings = [dict(zip(axes, each)) for each in itertools.product(*axes.values())]
    cells, runs = [], []
    for method, (place, setting) in itertools.product(methods, enumerate(settings)):
        name = f"{method} {place}"
        strategy = method if method in ("fedavg", "local") else "pfedme"
        cells.append(Cell(name, method, setting, {"strategy.name": strategy, **setting}))
        for seed in seeds:
            where = f"runs/{method}-{place}-{seed}".replace(" ", "_")
            if (method, place, seed) in failed:
                runs.append(Planned(where, name, seed, "failed", failure="the disk is full"))
                continue
            _write_run(folder / where, method, strategy, setting, place, seed, values)
            runs.append(Planned(where, name, seed, "finished"))
    study = Study(
        folder=folder,
        name="made-up",
        base={"rounds": ROUNDS[-1], "data": {"name": "digits", "partition": {"name": "dirichlet"}}},
        variants=tuple(methods),
        axes={key: tuple(each) for key, each in axes.items()},
        seeds=tuple(seeds),
        cells=tuple(cells),
        runs=(*runs, *trials),
    )
    study.save()
    return study


def _write_run(
    folder: Path, method: str, strategy: str, setting: Mapping[str, Any], place: int, seed: int, values: Values
) -> None:
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"name": method, "seed": seed, "rounds": ROUNDS[-1], "strategy": {"name": strategy}}
    config["data"] = {"name": setting.get("data.name", "digits"), "partition": {"name": "dirichlet"}}
    config["data"]["partition"]["alpha"] = setting.get(ALPHA, 1.0)
    (folder / "config.toml").write_text(tomli_w.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"split": f"{place}-{seed}"}))
    rounds, clients = [], []
    for number in ROUNDS:
        own = values(method, setting, seed, number)
        models = {"global": own - 0.05 * (strategy == "pfedme"), "personal": own}
        if strategy in ("fedavg", "local"):
            del models["personal" if strategy == "fedavg" else "global"]
        on = {f"{model}/{data}": each for model, each in models.items() for data in ("clients", "validation-clients")}
        samples = list(range(10, 10 + len(own)))
        scores = {name: {"accuracy": _over(each, samples)} for name, each in on.items()}
        sent = 0 if strategy == "local" or not number else 1_000_000
        rounds.append({"round": number, "seconds": 1.0, "bytes_down": sent, "bytes_up": sent, "scores": scores})
        tested = {name: {"accuracy": each.tolist()} for name, each in on.items() if "validation" not in name}
        clients.append({"round": number, "clients": list(range(len(own))), "samples": samples, "scores": tested})
    (folder / "rounds.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rounds))
    (folder / "clients.jsonl").write_text("".join(json.dumps(each) + "\n" for each in clients))


def _over(values: NDArray[np.float64], samples: Sequence[int]) -> dict[str, float]:
    mean = float(np.average(values, weights=samples))
    return {"weighted_mean": mean, "mean": float(values.mean()), "worst_decile": float(values.min())}
