"""
The reference engine: a small decoder of the Llama family on NumPy behind an OpenAI-shaped HTTP server.

Apart from the other rooms: it imports nothing of theirs and is met only over its socket (`python -m engine`).
Reading order: weights, rope, model, products, int8, sampler, tokenizer, checkpoint, assembly, huggingface, gguf_file,
vocabulary, gguf_vocabulary, pace, transcript, sequence, batch, requests, chat, exchange, server, lifetime, room,
site, allocation, __main__; with --numa replicate also replicas, workers, front.
This package must not import NumPy: `__main__` chooses the number of BLAS threads first.
"""
