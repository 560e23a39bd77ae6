"""What runs on a device. Never imports ``orchestrator``, never imports ``ray``."""
