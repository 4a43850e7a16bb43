"""Serve models over gRPC: the Open Inference Protocol v2, health checks, metrics, and questions about paths.

Layers, each of which knows only the next:

    server                    ports, start, stop, signals
    services                  everything but the ports
    servicer                  one method per remote call, about three lines each
    requests, responses       arrays of messages and back: the only code that knows both protobuf and numpy
    converters                what the server and its models say of themselves
    engine                    numpy in, numpy out; knows nothing of gRPC
    repository                which models there are
    control, polling          load and unload while the server runs: on request, as the folder changes
    loading                   a version folder becomes a model: a Penstock bundle (contract), or any ONNX graph
    configuration             config.pbtxt, completed from the graph
    scheduler, queues         how many runs at once, how many may wait; who shares a run
    session, tensors          one ONNX Runtime session; datatypes, shapes, bytes

Beside them, what flagged images lead to:

    policy, flags             what becomes of the request; who hears of it
    sink, stores              a thread that keeps records; the files that it writes
    watchers                  readers of flagged images as they come
    explainer, observers      scores cut up; the second sessions that this takes
    observing                 a look inside a graph
    path_servicer             the remote calls for all this, with path_messages as its converters

`access`, `listening`, `logs` and `tracing` are for those who operate a server.

`scoring` answers for folders of images without a server.

`cluster` puts `services` behind Ray Serve instead of `server`.

`handlers` and `statuses` stand around every remote call: they parse requests, translate errors to gRPC
statuses by one table, log and count.
"""
