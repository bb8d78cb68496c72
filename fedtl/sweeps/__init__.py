"""Sweeps: methods in every setting under every seed, tuned alike, as one study that can be resumed at any instant.

``file`` reads what is asked for, ``plan`` makes the runs of it and checks them, ``search`` chooses hyperparameters,
``conductor`` carries the plan out, and ``study`` puts these together. Where runs are trained is a ``pool``'s business:
processes of this machine, a Ray cluster, or this process.
"""
