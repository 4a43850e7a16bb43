"""Attacks on decoupled networks, for the evaluation of detectors."""
