"""Ollama: its API, and its server's environment."""
