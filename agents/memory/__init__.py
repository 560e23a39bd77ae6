"""The split of one memory into RAM and VRAM: where the firmware lets the system choose it."""
