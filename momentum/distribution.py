"""The tables that Citus has distributed over several servers, each user's rows on one of them.

``sql/citus/distribute.sql`` does that, and ``sql/citus/undistribute.sql`` undoes it.
"""

from sqlalchemy import Connection, text

from momentum.connect.pipeline import Answer, Rows, ask


def find_distributed(connection: Connection) -> Answer[dict[str, str | None]]:
    """Return the tables that Citus manages, with their schemas, and the column that each is distributed by.

    A table that every server has a copy of, or that is on the coordinator only, is distributed by no column.
    """
    statement = """
        select
          n.nspname || '.' || c.relname as relation,
          case
            when p.partmethod = 'h' then pg_catalog.column_to_column_name(p.logicalrelid, p.partkey)
          end as distribution_column
        from pg_catalog.pg_dist_partition as p
        inner join pg_catalog.pg_class as c on p.logicalrelid = c.oid
        inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
    """

    def read(rows: Rows) -> dict[str, str | None]:
        if not rows[0][0]:
            return {}
        return {row.relation: row.distribution_column for row in connection.execute(text(statement))}

    there = "select pg_catalog.to_regclass('pg_catalog.pg_dist_partition') is not null"
    return ask(connection, text(there)).then(read)
