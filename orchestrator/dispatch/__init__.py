"""Brings jobs to devices and results home: a pure campaign, a ledger, and a fleet behind a Protocol."""
