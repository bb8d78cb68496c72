"""Traced steps: a client's training step as a list of tensor operations, replayed without autograd and Python.

:mod:`~fedtl.tracing.tape` writes the list down, :mod:`~fedtl.tracing.simplify` makes it shorter, and
:mod:`~fedtl.tracing.program` turns it into a loop over mini-batches that TorchScript's interpreter runs, whose text
:mod:`~fedtl.tracing.source` puts together. :mod:`~fedtl.tracing.joint` makes one loop of steps of several kinds.
"""
