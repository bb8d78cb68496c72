"""Several domains in one federation: each client of one, one perhaps held out."""
