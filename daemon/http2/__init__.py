"""gRPC over HTTP/2 on an event loop: what `grpc.aio` does for a server, at a part of its cost.

`server` listens and takes connections, `connection` speaks HTTP/2 (RFC 9113) with one client, `call` is one call on it,
`headers` reads and writes header blocks (RFC 7541), `frames` has the layout of frames, `compression` unpacks messages,
`sender` writes, `limits` says what clients may take, and `patience` when one is given up.
"""
