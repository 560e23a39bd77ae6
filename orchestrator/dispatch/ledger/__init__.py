"""What outlives the coordinator: the ledger, its backups, and the record in each run's folder."""
