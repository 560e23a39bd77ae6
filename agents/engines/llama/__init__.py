"""llama.cpp: embedded, `llama-server` started by us, running, or as a router."""
