"""How well latent dimensions and generative factors match: mutual information, MIG, DCI.

Latents are `[N, L]`, factors `[N, K]`: N beliefs about tasks whose factors are known.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BINS = 20  # equal ones, as in Locatello et al. 2019 (arXiv 1811.12359)


def discretised(column: Array, bins: int = BINS) -> Array:
    """`[N]` numbers of equal bins between a column's extremes; a column of few values keeps them apart."""
    values, index = np.unique(column, return_inverse=True)
    if len(values) <= bins:
        return index.ravel()
    edges = np.linspace(column.min(), column.max(), bins + 1)[1:-1]
    return np.digitize(column, edges)


def entropy(labels: Array) -> float:
    """Of a column of labels, in nats."""
    share = np.bincount(labels) / len(labels)
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def mutual_information(a: Array, b: Array) -> float:
    """Between two columns of labels `[N]`, in nats."""
    joint = a.astype(np.int64) * (int(b.max()) + 1) + b
    return max(0.0, entropy(a) + entropy(b) - entropy(joint))


def information_table(latents: Array, factors: Array, bins: int = BINS) -> Array:
    """`[K, L]` mutual information in nats between each factor and each latent dimension, both in equal bins."""
    columns = [[discretised(c, bins) for c in table.T] for table in (factors, latents)]
    return np.array([[mutual_information(f, z) for z in columns[1]] for f in columns[0]])


def mig(latents: Array, factors: Array, bins: int = BINS) -> float:
    """The mutual information gap (Chen et al. 2018, arXiv 1802.04942, eq. 6).

    Mean over factors of (I_best - I_second) / H(factor): 1 if each factor is told by one dimension alone.
    """
    table = np.sort(information_table(latents, factors, bins), axis=1)
    second = table[:, -2] if table.shape[1] > 1 else np.zeros(len(table))
    entropies = np.array([entropy(discretised(f, bins)) for f in factors.T])
    return float(((table[:, -1] - second) / entropies).mean())


def monotone_information(latents: Array, factors: Array) -> Array:
    """`[K, L]` mutual information in nats of the Gaussian copula: -log(1 - rho^2) / 2 with rho of normal ranks.

    A lower bound of the mutual information (Ince et al. 2017, "A statistical framework for neuroimaging data analysis
    based on mutual information estimated via a Gaussian copula"), reached by monotone relations. With the few tasks
    of meta-training any dimension that tells all tasks apart has all the information in bins about every factor; the
    one to interpolate along is the one that follows the factor.
    """
    ranks = [np.stack([_normal_ranks(c) for c in table.T], axis=1) for table in (factors, latents)]
    count = factors.shape[1]
    joined = np.concatenate(ranks, axis=1)
    spread = joined.std(0)
    rho = ((joined - joined.mean(0)) / np.where(spread > 0, spread, 1.0)).T
    rho = (rho @ rho.T / len(joined))[:count, count:]
    return -0.5 * np.log(1.0 - np.clip(rho**2, 0.0, 1.0 - 1e-9))


def _normal_ranks(column: Array) -> Array:
    """Ranks, ties shared, as quantiles of the standard normal."""
    from statistics import NormalDist

    _, index, counts = np.unique(column, return_inverse=True, return_counts=True)
    upper = np.cumsum(counts)
    middle = (upper - counts + upper) / 2 / len(column)  # mean rank of each value, in (0, 1)
    normal = NormalDist()
    return np.array([normal.inv_cdf(float(m)) for m in middle])[index.ravel()].reshape(len(column))


def match(table: Array) -> tuple[int, ...]:
    """f(k): a latent dimension of its own for every factor, together with the most information `[K, L]`.

    Raises:
        ValueError: If there are more factors than dimensions.
    """
    factors, dimensions = table.shape
    if factors > dimensions:
        raise ValueError(f"{factors} factors do not fit {dimensions} latent dimensions; take a larger latent")
    every = np.arange(factors)
    return max(permutations(range(dimensions), factors), key=lambda chosen: float(table[every, list(chosen)].sum()))


class DCI(NamedTuple):
    """Disentanglement, completeness, informativeness (Eastwood and Williams 2018); 1 is best."""

    disentanglement: float  # each dimension matters for one factor only
    completeness: float  # each factor is told by one dimension only
    informativeness: float  # R^2 of predicting the factors on beliefs held out


def dci(latents: Array, factors: Array, seed: int = 0) -> DCI:
    """From the importances of latent dimensions in random forests that predict each factor.

    Forests are Eastwood and Williams' second choice of regressor and need no tuning here; a quarter of the rows is held
    out. ImportError with the command that installs scikit-learn where it is missing.
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ModuleNotFoundError as error:
        raise ImportError(
            "DCI needs scikit-learn, which is not installed: pip install 'metabench[analysis]'"
        ) from error
    order = np.random.default_rng(seed).permutation(len(latents))
    held, kept = order[: len(order) // 4], order[len(order) // 4 :]
    importances, scores = [], []
    for factor in factors.T:
        forest = RandomForestRegressor(n_estimators=100, random_state=seed, n_jobs=1)
        forest.fit(latents[kept], factor[kept])
        importances.append(forest.feature_importances_)
        scores.append(forest.score(latents[held], factor[held]))
    return DCI(*dci_scores(np.array(importances)), float(np.mean(scores)))


def dci_scores(importance: Array) -> tuple[float, float]:
    """Disentanglement and completeness of importances `[K, L]`.

    Of a dimension: 1 - entropy of its importances over factors, in units of log K, weighted by its share of all
    importance. Of a factor: 1 - entropy of the importances for it over dimensions, in units of log L, averaged. With
    one factor every dimension is disentangled.
    """
    factors, dimensions = importance.shape
    total = max(float(importance.sum()), 1e-12)
    per_dimension = 1.0 - _entropies(importance.T) / np.log(factors) if factors > 1 else np.ones(dimensions)
    disentangled = float((per_dimension * importance.sum(0) / total).sum())
    complete = 1.0 - _entropies(importance) / np.log(dimensions) if dimensions > 1 else np.ones(factors)
    return disentangled, float(complete.mean())


def _entropies(rows: Array) -> Array:
    """Of each row of non-negative weights, in nats; a row of zeros counts as even."""
    total = rows.sum(1, keepdims=True)
    share = np.where(total > 0, rows / np.where(total > 0, total, 1.0), 1.0 / rows.shape[1])
    return -(share * np.log(np.where(share > 0, share, 1.0))).sum(1)
