"""Engines: run a client update over a cohort, one client after another or all stacked, eager or traced.

All run the same client code and agree within float32 rounding. One by one binds the module to the client's
vector; stacked maps the model over ``[C, P]`` parameters, where launching an operation costs more than
computing it. Either may trace the training step once and replay it (:mod:`fedtl.tracing`).
"""

from fedtl.engine.choice import EngineChoice, choose_engine, refusal
from fedtl.engine.engine import Engine
from fedtl.engine.module import seed_torch
from fedtl.engine.one_by_one import OneByOne
from fedtl.engine.stacked import Stacked
from fedtl.engine.task import BUFFERS, Failed, Outcome, Score, Task, Trained

__all__ = [
    "BUFFERS",
    "Engine",
    "EngineChoice",
    "Failed",
    "OneByOne",
    "Outcome",
    "Score",
    "Stacked",
    "Task",
    "Trained",
    "choose_engine",
    "refusal",
    "seed_torch",
]
