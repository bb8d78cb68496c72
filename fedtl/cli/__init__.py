"""The command line: a file for each command, :mod:`~fedtl.cli.commands` puts them together."""

from fedtl.cli.commands import main

__all__ = ["main"]
