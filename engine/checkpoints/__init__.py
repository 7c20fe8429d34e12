"""
Checkpoints on disk: Hugging Face folders and GGUF files, their tensors and vocabularies.

Reads files into named arrays; what a model does with them is in `decoder/`.
"""
