"""Model files on a device: find, check, fetch or make them. ``agents.models.resolve`` is the door."""
