"""Measuring candidates on this machine, and choosing."""
