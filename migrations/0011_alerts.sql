-- Alerts: what rules found, what is not to be told of, and what webhooks are told (an outbox).

-- Null: as before there were such things. A program that does not know a column leaves it null.
alter table gateway_setting add column webhook_private_targets boolean;
alter table alert_rule
    add column is_below boolean,
    add column window_ms bigint check (window_ms between 10000 and 2592000000),
    add column outcome text check (length(outcome) between 1 and 48),
    add column pool noun_name,
    add column instance text check (instance = '*' or instance ~ '^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?$'),
    add column client noun_name,
    add column resolve_at text check (length(resolve_at) between 1 and 20),
    add column resolve_for_ms bigint check (resolve_for_ms between 0 and 604800000),
    add column min_requests integer check (min_requests between 1 and 1000000);
alter table webhook add column secret secret_reference;

-- One rule at one subject, from the moment it turned bad.
create table alert (
    id bigint generated always as identity primary key,
    rule noun_name not null,
    pool noun_name,
    instance noun_name,
    client noun_name,
    phase text not null check (phase in ('pending', 'firing', 'resolved')),
    since timestamptz not null,
    fired_at timestamptz,
    resolved_at timestamptz,
    clear_since timestamptz,
    value double precision,
    worst double precision,
    cause text check (length(cause) <= 200),
    seen_at timestamptz not null,
    told_at timestamptz,
    resolve_told_at timestamptz
);
create unique index alert_one_open on alert (rule, coalesce(pool, ''), coalesce(instance, ''), coalesce(client, '')) where phase <> 'resolved';
create index alert_resolved on alert (resolved_at) where phase = 'resolved';

-- Null matches all.
create table silence (
    id bigint generated always as identity primary key,
    rule noun_name,
    pool noun_name,
    instance noun_name,
    until timestamptz not null,
    reason text not null check (length(reason) between 1 and 1000),
    created_by text not null check (length(created_by) between 1 and 200),
    created_at timestamptz not null default now(),
    check (until >= created_at)
);
create index silence_until on silence (until);

-- The outbox: one row for each notice and webhook. Whoever sends holds a lease; attempts is its number, so that who comes late changes nothing.
create table webhook_delivery (
    id bigint generated always as identity primary key,
    webhook noun_name not null,
    notice_id uuid not null,
    notice text not null check (octet_length(notice) <= 1048576),
    state text not null default 'pending' check (state in ('pending', 'sent', 'given_up')),
    attempts integer not null default 0,
    created_at timestamptz not null default now(),
    next_at timestamptz not null default now(),
    claimed_until timestamptz,
    done_at timestamptz,
    status integer,
    words text check (length(words) <= 1000),
    unique (notice_id, webhook)
);
create index webhook_delivery_pending on webhook_delivery (webhook, id) where state = 'pending';
create index webhook_delivery_done on webhook_delivery (done_at);
