"""One streamed HTTP exchange: received and stamped, then read as chunks. No engine's own words."""
