"""Model files on a device: find, check, fetch or make them. Engines call ``agents.models.resolve``."""
