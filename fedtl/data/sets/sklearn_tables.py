"""Tables that scikit-learn brings: patients, of whom a yes or no or a number is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializeAsAny

from fedtl.choice import ConfigError
from fedtl.data.columns import Columns
from fedtl.data.dataset import Dataset, channel_statistics
from fedtl.data.settings import DataChoice
from fedtl.tasks import LearningTask
from fedtl.tasks.labels import Binary
from fedtl.tasks.numbers import Regression


class BreastCancer(DataChoice):
    """569 patients of Wisconsin, 30 numbers of each tumour's image; a yes is a malignant one (Street et al. 1993)."""

    name: str = "breast-cancer"
    task: SerializeAsAny[LearningTask] = Binary()

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        from sklearn.datasets import load_breast_cancer

        table = load_breast_cancer()
        samples: NDArray[np.float32] = table.data.astype(np.float32)
        malignant = (table.target == 0).astype(np.int64)
        names = ("benign", "malignant")
        columns = Columns.of_numbers([str(name) for name in table.feature_names])
        return Dataset(samples, malignant, 2, *channel_statistics(samples), label_names=names, columns=columns)


class Diabetes(DataChoice):
    """442 patients, 10 numbers each; how far their diabetes has gone a year later, 25 to 346 (Efron et al. 2004)."""

    name: str = "diabetes"
    task: SerializeAsAny[LearningTask] = Regression()

    def load(self) -> Dataset:
        """See :class:`~fedtl.data.settings.DataChoice`."""
        if self.task.kind != "regression":
            raise ConfigError(f"data.task = {self.task.name!r}: of data.name = 'diabetes' a number is predicted")
        from sklearn.datasets import load_diabetes

        table = load_diabetes(scaled=False)
        samples: NDArray[np.float32] = table.data.astype(np.float32)
        values: NDArray[Any] = table.target
        outcomes = self.task.outcomes("data.name = 'diabetes': y", values, len(values))
        columns = Columns.of_numbers([str(name) for name in table.feature_names])
        return Dataset.of_outcomes(samples, self.task, [outcomes], *channel_statistics(samples), columns=columns)
