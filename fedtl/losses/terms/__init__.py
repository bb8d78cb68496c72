"""Terms of the local objective: each a loss function wired to what a client has."""
