-- Create motivation_journal and habit_index.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1520_create_journal_and_habit_index.py;
-- change that file, not this one.
set local lock_timeout = '2s';
set local statement_timeout = '1min';

do $only_after_a3b86e04c17d$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from 'a3b86e04c17d' then
    raise exception 'this migration needs a database at revision a3b86e04c17d, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_a3b86e04c17d$;

do $not_where_one_is_parked$
begin
  if to_regclass('momentum_internal.motivation_journal') is not null then
    raise exception 'motivation_journal is parked in momentum_internal; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;

do $not_where_one_is_parked$
begin
  if to_regclass('momentum_internal.habit_index') is not null then
    raise exception 'habit_index is parked in momentum_internal; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;

-- Running upgrade a3b86e04c17d -> c94d27f1508b

CREATE TABLE public.motivation_journal (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    user_id UUID NOT NULL,
    pillar_id UUID,
    date DATE NOT NULL,
    prompt TEXT,
    response TEXT,
    motivation_type TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_motivation_journal PRIMARY KEY (id),
    CONSTRAINT fk_motivation_journal_pillar_id_momentum_pillars FOREIGN KEY(pillar_id) REFERENCES public.momentum_pillars (id) ON DELETE RESTRICT,
    CONSTRAINT fk_motivation_journal_user_id_users FOREIGN KEY(user_id) REFERENCES auth.users (id) ON DELETE CASCADE,
    CONSTRAINT uq_motivation_journal_user_id_date UNIQUE (user_id, date)
);

COMMENT ON TABLE public.motivation_journal IS 'What moves a user, in the user''s own words: one entry a user and day.';

COMMENT ON COLUMN public.motivation_journal.id IS 'The row''s own key, made by the server.';

COMMENT ON COLUMN public.motivation_journal.user_id IS 'The user whom the row belongs to; it goes when the user goes.';

COMMENT ON COLUMN public.motivation_journal.pillar_id IS 'The pillar that the entry is about, where there is one.';

COMMENT ON COLUMN public.motivation_journal.date IS 'The entry''s day in UTC.';

COMMENT ON COLUMN public.motivation_journal.prompt IS 'The question that the user was asked.';

COMMENT ON COLUMN public.motivation_journal.response IS 'What the user answered.';

COMMENT ON COLUMN public.motivation_journal.motivation_type IS 'The kind of motivation that the answer shows.';

COMMENT ON COLUMN public.motivation_journal.created_at IS 'When the row was made.';

COMMENT ON COLUMN public.motivation_journal.updated_at IS 'When the row last changed; a trigger keeps it, whoever writes.';

COMMENT ON COLUMN public.motivation_journal.deleted_at IS 'When the row was softly deleted; null means live.';

CREATE INDEX ix_motivation_journal_pillar_id ON public.motivation_journal (pillar_id);

create trigger set_updated_at before update on public.motivation_journal
  for each row execute function momentum_internal.set_updated_at();

alter table public.motivation_journal enable row level security;

revoke all on table public.motivation_journal from public, anon, authenticated, service_role;

grant select, insert, update, delete on table public.motivation_journal to authenticated;

grant all on table public.motivation_journal to service_role;

CREATE TABLE public.habit_index (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    user_id UUID NOT NULL,
    pillar_id UUID,
    index_date DATE NOT NULL,
    habit_score NUMERIC(5, 2) NOT NULL,
    details JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_habit_index PRIMARY KEY (id),
    CONSTRAINT ck_habit_index_details_is_object CHECK (details is null or jsonb_typeof(details) = 'object'),
    CONSTRAINT ck_habit_index_habit_score_in_range CHECK (habit_score between 0 and 100),
    CONSTRAINT fk_habit_index_pillar_id_momentum_pillars FOREIGN KEY(pillar_id) REFERENCES public.momentum_pillars (id) ON DELETE RESTRICT,
    CONSTRAINT fk_habit_index_user_id_users FOREIGN KEY(user_id) REFERENCES auth.users (id) ON DELETE CASCADE,
    CONSTRAINT uq_habit_index_user_id_index_date UNIQUE (user_id, index_date)
);

COMMENT ON TABLE public.habit_index IS 'How firm a user''s habits are: one score a user and day.';

COMMENT ON COLUMN public.habit_index.id IS 'The row''s own key, made by the server.';

COMMENT ON COLUMN public.habit_index.user_id IS 'The user whom the row belongs to; it goes when the user goes.';

COMMENT ON COLUMN public.habit_index.pillar_id IS 'The pillar that the score is about, where there is one.';

COMMENT ON COLUMN public.habit_index.index_date IS 'The score''s day in UTC.';

COMMENT ON COLUMN public.habit_index.habit_score IS 'The score in points, 0 to 100.';

COMMENT ON COLUMN public.habit_index.details IS 'How the score came about: a JSON object or null.';

COMMENT ON COLUMN public.habit_index.created_at IS 'When the row was made.';

COMMENT ON COLUMN public.habit_index.updated_at IS 'When the row last changed; a trigger keeps it, whoever writes.';

COMMENT ON COLUMN public.habit_index.deleted_at IS 'When the row was softly deleted; null means live.';

CREATE INDEX ix_habit_index_pillar_id ON public.habit_index (pillar_id);

create trigger set_updated_at before update on public.habit_index
  for each row execute function momentum_internal.set_updated_at();

alter table public.habit_index enable row level security;

revoke all on table public.habit_index from public, anon, authenticated, service_role;

grant select, insert, update, delete on table public.habit_index to authenticated;

grant all on table public.habit_index to service_role;

UPDATE momentum_internal.alembic_version SET version_num='c94d27f1508b' WHERE momentum_internal.alembic_version.version_num = 'a3b86e04c17d';
