-- Nodes that enrol have a token of their own; a token of an administrator lets in one of them, once.

-- Only the hash of the one-time token is kept. A node's name: only that node may use it, and in place of the token it had; none: only a node
-- that is new. Once used it stays until it expires, so that an answer that was lost can be asked for again.
create table node_enrolment (
    token_hash bytea primary key check (octet_length(token_hash) = 32),
    node noun_name,
    created_at timestamptz not null default now(),
    created_by text not null check (length(created_by) between 1 and 200),
    expires_at timestamptz not null,
    used_at timestamptz
);

-- A node is known by the hash of its token. The control plane shows it the same token, which is sealed as stored secrets are.
create table node_token (
    node noun_name primary key,
    token_hash bytea not null unique check (octet_length(token_hash) = 32),
    key_id text not null,
    nonce bytea not null,
    ciphertext bytea not null,
    enrolled_at timestamptz not null default now(),
    enrolled_by text not null check (length(enrolled_by) between 1 and 200)
);
