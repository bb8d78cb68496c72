"""What a participant of a deployment holds on its own disk."""
