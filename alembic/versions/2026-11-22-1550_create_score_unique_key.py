"""Give an adopted score table its unique key, one row per user and UTC day; a table that we created has it already."""

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "07d3e6c8b51f"
down_revision: str | None = "e1572ab9630c"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The relations that this revision adds to public.
creates: tuple[str, ...] = ()

# The layouts of the score table that this revision indexes, for the preflight, which looks for obstacles to the key.
layouts: tuple[str, ...] = ("seed", "production")
concerns_scores: tuple[str, ...] = ("indexes",)

# The number of times that new duplicates may arrive between the move and the key before the revision gives up.
ROUNDS = 5

# By layout: the key's name, the day in it, and the same as the server prints it. The view has the same expression, so
# that a search by day can use the key.
KEYS = {
    "seed": (
        "uq_daily_engagement_scores_user_id_utc_day",
        "((score_ts at time zone 'UTC')::pg_catalog.date)",
        "(((score_ts AT TIME ZONE ''UTC''::text))::date)",
    ),
    "production": ("uq_daily_engagement_scores_user_id_score_date", "score_date", "score_date"),
}

# A unique index of the table's own that can serve as the key: over user and day, for every row, checked immediately.
# Its name never becomes part of a statement.
OWN_KEY = """
select quote_ident(n.nspname) || '.' || quote_ident(c.relname)
from pg_catalog.pg_index as i
inner join pg_catalog.pg_class as c on i.indexrelid = c.oid
inner join pg_catalog.pg_namespace as n on c.relnamespace = n.oid
where
  i.indrelid = to_regclass('{relation}') and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
  and i.indnkeyatts = 2
  and array[pg_get_indexdef(i.indexrelid, 1, false), pg_get_indexdef(i.indexrelid, 2, false)]
    @> array['user_id', '{printed_day}']
  and c.relname <> '{ours}'
order by c.relname
limit 1"""

# A script can't create an index only if there is none: CONCURRENTLY is not allowed inside a DO block.
RECORD_OWN_KEY = """
update momentum_internal.score_table set unique_index = own.name, created_index = false
from ({own_key}) as own (name) where only_row"""
EXPECT_OWN_KEY = """
do $expect_own_key$ begin
  if (select unique_index is null from momentum_internal.score_table) then
    raise exception
      '{relation} has no unique index; create unique index concurrently idx_daily_scores_user_date on {relation} '
      '(user_id, score_date); then go on with a script from this revision''s predecessor to head';
  end if;
end $expect_own_key$"""

# The latest score per user and UTC day stays; of two at the same moment, the one with the higher id, or else the one
# further back in the table. The others are moved, with all their columns, in pages of 500, with a commit after each. A
# row that is locked, or that changed since it was found, is left to the next round: the move waits for nobody, and no
# row is moved whose successor is gone.
MOVE = r"""
do $move_superseded_scores$
declare
  -- First of all, because behind a pooler the session may have any path, and so names that others have planted.
  path constant pg_catalog.text := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  ranking constant pg_catalog.text := (
    select 's.score_ts desc, ' || coalesce(
      (select 's.id desc nulls last, ' from pg_catalog.pg_attribute
        where attrelid = '{relation}'::regclass and attname = 'id' and not attisdropped and atttypid in (
          'uuid'::regtype, 'bigint'::regtype, 'integer'::regtype, 'smallint'::regtype, 'numeric'::regtype,
          'text'::regtype, 'character varying'::regtype
        )), ''
    ) || 's.ctid desc'
  );
  columns constant pg_catalog.text := (
    select string_agg(format('%I', s.attname), ', ')
    from pg_catalog.pg_attribute as s
    inner join pg_catalog.pg_attribute as t on s.attname = t.attname
    where
      s.attrelid = 'momentum_internal.superseded_scores'::regclass and t.attrelid = '{relation}'::regclass
      and s.attnum > 0 and t.attnum > 0 and not s.attisdropped and not t.attisdropped
  );
  page record;
  staying pg_catalog.tid[];
  going pg_catalog.tid[];
begin
  for page in execute format($find$
    select
      array_agg(tid) as tids, array_agg(version) as versions,
      array_agg(successor) as successors, array_agg(successor_version) as successor_versions
    from (
      select *, row_number() over (order by tid) / 500 as number
      from (
        select
          s.ctid as tid, s.xmin as version,
          first_value(s.ctid) over ranked as successor, first_value(s.xmin) over ranked as successor_version
        from {relation} as s
        inner join (
          select user_id, (score_ts at time zone 'UTC')::date as day
          from {relation}
          where user_id is not null and score_ts is not null
          group by user_id, (score_ts at time zone 'UTC')::date
          having count(*) > 1
        ) as doubled on s.user_id = doubled.user_id and (s.score_ts at time zone 'UTC')::date = doubled.day
        window ranked as (partition by s.user_id, doubled.day order by %s)
      ) as scores
      where tid <> successor
    ) as superseded
    group by number
    order by number
  $find$, ranking)
  loop
    {corrections} perform set_config('lock_timeout', '300ms', true);  -- Others may wait for the rows that it has locked.
    select array_agg(ctid) into staying
    from (select ctid from {relation} where ctid = any (page.successors) for share skip locked) as locked;
    select array_agg(ctid) into going
    from (select ctid from {relation} where ctid = any (page.tids) for update skip locked) as locked;
    execute format($move$
      with moved as (
        delete from {relation} as t
        using
          unnest($1::tid[], $2::xid[], $3::tid[], $4::xid[]) as d (tid, version, successor, successor_version),
          {relation} as s
        where
          t.ctid = any ($6) and t.ctid = d.tid and t.xmin = d.version
          and s.ctid = any ($5) and s.ctid = d.successor and s.xmin = d.successor_version
        returning t.*, case when t.score = s.score then 0 else t.score - s.score end as momentum_difference
      )
      insert into momentum_internal.superseded_scores (%1$s, momentum_difference)
      select %1$s, momentum_difference from moved
    $move$, columns) using page.tids, page.versions, page.successors, page.successor_versions, staying, going;
    commit;
    perform pg_catalog.set_config('search_path', path, true);
  end loop;
end
$move_superseded_scores$"""

PUT_BACK = r"""
do $put_back_superseded_scores$
declare
  path constant pg_catalog.text := pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
  columns constant pg_catalog.text := (
    select string_agg(format('%I', s.attname), ', ')
    from pg_catalog.pg_attribute as s
    inner join pg_catalog.pg_attribute as t on s.attname = t.attname
    where
      s.attrelid = to_regclass('momentum_internal.superseded_scores') and t.attrelid = to_regclass('{relation}')
      and s.attnum > 0 and t.attnum > 0 and not s.attisdropped and not t.attisdropped and t.attgenerated = ''
  );
begin
  if columns is null then
    return;
  end if;
  while exists (select from momentum_internal.superseded_scores) loop
    {corrections} perform set_config('lock_timeout', '300ms', true);  -- Others may wait for the rows that it has locked.
    execute format($move$
      with moved as (
        delete from momentum_internal.superseded_scores
        where ctid = any (array(select ctid from momentum_internal.superseded_scores limit 500))
        returning *
      )
      insert into {relation} (%1$s) overriding system value select %1$s from moved
    $move$, columns);
    commit;
    perform pg_catalog.set_config('search_path', path, true);
  end loop;
end
$put_back_superseded_scores$"""

# For scripts too: a psql that continues after an error must not reach a version without its changes.
RECORD = """
do $record_unique_key$
begin
  if not exists (select from pg_catalog.pg_index where indexrelid = to_regclass('{index}') and indisvalid) then
    raise exception 'there is no valid unique index {index}';
  end if;
  update momentum_internal.score_table set unique_index = '{index}', created_index = {created} where only_row;
end
$record_unique_key$"""

GIVE_UP = f"""
do $give_up$
begin
  raise exception 'new rows for days that have one came into {{relation}} {ROUNDS} times while its unique key was made';
end
$give_up$"""

# Days and numbers come as text, because Python lacks some of them.
REVIEW = """
select
  s.user_id, to_jsonb((s.score_ts at time zone 'UTC')::date) #>> '{{}}' as day, s.score::text as superseded,
  t.score::text as kept, count(*) over () as differing
from momentum_internal.superseded_scores as s
left join {relation} as t
  on s.user_id = t.user_id and (s.score_ts at time zone 'UTC')::date = (t.score_ts at time zone 'UTC')::date
where abs(s.momentum_difference) > 5
order by (s.score_ts at time zone 'UTC')::date, s.user_id, s.score limit 20"""

EXPECT = """
do $expect_score_table$
declare
  found constant text := (
    select case when created_table then 'fresh' else split_part(relation, '.', 1) || '.' || layout end
    from momentum_internal.score_table
  );
begin
  if found <> '{scores}' then
    raise exception
      'this script was made with -x scores={scores}, and daily_engagement_scores here needs one made with -x scores=%',
      found;
  end if;
end
$expect_score_table$"""

log = logging.getLogger("momentum.migrations")


def upgrade() -> None:
    """Use the table's own unique index, or move duplicates aside and create one, without blocking clients."""
    relation, layout = find_adopted()
    if relation is None:
        return
    schema = relation.partition(".")[0]
    name, day, printed_day = KEYS[layout]
    index = f"{schema}.{name}"
    own_key = OWN_KEY.format(relation=relation, printed_day=printed_day, ours=name)
    record_own_key = sa.text(RECORD_OWN_KEY.format(own_key=own_key))
    online = not op.get_context().as_sql
    if online and op.get_bind().execute(record_own_key).rowcount:
        return
    if not online and layout == "production":
        op.execute(record_own_key)
        op.execute(EXPECT_OWN_KEY.format(relation=relation))
        return
    # Recorded before it is done: an index that is found under this name after a kill is ours.
    op.execute("update momentum_internal.score_table set created_index = true where only_row")
    columns = ["user_id", sa.text(day)]
    for _ in range(ROUNDS):
        if layout == "seed":
            op.execute_patiently(MOVE.replace("{relation}", relation), fires_nothing_of=relation)
        try:
            op.create_index_concurrently(name, "daily_engagement_scores", columns, schema=schema, unique=True)
            break
        except sa.exc.IntegrityError:
            continue
    else:
        op.execute(GIVE_UP.format(relation=relation))
    op.execute(f"comment on index {index} is 'One row per user and UTC day; made for public.daily_momentum_scores.'")
    op.execute(RECORD.format(index=index, created="true"))
    if online and layout == "seed":
        moved = op.get_bind().scalar(sa.text("select count(*) from momentum_internal.superseded_scores"))
        if moved:
            log.info("%s superseded rows of %s were moved to momentum_internal.superseded_scores", moved, relation)
        review = op.get_bind().execute(sa.text(REVIEW.format(relation=relation))).all()
        for row in review:
            log.warning("review: user %s on %s: %s was superseded by %s", *row[:4])
        if review and review[0].differing > len(review):
            rest = "the column momentum_difference of momentum_internal.superseded_scores has all"
            log.warning("review: these are %s of %s; %s", len(review), review[0].differing, rest)


def downgrade() -> None:
    """Remove the key from the record; it is dropped afterwards."""
    if op.get_context().as_sql:
        op.execute(EXPECT.format(scores=op.get_context().opts["scores"]))
    op.execute("update momentum_internal.score_table set unique_index = null where not created_table")


def after_downgrade() -> None:
    """Drop the key if we created it, without blocking clients, and put the superseded scores back."""
    relation, layout = find_adopted()
    if relation is None:
        return
    index = f"{relation.partition('.')[0]}.{KEYS[layout][0]}"
    created = sa.text("select created_index from momentum_internal.score_table")
    if not op.get_context().as_sql and not op.get_bind().scalar(created):
        return
    op.execute_patiently(f"drop index concurrently if exists {index}")
    if layout == "seed":
        op.execute_patiently(PUT_BACK.replace("{relation}", relation), fires_nothing_of=relation)
    op.execute("update momentum_internal.score_table set created_index = false where only_row")


def find_adopted() -> tuple[str | None, str]:
    """Return the adopted score table and its layout; no table if we created it, or if it has another layout."""
    context = op.get_context()
    if context.as_sql:
        schema, _, layout = context.opts["scores"].partition(".")
        return (f"{schema}.daily_engagement_scores" if layout in layouts else None, layout)
    adopted = sa.text("select relation, layout from momentum_internal.score_table where not created_table")
    row = op.get_bind().execute(adopted).one_or_none()
    return (row.relation, row.layout) if row and row.layout in layouts else (None, "")
