-- A node that was removed is told of no more. Its row stays for as long as that of one that is away: what was read of its counters must not be
-- read again when it is let in once more.
alter table node add column removed_at timestamptz;
