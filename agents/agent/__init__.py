"""The actor: one for each device. It holds the lease, the spool and the job process."""
