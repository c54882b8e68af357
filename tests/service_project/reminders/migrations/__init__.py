"""The service's own migrations."""
