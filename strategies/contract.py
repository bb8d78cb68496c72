"""The server's half of a method: what it remembers, what it sends, and its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from fedtl.choice import ConfigError
from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.losses.aggregate import ClientAggregate
from fedtl.models.vector import Layout
from fedtl.optimizers.server import without_moments
from fedtl.optimizers.settings import AveragingSettings
from fedtl.server.exchange import Download, Uploads, Vectors
from fedtl.server.rounds import Rounds

__all__ = ["Download", "Strategy", "Uploads", "Vectors"]


class Strategy(Rounds):
    """A federated method's server; a subclass writes the few lines that are its idea, in torch.

    It is a Flower strategy and runs on any Flower Grid; :class:`~fedtl.server.rounds.Rounds` is the machinery. Here
    the server is plain averaging. ``self.settings`` are the method's options, ``self.population`` is N, the number of
    clients that can train in the present phase, of ``self.numbered`` that have numbers and rows of tables, and
    ``self.seed`` the run's; a random number is to depend on the seed and the round alone.
    ``self.layout`` and ``self.classes`` are the model's.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    client_update: ClassVar[type[ClientUpdate[Any]]]
    global_model: ClassVar[bool] = True
    """Whether ``state["w"]`` is one model for all clients; where there is none, none is scored."""

    pools: ClassVar[bool] = False
    """Whether client 0 trains on all clients' samples, which only a simulation can have in one place."""

    tasks: ClassVar[frozenset[str] | None] = None
    """The tasks for which the server's part is defined, by name; None: those of the client's."""

    @property
    def model_layout(self) -> Layout:
        """``self.layout``, for a server that looks into the model.

        Raises:
            ConfigError: whoever made the server did not say.
        """
        if self.layout is None:
            raise ConfigError(f"strategy.name = {self.settings.name!r}: its server needs the model's layout")
        return self.layout

    def first_state(self, w: Tensor) -> Vectors:
        """What the server remembers before the first round, given the initial model's parameters ``w`` ``[P]``."""
        return {"w": w} if self.client_update.uploads() else {}

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What ``clients`` are sent for a round; nothing of the state changes."""
        return Download({"w": state["w"]} if self.client_update.uploads() else {})

    def send_to_score(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What ``clients`` are sent that are to be scored: what they would be sent to train in the round."""
        return self.send(state, clients, round)

    def send_unseen(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        """What clients are sent that never train and are to be scored; their numbers, N and more, are in no table.

        A server that looks clients up says here what it sends to one that it does not know.
        """
        return self.send_to_score(state, clients, round)

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        """The state after a round.

        Batch-norm's running statistics are no business of a method: where the model has any, ``state["buffers"]`` is
        already their mean over the uploads.
        """
        return {**state, "w": uploads.mean("w")}

    def with_other_options(self, state: Vectors, before: Settings) -> Vectors:
        """The state that a phase begins with that has other options than ``before``, those of the phase before it.

        A server optimiser begins anew where it takes another's place. A method that remembers other tensors under other
        options begins or gives them up here; or it names those options in ``same_in_phases`` of its settings.
        """
        options: object = before
        server = options.server if isinstance(options, AveragingSettings) else "none"
        if isinstance(server, str) or type(server) is type(getattr(self.settings, "server", None)):
            return state
        return without_moments(state, server)

    @classmethod
    def statistics(cls, settings: Settings) -> tuple[ClientAggregate, ...]:
        """What the method asks of the model's outputs besides uploads; see :meth:`Rounds.take_statistic`."""
        return ()

    @classmethod
    def unused(cls, settings: Settings) -> dict[str, str]:
        """Options of these settings that do nothing, each with the reason: who asks for one is told so."""
        unused = cls.client_update.unused(settings)
        if "settings" not in cls.client_update.sums.values():
            unused["weighting"] = f"under {settings.name} clients upload nothing that could be averaged"
            if cls.client_update.uploads():
                unused["weighting"] = f"{settings.name} itself says how clients count in each of its sums"
        if not cls.client_update.uploads():
            unused["private"] = unused["private_start"] = f"under {settings.name} the whole model stays at the client"
        elif not settings.private:
            unused["private_start"] = "no part of the model is private"
        elif {*settings.private} <= {"batch-norm"}:
            unused["private_start"] = "batch-norm layers begin alike whatever the seed"
        lengths = [
            value
            for name, value in settings
            if name.endswith(("epochs", "steps")) and name not in settings.never_cut and isinstance(value, int)
        ]
        if max(lengths, default=1) == 1:
            unused["stragglers"] = "a client goes through one epoch, or step, at least, and no more are asked for"
        if settings.clients_per_round is None:
            unused["sampling"] = "all clients take part in each round; strategy.clients_per_round says how many"
        return unused

    @classmethod
    def begins(cls, settings: Settings) -> dict[str, int]:
        """Options of these settings that act from some round on, each with that round: where it never comes, a note."""
        return {}

    @classmethod
    def has_global_model(cls) -> bool:
        """Whether there is one model for all clients that training changes."""
        return cls.global_model and cls.client_update.uploads()
