"""What crosses the wire between coordinator and device: frozen types, no I/O."""
