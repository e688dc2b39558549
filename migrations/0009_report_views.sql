-- Reports on requests, errors and money, and what incidents cost. Names and columns stay; columns may be added at the end.

-- Up to where costs were added to an incident; null: not yet.
alter table incident add column impact_at timestamptz;

-- Adds to the incidents that are open, or ended a moment ago, what came in since the last time: requests that asked its subject in vain,
-- or that were degraded or lost in a pool of it meanwhile, from a minute before it was noticed; and money for attempts that failed.
create function incident_impact_add() returns void language plpgsql as $$
declare
    newest bigint;
    complete timestamptz := date_bin('10 s', clock_timestamp() - interval '15 s', '2000-01-01Z');
begin
    select max(id) into newest from telemetry_trace;
    with due as (
        select i.id, i.subject, i.node, i.impact_trace, i.since - interval '1 minute' as since, coalesce(i.until, 'infinity') as until,
            array(select m.pool from pool_member m where m.instance = i.subject and i.kind in ('probe', 'breaker', 'blocked', 'cooldown', 'grey')
                union select p.name::text from pool p where p.name = i.subject and i.kind not in ('probe', 'breaker', 'blocked', 'cooldown', 'grey')) as pools
        from incident i
        where i.kind not in ('node_lost', 'revision_refused', 'events_dropped') and (i.until is null or i.until > now() - interval '5 minutes') and i.impact_trace < newest),
    counted as (
        select d.id, t.* from due d cross join lateral (
            select count(*) as affected, count(*) filter (where degraded and not outcome_is_loss(outcome)) as degraded, count(*) filter (where outcome_is_loss(outcome)) as lost
            from telemetry_trace where id > d.impact_trace and id <= newest and at >= d.since and at < d.until and (d.node is null or node = d.node)
                and (d.subject = any(failed) or (pool = any(d.pools) and (degraded or outcome_is_loss(outcome))))) t)
    update incident i set requests_affected = requests_affected + c.affected, requests_degraded = requests_degraded + c.degraded, requests_lost = requests_lost + c.lost, impact_trace = newest
    from counted c where i.id = c.id;

    with due as (
        select i.id, i.subject, i.currency, greatest(coalesce(i.impact_at, date_bin('10 s', i.since - interval '1 minute', '2000-01-01Z')), now() - interval '6 hours') as since, least(coalesce(i.until, 'infinity'), complete) as until
        from incident i where i.kind in ('probe', 'breaker', 'blocked', 'cooldown', 'grey') and (i.until is null or i.until > now() - interval '5 minutes')),
    costs as (
        select d.id, u.* from due d left join lateral (
            select s.currency, sum(c.cost_nano) / 1e9 as cost
            from telemetry_usage_by_10s c join telemetry_series s on s.id = c.series
            where c.at >= d.since and c.at < d.until and s.instance = d.subject and s.waste in ('failed', 'cut') and s.currency <> '' and (d.currency is null or s.currency = d.currency)
            group by s.currency order by 2 desc limit 1) u on true)
    update incident i set cost = coalesce(i.cost, 0) + coalesce(c.cost, 0), currency = coalesce(i.currency, c.currency), impact_at = complete
    from costs c where i.id = c.id;
end $$;

create or replace view report.incidents as
select i.id, i.kind, i.subject, i.node::text as node, i.cause, i.since, i.until, i.until is null or i.until > now() as open,
    round(extract(epoch from least(coalesce(i.until, now()), now()) - i.since), 3) as duration_s,
    i.events, i.revision, i.acknowledged_at, i.acknowledged_by, i.evidence,
    (select count(*) from incident_comment c where c.incident = i.id) as comments,
    i.requests_affected, i.requests_degraded, i.requests_lost, i.cost, i.currency
from incident i;

create view report.error_timeline as
select date_bin('1 minute', c.at, '2000-01-01Z') as at, s.family as level, s.pool, s.instance, s.mode, s.outcome, sum(c.count)::bigint as count
from telemetry_call_by_minute c join telemetry_series s on s.id = c.series
where s.family in ('attempt', 'request') and s.traffic not in ('probe', 'ghost')
group by 1, 2, 3, 4, 5, 6;
comment on view report.error_timeline is 'Outcomes per minute: of attempts at instances, and of requests as clients got them.';

create view report.cost_daily as
select (date_bin('1 day', c.at, '2000-01-01Z') at time zone 'UTC')::date as day, s.pool, s.instance, s.client, s.model, s.traffic, s.waste, s.currency,
    sum(c.attempts)::bigint as attempts, sum(c.input)::bigint as input_tokens, sum(c.cached_input)::bigint as cached_input_tokens, sum(c.output)::bigint as output_tokens,
    sum(c.reasoning)::bigint as reasoning_tokens, round(sum(c.cost_nano) / 1e9, 9) as cost, round(sum(c.estimated_cost_nano) / 1e9, 9) as estimated_cost
from telemetry_usage_by_day c join telemetry_series s on s.id = c.series
group by 1, 2, 3, 4, 5, 6, 7, 8;
comment on view report.cost_daily is 'Tokens and money per UTC day.';

create view report.request_trace as
select t.id, t.at, t.request_id, t.node, t.client, t.pool, t.model, t.kind, t.mode, t.status, t.outcome, t.tier, t.degraded, t.duration_ms, t.queued_ms, t.first_token_ms, t.reason, t.revision,
    a.n::integer as attempt, a.value ->> 'instance' as instance, (a.value ->> 'tier')::integer as attempt_tier, a.value ->> 'outcome' as attempt_outcome,
    (a.value ->> 'began_ms')::double precision as attempt_began_ms, (a.value ->> 'duration_ms')::double precision as attempt_duration_ms,
    (a.value ->> 'first_token_ms')::double precision as attempt_first_token_ms, (a.value ->> 'of')::integer as candidates, (a.value ->> 'live_weight')::double precision as live_weight,
    a.value ->> 'way' as continued_by
from telemetry_trace t left join lateral jsonb_array_elements(t.attempts) with ordinality as a(value, n) on true;
comment on view report.request_trace is 'Why did request X go where: a row for each attempt, one without attempt for requests that nobody was asked.';

do $$
begin
    if exists (select from pg_roles where rolname = 'evenkeel_report') then
        grant select on all tables in schema report to evenkeel_report;
    end if;
end $$;
