"""Models at a web address."""
