-- What the nodes counted, over time. Every counter of a node is one series by its labels. Rows hold what was added in one stretch of
-- time (10 s, a minute, an hour, a day), summed over the nodes; histograms stay arrays of counts, so that percentiles over any stretch
-- come from the sum of the arrays. Each level is cut into partitions by time, and forgetting is dropping a partition.

create table telemetry_series (
    id integer generated always as identity primary key,
    family text not null check (family in ('request', 'attempt', 'usage')),
    pool text not null, instance text not null, client text not null, model text not null, kind text not null, mode text not null,
    tier smallint not null /* -1: none */, outcome text not null, traffic text not null, waste text not null, currency text not null,
    last_day date not null default (now() at time zone 'UTC')::date,
    unique (family, pool, instance, client, model, kind, mode, tier, outcome, traffic, waste, currency)
);

-- Level 0: 10 s, 1: minutes, 2: hours, 3: days (UTC). *_s are sums of seconds; the arrays are counts per bucket.
create table telemetry_call (
    level smallint not null, at timestamptz not null, series integer not null,
    count bigint not null, retried bigint not null, degraded bigint not null,
    total_s double precision not null, total bigint[],
    first_token_s double precision not null, first_token bigint[],
    per_output_token_s double precision not null, per_output_token bigint[],
    overhead_s double precision not null, overhead bigint[],
    queued_s double precision not null, queued bigint[],
    primary key (level, at, series)
) partition by list (level);

-- Tokens and money; money in billionths of the currency's unit.
create table telemetry_usage (
    level smallint not null, at timestamptz not null, series integer not null,
    attempts bigint not null, input bigint not null, cached_input bigint not null, output bigint not null, reasoning bigint not null,
    estimated_input bigint not null, estimated_output bigint not null, cost_nano bigint not null, estimated_cost_nano bigint not null,
    primary key (level, at, series)
) partition by list (level);

do $$
begin
    for l in 0..3 loop
        execute format('create table telemetry_call_%s partition of telemetry_call for values in (%s) partition by range (at)', l, l);
        execute format('create table telemetry_usage_%s partition of telemetry_usage for values in (%s) partition by range (at)', l, l);
    end loop;
end $$;

-- Up to where the level below was summed into this one. Rows of a level lie below it.
create table telemetry_rollup (
    level smallint primary key check (level between 1 and 3),
    until timestamptz not null
);
insert into telemetry_rollup select l, date_bin('1 day', now(), '2000-01-01Z') from generate_series(1, 3) l;

-- Single requests, sampled by the nodes: why did request X go where. Numbers grow in the order in which rows are seen.
create sequence telemetry_trace_id;
create table telemetry_trace (
    id bigint not null default nextval('telemetry_trace_id'),
    at timestamptz not null,
    node text not null, request_id text not null, client text not null, pool text not null, model text not null, kind text not null, mode text not null,
    status integer not null, outcome text not null, tier smallint, degraded boolean not null,
    duration_ms double precision not null, queued_ms double precision not null, first_token_ms double precision, reason text, revision bigint not null,
    instances text[] not null,      -- tried, in this order
    failed text[] not null,         -- those among them that failed
    attempts jsonb not null
) partition by range (at);
create index telemetry_trace_at on telemetry_trace (at, id);
create index telemetry_trace_id_order on telemetry_trace (id);
create index telemetry_trace_request on telemetry_trace (request_id);

-- How far a node was read, and how often: who reads a node moves it on from the turn that it began with, or not at all. What the node
-- dropped before it could be read is counted.
create table telemetry_cursor (
    node noun_name primary key references node on delete cascade,
    turn bigint not null default 0,
    seq bigint not null default 0,
    trace_life bigint not null default 0,
    trace_number bigint not null default 0,
    dropped_traces bigint not null default 0,
    sampled_out bigint not null default 0,
    dropped_series bigint not null default 0,
    read_at timestamptz not null default now()
);

-- What was last read of each series of a node: the next delta begins there. Written in the transaction of the delta.
create table telemetry_last (
    node noun_name not null references node on delete cascade,
    series integer not null,
    born bigint not null,
    value jsonb not null,
    read_at timestamptz not null default now(),
    primary key (node, series)
);

-- Minutes in which a pool answered although the instance that it would ask first was out or failing.
create table outage_prevented (
    at timestamptz not null, pool text not null, instance text not null,
    primary key (at, pool)
);

create function add_buckets(a bigint[], b bigint[]) returns bigint[] language plpgsql immutable parallel safe as $$
begin
    if a is null then return b; end if;
    if b is null then return a; end if;
    for i in 1..cardinality(b) loop a[i] := coalesce(a[i], 0) + b[i]; end loop;
    return a;
end $$;
create aggregate sum_buckets(bigint[]) (sfunc = add_buckets, stype = bigint[], combinefunc = add_buckets, parallel = safe);

-- The value below which the share q of all observations lies: linear inside its bucket, as Prometheus' histogram_quantile. The last
-- bucket has no upper bound, so that what lies in it is the last bound. Null: nothing was observed.
create function telemetry_quantile(buckets bigint[], bounds double precision[], q double precision) returns double precision
language plpgsql immutable parallel safe as $$
declare
    rank double precision;
    below double precision := 0;
    n bigint;
begin
    select q * sum(b) into rank from unnest(buckets) b;
    if rank is null or (select sum(b) from unnest(buckets) b) = 0 then return null; end if;
    for i in 1..cardinality(bounds) loop
        n := coalesce(buckets[i], 0);
        if n > 0 and below + n >= rank then
            return coalesce(bounds[i - 1], 0) + (bounds[i] - coalesce(bounds[i - 1], 0)) * greatest(rank - below, 0) / n;
        end if;
        below := below + n;
    end loop;
    return bounds[cardinality(bounds)];
end $$;

-- Partitions: their names end in the hour (UTC) at which they begin.
create function telemetry_partition_width(parent text) returns interval language sql immutable as $$
    select case right(parent, 2) when '_0' then interval '1 hour' when '_1' then '1 day' when '_2' then '30 days' when '_3' then '366 days' else '1 day' end
$$;

create function telemetry_parents() returns setof text language sql immutable as $$
    select format('telemetry_%s_%s', family, level) from unnest(array['call', 'usage']) family, generate_series(0, 3) level union all select 'telemetry_trace'
$$;

-- Makes what is missing from `since` (requests may be told a day late) until two partitions after now; two that do so at once take turns.
create function telemetry_make_partitions(since timestamptz) returns integer language plpgsql as $$
declare
    parent text;
    width interval;
    begins timestamptz;
    part text;
    made integer := 0;
begin
    perform pg_advisory_xact_lock(hashtext('telemetry_make_partitions'));
    for parent in select telemetry_parents() loop
        width := telemetry_partition_width(parent);
        begins := date_bin(width, case parent when 'telemetry_trace' then since - interval '1 day' else since end, '2000-01-01Z');
        while begins <= clock_timestamp() + 2 * width loop
            part := parent || '_' || to_char(begins at time zone 'UTC', 'YYYYMMDDHH24');
            if to_regclass(part) is null then
                execute format('create table %I (like %I including defaults including indexes including constraints)', part, parent);
                execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, part, begins, begins + width);
                made := made + 1;
            end if;
            begins := begins + width;
        end loop;
    end loop;
    return made;
end $$;

-- Drops the partitions of one parent that end before a time.
create function telemetry_drop_partitions(parent text, before timestamptz) returns integer language plpgsql as $$
declare
    part text;
    dropped integer := 0;
begin
    for part in select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = to_regclass(parent) loop
        if to_timestamp(right(part, 10) || '+00', 'YYYYMMDDHH24TZH') + telemetry_partition_width(parent) <= before then
            execute format('drop table %I', part);
            dropped := dropped + 1;
        end if;
    end loop;
    return dropped;
end $$;

-- Sums what is complete of each level into the next one. Under the telemetry lock, so that nothing comes late.
create function telemetry_roll_up() returns void language plpgsql as $$
declare
    width interval;
    since timestamptz;
    until_now timestamptz := clock_timestamp() - interval '5 s';    -- events of the same time have arrived as well
begin
    for l in 1..3 loop
        width := (array['1 minute', '1 hour', '1 day'])[l]::interval;
        until_now := date_bin(width, until_now, '2000-01-01Z');
        select until into since from telemetry_rollup where level = l;
        if until_now > since then
            insert into telemetry_call
            select l, date_bin(width, at, '2000-01-01Z') as begins, series, sum(count), sum(retried), sum(degraded),
                sum(total_s), sum_buckets(total), sum(first_token_s), sum_buckets(first_token), sum(per_output_token_s), sum_buckets(per_output_token),
                sum(overhead_s), sum_buckets(overhead), sum(queued_s), sum_buckets(queued)
            from telemetry_call where level = l - 1 and at >= since and at < until_now group by begins, series;
            insert into telemetry_usage
            select l, date_bin(width, at, '2000-01-01Z') as begins, series, sum(attempts), sum(input), sum(cached_input), sum(output), sum(reasoning),
                sum(estimated_input), sum(estimated_output), sum(cost_nano), sum(estimated_cost_nano)
            from telemetry_usage where level = l - 1 and at >= since and at < until_now group by begins, series;
            if l = 1 then perform outage_prevented_between(since, until_now); end if;
            update telemetry_rollup set until = until_now where level = l;
        else
            until_now := since;
        end if;
    end loop;
end $$;

-- A row of a level for what was summed, rows of the level below for what was not yet.
create view telemetry_call_by_10s as select * from telemetry_call where level = 0;
create view telemetry_call_by_minute as
    select * from telemetry_call where level = 1
    union all select * from telemetry_call_by_10s where at >= (select until from telemetry_rollup where level = 1);
create view telemetry_call_by_hour as
    select * from telemetry_call where level = 2
    union all select * from telemetry_call_by_minute where at >= (select until from telemetry_rollup where level = 2);
create view telemetry_call_by_day as
    select * from telemetry_call where level = 3
    union all select * from telemetry_call_by_hour where at >= (select until from telemetry_rollup where level = 3);
create view telemetry_usage_by_10s as select * from telemetry_usage where level = 0;
create view telemetry_usage_by_minute as
    select * from telemetry_usage where level = 1
    union all select * from telemetry_usage_by_10s where at >= (select until from telemetry_rollup where level = 1);
create view telemetry_usage_by_hour as
    select * from telemetry_usage where level = 2
    union all select * from telemetry_usage_by_minute where at >= (select until from telemetry_rollup where level = 2);
create view telemetry_usage_by_day as
    select * from telemetry_usage where level = 3
    union all select * from telemetry_usage_by_hour where at >= (select until from telemetry_rollup where level = 3);

-- Whether an outcome of the taxonomy speaks against the instance. What the client caused, or what is ours, does not.
create function outcome_is_failure(outcome text) returns boolean language sql immutable parallel safe as $$
    select outcome in ('bad_gateway', 'server_error', 'timeout_first_token', 'stalled', 'truncated', 'empty', 'rate_limited', 'auth', 'quota')
$$;

-- Whether a client that got this was let down: whoever asks for what cannot be answered, or leaves, was not.
create function outcome_is_loss(outcome text) returns boolean language sql immutable parallel safe as $$
    select outcome_is_failure(outcome) or outcome in ('saturated', 'circuit_open')
$$;

-- A pool's first choice is the heaviest instance of its first tier. The minute is prevented when that instance was out (probe, breaker or
-- blocked) or failed at least half of its calls, while most of the pool's requests were answered.
create function outage_prevented_between(since timestamptz, until timestamptz) returns void language sql as $$
    with first_choice as (
        select distinct on (t.pool) t.pool, i.name::text as instance
        from (
            select pool::text, instance::text, position from tier_instance where tier = 0
            union all select p.name, i.name, i.position from pool p cross join instance i where not exists (select from tier where pool = p.name)) t
        join instance i on i.name = t.instance where i.enabled and not i.drain
        order by t.pool, i.weight desc, t.position),
    requests as (
        select date_bin('1 minute', c.at, '2000-01-01Z') as minute, s.pool, sum(c.count) as asked, sum(c.count) filter (where s.outcome = 'ok') as answered
        from telemetry_call c join telemetry_series s on s.id = c.series
        where c.level = 0 and c.at >= $1 and c.at < $2 and s.family = 'request' and s.traffic = 'client' group by 1, 2),
    attempts as (
        select date_bin('1 minute', c.at, '2000-01-01Z') as minute, s.pool, s.instance, sum(c.count) as tried, sum(c.count) filter (where outcome_is_failure(s.outcome)) as failed
        from telemetry_call c join telemetry_series s on s.id = c.series
        where c.level = 0 and c.at >= $1 and c.at < $2 and s.family = 'attempt' and s.traffic <> 'ghost' group by 1, 2, 3)
    insert into outage_prevented (at, pool, instance)
    select r.minute, r.pool, f.instance
    from requests r join first_choice f using (pool) left join attempts a on a.minute = r.minute and a.pool = r.pool and a.instance = f.instance
    where r.answered * 2 > r.asked
        and (a.failed * 2 >= a.tried or exists (
            select from incident i where i.subject = f.instance and i.kind in ('probe', 'breaker', 'blocked')
                and i.since < r.minute + interval '1 minute' and coalesce(i.until, 'infinity') > r.minute))
    on conflict do nothing
$$;

-- What an incident cost. impact_trace: the newest trace that was counted.
alter table incident
    add column requests_affected bigint not null default 0,
    add column requests_degraded bigint not null default 0,
    add column requests_lost bigint not null default 0,
    add column cost numeric,
    add column currency text,
    add column impact_trace bigint not null default 0;

-- Null: not set. Rates and retention are JSON objects: {"USD": 0.79}, {"hours_ms": …}.
alter table gateway_setting
    add column revenue_amount numeric check (revenue_amount >= 0),
    add column revenue_currency currency_code,
    add column exchange_rates text,
    add column retention text;
