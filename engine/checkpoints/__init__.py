"""
Reads checkpoints on disk into named arrays and tokenizers: Hugging Face folders and GGUF files. It computes nothing of
the model; the maths is in `decoder/`.
"""
