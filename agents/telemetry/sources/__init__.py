"""One sensor source a file, behind the Protocol in ``base``."""
