"""A run's model elsewhere: as a file, its predictions, and what its features are worth."""
