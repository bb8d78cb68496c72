"""Recorded steps: a client's training step as a list of tensor operations, replayed without autograd and Python.

:mod:`~fedtl.recording.tape` writes the list down, :mod:`~fedtl.recording.simplify` makes it shorter, and
:mod:`~fedtl.recording.program` turns it into a loop over mini-batches that TorchScript's interpreter runs.
"""
