"""Trackers, which a process beside the run fills from the run's record."""
