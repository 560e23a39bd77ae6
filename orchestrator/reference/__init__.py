"""Published figures, as data: each CSV with a page beside it that names its source."""
