"""The parts of a worker's time that a profile tells apart; what is in none of them is Python between."""

DATA = "data"
"""The order of a client's samples, and gathering mini-batches."""

STEPS = "steps"
"""Traced steps: forward, backward and the method's arithmetic in one."""

GRADIENT = "gradient"
"""Forward and backward, of steps that run eagerly."""

METHOD = "method"
"""The method's own arithmetic, of steps that run eagerly, and before the first step and after the last."""

TRACING = "tracing"
"""Writing down steps and forward passes, once for each shape."""

FORWARD = "forward"
"""Scoring: forward passes, and comparing with the labels."""

MEMORIES = "memories"
"""Loading and saving what clients keep."""

SUMS = "sums"
"""Checking that models are finite, and adding up uploads."""

PACKING = "packing"
"""Reading the message, and making the replies."""

SYNTHESIS = "synthesis"
"""Making samples out of the global model, for replay."""

STATISTICS = "statistics"
"""Forward passes for the sums that terms ask clients to send."""
