using System.Text.Json;
using Dapper;
using Evenkeel.Config;
using Npgsql;

namespace Evenkeel.Ghosts;

/// <summary>An instance to send ghosts to: what one control plane wants of the due-list.</summary>
public sealed record GhostWish(string Instance, int PerDay, TimeSpan Lease);

/// <summary>The right to send one ghost to an instance, <see cref="Wait"/> from now.</summary>
public sealed record GhostClaim(string Instance, GreyState State, long Turn, TimeSpan Wait);

public enum GhostTrigger
{
    Schedule,
    /// <summary>For an instance that is suspicious, grey or recovering.</summary>
    Extra,
    /// <summary>Somebody asked for it.</summary>
    Run,
}

/// <summary>What became of one ghost. No prompt and no answer is in it.</summary>
public sealed record GhostResult
{
    public long Id { get; init; }
    public DateTime At { get; init; }
    public required string Instance { get; init; }
    public required string Pool { get; init; }
    /// <summary>The node that it went through.</summary>
    public string? Node { get; init; }
    public required string Model { get; init; }
    /// <summary>built-in/NAME, file/NAME or sample/ID.</summary>
    public required string Prompt { get; init; }
    /// <summary>schedule, extra or run.</summary>
    public required string Trigger { get; init; }
    public required bool Stream { get; init; }
    /// <summary>good, bad or neutral (says nothing about the instance).</summary>
    public required string Verdict { get; init; }
    /// <summary>A word of the taxonomy; absent when the ghost did not get as far as the instance.</summary>
    public string? Outcome { get; init; }
    /// <summary>slow, slow_tokens, empty, no_finish_reason, content, length, or the outcome that it failed with.</summary>
    public required string[] Faults { get; init; }
    public string? Words { get; init; }
    /// <summary>To the first token of a stream, to the whole of any other answer.</summary>
    public int? FirstTokenMs { get; init; }
    public int? TotalMs { get; init; }
    public double? TokensPerSecond { get; init; }
    public required int InputTokens { get; init; }
    public required int OutputTokens { get; init; }
    /// <summary>Of the answer, in characters.</summary>
    public required int Length { get; init; }
    public string? FinishReason { get; init; }
    /// <summary>Whether the answer said what was asked for; absent where that could not be told.</summary>
    public bool? Held { get; init; }
}

/// <summary>An instance as its ghosts see it.</summary>
public sealed record GhostView
{
    public required string Instance { get; init; }
    /// <summary>The pool by whose rules it is asked.</summary>
    public string? Pool { get; init; }
    /// <summary>unknown, ok, suspect, grey or recovering.</summary>
    public required string Status { get; init; }
    /// <summary>What is left of its weight.</summary>
    public double WeightFactor { get; init; }
    /// <summary>g (good) or b (bad) for each ghost since the last step, newest last.</summary>
    public required string Verdicts { get; init; }
    /// <summary>Of the weight, or of the suspicion.</summary>
    public DateTime Since { get; init; }
    /// <summary>Why the newest bad one was bad.</summary>
    public string? Cause { get; init; }
    public string? Words { get; init; }
    public long Ghosts { get; init; }
    public DateTime NextAt { get; init; }
}

/// <summary>What a pool's ghosts have used today (UTC). Skipped: not sent, for want of tokens.</summary>
public sealed record GhostBudget
{
    public required string Pool { get; init; }
    public long Tokens { get; init; }
    public int MaxTokensPerDay { get; init; }
    public long Ghosts { get; init; }
    public long Skipped { get; init; }
}

/// <summary>Which results to list.</summary>
public sealed record GhostFilter(string? Pool, string? Instance, string? Verdict, string? Prompt, long Before, int Limit);

/// <summary>Due-list, states, budgets and results in PostgreSQL. Its clock is the database's, so that all control planes have one.</summary>
public sealed class GhostStore(NpgsqlDataSource database)
{
    private const int HistoryLength = 50;
    private static readonly TimeSpan KeepResultsFor = TimeSpan.FromDays(7);

    private const string SyncSql = """
        insert into ghost_state (instance, next_at)
        select w.instance, w.next_at from jsonb_to_recordset(@wishes::jsonb) as w(instance text, next_at timestamptz)
        where exists (select from instance i where i.name = w.instance)
        on conflict do nothing;
        delete from ghost_state g where g.instance <> all(@keep) or not exists (select from instance i where i.name = g.instance);
        """;

    // What the probes have taken out is not asked: it is known to be ill.
    private const string DueSql = """
        select g.instance, g.status, g.weight_factor, g.verdicts, g.since, g.turn, g.next_at, now() as now
        from ghost_state g join jsonb_to_recordset(@wishes::jsonb) as w(instance text, interval_ms bigint) using (instance)
        where (g.next_at <= now() + @ahead or g.next_at > now() + w.interval_ms * 1.5 * interval '1 ms')
            and (g.claimed_until is null or g.claimed_until < now())
            and not exists (select from instance_health h where h.instance = g.instance and h.status = 'down')
        order by g.next_at for update of g skip locked
        """;

    private const string ClaimSql = """
        update ghost_state g set next_at = c.next_at, turn = g.turn + c.taken, claimed_until = coalesce(c.claimed_until, g.claimed_until)
        from jsonb_to_recordset(@claims::jsonb) as c(instance text, next_at timestamptz, taken integer, claimed_until timestamptz)
        where g.instance = c.instance
        """;

    private sealed record StateRow(string Instance, string Status, double WeightFactor, string Verdicts, DateTime Since, long Turn, DateTime NextAt, DateTime Now)
    {
        public GreyState State => new(ConfigJson.Words<GhostStatus>()[Status], WeightFactor, Verdicts, Since);
    }

    /// <summary>
    /// Takes what is due within <paramref name="ahead"/> and nobody has: each claim is given once, whoever asks. What is planned out of its
    /// time is planned anew. States of instances that are not among <paramref name="keep"/> are forgotten.
    /// </summary>
    public async Task<IReadOnlyList<GhostClaim>> ClaimAsync(
        IReadOnlyList<GhostWish> wishes, IEnumerable<string> keep, TimeSpan ahead, Random random, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        var began = await connection.ExecuteScalarAsync<DateTime>(new CommandDefinition("select now()", null, transaction, cancellationToken: cancel));
        var rows = JsonSerializer.Serialize(wishes.Select(wish => new
        {
            wish.Instance,
            IntervalMs = (long)GhostPlan.Interval(wish.PerDay).TotalMilliseconds,
            NextAt = GhostPlan.Next(began, GhostPlan.Interval(wish.PerDay), random.NextDouble()),
        }), ConfigJson.Options);
        await connection.ExecuteAsync(new CommandDefinition(SyncSql, new { wishes = rows, keep = keep.ToArray() }, transaction, cancellationToken: cancel));
        var due = await connection.QueryAsync<StateRow>(new CommandDefinition(DueSql, new { wishes = rows, ahead }, transaction, cancellationToken: cancel));

        var wished = wishes.ToDictionary(wish => wish.Instance);
        var changes = new List<object>();
        var claims = new List<GhostClaim>();
        foreach (var row in due)
        {
            var wish = wished[row.Instance];
            var interval = GhostPlan.Interval(wish.PerDay, row.State, row.Now);
            if (GhostPlan.Replan(row.NextAt, row.Now, GhostPlan.Interval(wish.PerDay), random.NextDouble()) is { } later)
            {
                changes.Add(new { row.Instance, NextAt = later, Taken = 0, ClaimedUntil = (DateTime?)null });
                continue;
            }
            var at = row.NextAt > row.Now ? row.NextAt : row.Now;
            changes.Add(new { row.Instance, NextAt = GhostPlan.Next(at, interval, random.NextDouble()), Taken = 1, ClaimedUntil = (DateTime?)(at + wish.Lease) });
            claims.Add(new GhostClaim(row.Instance, row.State, row.Turn + 1, at - row.Now));
        }
        await connection.ExecuteAsync(new CommandDefinition(ClaimSql, new { claims = JsonSerializer.Serialize(changes, ConfigJson.Options) }, transaction, cancellationToken: cancel));
        await transaction.CommitAsync(cancel);
        return claims;
    }

    private const string ReserveSql = """
        insert into ghost_budget as b (pool, day, tokens, ghosts)
        select @pool, (now() at time zone 'utc')::date, @tokens, 1 where @tokens <= @most
        on conflict (pool, day) do update set tokens = b.tokens + @tokens, ghosts = b.ghosts + 1 where b.tokens + @tokens <= @most
        returning day::timestamp
        """;

    private const string SkipSql = """
        insert into ghost_budget as b (pool, day, skipped) values (@pool, (now() at time zone 'utc')::date, 1)
        on conflict (pool, day) do update set skipped = b.skipped + 1
        """;

    /// <summary>Takes tokens of the pool's budget of today, unless more than <paramref name="most"/> would be used then.</summary>
    /// <returns>The day that they are taken of; null: there are not so many left.</returns>
    public async Task<DateTime?> ReserveAsync(string pool, int tokens, long most, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        if (await connection.ExecuteScalarAsync<DateTime?>(new CommandDefinition(ReserveSql, new { pool, tokens, most }, cancellationToken: cancel)) is { } day) return day;
        await connection.ExecuteAsync(new CommandDefinition(SkipSql, new { pool }, cancellationToken: cancel));
        return null;
    }

    private const string HistorySql = """
        select first_token_ms, tokens_per_second from ghost_result
        where instance = @Instance and model = @Model and stream = @stream and verdict = 'good' order by id desc limit @HistoryLength;
        select length, held, finish_reason from ghost_result
        where instance = @Instance and model = @Model and prompt = @prompt and verdict = 'good' order by id desc limit @HistoryLength;
        """;

    /// <summary>What an instance's good answers were like.</summary>
    public async Task<GhostHistory> HistoryAsync(GhostTarget target, GhostPrompt prompt, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var found = await connection.QueryMultipleAsync(new CommandDefinition(HistorySql,
            new { Instance = target.Instance.Name, target.Model, stream = prompt.Stream, prompt = prompt.Name, HistoryLength }, cancellationToken: cancel));
        var times = (await found.ReadAsync<(int? FirstTokenMs, double? TokensPerSecond)>()).ToList();
        var answers = (await found.ReadAsync<(int Length, bool? Held, string? FinishReason)>()).ToList();
        return new GhostHistory(
            [.. times.Select(one => one.FirstTokenMs).OfType<int>()],
            [.. times.Select(one => one.TokensPerSecond).OfType<double>()],
            [.. answers.Where(one => one.FinishReason != "length").Select(one => one.Length)],
            [.. answers.Select(one => one.Held).OfType<bool>()]);
    }

    private const string InsertSql = """
        insert into ghost_result (instance, pool, node, model, prompt, trigger, stream, verdict, outcome, faults, words, first_token_ms, total_ms, tokens_per_second,
            input_tokens, output_tokens, length, finish_reason, held)
        values (@Instance, @Pool, @Node, @Model, @Prompt, @Trigger, @Stream, @Verdict, @Outcome, @Faults, @Words, @FirstTokenMs, @TotalMs, @TokensPerSecond,
            @InputTokens, @OutputTokens, @Length, @FinishReason, @Held)
        returning id, at
        """;

    private const string SettleSql = """
        update ghost_budget set tokens = greatest(tokens + @difference, 0) where pool = @Pool and day = @day
        """;

    private const string StateSql = """
        select instance, status, weight_factor, verdicts, since, turn, next_at, now() as now from ghost_state where instance = @Instance for update
        """;

    private const string UpdateSql = """
        update ghost_state set status = @status, weight_factor = @WeightFactor, verdicts = @Verdicts, since = @Since,
            cause = coalesce(@cause, cause), words = coalesce(@words, words), ghosts = ghosts + 1, next_at = least(next_at, @nextAt),
            claimed_until = case when turn = @turn then null else claimed_until end
        where instance = @instance
        """;

    /// <summary>Keeps a result, settles what it was reserved for and moves the instance's state on, all or none.</summary>
    /// <returns>The result as it is kept, and the state before and after; null: the instance has no scheduled ghosts.</returns>
    public async Task<(GhostResult Result, GreyState? Before, GreyState? After)> KeepAsync(
        GhostResult result, long? turn, int? perDay, int difference, DateTime day, Random random, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await using var transaction = await connection.BeginTransactionAsync(cancel);
        var (id, at) = await connection.QuerySingleAsync<(long, DateTime)>(new CommandDefinition(InsertSql, result, transaction, cancellationToken: cancel));
        await connection.ExecuteAsync(new CommandDefinition(SettleSql, new { result.Pool, day = DateOnly.FromDateTime(day), difference }, transaction, cancellationToken: cancel));
        var row = perDay is null ? null : await connection.QuerySingleOrDefaultAsync<StateRow>(new CommandDefinition(StateSql, new { result.Instance }, transaction, cancellationToken: cancel));
        GreyState? after = null;
        if (row is not null)
        {
            var verdict = ConfigJson.Words<GhostVerdict>()[result.Verdict];
            after = row.State.After(verdict, row.Now);
            var isBad = verdict == GhostVerdict.Bad;
            await connection.ExecuteAsync(new CommandDefinition(UpdateSql, new
            {
                result.Instance,
                status = ConfigJson.Word(after.Status),
                after.WeightFactor,
                after.Verdicts,
                after.Since,
                cause = isBad ? result.Faults[0] : null,
                words = isBad ? result.Words ?? "" : null,
                nextAt = GhostPlan.Next(row.Now, GhostPlan.Interval(perDay!.Value, after, row.Now), random.NextDouble()),
                turn = turn ?? -1,
            }, transaction, cancellationToken: cancel));
        }
        await transaction.CommitAsync(cancel);
        return (result with { Id = id, At = at }, row?.State, after);
    }

    private const string ReleaseSql = "update ghost_state set claimed_until = null where instance = @Instance and turn = @Turn";

    /// <summary>Gives a claim back that came to nothing.</summary>
    public async Task ReleaseAsync(GhostClaim claim, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(ReleaseSql, new { claim.Instance, claim.Turn }, cancellationToken: cancel));
    }

    private const string StatesSql = "select instance, status, weight_factor, verdicts, since, cause, words, ghosts, next_at from ghost_state order by instance";

    public async Task<IReadOnlyList<GhostView>> StatesAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<GhostView>(new CommandDefinition(StatesSql, cancellationToken: cancel))];
    }

    private const string BudgetsSql = "select pool, tokens, ghosts, skipped from ghost_budget where day = (now() at time zone 'utc')::date order by pool";

    public async Task<IReadOnlyList<GhostBudget>> BudgetsAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<GhostBudget>(new CommandDefinition(BudgetsSql, cancellationToken: cancel))];
    }

    private const string ResultsSql = """
        select * from ghost_result
        where (@Pool::text is null or pool = @Pool) and (@Instance::text is null or instance = @Instance) and (@Verdict::text is null or verdict = @Verdict)
            and (@Prompt::text is null or prompt = @Prompt) and id < @Before
        order by id desc limit @Limit
        """;

    public async Task<IReadOnlyList<GhostResult>> ResultsAsync(GhostFilter filter, CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        return [.. await connection.QueryAsync<GhostResult>(new CommandDefinition(ResultsSql, filter, cancellationToken: cancel))];
    }

    private const string PruneSql = """
        delete from ghost_result where at < now() - @KeepResultsFor;
        delete from ghost_budget where day < (now() at time zone 'utc')::date - 31;
        """;

    public async Task PruneAsync(CancellationToken cancel = default)
    {
        await using var connection = await database.OpenConnectionAsync(cancel);
        await connection.ExecuteAsync(new CommandDefinition(PruneSql, new { KeepResultsFor }, cancellationToken: cancel));
    }
}
