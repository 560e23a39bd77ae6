"""What adapters of HTTP servers share: the API client, the session, chat requests."""
