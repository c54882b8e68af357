"""Migrations: the checks before a run, how each revision runs, and the operations that revisions use."""
