"""What the server remembers from round to round: the global model, the method's state and tables, what terms need."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.settings import Settings
from fedtl.failure import RunError
from fedtl.server.exchange import Download, Vectors
from fedtl.server.method import Method
from fedtl.server.phase import Phase
from fedtl.server.table import Table
from fedtl.wire import messages as m

Vector = NDArray[np.float32]


class ServerMemory:
    """The server's memory; :class:`~fedtl.server.rounds.Rounds` changes it once a round.

    Args:
        parameters: P, how many of the first numbers of the global model are trained; all if None.
        global_model: whether the method has one model for all clients.

    Attributes:
        w: the global model as it travels: its parameters ``[P]``, then batch-norm's buffers.
        state: the method's own, by name; of a global model it has the parts, as ``"w"`` and ``"buffers"``.
        tables: what the method remembers of each client, a row for each.
        context: what terms of the objective ask for besides the download: statistics, and earlier models.
    """

    def __init__(self, parameters: int | None, global_model: bool) -> None:
        self.parameters, self.global_model = parameters, global_model
        self.w: Vector = np.empty(0, np.float32)
        self.state: Vectors = {}
        self.tables: dict[str, Table] = {}
        self.context: dict[str, Vector] = {}
        self._has_begun = False
        """Whether there is a state, which may be empty."""

    def take(self, w: Vector, method: Method) -> None:
        """Make ``w`` the present global model; before the first round the method's state begins with it."""
        if w is self.w and self._has_begun:
            return
        self.w = w
        if not self._has_begun:
            self._begin(method)
        elif self.global_model:
            self.state = {**self.state, **self._parts()}

    def _begin(self, method: Method) -> None:
        """The state before the first round, of the present global model."""
        self._has_begun, parts, before = True, self._parts(), self.tables
        self.tables = new_tables(method, parts["w"])
        for name, table in before.items():  # what a checkpoint has of them is of the model before a restart
            self.tables[name].changed |= table.written
        first = method.first_state(parts["w"])
        self.state = {**parts, **first} if self.global_model else first

    def replace(self, state: Vectors, buffers: Tensor | None) -> None:
        """Remember the state after a round.

        Args:
            state: as the method's step returns it.
            buffers: batch-norm's, where the uploads had any.
        """
        self.state = {name: tensor.detach() for name, tensor in state.items()}
        if not self.global_model:
            return
        w = self.state["w"].to(torch.float32)
        if buffers is not None:
            w = torch.cat([w, self.state.get("buffers", buffers)])
        self.w = w.contiguous().numpy()
        self.state = {**self.state, **self._parts()}

    def enter(self, phase: Phase, round: int, w: NDArray[np.floating]) -> NDArray[np.floating]:
        """Go into a round of a phase, and remember the models that its terms will ask for.

        Args:
            phase: the round's.
            round: from 1.
            w: the global model after the round before.

        Returns:
            The global model that the round begins with: ``w``, or the phase's own.
        """
        restart = phase.restart if round == phase.first else None
        if round == phase.first and phase.keeps_start:  # before a restart: the generation before teaches the new one
            self.context[m.PHASE_START] = np.array(w, np.float32)
        if restart is not None:  # all else that the server remembers is of the old model
            self.context = {name: vector for name, vector in self.context.items() if name == m.PHASE_START}
            self._has_begun = self._has_begun and not self.global_model
            w = restart
        synthesis = phase.replay.made_in(round) if phase.replay and phase.replay.every > 1 else None
        # After a restart samples of the last synthesis's model would be of what is forgotten.
        if synthesis == round or (synthesis is not None and restart is not None):
            self.context[m.REPLAYED] = np.array(w, np.float32)
        return w

    def shared_by(self, download: Download) -> dict[str, Vector]:
        """What a download has for all clients; with the global model go its batch-norm buffers."""
        return {name: self._travelling(name, tensor) for name, tensor in download.shared.items()}

    def _travelling(self, name: str, tensor: Tensor) -> Vector:
        if name != "w" or not self.global_model:
            return to_numpy(tensor)
        if tensor.data_ptr() == self.state["w"].data_ptr():
            return self.w
        return np.concatenate([to_numpy(tensor), self.w[len(tensor) :]])

    def remembered(self) -> dict[str, Vector]:
        """What a checkpoint keeps besides the global model, by name."""
        model = {"w", "buffers"} if self.global_model else set()
        own = {name: tensor.numpy().copy() for name, tensor in self.state.items() if name not in model}
        return {**{name: vector.copy() for name, vector in self.context.items()}, **own}

    def resume(self, w: Vector, remembered: Mapping[str, Vector], method: Method, began: Tensor | None = None) -> None:
        """Go back to a checkpoint.

        Args:
            w: its global model.
            remembered: what it has besides.
            method: whose memory this is.
            began: the parameters ``[P]`` that the rounds began with, of which the tables' first rows are made; those
                of ``w`` if None.

        Raises:
            ConfigError: the checkpoint is of an earlier version, in which the method remembered less.
        """
        self.context = {name: vector for name, vector in remembered.items() if name.startswith(m.OF_TERMS)}
        own = {name: torch.tensor(vector) for name, vector in remembered.items() if name not in self.context}
        self.w = np.asarray(w, np.float32)
        self._has_begun, parts = True, self._parts()
        self.tables = new_tables(method, parts["w"] if began is None else began)
        self.state = {**parts, **own} if self.global_model else own
        if lacking := sorted(method.first_state(parts["w"]).keys() - self.state.keys()) if self.global_model else ():
            raise ConfigError(
                f"the checkpoint lacks {', '.join(map(repr, lacking))}, which the server of {type(method).__name__} "
                "remembers: an earlier version of fedtl wrote it, where other options were the default; begin the run "
                "anew, in another folder"
            )

    def check_finite(self, round: int, settings: Settings) -> None:
        """End the run where the server's step leads nowhere: clients can only fail from such a model on.

        Args:
            round: which was the last.
            settings: the method's options, of which the message names those that make smaller steps.

        Raises:
            RunError: the global model, or what the server remembers, has a number that is infinite or none.
        """
        server = {**self.context, **{name: tensor.numpy() for name, tensor in self.state.items()}}
        others = ((f"server's {name!r}", vector) for name, vector in server.items() if name not in ("w", "buffers"))
        for what, vector in (("global model", self.w), *others):
            # In float64 a sum of finite float32 numbers is finite.
            if not math.isfinite(vector.sum(dtype=np.float64)):
                raise RunError(
                    f"the {what} is not finite after round {round}; a smaller {_step_sizes(settings)} may help"
                )

    def _parts(self) -> Vectors:
        """The parts of the global model; they share its memory, which nobody changes."""
        P, w = self.parameters, torch.from_numpy(self.w if self.w.flags.writeable else self.w.copy())
        return {"w": w[:P], "buffers": w[P:]} if P is not None and len(w) > P else {"w": w}


def _step_sizes(settings: Settings) -> str:
    """Those options of a method that say how far clients or the server go, in words."""
    of_server = ["server.lr"] if hasattr(getattr(settings, "server", None), "lr") else []
    own = [name for name in ("server_lr", "distill_lr", "beta") if hasattr(settings, name)]
    return " or ".join(f"strategy.{name}" for name in ("lr", *of_server, *own))


def new_tables(method: Method, w: Tensor) -> dict[str, Table]:
    """A method's tables before the first round, given the initial model's parameters ``w`` ``[P]``."""
    return {name: Table(first) for name, first in method.first_tables(w).items()}


def to_numpy(tensor: Tensor) -> Vector:
    """A tensor of the method's as it travels, in float32."""
    return np.asarray(tensor.detach().to(torch.float32).numpy())
