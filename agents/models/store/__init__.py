"""Model files on this device's disk: locks, digests, ranged downloads."""
