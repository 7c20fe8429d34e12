"""
The HTTP server of the engine: requests, continuous batching, pacing, metrics, workers and their router.

Everything that is awaited is here; the maths is called, never done.
"""
