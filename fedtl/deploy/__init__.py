"""Experiments on real clients: the folders, keys and processes of Flower's Deployment Runtime."""
