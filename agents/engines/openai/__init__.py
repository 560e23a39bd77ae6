"""Any OpenAI-compatible server, by dialect."""
