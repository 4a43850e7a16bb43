"""Serve models over gRPC: the Open Inference Protocol v2, health checks, metrics, and questions about paths.

Layers, each of which knows only the next:

    server                    start, stop, signals
    servicer                  one method per remote call, about three lines each
    requests, responses       arrays of messages and back: the only code that knows both protobuf and numpy
    converters                what the server and its models say of themselves
    engine                    numpy in, numpy out; knows nothing of gRPC
    repository                which models there are
    loading                   a version folder becomes a model: a Penstock bundle (contract), or any ONNX graph
    configuration             config.pbtxt, completed from the graph
    scheduler                 how many runs at once, how many may wait
    session, tensors          one ONNX Runtime session; datatypes, shapes, bytes

`handlers` and `statuses` stand around every remote call: they parse requests, translate errors to gRPC
statuses by one table, log and count.
"""
