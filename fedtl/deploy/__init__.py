"""Experiments on real clients: folders, keys and processes around Flower's Deployment Runtime."""
