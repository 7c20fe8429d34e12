"""
Checkpoints on disk: Hugging Face folders and GGUF files, their tensors and vocabularies.

Reads files into named arrays and tokenizers; the maths of the model is in `decoder/`.
"""
