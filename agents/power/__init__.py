"""Power limits: the contract of a method that holds one, and what every holding does. Methods come one file each."""

from agents.power.base import PowerMethod

METHODS: tuple[PowerMethod, ...] = ()
"""Every method that this version knows. Off unless the owner's device.yaml names it under ``allow: power``."""
