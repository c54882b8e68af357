"""How a database is reached: its URL, the project on Supabase, the env file, the connection."""
