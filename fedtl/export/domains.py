"""A run's features by domain, in the plane, and the domains' proxy A-distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedtl.choice import ConfigError, nearest
from fedtl.data.federation import Federation
from fedtl.export.features import Features, opened
from fedtl.export.probe import fit_linear
from fedtl.plot.domain_features import DomainFeatures
from fedtl.random import Purpose, stream
from fedtl.runs.history import Run

Projection = Literal["pca", "tsne"]
PROJECTIONS = ("pca", "tsne")
MOST = 400
"""Samples of a domain that are looked at."""
FEWEST = 10
"""Samples below which a domain is left out."""
MOST_SHOWN = 6
"""Domains, or clients where each is one of its own, that are shown: those with the most samples."""


class _Domain(NamedTuple):
    """A domain's name, and its samples' places among the federation's."""

    name: str
    rows: NDArray[np.int64]


def features_by_domain(run: Run, projection: Projection = "pca") -> DomainFeatures:
    """What the final global model's head receives, for the domains that there are.

    These are source and target where there is a target, else the data's domains, with those that are held out, else
    clients.

    Args:
        run: a finished one.
        projection: ``pca``, the directions of the largest variance, whose distances can be compared; or ``tsne``,
            which keeps neighbours together, and no distances.

    Raises:
        ConfigError: the run is deployed, has no final global model, or fewer than two domains.
    """
    if projection not in PROJECTIONS:
        raise ConfigError(f"--projection = {projection!r} is unknown: {nearest(str(projection), PROJECTIONS)}")
    config, federation, see = opened(run, "show")
    domains = _domains(federation, config.seed, [str(name) for name in run.environment.get("names") or []])
    if len(domains) < 2:
        raise ConfigError(
            f"--kind features: {run.path} has fewer than two domains, or clients, with {FEWEST} samples to show"
        )
    each = [see(domain.rows) for domain in domains]
    points, words = _projected(np.concatenate(each).astype(np.float64), projection, config.seed)
    rows = np.concatenate([domain.rows for domain in domains])
    return DomainFeatures(
        method=run.label,
        names=tuple(domain.name for domain in domains),
        points=points,
        domains=np.repeat(np.arange(len(domains)), [len(domain.rows) for domain in domains]),
        labels=federation.y[rows],
        label_names=federation.label_names or tuple(str(label) for label in range(federation.classes)),
        projection=words,
        distances=_distances(each, config.seed),
        notes=(f"up to {MOST} samples a domain",),
    )


def proxy_a_distance(one: Features, other: Features, rng: np.random.Generator) -> float:
    """Ben-David et al.'s (2006) distance 2 (1 - 2e): e is a linear classifier's error in telling two domains apart.

    Logistic regression is trained on half of as many samples of each, and e counted on the other half. An error above
    one half is chance, and gives 0.

    Args:
        one: features of one domain, two at least.
        other: of the other.
        rng: of the draw.
    """
    n = min(len(one), len(other)) // 2 * 2
    halves = [rng.permutation(len(each))[:n].reshape(2, -1) for each in (one, other)]
    train, test = (np.concatenate([one[halves[0][i]], other[halves[1][i]]]) for i in range(2))
    which = np.repeat([0, 1], n // 2)
    return max(0.0, 2 * (2 * fit_linear(train, which).accuracy(test, which) - 1))


def _domains(federation: Federation, seed: int, names: list[str]) -> list[_Domain]:
    target = federation.target
    if target is not None:
        rows = [
            np.concatenate([federation.test.order, federation.server_test]),
            np.concatenate([target.test.order, target.server_test]),
        ]
        if not len(rows[1]):  # what clients hold without labels is the target
            rows = [federation.train.order, target.train.order]
        domains = [_Domain(name, each) for name, each in zip(("source", "target"), rows)]
    elif federation.domain_of is not None:
        domains = _largest([*_of_domains(federation), *_held_out(federation)])
    else:
        called = [f"client {names[c] if names else c}" for c in range(federation.clients)]
        domains = _largest([_Domain(name, _held(federation, c)) for c, name in enumerate(called)])
    return [
        _Domain(domain.name, np.sort(stream(seed, Purpose.DOMAIN_DRAW, place).permutation(domain.rows)[:MOST]))
        for place, domain in enumerate(domains)
        if len(domain.rows) >= FEWEST
    ]


def _of_domains(federation: Federation) -> Iterator[_Domain]:
    """What the clients of each domain have of it."""
    assert federation.domain_of is not None
    for number, name in enumerate(federation.domains):
        rows = [_held(federation, client) for client in np.flatnonzero(federation.domain_of == number).tolist()]
        if rows:
            yield _Domain(name, np.concatenate(rows))


def _held_out(federation: Federation) -> Iterator[_Domain]:
    """Domains that no client has."""
    for name, rows in federation.held_out.items():
        yield _Domain(f"{name} (held out)", rows)


def _held(federation: Federation, client: int) -> NDArray[np.int64]:
    """A client's samples for training and testing."""
    return np.concatenate([federation.train[client], federation.test[client]])


def _largest(domains: Sequence[_Domain]) -> list[_Domain]:
    """Those that are shown, in their own order."""
    largest = sorted(range(len(domains)), key=lambda place: (-len(domains[place].rows), place))[:MOST_SHOWN]
    return [domains[place] for place in sorted(largest)]


def _projected(features: NDArray[np.float64], projection: Projection, seed: int) -> tuple[NDArray[np.float64], str]:
    if projection == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        points = TSNE(init="pca", perplexity=perplexity, random_state=seed % 2**32).fit_transform(features)
        return np.asarray(points, np.float64), f"t-SNE (perplexity {perplexity:g})"
    from sklearn.decomposition import PCA

    if features.shape[1] < 2:
        features = np.pad(features, ((0, 0), (0, 2 - features.shape[1])))
    pca = PCA(2, svd_solver="full").fit(features)
    share = float(np.nan_to_num(pca.explained_variance_ratio_).sum())
    return np.asarray(pca.transform(features), np.float64), f"PCA ({100 * share:.0f} % of the variance)"


def _distances(each: list[Features], seed: int) -> NDArray[np.float64]:
    distances = np.zeros((len(each), len(each)))
    for i in range(len(each)):
        for j in range(i):
            rng = stream(seed, Purpose.DOMAIN_DRAW, i, j)
            distances[i, j] = distances[j, i] = proxy_a_distance(each[i], each[j], rng)
    return distances
