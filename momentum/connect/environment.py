"""The names of environment variables and of the env file, in a module light enough for `--help`."""

# The database's URL in the environment; the first that is set wins.
URL_VARIABLES = ("MOMENTUM_DATABASE_URL", "DATABASE_URL")

# The env file, and the names of the URL in it; again the first that is set wins.
DEFAULT_ENV_FILE = "~/.bee_secrets/supabase.env"
ENV_FILE_VARIABLES = ("SUPABASE_DB_URL", "DATABASE_URL")

# The key that proves that the operator may change a project on Supabase, in the environment or the env file.
SERVICE_ROLE_KEY = "SUPABASE_SERVICE_ROLE_KEY"
