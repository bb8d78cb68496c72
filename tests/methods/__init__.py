"""Methods that try the open contract: a page each, held to other people's numbers in ``tests/reference``."""

from __future__ import annotations

from typing import Any

OPEN_METHODS: dict[str, dict[str, Any]] = {
    "scaffold": {"name": "scaffold", "lr": 0.05},
    "fedamp": {"name": "tests.methods.fedamp:FedAMP", "lr": 0.05},
    "ifca": {"name": "tests.methods.ifca:IFCA", "lr": 0.05, "clusters": 3},
    "hypernetwork": {"name": "tests.methods.pfedhn:PFedHN", "lr": 0.05},
    "knn-per": {"name": "tests.methods.knnper:KNNPerServer", "lr": 0.05},
}
"""As ``[strategy]`` names them."""
