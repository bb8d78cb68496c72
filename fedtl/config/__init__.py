"""Configs: what they may say, how they are read and overridden, and what must go together."""
