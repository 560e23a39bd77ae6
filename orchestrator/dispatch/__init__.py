"""Brings jobs to devices and results home: a pure schedule, a ledger, and a fleet behind a Protocol."""
