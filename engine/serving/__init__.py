"""
The HTTP server of the engine: requests, continuous batching, pacing, metrics, workers and their router.

Threads, queues and sockets live here; the maths lives in `decoder/`.
"""
