"""Storage on disk: atomic files, content keys, JSON lines, record tables, locks, cache folders."""
