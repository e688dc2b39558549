using Dapper;
using Npgsql;

namespace Evenkeel.Alerts;

/// <summary>The right to send one notice to one webhook, for the time of the lease.</summary>
public sealed record DeliveryClaim(long Id, string Webhook, Guid NoticeId, string Notice, int Attempts, DateTime CreatedAt);

/// <summary>What came of a try. Status: null when there was no answer.</summary>
public sealed record DeliveryResult(bool Taken, int? Status, string Words, TimeSpan? RetryAfter = null);

/// <summary>What becomes of a delivery that was not taken. Pure.</summary>
public static class DeliveryRules
{
    public static readonly TimeSpan Patience = TimeSpan.FromHours(24);

    /// <summary>From this failed try on, the webhook itself is an incident.</summary>
    public const int TriesUntilIncident = 5;

    private static readonly TimeSpan First = TimeSpan.FromSeconds(5);
    internal static readonly TimeSpan Longest = TimeSpan.FromMinutes(15);

    /// <param name="attempts">Tries so far, 1 or more.</param>
    /// <param name="retryAfter">What the receiver asked for; longer than <see cref="Longest"/> is not heard.</param>
    /// <param name="random">0 to 1: spreads over a fifth to either side.</param>
    public static TimeSpan Backoff(int attempts, TimeSpan? retryAfter, double random)
    {
        var wait = TimeSpan.FromSeconds(Math.Min(First.TotalSeconds * Math.Pow(2, Math.Min(attempts - 1, 20)), Longest.TotalSeconds)) * (0.8 + (0.4 * random));
        return retryAfter is { } asked && asked > wait ? (asked < Longest ? asked : Longest) : wait;
    }
}

/// <summary>The outbox. Its clock is the database's, so that all control planes have one.</summary>
public sealed class WebhookStore(NpgsqlDataSource database)
{
    // One of each webhook at a time, oldest first: one that does not answer holds up nobody else. What is further away than twice its longest
    // wait or lease was written by a clock that was set back since. Twice, for a statement that waited for a row sees what was written after
    // its own now().
    private const string ClaimSql = """
        with due as (
            select d.id from unnest(@webhooks::text[]) as w(name)
            cross join lateral (
                select id from webhook_delivery
                where webhook = w.name and state = 'pending' and (next_at <= now() or next_at > now() + @most)
                    and (claimed_until is null or claimed_until < now() or claimed_until > now() + 2 * @lease)
                order by id limit 1 for update skip locked) d)
        update webhook_delivery x set attempts = x.attempts + 1, claimed_until = now() + @lease from due where x.id = due.id
        returning x.id, x.webhook, x.notice_id, x.notice, x.attempts, x.created_at
        """;

    /// <summary>Takes what is due: each claim is given once, whoever asks, and again when its lease is over without a result.</summary>
    public async Task<IReadOnlyList<DeliveryClaim>> ClaimAsync(IReadOnlyCollection<string> webhooks, TimeSpan lease, CancellationToken cancel = default)
    {
        if (webhooks.Count == 0) return [];
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<DeliveryClaim>(new CommandDefinition(ClaimSql, new { webhooks = webhooks.ToArray(), lease, most = DeliveryRules.Longest * 2 }, cancellationToken: cancel))];
    }

    // A webhook that fails is an incident as anything else is. Its end is told only where it is open, so that success costs nothing.
    private const string KeepSql = """
        with kept as (
            update webhook_delivery set
                state = case when @Taken then 'sent' when created_at + @Patience <= now() then 'given_up' else 'pending' end,
                status = @Status, words = left(@Words, 1000), claimed_until = null, next_at = now() + @backoff,
                done_at = case when @Taken or created_at + @Patience <= now() then now() end
            where id = @Id and attempts = @Attempts and state = 'pending'
            returning state, webhook, attempts, notice_id),
        told as (
            insert into event (kind, subject, detail)
            select case when state = 'sent' then 'webhook_works' else 'webhook_failed' end, webhook,
                case when state = 'sent' then '{}' else jsonb_build_object('why', case state when 'given_up' then 'given_up' else 'not_taken' end,
                    'status', @Status::int, 'evidence', left(@Words, 1000), 'tries', attempts, 'notice', notice_id) end
            from kept
            where (state = 'sent' and (exists (select from incident i where i.kind = 'webhook' and i.subject = kept.webhook and i.until is null)
                    or exists (select from event e where not e.applied and e.kind = 'webhook_failed' and e.subject = kept.webhook)))
                or (state <> 'sent' and (state = 'given_up' or attempts = @TriesUntilIncident)))
        select state from kept
        """;

    /// <returns>The delivery's state now; null: somebody else holds it meanwhile.</returns>
    public async Task<string?> KeepAsync(DeliveryClaim claim, DeliveryResult result, TimeSpan backoff, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.QuerySingleOrDefaultAsync<string>(new CommandDefinition(KeepSql, new
        {
            claim.Id,
            claim.Attempts,
            result.Taken,
            result.Status,
            result.Words,
            backoff,
            DeliveryRules.Patience,
            DeliveryRules.TriesUntilIncident,
        }, cancellationToken: cancel));
    }

    /// <summary>Puts one notice into the outbox of one webhook.</summary>
    public async Task<long> AddAsync(string webhook, Guid noticeId, string notice, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return await connection.ExecuteScalarAsync<long>(new CommandDefinition(
            "insert into webhook_delivery (webhook, notice_id, notice) values (@webhook, @noticeId, @notice) returning id", new { webhook, noticeId, notice }, cancellationToken: cancel));
    }

    private const string ListSql = """
        select id, webhook, notice_id, state, attempts, created_at, case when state = 'pending' then next_at end as next_at, done_at, status, words, notice
        from webhook_delivery where id < @before and (@webhook::text is null or webhook = @webhook) and (@state::text is null or state = @state)
        order by id desc limit @limit
        """;

    /// <summary>Newest first.</summary>
    public async Task<IReadOnlyList<DeliveryView>> ListAsync(string? webhook, string? state, long before, int limit, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. (await connection.QueryAsync<DeliveryRow>(new CommandDefinition(ListSql, new { webhook, state, before, limit }, cancellationToken: cancel))).Select(row => row.ToView())];
    }

    // What a webhook that is no longer there was to be told goes with it.
    private const string PruneSql = """
        update webhook_delivery set state = 'given_up', done_at = now(), words = 'the webhook is no longer configured'
        where state = 'pending' and created_at < now() - 2 * @Patience;
        delete from webhook_delivery where state = 'sent' and done_at < now() - interval '7 days' or state = 'given_up' and done_at < now() - interval '30 days';
        """;

    public async Task PruneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { DeliveryRules.Patience }, cancellationToken: cancel));
    }
}
