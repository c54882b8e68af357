"""The names of the environment's variables and of the env file; light enough for `--help`."""

# The database's URL in the environment; the first that is set wins.
URL_VARIABLES = ("MOMENTUM_DATABASE_URL", "DATABASE_URL")

# The env file, and the names of the URL in it; the first wins here too.
DEFAULT_ENV_FILE = "~/.bee_secrets/supabase.env"
ENV_FILE_VARIABLES = ("SUPABASE_DB_URL", "DATABASE_URL")

# The proof that the operator may change a project on Supabase, in the environment or in the env file.
SERVICE_ROLE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
