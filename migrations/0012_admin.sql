-- Who may call the REST API, from which browser, and what they did.

-- A token is 256 random bits; only its hash is kept. The operator's token of Evenkeel:AdminTokenFile is not here: it needs no database.
create table admin_token (
    id bigint generated always as identity primary key,
    name noun_name not null unique,
    role text not null check (role in ('viewer', 'operator', 'admin')),
    token_hash bytea not null unique check (octet_length(token_hash) = 32),
    created_at timestamptz not null default now(),
    created_by text not null check (length(created_by) between 1 and 200),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);

-- A browser's sitting. It lives no longer than the token that opened it: token_hash is that token's.
create table admin_session (
    session_hash bytea primary key check (octet_length(session_hash) = 32),
    token_hash bytea not null check (octet_length(token_hash) = 32),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);
create index admin_session_created on admin_session (created_at);

-- Changes that mint a revision are written in the same transaction and have no status; all others, refused ones too, have the status that
-- the caller got. A program that does not know the columns leaves them null.
alter table audit_log add column role text check (length(role) <= 16);
alter table audit_log add column source text check (length(source) <= 64);
alter table audit_log add column status integer check (status between 100 and 599);

create view report.audit as
select id, at, who, role, source, action, from_revision, to_revision, status,
    case when status is null or status < 400 then 'done' else 'refused' end as result
from audit_log;
comment on view report.audit is 'Who changed what, when, from where; and who tried to.';

do $$
begin
    if exists (select from pg_roles where rolname = 'evenkeel_report') then
        grant select on report.audit to evenkeel_report;
    end if;
end $$;
