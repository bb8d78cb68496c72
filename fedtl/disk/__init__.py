"""What must be whole on disk: files of tensors, safe replacement, and what clients remember between rounds."""
