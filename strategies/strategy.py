"""The former name of :mod:`fedtl.strategies.contract`."""

from fedtl.server.rounds import Evaluation, Round
from fedtl.strategies.contract import Download, Strategy, Uploads, Vectors

__all__ = ["Download", "Evaluation", "Round", "Strategy", "Uploads", "Vectors"]
