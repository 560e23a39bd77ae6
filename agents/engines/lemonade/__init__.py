"""Lemonade, over llama.cpp or its NPU recipes."""
