"""A config for real clients, and examples of how to keep them running."""
