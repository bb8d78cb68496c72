"""N is the number of clients that can train in the present phase: who holds nothing to train on changes no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fedtl
from fedtl.choice import ConfigError
from fedtl.data.federation import Domain, Federation, Shards
from fedtl.server.rounds import Rounds
from fedtl.strategies import strategy_type
from fedtl.strategies.contract import Vectors
from fedtl.strategies.fedavg import FedAvg
from tests.interrupted import contents, stopped_and_resumed, tables
from tests.parted import Parted
from tests.parts import METHODS, federation_of

SOURCE, ALL = [0, 1], [0, 1, 2, 3]

GLOBAL = [
    method
    for method, kind in ((method, strategy_type(method)) for method in METHODS)
    if kind.has_global_model() and not kind.pools and method != "fedbn"
]
"""Those of a global model; ``fedbn`` is FedAvg with a model that has batch-norm."""


def with_target(federation: Federation, held: Sequence[int]) -> Federation:
    """With so many samples of a target domain at each client; those beyond the federation's hold these alone."""
    more, none = np.arange(sum(held)) + len(federation.x), [0] * (len(held) - federation.clients)
    domain = Domain(
        Shards.from_sizes(more, np.array(held)),
        Shards.from_sizes(more[:0], np.zeros(len(held), np.int64)),
        np.empty(0, np.int64),
    )
    train, test = federation.train, federation.test
    return replace(
        federation,
        x=np.concatenate([federation.x, federation.x[: len(more)]]),
        y=np.concatenate([federation.y, 0 * federation.y[: len(more)]]),
        train=Shards.from_sizes(train.order, np.array([*train.sizes, *none])),
        test=Shards.from_sizes(test.order, np.array([*test.sizes, *none])),
        target=domain,
    )


SOURCES = federation_of([5, 7])
BOTH = with_target(SOURCES, [0, 0, 3, 3])

LESS = {"labelled_fraction": 0.5}
"""Lets a config ask for terms of the target's samples, which the federations here have."""


def able(run: Parted) -> list[int]:
    """Who is sampled where everybody is."""
    return Rounds.sample(run.server, 2)


@pytest.mark.parametrize("method", GLOBAL)
def test_clients_that_hold_nothing_to_train_on_change_no_model(method: str) -> None:
    ends = []
    for federation in (SOURCES, BOTH):
        run = Parted({"name": method, **METHODS[method]}, federation, [[0], SOURCE, SOURCE])
        ends.append(run.rounds()[-1])
        # A term of the method's own may train on samples of the target as well.
        assert run.server.population == len(able(run))
        assert run.server.numbered == federation.clients
    torch.testing.assert_close(ends[1], ends[0])


def phases(*terms: str) -> dict[str, Any]:
    each = {"source": [{"term": "cross_entropy"}], "target": [{"term": "entropy"}]}
    each["both"] = each["source"] + each["target"]
    return {"phases": [{"rounds": 2, "objective": each[name]} for name in terms]}


@pytest.mark.parametrize("then", [[2, 3], ALL])
def test_a_mean_over_all_clients_is_one_over_those_of_the_phase(then: list[int]) -> None:
    """With everybody in every round c is the mean of all c_i (Algorithm 1 of SCAFFOLD, line 17), of the phase's N."""
    objective = phases("source", "both" if then == ALL else "target")
    run = Parted({"name": "scaffold", "local_steps": 2}, BOTH, [SOURCE, SOURCE, then, then], data=LESS, more=objective)
    run.rounds()
    own = torch.stack([run.memory(client)["c_i"] for client in then])
    assert own.abs().max() > 1e-3
    torch.testing.assert_close(run.server.state["c"], own.mean(0), rtol=1e-4, atol=1e-6)


def test_a_mixture_is_of_clients_that_can_train() -> None:
    """Whose weights stay where they go on; that of one that cannot goes to them in equal parts."""
    federation, some, everybody = with_target(federation_of([5, 7, 6]), [0, 3, 3]), [1, 2], [0, 1, 2]
    strategy = {"name": "afl", "mixture_lr": 0.1}

    def mixtures(terms: Sequence[str], sampled: list[list[int]]) -> list[Tensor]:
        """λ after each round."""
        run, seen = Parted(strategy, federation, sampled, data=LESS, more=phases(*terms)), list[Tensor]()
        update = run.server.update

        def watched(*args: Any) -> Vectors:
            state = update(*args)
            seen.append(state["mixture"])
            return state

        run.server.update = watched  # type: ignore[method-assign]
        run.rounds()
        return seen

    ascending = mixtures(["source", "target"], [everybody] * 2 + [some] * 2)
    for before, after in (ascending[1:3], ascending[2:]):
        assert before.sum() == pytest.approx(1, abs=1e-6)
        assert after[0] == 0
        assert after.sum() == pytest.approx(1, abs=1e-6)
    strategy["mixture_lr"] = 0.0
    third, half = torch.full((3,), 1 / 3), torch.tensor([0, 0.5, 0.5])
    for terms, sampled, expected in (
        (["source", "target"], [everybody] * 2 + [some] * 2, [third, third, half, half]),
        (["target", "source"], [some] * 2 + [everybody] * 2, [half] * 4),
    ):
        torch.testing.assert_close(torch.stack(mixtures(terms, sampled)), torch.stack(expected))


def test_a_run_that_is_resumed_where_others_can_train_is_the_same(tmp_path: Path) -> None:
    data = {"name": "digits", "clients": 4, "samples": 200, "target": {"name": "digits", "clients": 4, "samples": 100}}
    config = tables("scaffold", 4, data=data, **phases("source", "both"))
    fedtl.run(config, out=tmp_path / "once")
    stopped_and_resumed(config, tmp_path / "twice", 2)
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


class ShortTable(FedAvg):
    def first_tables(self, w: Tensor) -> Vectors:
        return {"rows": torch.zeros(self.population, 1)}


def test_a_table_has_a_row_for_each_client_that_has_a_number() -> None:
    strategy = {"name": f"{__name__}:ShortTable"}
    Parted(strategy, SOURCES, [SOURCE])
    with pytest.raises(ConfigError, match=r"gives 'rows' 2 rows, and 4 clients have numbers; self\.numbered says"):
        Parted(strategy, BOTH, [SOURCE])
