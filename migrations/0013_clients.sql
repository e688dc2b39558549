-- Clients whose keys are known by hash only, can be switched off, end, and have a limit on calls at once. What a version before this one
-- writes leaves the new columns null.

alter table client alter column key drop not null;
alter table client
    add column key_hashes text[] check (cardinality(key_hashes) <= 10),      -- "SHA256" or "SHA256 UNTIL"
    add column enabled boolean,
    add column expires_at timestamptz,
    add column max_concurrent integer check (max_concurrent > 0),
    add column budget_warn_at double precision check (budget_warn_at > 0 and budget_warn_at <= 1);

-- What each life of a node has spent of a client's budget in a period ('2026-11' or '2026-11-25', UTC), in billionths of the budget's currency.
create table client_spending (
    client noun_name not null,
    period text not null check (length(period) <= 10),
    node noun_name not null,
    born bigint not null,
    spent_nano numeric not null check (spent_nano >= 0),
    at timestamptz not null default now(),
    primary key (client, period, node, born)
);
create index client_spending_at on client_spending (at);
