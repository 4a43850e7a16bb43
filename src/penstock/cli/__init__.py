"""The command line: parse, call, print what went wrong in one line.

    main       entry, errors, exit codes
    learning   train, decouple, consolidate, cascade, disentangle
    judging    zoo list, evaluate, report
    detecting  detect calibrate, detect evaluate
    running    version, demo, export, serve, infer

Heavy libraries are imported inside the commands, so that ``penstock --help`` answers at once.
"""

from penstock.cli.main import main

__all__ = ["main"]
