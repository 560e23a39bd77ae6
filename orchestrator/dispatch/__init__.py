"""Brings jobs to devices and results home: a pure run, a ledger, and a fleet behind a Protocol."""
