"""Models made on the spot with random weights."""
