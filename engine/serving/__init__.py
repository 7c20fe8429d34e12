"""
The HTTP server of the engine: requests, continuous batching, pacing, metrics, workers and their router. Threads, queues
and sockets live only here, and no maths of the model does.
"""
