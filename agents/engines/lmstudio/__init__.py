"""LM Studio: REST v1 and v0, `lms`, the SDK."""
