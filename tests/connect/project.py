"""A project on Supabase that does not exist: its URLs, its key and an env file for it."""

from pathlib import Path

import jwt

PROJECT, OTHER = "abcdefghijklmnopqrst", "zyxwvutsrqponmlkjihg"
PASSWORD = "pa55-w%rd/@:"
DIRECT = f"postgresql://postgres:pw@db.{PROJECT}.supabase.co:5432/postgres"
POOLER_HOST = "aws-0-eu-central-1.pooler.supabase.com"
POOLER = f"postgresql://postgres.{PROJECT}:pw@{POOLER_HOST}:5432/postgres"
PROJECT_URL = f"SUPABASE_URL=https://{PROJECT}.supabase.co"


def token(**claims: object) -> str:
    """Return a key of Supabase's as its JWT, signed with a secret that nobody here knows."""
    whole = {"iss": "supabase", "ref": PROJECT, "role": "service_role", "iat": 1700000000, "exp": 4102444800}
    given = {name: value for name, value in {**whole, **claims}.items() if value is not None}
    return jwt.encode(given, "a secret of the project that is long enough for HS256", algorithm="HS256")


GOOD = token()


def env_file(directory: Path, *lines: str, mode: int = 0o600) -> Path:
    path = directory / "supabase.env"
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
