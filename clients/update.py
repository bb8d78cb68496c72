"""The former name of :mod:`fedtl.clients.contract`."""

from fedtl.clients.contract import ClientUpdate, Gradient, Memory, State

__all__ = ["ClientUpdate", "Gradient", "Memory", "State"]
