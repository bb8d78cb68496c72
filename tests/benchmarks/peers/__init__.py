"""Other simulators on the same work as ours: a script per peer, run by the Python of the peer's own environment.

A script reads a :class:`~tests.benchmarks.peers.work.Work` and writes an
:class:`~tests.benchmarks.peers.work.Outcome`; it imports torch, numpy and its peer, and nothing of fedtl.
"""
