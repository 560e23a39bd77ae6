"""What this machine is: inventory, firmware, memory split, and what `doctor` says of it."""
