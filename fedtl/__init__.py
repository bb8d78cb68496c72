"""Federated personalised and transfer learning: simulated on Ray, deployed on Flower, written in PyTorch.

In Python as on the command line::

    import fedtl

    run = fedtl.run("quickstart", ["strategy.lr=0.05"])
    run.last()  # each score's last value, and which model and data it is of
    run.table()  # one row per round
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedtl.choice import ConfigError as ConfigError
    from fedtl.comparison import Comparison as Comparison
    from fedtl.comparison import compare as compare
    from fedtl.experiment import load_model as load_model
    from fedtl.experiment import run as run
    from fedtl.export.file import load_exported as load_exported
    from fedtl.reports import report as report
    from fedtl.runs.history import Run as Run
    from fedtl.runs.history import load as load
    from fedtl.studies import Study as Study
    from fedtl.sweeps.study import sweep as sweep

__all__ = [
    "Comparison",
    "ConfigError",
    "Run",
    "Study",
    "__version__",
    "compare",
    "load",
    "load_exported",
    "load_model",
    "report",
    "run",
    "sweep",
]

# torch takes seconds to import; whoever only asks for the version should not wait for it.
_WHERE = {
    "Comparison": "fedtl.comparison",
    "ConfigError": "fedtl.choice",
    "Run": "fedtl.runs.history",
    "Study": "fedtl.studies",
    "compare": "fedtl.comparison",
    "load": "fedtl.runs.history",
    "load_exported": "fedtl.export.file",
    "load_model": "fedtl.experiment",
    "report": "fedtl.reports",
    "run": "fedtl.experiment",
    "sweep": "fedtl.sweeps.study",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fedtl' has no attribute {name!r}")
    from importlib import import_module

    target = getattr(import_module(_WHERE[name]), name)
    globals()[name] = target  # the module fedtl.runs.history would otherwise take the function's place
    return target
