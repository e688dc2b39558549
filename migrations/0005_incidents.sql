-- What happened (event), and what it means over time (incident). Events come from the nodes, drained with a cursor and kept once, and from
-- this database: a change of a node's or an instance's row tells of itself in the same transaction. Incidents are made of events by the
-- control plane, each event exactly once.

create table event (
    id bigint generated always as identity primary key,
    node noun_name,                                  -- null: the control plane's own
    life bigint not null default 0,                  -- of the node's list: numbers are unique within it
    number bigint not null default 0,
    at timestamptz not null default clock_timestamp(),
    kind text not null check (length(kind) between 1 and 48),
    subject text not null check (length(subject) <= 200),
    detail jsonb not null default '{}' check (jsonb_typeof(detail) = 'object'),
    applied boolean not null default false,
    incident bigint,                                 -- the one that it opened, noted or closed
    unique (node, life, number)
);
create index event_pending on event (id) where not applied;
create index event_at on event (at);
create index event_incident on event (incident);

-- How far a node's list was read, and how many events were gone by then.
create table event_cursor (
    node noun_name primary key references node on delete cascade,
    life bigint not null,
    number bigint not null,
    dropped bigint not null default 0
);

create table incident (
    id bigint generated always as identity primary key,
    kind text not null check (length(kind) between 1 and 48),
    subject text not null check (length(subject) <= 200),
    node noun_name,                                  -- where it was seen; null: it holds for the whole gateway
    since timestamptz not null,
    until timestamptz check (until >= since),        -- null: open; to come: open until then
    cause text check (length(cause) <= 200),
    evidence jsonb not null,
    events bigint not null default 1,
    last_event_at timestamptz not null,
    revision bigint,                                 -- in force when it began
    acknowledged_at timestamptz,
    acknowledged_by text check (length(acknowledged_by) between 1 and 200)
);
create unique index incident_one_open on incident (kind, subject, coalesce(node, '')) where until is null;
create index incident_latest on incident (kind, subject, since desc);
create index incident_since on incident (since desc);

create table incident_comment (
    id bigint generated always as identity primary key,
    incident bigint not null references incident on delete cascade,
    at timestamptz not null default now(),
    author text not null check (length(author) between 1 and 200),
    text text not null check (length(text) between 1 and 4000)
);
create index incident_comment_incident on incident_comment (incident, id);

create function tell_of_instance_health() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into event (kind, subject) values ('instance_removed', old.instance);
    elsif new.status = 'down' then
        insert into event (kind, subject, detail) values ('probe_down', new.instance,
            jsonb_build_object('outcome', new.outcome, 'evidence', new.words, 'kind', new.kind, 'node', new.node, 'latency_ms', new.latency_ms));
    else
        insert into event (kind, subject, detail) values ('probe_up', new.instance, jsonb_build_object('kind', new.kind, 'node', new.node, 'latency_ms', new.latency_ms));
    end if;
    return null;
end $$;
create trigger instance_health_tells after update on instance_health
    for each row when ((old.status = 'down') <> (new.status = 'down')) execute function tell_of_instance_health();
create trigger instance_health_tells_of_its_end after delete on instance_health for each row execute function tell_of_instance_health();

create function tell_of_node() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into event (kind, subject) values ('node_removed', old.name);
    else
        insert into event (kind, subject, detail) values (case when new.live then 'node_back' else 'node_lost' end, new.name,
            jsonb_build_object('last_seen_at', old.last_seen_at));
    end if;
    return null;
end $$;
create trigger node_tells after update on node for each row when (old.live <> new.live) execute function tell_of_node();
create trigger node_tells_of_its_end after delete on node for each row execute function tell_of_node();

create function tell_of_refusal() returns trigger language plpgsql as $$
begin
    insert into event (kind, subject, detail) values ('revision_refused', new.node,
        jsonb_build_object('why', new.stage, 'revision', new.revision, 'evidence', left(new.words, 1000)));
    return null;
end $$;
create trigger refusal_tells after insert on node_report for each row when (new.result = 'refused') execute function tell_of_refusal();
