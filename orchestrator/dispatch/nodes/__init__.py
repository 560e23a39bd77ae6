"""Nodes of the cluster, and how they become devices. PURE"""
