-- Create momentum_pillars and momentum_events.
-- Made by `make supabase-sql` from alembic/versions/2026-11-22-1510_create_pillars_and_events.py;
-- change that file, not this one.
set local lock_timeout = '2s';
set local statement_timeout = '1min';

do $only_after_5f0c1a7d92e4$
declare
  migrated text;
begin
  if to_regclass('momentum_internal.alembic_version') is not null then
    execute 'select string_agg(version_num, '', '') from momentum_internal.alembic_version' into migrated;
  end if;
  if migrated is distinct from '5f0c1a7d92e4' then
    raise exception 'this migration needs a database at revision 5f0c1a7d92e4, and this one is at %; migrate it with '
      'alembic upgrade head', coalesce(migrated, 'base');
  end if;
end
$only_after_5f0c1a7d92e4$;

do $not_where_one_is_parked$
begin
  if to_regclass('momentum_internal.momentum_pillars') is not null then
    raise exception 'momentum_pillars is parked in momentum_internal; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;

do $not_where_one_is_parked$
begin
  if to_regclass('momentum_internal.momentum_events') is not null then
    raise exception 'momentum_events is parked in momentum_internal; alembic upgrade head takes it back with its rows';
  end if;
end
$not_where_one_is_parked$;

-- Running upgrade 5f0c1a7d92e4 -> a3b86e04c17d

CREATE TABLE public.momentum_pillars (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_momentum_pillars PRIMARY KEY (id),
    CONSTRAINT ck_momentum_pillars_name_not_blank CHECK (name ~ '\S'),
    CONSTRAINT uq_momentum_pillars_name UNIQUE (name)
);

COMMENT ON TABLE public.momentum_pillars IS 'The pillars that momentum points are given for, such as sleep or movement.';

COMMENT ON COLUMN public.momentum_pillars.id IS 'The row''s own key, made by the server.';

COMMENT ON COLUMN public.momentum_pillars.name IS 'What the pillar is called; unique and not blank.';

COMMENT ON COLUMN public.momentum_pillars.description IS 'What the pillar stands for, for people to read.';

COMMENT ON COLUMN public.momentum_pillars.created_at IS 'When the row was made.';

COMMENT ON COLUMN public.momentum_pillars.updated_at IS 'When the row last changed; a trigger keeps it, whoever writes.';

COMMENT ON COLUMN public.momentum_pillars.deleted_at IS 'When the row was softly deleted; null means live.';

create trigger set_updated_at before update on public.momentum_pillars
  for each row execute function momentum_internal.set_updated_at();

alter table public.momentum_pillars enable row level security;

revoke all on table public.momentum_pillars from public, anon, authenticated, service_role;

grant select, insert, update, delete on table public.momentum_pillars to authenticated;

grant all on table public.momentum_pillars to service_role;

CREATE TABLE public.momentum_events (
    id UUID DEFAULT gen_random_uuid() NOT NULL,
    user_id UUID NOT NULL,
    pillar_id UUID,
    event_type TEXT NOT NULL,
    event_ts TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    payload JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleted_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_momentum_events PRIMARY KEY (id),
    CONSTRAINT ck_momentum_events_event_type_not_blank CHECK (event_type ~ '\S'),
    CONSTRAINT ck_momentum_events_payload_is_object CHECK (payload is null or jsonb_typeof(payload) = 'object'),
    CONSTRAINT fk_momentum_events_pillar_id_momentum_pillars FOREIGN KEY(pillar_id) REFERENCES public.momentum_pillars (id) ON DELETE RESTRICT,
    CONSTRAINT fk_momentum_events_user_id_users FOREIGN KEY(user_id) REFERENCES auth.users (id) ON DELETE CASCADE
);

COMMENT ON TABLE public.momentum_events IS 'What users did that counts towards momentum, one row an event.';

COMMENT ON COLUMN public.momentum_events.id IS 'The row''s own key, made by the server.';

COMMENT ON COLUMN public.momentum_events.user_id IS 'The user whom the row belongs to; it goes when the user goes.';

COMMENT ON COLUMN public.momentum_events.pillar_id IS 'The pillar that the event counts for, where it is known.';

COMMENT ON COLUMN public.momentum_events.event_type IS 'What kind of event it is; not blank.';

COMMENT ON COLUMN public.momentum_events.event_ts IS 'When it happened.';

COMMENT ON COLUMN public.momentum_events.payload IS 'What else is known of it: a JSON object or null.';

COMMENT ON COLUMN public.momentum_events.created_at IS 'When the row was made.';

COMMENT ON COLUMN public.momentum_events.updated_at IS 'When the row last changed; a trigger keeps it, whoever writes.';

COMMENT ON COLUMN public.momentum_events.deleted_at IS 'When the row was softly deleted; null means live.';

CREATE INDEX ix_momentum_events_pillar_id ON public.momentum_events (pillar_id);

CREATE INDEX ix_momentum_events_user_id_event_ts ON public.momentum_events (user_id, event_ts DESC);

create trigger set_updated_at before update on public.momentum_events
  for each row execute function momentum_internal.set_updated_at();

alter table public.momentum_events enable row level security;

revoke all on table public.momentum_events from public, anon, authenticated, service_role;

grant select, insert, update, delete on table public.momentum_events to authenticated;

grant all on table public.momentum_events to service_role;

UPDATE momentum_internal.alembic_version SET version_num='a3b86e04c17d' WHERE momentum_internal.alembic_version.version_num = '5f0c1a7d92e4';
