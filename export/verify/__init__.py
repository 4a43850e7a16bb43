"""Comparing an exported graph with the PyTorch network that it was made from."""
