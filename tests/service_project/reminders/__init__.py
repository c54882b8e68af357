"""A service of its own, which keeps reminders in the database that momentum-schema migrates."""
