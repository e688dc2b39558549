-- What came late: counters that nobody read for a while, and incidents whose end was told long after it.

-- What a node counted while nobody read it is in one row, that of the return.
create table telemetry_gap (
    node noun_name not null,
    at timestamptz not null,            -- of the row of ten seconds
    since timestamptz not null,         -- when it was read before
    primary key (node, at)
);
create index telemetry_gap_at on telemetry_gap (at);

-- When the end of an incident became known here. Null: it is open, or ended before this was kept.
alter table incident add column until_known_at timestamptz;

create function incident_end_is_known() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' or new.until is distinct from old.until then
        new.until_known_at := case when new.until is not null then clock_timestamp() end;
    end if;
    return new;
end $$;
create trigger incident_end_is_known before insert or update of until on incident for each row execute function incident_end_is_known();

-- Adds to the incidents that are open, or whose end or counters came a moment ago, what came in since the last time: requests that asked its
-- subject in vain, or that were degraded or lost in a pool of it meanwhile, from a minute before it was noticed; and money for attempts that
-- failed. Of the money that was counted while nobody read it, an incident takes the part that its time has of the time of all of its kind and
-- subject then.
create or replace function incident_impact_add() returns void language plpgsql as $$
declare
    newest bigint;
    complete timestamptz := date_bin('10 s', clock_timestamp() - interval '15 s', '2000-01-01Z');
    lately timestamptz := now() - interval '5 minutes';
    unread timestamptz;
begin
    select least(lately, min(since)) into unread from telemetry_gap where at > lately;
    select max(id) into newest from telemetry_trace;
    with due as (
        select i.id, i.subject, i.node, i.impact_trace, i.since - interval '1 minute' as since, coalesce(i.until, 'infinity') as until,
            array(select m.pool from pool_member m where m.instance = i.subject and i.kind in ('probe', 'breaker', 'blocked', 'cooldown', 'grey')
                union select p.name::text from pool p where p.name = i.subject and i.kind not in ('probe', 'breaker', 'blocked', 'cooldown', 'grey')) as pools
        from incident i
        where i.kind not in ('node_lost', 'revision_refused', 'events_dropped') and (i.until is null or i.until > unread or i.until_known_at > lately) and i.impact_trace < newest),
    counted as (
        select d.id, t.* from due d cross join lateral (
            select count(*) as affected, count(*) filter (where degraded and not outcome_is_loss(outcome)) as degraded, count(*) filter (where outcome_is_loss(outcome)) as lost
            from telemetry_trace where id > d.impact_trace and id <= newest and at >= d.since and at < d.until and (d.node is null or node = d.node)
                and (d.subject = any(failed) or (pool = any(d.pools) and (degraded or outcome_is_loss(outcome))))) t)
    update incident i set requests_affected = requests_affected + c.affected, requests_degraded = requests_degraded + c.degraded, requests_lost = requests_lost + c.lost, impact_trace = newest
    from counted c where i.id = c.id;

    with gap as (select at, at + interval '10 s' as until, min(since) as since from telemetry_gap where at > now() - interval '6 hours' group by at),
    due as (
        select i.id, i.kind, i.subject, i.currency, greatest(coalesce(i.impact_at, date_bin('10 s', i.since - interval '1 minute', '2000-01-01Z')), now() - interval '6 hours') as since,
            i.since - interval '1 minute' as begins, coalesce(i.until, 'infinity') as until
        from incident i where i.kind in ('probe', 'breaker', 'blocked', 'cooldown', 'grey') and (i.until is null or i.until > unread or i.until_known_at > lately)),
    part as (
        select d.id, g.at, extract(epoch from least(d.until, g.until) - greatest(d.begins, g.since))
            / (select sum(extract(epoch from least(coalesce(i.until, 'infinity'), g.until) - greatest(i.since - interval '1 minute', g.since)))
                from incident i where i.kind = d.kind and i.subject = d.subject and i.since - interval '1 minute' < g.until and coalesce(i.until, 'infinity') > g.since) as part
        from due d join gap g on d.begins < g.until and d.until > g.since),
    costs as (
        select d.id, u.* from due d left join lateral (
            select s.currency, round(sum(c.cost_nano * coalesce(p.part, 1)) / 1e9, 12) as cost
            from telemetry_usage_by_10s c join telemetry_series s on s.id = c.series left join part p on p.id = d.id and p.at = c.at
            where c.at >= d.since and c.at < complete and (c.at < d.until or p.id is not null)
                and s.instance = d.subject and s.waste in ('failed', 'cut') and s.currency <> '' and (d.currency is null or s.currency = d.currency)
            group by s.currency order by 2 desc limit 1) u on true)
    update incident i set cost = coalesce(i.cost, 0) + coalesce(c.cost, 0), currency = coalesce(i.currency, c.currency), impact_at = complete
    from costs c where i.id = c.id;
end $$;
