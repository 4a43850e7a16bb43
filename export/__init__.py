"""Compile decoupled networks to plain ONNX, check them against PyTorch, and write bundles.

The stages, each in a module of its own: `contract` wraps a network into the module whose outputs every exported model
has, `capture` turns that into ``onnx_ir`` with one node per gated convolution, a lowering (`masked`, `gathered`)
replaces those nodes by plain operators, `verify` compares the result with PyTorch, and `calibrate` sets the detector's
threshold on it. `compiling` runs these for one lowering; `pipeline` compiles what `options` ask for, takes the fastest
and writes the bundle.
"""
