"""The server's side of every method: rounds, messages, sums, scores."""
