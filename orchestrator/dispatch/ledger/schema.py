"""The ledger's tables, as the steps that lead from each version of it to the next."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE campaigns (
            id TEXT PRIMARY KEY, name TEXT NOT NULL, created_unix_s REAL NOT NULL, matrix TEXT NOT NULL)""",
        """CREATE TABLE jobs (
            job_id TEXT PRIMARY KEY, campaign_id TEXT NOT NULL REFERENCES campaigns(id), position INTEGER NOT NULL,
            cell_id TEXT NOT NULL, device_id TEXT NOT NULL, repeat INTEGER NOT NULL,
            state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sent', 'done')),
            attempt INTEGER NOT NULL DEFAULT 0, cause TEXT, seconds REAL)""",
        "CREATE INDEX jobs_of_campaign ON jobs (campaign_id, position)",
        "CREATE INDEX jobs_of_cell ON jobs (cell_id, device_id) WHERE state = 'done'",
        "CREATE TABLE devices (device_id TEXT PRIMARY KEY, seen_unix_s REAL NOT NULL, facts TEXT NOT NULL)",
    ),
    (
        "ALTER TABLE campaigns ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
        """ALTER TABLE campaigns ADD COLUMN doing TEXT NOT NULL DEFAULT 'running'
            CHECK (doing IN ('running', 'paused', 'cancelled'))""",
        # before there was a coordinator that goes on by itself, a run went on when somebody resumed it
        "UPDATE campaigns SET doing = 'paused'",
        "ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE devices ADD COLUMN address TEXT",
        "ALTER TABLE devices ADD COLUMN trouble TEXT",
        """CREATE TABLE attempts (
            job_id TEXT NOT NULL, attempt INTEGER NOT NULL, device_id TEXT NOT NULL, term INTEGER NOT NULL,
            sent_unix_s REAL NOT NULL, ended_unix_s REAL, how TEXT, detail TEXT,
            PRIMARY KEY (job_id, attempt)) WITHOUT ROWID""",
        """CREATE TABLE leases (
            device_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, attempt INTEGER NOT NULL, term INTEGER NOT NULL,
            granted_unix_s REAL NOT NULL)""",
        """CREATE TABLE terms (
            term INTEGER PRIMARY KEY AUTOINCREMENT, began_unix_s REAL NOT NULL, host TEXT NOT NULL,
            pid INTEGER NOT NULL)""",
    ),
    (  # the names that code and documents use
        "ALTER TABLE campaigns RENAME TO runs",
        "ALTER TABLE runs RENAME COLUMN doing TO status",
        "ALTER TABLE jobs RENAME COLUMN campaign_id TO run_id",
        "ALTER TABLE attempts RENAME COLUMN how TO ending",
        "DROP INDEX jobs_of_campaign",
        "CREATE INDEX jobs_of_run ON jobs (run_id, position)",
    ),
)
"""Step k leads from version k to k + 1. A step that has been released is never edited."""
