"""What runs one client: its supervisor, its attempts, and how it reports."""
