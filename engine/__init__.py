"""
The reference engine: a small Llama-architecture decoder on NumPy behind an OpenAI-shaped HTTP server.

Apart from the other rooms: it imports nothing of theirs and is met only over its socket (`python -m engine`).
Reading order: weights, model, sampler, tokenizer, pace, transcript, sequence, batch, requests, exchange, server,
lifetime, site, __main__; with --numa replicate also replicas, workers, front.
This package must not import NumPy: `__main__` chooses the number of BLAS threads first.
"""
