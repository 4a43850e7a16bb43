"""What graphs are made of: our operators, how each becomes plain nodes, compact values, and regions of a graph."""
