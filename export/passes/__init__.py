"""Rewrites of a graph that change nothing but its cost."""
