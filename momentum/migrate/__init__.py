"""How a database is migrated: what is looked at first, how each revision runs, what it may do."""
