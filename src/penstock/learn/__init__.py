"""Training loops: dense networks and their decoupling."""
