"""From a PyTorch network to one ``onnx_ir`` graph, its gated convolutions whole."""
