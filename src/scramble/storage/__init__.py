"""What lies on disk: atomic files, hashes, JSON lines, record tables, locks, folders of computed numbers."""
