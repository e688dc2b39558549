-- Health probes: how each instance is, when it is asked next, and the number that tells the nodes of a change.

-- Null: models. A program that does not know the column leaves it null.
alter table instance add column probe_kind text check (probe_kind in ('models', 'balance', 'completion'));

-- One row per instance of the configuration. A claim is a lease: who probes holds it until claimed_until, by its turn.
create table instance_health (
    instance noun_name primary key,
    status text not null default 'unknown' check (status in ('unknown', 'up', 'down')),
    since timestamptz not null default now(),
    consecutive integer not null default 0 check (consecutive >= 0),     -- results in a row that speak against the status
    outcome text check (length(outcome) <= 48),                          -- of the last probe that said something
    words text check (length(words) <= 1000),
    kind text check (kind in ('models', 'balance', 'completion')),
    latency_ms integer check (latency_ms >= 0),
    node noun_name,
    probed_at timestamptz,
    known_since timestamptz not null default now(),
    probes bigint not null default 0,
    completions bigint not null default 0,                               -- probes that cost tokens
    turn bigint not null default 0,
    next_at timestamptz not null default now(),
    claimed_until timestamptz
);

-- One row. The number grows with every instance that goes out or comes back; its row lock makes the order in which it grows the order
-- in which the changes are seen. It begins with the clock, so that it grows even over a database that was put back.
create table fleet_state (
    only_row boolean primary key default true check (only_row),
    number bigint not null
);
insert into fleet_state (number) values (0);

create function instance_health_changed() returns trigger language plpgsql as $$
begin
    update fleet_state set number = greatest(number + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint);
    perform pg_notify('evenkeel_revision', '');
    return null;
end $$;
create trigger instance_goes_out_or_comes_back after update on instance_health
    for each row when ((old.status = 'down') <> (new.status = 'down')) execute function instance_health_changed();
create trigger instance_out_is_forgotten after delete on instance_health
    for each row when (old.status = 'down') execute function instance_health_changed();
