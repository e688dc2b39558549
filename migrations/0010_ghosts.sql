-- Ghost traffic: what is asked of each instance besides its probes, what became of it, and the weight that an instance is left with.

-- Null: the default. A program that does not know the columns leaves them null.
alter table pool
    add column ghost_sample double precision check (ghost_sample between 0 and 1),
    add column ghost_prompts_file text check (ghost_prompts_file ~ '^/' and length(ghost_prompts_file) <= 512),
    add column ghost_redact_drop text[],
    add column ghost_redact_mask text[],
    add column ghost_redact_patterns boolean,
    add column ghost_keep_count integer check (ghost_keep_count between 0 and 10000),
    add column ghost_keep_age_ms bigint check (ghost_keep_age_ms between 0 and 7776000000);

-- One row per instance that ghosts are for. A claim is a lease, as with probes.
create table ghost_state (
    instance noun_name primary key,
    status text not null default 'unknown' check (status in ('unknown', 'ok', 'suspect', 'grey', 'recovering')),
    weight_factor double precision not null default 1 check (weight_factor > 0 and weight_factor <= 1),
    verdicts text not null default '' check (verdicts ~ '^[gb]{0,16}$'),  -- good or bad since the last step, newest last
    since timestamptz not null default now(),                             -- of the factor, or of the suspicion
    cause text check (length(cause) <= 48),                               -- why the newest bad one was bad
    words text check (length(words) <= 300),
    ghosts bigint not null default 0,
    turn bigint not null default 0,
    next_at timestamptz not null,
    claimed_until timestamptz
);

-- No prompt and no answer is kept here.
create table ghost_result (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    instance noun_name not null,
    pool noun_name not null,
    node noun_name,
    model text not null check (length(model) <= 512),
    prompt text not null check (length(prompt) <= 100),
    trigger text not null check (trigger in ('schedule', 'extra', 'run')),
    stream boolean not null,
    verdict text not null check (verdict in ('good', 'bad', 'neutral')),
    outcome text check (length(outcome) <= 48),
    faults text[] not null,
    words text check (length(words) <= 300),
    first_token_ms integer check (first_token_ms >= 0),
    total_ms integer check (total_ms >= 0),
    tokens_per_second double precision check (tokens_per_second >= 0),
    input_tokens integer not null check (input_tokens >= 0),
    output_tokens integer not null check (output_tokens >= 0),
    length integer not null check (length >= 0),                          -- of the answer, in characters
    finish_reason text check (length(finish_reason) <= 48),
    held boolean                                                          -- whether it said what was asked for; null: nothing was
);
create index ghost_result_of_instance on ghost_result (instance, id desc);

-- Tokens of a pool's ghosts per day, UTC: reserved before a ghost is sent, settled by what it used.
create table ghost_budget (
    pool noun_name not null,
    day date not null,
    tokens bigint not null default 0,
    ghosts bigint not null default 0,
    skipped bigint not null default 0,                                    -- not sent, for want of tokens
    primary key (pool, day)
);

-- Requests of clients, redacted before they come here.
create table ghost_sample (
    id bigint generated always as identity primary key,
    pool noun_name not null,
    at timestamptz not null default now(),
    body jsonb not null check (jsonb_typeof(body) = 'object')
);
create index ghost_sample_of_pool on ghost_sample (pool, id desc);

create trigger instance_weighs_less_or_more after update on ghost_state
    for each row when (old.weight_factor <> new.weight_factor) execute function instance_health_changed();
create trigger instance_of_less_weight_is_forgotten after delete on ghost_state
    for each row when (old.weight_factor < 1) execute function instance_health_changed();

create function tell_of_ghost_state() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        insert into event (kind, subject, detail) values ('grey_over', old.instance, jsonb_build_object('why', 'no more ghosts'));
    elsif new.weight_factor = 1 then
        insert into event (kind, subject, detail) values ('grey_over', new.instance, jsonb_build_object('weight_factor', 1));
    else
        insert into event (kind, subject, detail) values (case when old.weight_factor = 1 then 'grey' else 'grey_step' end, new.instance,
            jsonb_strip_nulls(jsonb_build_object('weight_factor', new.weight_factor,
                'why', case when new.weight_factor < old.weight_factor then new.cause end,
                'evidence', case when new.weight_factor < old.weight_factor then new.words end)));
    end if;
    return null;
end $$;
create trigger ghost_state_tells after update on ghost_state
    for each row when (old.weight_factor <> new.weight_factor) execute function tell_of_ghost_state();
create trigger ghost_state_tells_of_its_end after delete on ghost_state
    for each row when (old.weight_factor < 1) execute function tell_of_ghost_state();
