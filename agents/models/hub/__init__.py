"""Models of the Hugging Face hub: list, pick, download."""
