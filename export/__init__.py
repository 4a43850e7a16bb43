"""Compile networks with paths to plain ONNX, check them against PyTorch, and write bundles.

The stages, each in a room of its own:

    capture     wraps a network into the module whose outputs every exported model has, and translates that to
                ``onnx_ir`` with one node for every convolution that a path rules
    passes      rewrite graphs, one rule in each: what they did is told and kept
    lowerings   turn our nodes into plain operators: masked, gathered or routed
    precision   brings lowered graphs to int8 or float16, and says how close their answers stay
    autotune    measures what is possible on this machine and chooses, stage by stage
    verify      compares the result with PyTorch

`calibrate` sets the detector's threshold on the finished graph, `compiling` runs all this for one lowering, `pipeline`
does what `options` ask for and writes the bundle, and `plans` does so for many at once.
"""
