-- Reporting: a public interface for people with psql and a spreadsheet. Names and columns stay; columns may be added. docs/reports.md
-- tells what each view means. The role evenkeel_report may read these views and nothing else.

create schema if not exists report;

-- When an instance was out, as stretches that do not overlap: its probes failed, a node's breaker was open, or its key or account was
-- refused. What goes on lasts until now.
create view outage as
select subject as instance, lower(span) as since, upper(span) as until, upper(span) >= now() as open
from (
    select subject, unnest(range_agg(tstzrange(since, least(coalesce(until, now()), now())))) as span
    from incident where kind in ('probe', 'breaker', 'blocked') and since < now()
    group by subject) spans;

-- A pool without tiers holds every instance.
create view pool_member as
select distinct pool::text as pool, instance::text as instance from tier_instance
union
select p.name::text, i.name::text from pool p cross join instance i where not exists (select from tier t where t.pool = p.name);

create view report.incidents as
select i.id, i.kind, i.subject, i.node::text as node, i.cause, i.since, i.until, i.until is null or i.until > now() as open,
    round(extract(epoch from least(coalesce(i.until, now()), now()) - i.since), 3) as duration_s,
    i.events, i.revision, i.acknowledged_at, i.acknowledged_by, i.evidence,
    (select count(*) from incident_comment c where c.incident = i.id) as comments
from incident i;
comment on view report.incidents is 'What went wrong, since when, until when (null: nobody knows yet) and why.';

create view report.mttr_by_instance as
select instance, count(*) as outages, count(*) filter (where open) as open,
    round(avg(extract(epoch from until - since)) filter (where not open), 3) as mttr_s,
    round(max(extract(epoch from until - since)), 3) as longest_s,
    round(sum(extract(epoch from until - since)), 3) as down_s,
    min(since) as first_since, max(since) as last_since
from outage group by instance;
comment on view report.mttr_by_instance is 'How long repairs take: the mean over outages that have ended.';

create view report.availability_daily as
with known as (
    select h.instance::text as instance, h.known_since,
        coalesce((select range_agg(tstzrange(o.since, o.until)) from outage o where o.instance = h.instance), '{}'::tstzmultirange) as down
    from instance_health h),
scopes as (
    select 'instance' as scope, instance as name, known_since, down from known
    union all
    select 'pool', m.pool, min(k.known_since), range_intersect_agg(k.down) from pool_member m join known k using (instance) group by m.pool),
days as (
    select scope, name, down, d::date as day,
        tstzrange(d at time zone 'UTC', (d + interval '1 day') at time zone 'UTC') * tstzrange(known_since, now()) as seen
    from scopes cross join lateral generate_series(date_trunc('day', known_since at time zone 'UTC'), now() at time zone 'UTC', interval '1 day') d),
counted as (
    select day, scope, name, extract(epoch from upper(seen) - lower(seen)) as observed_s,
        coalesce((select sum(extract(epoch from upper(part) - lower(part))) from unnest(down * tstzmultirange(seen)) part), 0) as down_s
    from days where not isempty(seen))
select day, scope, name, round(observed_s, 3) as observed_s, round(down_s, 3) as down_s, round(1 - down_s / observed_s, 6) as availability from counted;
comment on view report.availability_daily is 'Share of each UTC day that an instance was not out, and that a pool had an instance that was not.';

create view report.failovers as
select e.id, e.at, e.node::text as node, e.subject as from_instance, e.detail ->> 'by' as to_instance, e.kind as reason,
    e.detail ->> 'outcome' as outcome, e.detail ->> 'result' as result, e.detail ->> 'request_id' as request_id, e.detail ->> 'evidence' as evidence, e.incident
from event e where e.kind in ('probe_down', 'breaker_opened', 'cooldown', 'blocked', 'stream_resumed');
comment on view report.failovers is 'Each time that traffic went elsewhere: away from an instance, or in the middle of an answer. Kept for 30 days.';

-- Roles belong to the whole server: the role may be there already, or the migrating user may not be allowed to make one.
do $$
begin
    if not exists (select from pg_roles where rolname = 'evenkeel_report') then
        begin
            create role evenkeel_report nologin;
        exception
            when insufficient_privilege then raise notice 'the role evenkeel_report is not made: docs/reports.md tells how to';
            when duplicate_object or unique_violation then null;
        end;
    end if;
    if exists (select from pg_roles where rolname = 'evenkeel_report') then
        grant usage on schema report to evenkeel_report;
        grant select on all tables in schema report to evenkeel_report;
    end if;
end $$;
