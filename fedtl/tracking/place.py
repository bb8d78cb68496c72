"""What of a run's folder belongs to its trackers."""

PLACE, ID, LOCK, LOG = "tracking", "id", "lock", "log.txt"
"""The folder; the run's id, the right to write the trackers, and what they print."""
