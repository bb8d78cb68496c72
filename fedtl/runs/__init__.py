"""A run's folder: written, locked, gone on with, read back, and shown."""
