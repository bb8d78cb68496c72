"""Methods that try the open contract: a page each, held to other people's numbers."""
