"""A simulated run's final global model on the run's own samples: what its head receives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtl.choice import ConfigError
from fedtl.config.read import build_to_read
from fedtl.config.schema import Config
from fedtl.data.federate import federate
from fedtl.data.federation import Federation
from fedtl.data.own.part import FRAME
from fedtl.data.samples import Samples
from fedtl.experiment import model_on
from fedtl.models.head import features_and_logits
from fedtl.runs.history import Run
from fedtl.strategies import strategy_type

Features = NDArray[np.float32]
"""``[n, f]``."""

BLOCK = 500
"""Samples that are given to the network at a time."""


class Opened(NamedTuple):
    """A run's config, its data, and the features of the samples in those rows, ``[len(rows), f]``."""

    config: Config
    federation: Federation
    features: Callable[[NDArray[np.int64]], Features]


def opened(run: Run, purpose: str) -> Opened:
    """Open a run's final global model on the run's own federation, as it was in the last round.

    Args:
        run: a finished one, simulated: of a deployed one the config's data only stand in for the clients'.
        purpose: a verb, for errors: what samples and model are opened for.

    Raises:
        ConfigError: the run is deployed, or has no final global model.
    """
    if (run.path / FRAME).is_file():
        raise ConfigError(f"{run.path} is a deployed run's, and holds no samples to {purpose}")
    run.state_dict()  # a run that is not finished says so
    config = build_to_read(dict(run.config))
    if not strategy_type(config.strategy.name).has_global_model():
        raise ConfigError(f"{run.path} is a run of {config.strategy.name!r}, without a global model to {purpose}")
    if stays := sorted({*config.strategy.private} - {"head"}):
        raise ConfigError(
            f"{run.path}: {', '.join(map(repr, stays))} stayed at the run's clients (strategy.private), so the global "
            f"model has no features to {purpose}"
        )
    federation = federate(config.data, config.seed).at(run.last_round())
    module = model_on(run, config, federation)
    return Opened(config, federation, partial(features_of, module, federation, device=device_of(config)))


def device_of(config: Config) -> str:
    """Where a run's model is computed on this machine."""
    return "cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"


def features_of(
    module: nn.Module, federation: Federation, rows: NDArray[np.int64], device: torch.device | str = "cpu"
) -> Features:
    """What a module's head receives for samples of a federation, ``[len(rows), f]``; the module's mode stays.

    Args:
        module: in evaluation mode, or its BatchNorm and dropout act as in training.
        federation: whose samples.
        rows: which.
        device: where; the module is moved there.
    """
    if not len(rows):  # not every module takes a batch of none
        return np.empty((0, 0), np.float32)
    place = torch.device(device)
    module = module.to(place)
    images = len(federation.shape) == 3 and any(isinstance(part, nn.Conv2d) for part in module.modules())
    samples = Samples(federation, place, channels_last=images and place.type == "cpu")
    blocks = []
    with torch.no_grad():
        for first in range(0, len(rows), BLOCK):
            x, _ = samples.batch(rows[first : first + BLOCK])
            features, _ = features_and_logits(module, x)
            blocks.append(features.float().cpu().numpy().copy())  # a view of the batch's memory is written over
    return np.concatenate(blocks)
