"""GGUF files: header, tensor types, checks, KV cache size."""
