"""The same services in a cluster: Ray Serve spreads the requests over replicas, which may run on many machines.

    front      in Ray's proxies: hands requests to replicas as bytes, and to another replica if one is lost
    attempt    what a call looks like to one of these tries
    replica    in Ray's replicas: the services of `penstock.service.services`, without ports
    own_sink   a folder for each replica's records of flagged images
    app        puts them together for ``serve run`` and ``serve deploy``

Messages travel as bytes between the processes: they are parsed once, where they are answered. Needs the extra ``ray``.
"""
