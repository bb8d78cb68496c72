"""FedAvg whose models travel as rows, both ways: for what rows cost beside a shared download and a sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedtl.clients.contract import ClientUpdate
from fedtl.clients.settings import Settings
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors


class InRows(ClientUpdate[Settings]):
    sums: ClassVar = {}
    rows: ClassVar[tuple[str, ...]] = ("w",)


class FedAvgInRows(Strategy):
    settings_type = Settings
    client_update = InRows

    def send(self, state: Vectors, clients: Sequence[int], round: int) -> Download:
        return Download({}, {"w": state["w"].expand(len(clients), -1)})

    def update(self, state: Vectors, uploads: Uploads, round: int) -> Vectors:
        return {**state, "w": uploads.rows["w"].mean(0)}
