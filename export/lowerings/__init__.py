"""Ways to turn gated convolutions into plain ONNX operators."""
