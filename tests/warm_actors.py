"""Ray actors that outlive a test: a process takes seconds to start, and a test of what actors compute needs no new one.

Tests of actors that begin or end take real ones.
"""

from __future__ import annotations

import pytest

from fedtl.grid import warm


class WarmActors(warm.WarmActors):
    """A session's, on the Ray that this process uses."""

    def __init__(self) -> None:
        # They take no processor from the actors of tests that have real ones, whatever a test's grid asks for; their
        # environment is the session's Ray's.
        super().__init__({"num_cpus": 0, "num_gpus": 0}, without=frozenset({"runtime_env"}))

    def lend_to_grids(self, patch: pytest.MonkeyPatch) -> None:
        """For as long as the patch lasts, grids are lent these."""
        patch.setattr(warm, "lender", self)
