"""`make import-cost`: the cost of importing a model, compared with the parts of SQLAlchemy that it uses.

Processor time of new interpreters, in turn, minus that of an interpreter that imports nothing. The budget is 1.15.
"""

import os
import resource
import subprocess
import sys

ROUNDS = 15
NOTHING = "pass"
SQLALCHEMY = "import sqlalchemy.orm, sqlalchemy.dialects.postgresql"
MODEL = "from momentum import MomentumEvent"


def seconds(statement: str) -> float:
    """Return the processor time of an interpreter that executes a statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Compiled, as an installed package is.
    subprocess.run([sys.executable, "-c", statement], env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    seconds(MODEL)  # compiles it
    times: dict[str, list[float]] = {statement: [] for statement in (NOTHING, SQLALCHEMY, MODEL)}
    for _ in range(ROUNDS):
        for statement, measured in times.items():
            measured.append(seconds(statement))
    # The minimum is the time that a busy machine has disturbed least.
    nothing, sqlalchemy, model = (min(measured) for measured in times.values())
    for statement, measured in times.items():
        print(f"{min(measured) * 1000:5.0f} ms  {statement}")
    print(f"the model costs {(model - nothing) / (sqlalchemy - nothing):.2f} of SQLAlchemy alone ({ROUNDS} rounds)")


if __name__ == "__main__":
    main()
