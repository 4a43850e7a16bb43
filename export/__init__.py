"""Compile decoupled networks to plain ONNX, check them against PyTorch, and write bundles.

The stages, each in a module of its own: `source` loads what is to be exported, `contract` wraps it into the module
whose outputs every exported model has, `capture` turns that into ``onnx_ir`` with one node per gated convolution,
a lowering (`masked`, `gathered`) replaces those nodes by plain operators, `calibrate` sets the detector's threshold
on the finished graph, `verify` compares it with PyTorch, and `pipeline` runs them in order and writes the bundle.
"""
