"""GGUF files: read and written byte for byte, quantised as llama.cpp does, MLPs widened."""
