"""Committed checkpoints: data, no code."""
