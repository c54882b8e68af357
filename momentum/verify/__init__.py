"""Comparison of a migrated database with what the migrations make."""
