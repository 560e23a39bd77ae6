"""Models of other devices of the cluster, over the LAN."""
