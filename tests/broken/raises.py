"""Cannot be imported."""

raise RuntimeError("first\nsecond")
