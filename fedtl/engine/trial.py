"""What a method sees of a client where it is tried out, before any client trains."""

from __future__ import annotations

from torch import Tensor

from fedtl.clients.contract import Probe
from fedtl.data.samples import FewSamples
from fedtl.engine.task import Task
from fedtl.models.composite import layer_sizes, model_of
from fedtl.models.trial import taken_by


def features_of(task: Task) -> int:
    """How many numbers the head of a task's model receives of a sample."""
    model, federation = model_of(task.module), task.samples.federation
    x = taken_by(model, federation.shape, FewSamples.of(federation))
    device = next(model.parameters()).device
    return layer_sizes(model, x.to(device), frozenset({"features"}))["features"]


def trial_probe(task: Task, samples: Tensor) -> Probe:
    """A look at a client that holds one sample of each class; ``samples`` ``[..., 1]`` says how many there are."""
    return Probe.of_trial(samples, task.samples.federation.classes, lambda: features_of(task))
