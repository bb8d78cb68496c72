from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtl.wire.tree_sum import TreeSum

ABSENT = {(2, "a"), (3, "b"), (4, "b"), (6, "a")}


def leaves(n: int, absent: set[int]) -> list[torch.Tensor | None]:
    rng = np.random.default_rng(n)
    vectors = rng.normal(size=(n, 50)) * 10.0 ** rng.integers(-9, 9, size=(n, 50))
    return [None if i in absent else torch.tensor(vectors[i]) for i in range(n)]


def sums_of(vector: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {} if vector is None else {"w": vector.clone()}


def whole(vectors: list[torch.Tensor | None]) -> torch.Tensor | None:
    tree = TreeSum()
    for place, vector in enumerate(vectors):
        tree.add(0, place, sums_of(vector))
    return tree.total().get("w")


@given(st.integers(1, 40), st.data())
def test_any_grouping_and_any_order_give_the_same_bits(n: int, data: st.DataObject) -> None:
    absent = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    vectors = leaves(n, absent)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, n - 1)), max_size=6)) | {0, n})
    pieces = [range(a, b) for a, b in itertools.pairwise(cuts)]
    server = TreeSum()
    for piece in data.draw(st.permutations(pieces)):
        worker = TreeSum()
        for place in piece:
            vector = vectors[place]
            worker.add(0, place, sums_of(vector))
        for (level, place), part in worker.nodes():
            server.add(level, place, part)
    total, expected = server.total().get("w"), whole(vectors)
    assert total is not None
    assert expected is not None
    assert torch.equal(total, expected)
    exact = sum(v for v in vectors if v is not None)
    torch.testing.assert_close(total, exact, rtol=1e-9, atol=1e-3)


def test_plain_summation_would_depend_on_the_grouping() -> None:
    """Otherwise the test above could not fail."""
    vectors = [v for v in leaves(9, set()) if v is not None]
    left = sum(vectors[:4], torch.zeros(50)) + sum(vectors[4:], torch.zeros(50))
    assert not torch.equal(left, sum(vectors, torch.zeros(50)))


def test_nothing_to_add() -> None:
    assert TreeSum().total() == {}
    tree = TreeSum()
    tree.add(0, 0, {})
    tree.add(0, 1, {})
    assert tree.total() == {}


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_places_that_never_came_count_as_nothing(missing: int) -> None:
    vectors = leaves(5, {missing})
    tree = TreeSum()
    for place, vector in enumerate(vectors):
        if vector is not None:
            tree.add(0, place, sums_of(vector))
    assert torch.equal(tree.total()["w"], whole(vectors))  # type: ignore[arg-type]


def test_each_name_is_summed_by_itself_with_its_own_weights() -> None:
    """Also where a position has but some of the names, and whoever is its neighbour."""
    vectors = [v for v in leaves(7, set()) if v is not None]
    together, alone = TreeSum(), {name: TreeSum() for name in "ab"}
    for place, vector in enumerate(vectors):
        parts = {name: vector * factor for name, factor in (("a", 1), ("b", 3)) if (place, name) not in ABSENT}
        together.add_leaf(place, parts, {"a": 1, "b": place + 2})
        for name, tree in alone.items():
            tree.add_leaf(place, {k: v for k, v in parts.items() if k == name}, {"a": 1, "b": place + 2})
    totals = together.total()
    assert totals.keys() == {"a", "b"}
    for name, tree in alone.items():
        assert torch.equal(totals[name], tree.total()[name])
    expected = sum(v * 3 * (i + 2) for i, v in enumerate(vectors) if (i, "b") not in ABSENT)
    torch.testing.assert_close(totals["b"], expected, rtol=1e-9, atol=1e-3)
