"""Studies whose records are made by hand: what only reads records is tested on them without any training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from fedtl.studies import Cell, Planned, Study

ALPHA = "data.partition.alpha"
Values = Sequence[float | None]


def made_run(
    folder: Path,
    method: str,
    values: Values,
    seed: int = 0,
    *,
    rounds: int = 3,
    alpha: float = 1.0,
    split: str | None = "same",
    score: str = "global/clients",
    config: Mapping[str, Any] | None = None,
    failures: Sequence[tuple[int, str]] = (),
) -> None:
    """A run's folder; each client's accuracy grows to its value, and its loss is what is missing to 1."""
    folder.mkdir(parents=True)
    data = {"name": "digits", "clients": len(values), "partition": {"name": "dirichlet", "alpha": alpha}}
    tables = {"name": "made", "seed": seed, "rounds": rounds, "data": data, "model": {"name": "mlp"}}
    (folder / "config.toml").write_text(
        tomli_w.dumps({**tables, "strategy": {"name": method, "lr": 0.1}, **(config or {})})
    )
    environment = {"split": split, "started": "2026-01-02T03:04:05", "device": "cpu", "versions": {"fedtl": "0.1.0"}}
    (folder / "environment.json").write_text(json.dumps(environment))
    whole = np.array([np.nan if value is None else value for value in values])
    lines, clients = [], []
    for number in range(1, rounds + 1):
        accuracy = whole * number / rounds
        by_metric = {"accuracy": accuracy, "loss": 1 - accuracy}
        summary = {metric: {k: _number(v) for k, v in _summary(each).items()} for metric, each in by_metric.items()}
        failed = [{"client": client, "message": text} for client, text in failures]
        costs = {"seconds": 1.0, "bytes_down": 1000, "bytes_up": 1000, "failures": failed}
        lines.append({"round": number, **costs, "scores": {score: summary}})
        per_client = {metric: [_number(v) for v in each.tolist()] for metric, each in by_metric.items()}
        held = {"clients": list(range(len(values))), "samples": [10] * len(values)}
        clients.append({"round": number, **held, "scores": {score: per_client}})
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if score.endswith("clients"):
        (folder / "clients.jsonl").write_text("".join(json.dumps(line) + "\n" for line in clients))


def made_study(
    folder: Path,
    values: Mapping[tuple[str, float, int], Values | str],
    *,
    names: Mapping[str, str] | None = None,
    question: str = "Which one?",
    **about: Any,
) -> Study:
    """A study of methods under some α and seeds.

    Args:
        folder: its own.
        values: each client's accuracy by method, α and seed; or the state of a run that has no record.
        names: of variants, where these are not the methods'.
        question: the study's.
        about: for the runs; ``search``, ``trials`` and ``notes`` are the study's.
    """
    methods, alphas, seeds = (tuple(dict.fromkeys(key[i] for key in values)) for i in range(3))
    variants = {str(method): (names or {}).get(str(method), str(method)) for method in methods}
    search, trials, notes = about.pop("search", {}), about.pop("trials", ()), about.pop("notes", ())
    cells = [
        Cell(f"{variants[str(method)]} alpha={alpha}", variants[str(method)], {ALPHA: alpha})
        for method in methods
        for alpha in alphas
    ]
    runs = []
    for (method, alpha, seed), each in values.items():
        place, cell = f"runs/{method}-{alpha}-{seed}", f"{variants[method]} alpha={alpha}"
        if isinstance(each, str):
            runs.append(Planned(place, cell, seed, each, failure="the disk <is> full" if each == "failed" else ""))  # type: ignore[arg-type]
            continue
        made_run(folder / place, method, each, seed, alpha=alpha, **{"split": f"{alpha}-{seed}", **about})
        runs.append(Planned(place, cell, seed, "finished"))
    study = Study(
        folder,
        "made",
        question,
        ("fedtl", "sweep", "made.toml"),
        {"rounds": 3},
        tuple(variants.values()),
        {ALPHA: alphas},
        tuple(int(seed) for seed in seeds),
        search,
        tuple(cells),
        (*runs, *trials),
        notes,
    )
    study.save()
    return study


def _summary(values: np.ndarray[Any, Any]) -> dict[str, float]:
    return {"weighted_mean": float(values.mean()), "mean": float(values.mean()), "worst_decile": float(values.min())}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
