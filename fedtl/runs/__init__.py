"""A run's folder: written, locked, resumed, read back, and shown."""
