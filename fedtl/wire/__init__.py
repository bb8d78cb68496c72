"""What travels between server and clients, who answers it, and the sums on the way."""
