"""Serve bundles over gRPC: the Open Inference Protocol v2, health checks, metrics, and questions about paths.

Layers, each of which knows only the next:

    server                    start, stop, signals
    servicer                  one method per remote call, about three lines each
    converters                the only code that knows both protobuf and numpy
    engine                    numpy in, numpy out; knows nothing of gRPC
    repository, scheduler     which models there are; how many runs at once, how many may wait
    session                   one ONNX Runtime session

Beside them, what flagged images lead to:

    policy, flags             what becomes of the request; who hears of it
    sink, stores              a thread that keeps records; the files that it writes
    watchers                  readers of flagged images as they come
    explainer, observing      scores cut up; a look inside a graph
    path_servicer             the remote calls for all this, with path_messages as its converters

`access`, `listening`, `logs` and `tracing` are for those who operate a server.

`handlers` and `statuses` stand around every remote call: they parse requests, translate errors to gRPC
statuses by one table, log and count.
"""
