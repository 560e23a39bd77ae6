"""Power limits and profiles: set for the jobs that ask for them, where the owner allows it, and put back."""
