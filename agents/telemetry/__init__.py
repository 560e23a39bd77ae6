"""What the machine does while a job runs: waited for, read, recorded, and judged."""
