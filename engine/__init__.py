"""
The reference engine: a small decoder of the Llama family on NumPy, behind an HTTP server with OpenAI's API. It imports
no other room, and the others reach it only over its socket (`python -m engine`).

Imports run down: serving -> memory, checkpoints -> decoder. Reading order: decoder/weights, model, sampler;
checkpoints/opening; serving/pace, request_stream, scheduler, requests, server, shutdown; memory/binding, budget;
__main__. With --numa replicate also serving/replicas, workers, router.
This package must not import NumPy: `__main__` chooses the number of BLAS threads first.
"""
