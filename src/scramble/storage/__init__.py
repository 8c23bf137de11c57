"""Provides atomic files, content keys, JSON lines, record tables, locks and cache folders."""
