-- The desired state in rows (gateway … webhook), its history (revision, audit_log), the stored secrets and what is known
-- of the nodes. The migrator has made the schema and set the search_path to it. Rows are what is in force now; a revision
-- is the same state as one document and never changes. Durations are whole milliseconds, shares are between 0 and 1.

create domain noun_name as text check (value ~ '^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?$');
create domain model_name as text check (value ~ '^[!#-&(-\[\]-_a-~]{1,128}$');
-- env:NAME, file:PATH or secret:ID; never the secret itself.
create domain secret_reference as text check (value ~ '^(env:[A-Za-z_][A-Za-z0-9_]{0,127}|file:/[ -~]+|secret:[0-9a-f]{20})$' and length(value) <= 517);
create domain currency_code as text check (value ~ '^[A-Z]{3}$');
create domain sha256_hex as text check (value ~ '^[0-9a-f]{64}$');

-- AES-256-GCM; the tag is the last 16 bytes of the ciphertext, the id is the associated data.
create table secret (
    id text primary key check (id ~ '^[0-9a-f]{20}$'),
    key_id text not null check (key_id ~ '^[0-9a-f]{16}$'),
    nonce bytea not null check (octet_length(nonce) = 12),
    ciphertext bytea not null check (octet_length(ciphertext) between 17 and 4112),
    created_at timestamptz not null default now()
);

-- Numbers may have gaps (a transaction that failed took one) but only ever grow: they are drawn under an advisory lock.
create table revision (
    number bigint generated always as identity primary key,
    created_at timestamptz not null default now(),
    author text not null check (length(author) between 1 and 200),
    message text not null check (length(message) <= 2000),
    digest sha256_hex not null,
    document jsonb not null check (jsonb_typeof(document) = 'object')
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% rows are never changed', tg_table_name using errcode = 'integrity_constraint_violation';
end $$;
create trigger revision_is_immutable before update on revision for each row execute function refuse_change();

create table audit_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    who text not null check (length(who) between 1 and 200),
    action text not null check (length(action) between 1 and 200),
    from_revision bigint references revision,
    to_revision bigint references revision
);
create index audit_log_at on audit_log (at);

-- One row.
create table gateway_setting (
    only_row boolean primary key default true check (only_row),
    listen text not null check (length(listen) between 3 and 300),
    workers integer check (workers between 1 and 256),
    anonymous boolean
);

create table instance (
    name noun_name primary key,
    position integer not null check (position >= 0),
    provider noun_name,
    base_url text not null check (base_url ~ '^https?://[^[:space:]?#]+$' and length(base_url) <= 512),
    api_key secret_reference,
    model model_name,
    weight integer not null check (weight between 0 and 10000),
    max_connections integer not null check (max_connections between 1 and 100000),
    base_latency_ms integer not null check (base_latency_ms between 1 and 600000),
    enabled boolean not null,
    drain boolean not null,
    input_per_million numeric check (input_per_million >= 0),
    cached_input_per_million numeric check (cached_input_per_million >= 0),
    output_per_million numeric check (output_per_million >= 0),
    currency currency_code,
    capabilities text[] not null,
    tls_verify boolean not null,
    tls_ca_file text check (tls_ca_file ~ '^/[^"''`;{}$\\]+$' and length(tls_ca_file) <= 512),
    tls_server_name text check (length(tls_server_name) between 1 and 254),
    connect_ms integer not null check (connect_ms between 1 and 60000),
    first_token_ms integer not null check (first_token_ms between 1 and 3600000),
    idle_ms integer not null check (idle_ms between 1 and 3600000),
    total_ms integer not null check (total_ms between first_token_ms and 3600000),
    min_tokens_per_second double precision not null check (min_tokens_per_second between 0 and 100000),
    constraint price_is_whole_or_absent check (num_nulls(input_per_million, output_per_million, currency) in (0, 3)),
    unique (position) deferrable initially deferred
);

create table pool (
    name noun_name primary key,
    position integer not null check (position >= 0),
    algorithm text not null check (algorithm in ('weighted', 'least_load', 'round_robin')),
    stream_buffer text not null check (stream_buffer in ('none', 'full')),
    queue_size integer not null check (queue_size between 0 and 100000),
    queue_timeout_ms integer not null check (queue_timeout_ms between 0 and 300000),
    max_attempts integer not null check (max_attempts between 1 and 20),
    budget_ratio double precision not null check (budget_ratio between 0 and 1),
    budget_min_per_second integer not null check (budget_min_per_second between 0 and 100000),
    retry_after_max_wait_ms integer not null check (retry_after_max_wait_ms between 0 and 60000),
    ghost_per_day integer not null check (ghost_per_day between 0 and 100000),
    ghost_max_tokens_per_day integer not null check (ghost_max_tokens_per_day between 0 and 1000000000),
    unique (position) deferrable initially deferred
);

-- A public model name belongs to one pool.
create table pool_model (
    model model_name primary key,
    pool noun_name not null references pool on delete cascade,
    position integer not null check (position >= 0),
    unique (pool, position)
);

create table tier (
    pool noun_name not null references pool on delete cascade,
    position integer not null check (position between 0 and 15),
    name noun_name not null,
    model model_name,
    primary key (pool, position),
    unique (pool, name)
);

create table tier_instance (
    pool noun_name not null,
    tier integer not null,
    position integer not null check (position >= 0),
    instance noun_name not null references instance deferrable initially deferred,
    primary key (pool, tier, position),
    unique (pool, tier, instance),
    foreign key (pool, tier) references tier on delete cascade
);
create index tier_instance_instance on tier_instance (instance);

-- The global block (pool is null) and the pools' own.
create table failover_config (
    pool noun_name references pool on delete cascade,
    interval_ms integer not null check (interval_ms between 100 and 3600000),
    timeout_ms integer not null check (timeout_ms between 10 and 300000),
    unhealthy_threshold integer not null check (unhealthy_threshold between 1 and 100),
    healthy_threshold integer not null check (healthy_threshold between 1 and 100),
    error_rate_threshold double precision not null check (error_rate_threshold > 0 and error_rate_threshold <= 1),
    sliding_window_ms integer not null check (sliding_window_ms between 1000 and 3600000),
    half_open_max_requests integer not null check (half_open_max_requests between 1 and 1000),
    recovery_timeout_ms integer not null check (recovery_timeout_ms between 100 and 3600000),
    min_requests integer not null check (min_requests between 1 and 1000000),
    cache_ttl_ms bigint not null check (cache_ttl_ms between 0 and 2592000000),
    default_response text not null check (length(default_response) between 1 and 4096),
    default_response_mode text not null check (default_response_mode in ('error', 'completion')),
    degraded_model model_name,
    unique nulls not distinct (pool)
);

create table client (
    name noun_name primary key,
    position integer not null check (position >= 0),
    key secret_reference not null unique deferrable initially deferred,
    models text[] not null,
    requests_per_minute integer check (requests_per_minute > 0),
    tokens_per_minute integer check (tokens_per_minute > 0),
    budget_amount numeric check (budget_amount > 0),
    budget_currency currency_code,
    budget_per text check (budget_per in ('day', 'month')),
    constraint budget_is_whole_or_absent check (num_nulls(budget_amount, budget_currency, budget_per) in (0, 3)),
    unique (position) deferrable initially deferred
);

create table alert_rule (
    name noun_name primary key,
    position integer not null check (position >= 0),
    metric text not null check (length(metric) between 1 and 48),
    above text not null check (length(above) between 1 and 20),
    for_ms bigint not null check (for_ms between 0 and 604800000),
    unique (position) deferrable initially deferred
);

create table webhook (
    name noun_name primary key,
    position integer not null check (position >= 0),
    url secret_reference not null,
    format text not null check (format in ('json', 'slack')),
    unique (position) deferrable initially deferred
);

-- One nginx, as its agent last told. Written by the nodes' side, not by the configuration.
create table node (
    name noun_name primary key,
    admin_url text not null check (length(admin_url) <= 512),
    edge_listen text check (length(edge_listen) <= 300),
    admin_listen text check (length(admin_listen) <= 300),
    workers text check (length(workers) <= 8),
    last_seen_at timestamptz not null default now(),
    revision bigint,
    text_digest text check (length(text_digest) <= 64),
    status jsonb not null default '{}'
);

-- What became of a rendered text at a node, with nginx's own words.
create table node_report (
    id bigint generated always as identity primary key,
    node noun_name not null references node on delete cascade,
    at timestamptz not null default now(),
    revision bigint not null,
    text_digest text not null check (length(text_digest) <= 64),
    result text not null check (result in ('applied', 'refused')),
    stage text not null check (stage in ('test', 'load', 'start')),
    words text not null check (octet_length(words) <= 16384)
);
create index node_report_node on node_report (node, id desc);
