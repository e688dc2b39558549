using System.Text.Json;
using Evenkeel.Auth;
using Evenkeel.Config;
using Evenkeel.Database;
using Evenkeel.Publishing;
using Microsoft.AspNetCore.Http.HttpResults;

namespace Evenkeel.Alerts;

/// <summary>One alert for the operator. What is unknown is left out.</summary>
public sealed record AlertView
{
    public required long Id { get; init; }
    public required string Rule { get; init; }
    public string? Metric { get; init; }
    /// <summary>For people: "p99_latency above 3 s".</summary>
    public string? Condition { get; init; }
    public string? Pool { get; init; }
    public string? Instance { get; init; }
    public string? Client { get; init; }
    /// <summary>pending (bad, but not yet for long enough), firing or resolved.</summary>
    public required string State { get; init; }
    public required bool Silenced { get; init; }
    /// <summary>The last one: seconds, a share of 1, or a count.</summary>
    public double? Value { get; init; }
    public double? Worst { get; init; }
    public string? Shown { get; init; }
    public string? Cause { get; init; }
    public required DateTime Since { get; init; }
    public DateTime? FiredAt { get; init; }
    public DateTime? ResolvedAt { get; init; }
    /// <summary>When it went to the webhooks.</summary>
    public DateTime? ToldAt { get; init; }
}

/// <summary>A rule with every default filled in.</summary>
public sealed record AlertRuleView
{
    public required string Name { get; init; }
    public required string Metric { get; init; }
    public required string Condition { get; init; }
    /// <summary>Seconds, a share of 1, or a count.</summary>
    public required double Threshold { get; init; }
    public required double ResolveAt { get; init; }
    public required TimeSpan For { get; init; }
    public required TimeSpan ResolveFor { get; init; }
    public TimeSpan? Window { get; init; }
    public int? MinRequests { get; init; }
    public string? Outcome { get; init; }
    public string? Pool { get; init; }
    public string? Instance { get; init; }
    public string? Client { get; init; }
    /// <summary>True: the configuration has no rules, so these hold.</summary>
    public required bool IsDefault { get; init; }
}

public sealed record SilenceView
{
    public required long Id { get; init; }
    public string? Rule { get; init; }
    public string? Pool { get; init; }
    public string? Instance { get; init; }
    public required DateTime Until { get; init; }
    public required string Reason { get; init; }
    public required string CreatedBy { get; init; }
    public required DateTime CreatedAt { get; init; }
    public required bool Active { get; init; }
}

/// <param name="Until">At most 90 days ahead.</param>
/// <param name="Reason">1 to 1000 characters.</param>
/// <param name="Rule">Absent: every rule.</param>
/// <param name="Pool">Absent: every pool. A pool's silence covers the instances that no other pool holds.</param>
/// <param name="Instance">Absent: every instance.</param>
/// <param name="By">The token's name if nobody says.</param>
public sealed record NewSilence(DateTimeOffset Until, string Reason, string? Rule = null, string? Pool = null, string? Instance = null, string? By = null);

public sealed record DeliveryView
{
    public required long Id { get; init; }
    public required string Webhook { get; init; }
    public required Guid NoticeId { get; init; }
    /// <summary>pending, sent or given_up.</summary>
    public required string State { get; init; }
    public required int Attempts { get; init; }
    public required DateTime CreatedAt { get; init; }
    public DateTime? NextAt { get; init; }
    public DateTime? DoneAt { get; init; }
    /// <summary>What the last try was answered with.</summary>
    public int? Status { get; init; }
    /// <summary>Why the last try failed.</summary>
    public string? Words { get; init; }
    public required Notice Notice { get; init; }
}

internal sealed record DeliveryRow
{
    public long Id { get; init; }
    public string Webhook { get; init; } = "";
    public Guid NoticeId { get; init; }
    public string State { get; init; } = "";
    public int Attempts { get; init; }
    public DateTime CreatedAt { get; init; }
    public DateTime? NextAt { get; init; }
    public DateTime? DoneAt { get; init; }
    public int? Status { get; init; }
    public string? Words { get; init; }
    public string Notice { get; init; } = "";

    public DeliveryView ToView() => new()
    {
        Id = Id,
        Webhook = Webhook,
        NoticeId = NoticeId,
        State = State,
        Attempts = Attempts,
        CreatedAt = CreatedAt,
        NextAt = NextAt,
        DoneAt = DoneAt,
        Status = Status,
        Words = string.IsNullOrEmpty(Words) ? null : Words,
        Notice = JsonSerializer.Deserialize<Notice>(Notice, ConfigJson.Options)!,
    };
}

/// <param name="Delivery">Its number among the deliveries.</param>
/// <param name="NoticeId">What the receiver gets as x-evenkeel-notice-id.</param>
public sealed record TestSent(long Delivery, Guid NoticeId);

/// <summary>What the rules found, what is kept quiet, and what webhooks were told.</summary>
public static class AlertEndpoints
{
    private const int MostPerPage = 500;
    private static readonly string[] s_states = ["open", "all", "pending", "firing", "resolved"];
    private static readonly string[] s_deliveryStates = ["pending", "sent", "given_up"];

    public static void MapAlerts(this IEndpointRouteBuilder app)
    {
        var alerts = app.MapGroup("/api/v1/alerts").WithTags("alerts").ProducesProblem(StatusCodes.Status401Unauthorized);
        alerts.MapGet("", List).WithName("listAlerts").WithSummary("Alerts, newest first; state: open (pending and firing), pending, firing, resolved or all. before=ID goes on below ID.")
            .ProducesProblem(StatusCodes.Status400BadRequest);
        alerts.MapGet("/rules", Rules).WithName("listAlertRules").WithMetadata(new AnswersFromMemory()).WithSummary("The rules in force, with every default filled in.");

        alerts.MapGet("/prometheus.yml", Prometheus).WithName("getPrometheusRules").WithMetadata(new AnswersFromMemory()).WithSummary("The rules in force as alert rules of Prometheus.")
            .Produces<string>(StatusCodes.Status200OK, ConfigApi.YamlType);

        var silences = app.MapGroup("/api/v1/silences").WithTags("alerts").ProducesProblem(StatusCodes.Status401Unauthorized);
        silences.MapGet("", Silences).WithName("listSilences").WithSummary("The silences in force, or with all=true those that are over as well; the newest 1000.");
        silences.MapPost("", Silence).WithName("createSilence").RequireRole(Role.Operator).WithSummary("Alerts that match are not told of until a time. They are judged and listed all the same.")
            .ProducesProblem(StatusCodes.Status400BadRequest).ProducesProblem(StatusCodes.Status409Conflict);
        silences.MapDelete("/{id:long}", EndSilence).WithName("endSilence").RequireRole(Role.Operator).WithSummary("Ends a silence now.").ProducesProblem(StatusCodes.Status404NotFound);

        var webhooks = app.MapGroup("/api/v1/webhooks").WithTags("alerts").ProducesProblem(StatusCodes.Status401Unauthorized);
        webhooks.MapGet("/deliveries", Deliveries).WithName("listDeliveries").WithSummary("What webhooks were told or will be, newest first; before=ID goes on below ID.")
            .ProducesProblem(StatusCodes.Status400BadRequest);
        webhooks.MapPost("/{name}/test", Test).WithName("testWebhook").RequireRole(Role.Operator).WithSummary("Puts a test notice into the outbox; listDeliveries tells what came of it.")
            .ProducesProblem(StatusCodes.Status404NotFound);
    }

    private static async Task<Results<Ok<IReadOnlyList<AlertView>>, ProblemHttpResult>> List(
        AlertStore store, DesiredState desired, TimeProvider time, CancellationToken cancel,
        string state = "open", string? rule = null, string? pool = null, string? instance = null, long before = long.MaxValue, int limit = 100)
    {
        if (!s_states.Contains(state)) return BadRequest("state: expected one of " + string.Join(", ", s_states));
        var document = desired.Current?.Document ?? new ConfigDocument();
        var rules = AlertRules.Of(document).ToDictionary(one => one.Name);
        var found = await store.ListAsync(
            new AlertFilter(state, rule, pool, instance, before, Math.Clamp(limit, 1, MostPerPage)), AlertWatch.PoolsOf(document), time.GetUtcNow().UtcDateTime, cancel);
        return TypedResults.Ok<IReadOnlyList<AlertView>>([.. found.Select(one => ViewOf(one.Alert, one.Silenced, rules.GetValueOrDefault(one.Alert.Rule)))]);
    }

    private static AlertView ViewOf(Alert alert, bool silenced, AlertRule? rule) => new()
    {
        Id = alert.Id,
        Rule = alert.Rule,
        Metric = rule?.Metric.Name,
        Condition = rule?.Condition,
        Pool = alert.Subject.Pool,
        Instance = alert.Subject.Instance,
        Client = alert.Subject.Client,
        State = ConfigJson.Word(alert.Phase),
        Silenced = silenced,
        Value = alert.Value,
        Worst = alert.Worst,
        Shown = rule is not null && alert.Value is { } value ? AlertMetrics.Shown(rule.Metric.Unit, value) : null,
        Cause = alert.Cause,
        Since = alert.Since,
        FiredAt = alert.FiredAt,
        ResolvedAt = alert.ResolvedAt,
        ToldAt = alert.ToldAt,
    };

    private static Ok<IReadOnlyList<AlertRuleView>> Rules(DesiredState desired)
    {
        var document = desired.Current?.Document ?? new ConfigDocument();
        return TypedResults.Ok<IReadOnlyList<AlertRuleView>>([.. AlertRules.Of(document).Select(rule => new AlertRuleView
        {
            Name = rule.Name,
            Metric = rule.Metric.Name,
            Condition = rule.Condition,
            Threshold = rule.Threshold,
            ResolveAt = rule.ResolveAt,
            For = rule.For,
            ResolveFor = rule.ResolveFor,
            Window = rule.Metric.Window is null ? null : rule.Window,
            MinRequests = rule.Metric.Window is null ? null : rule.MinRequests,
            Outcome = rule.Outcome,
            Pool = rule.Pool,
            Instance = rule.Instance,
            Client = rule.Client,
            IsDefault = document.Alerts.Count == 0,
        })]);
    }

    private static ContentHttpResult Prometheus(DesiredState desired) =>
        TypedResults.Text(PrometheusRules.Render(desired.Current?.Document ?? new ConfigDocument()), ConfigApi.YamlType);

    private static async Task<Ok<IReadOnlyList<SilenceView>>> Silences(AlertStore store, CancellationToken cancel, bool all = false) => TypedResults.Ok(await store.SilencesAsync(all, cancel));

    private static async Task<Results<Created<SilenceView>, ProblemHttpResult>> Silence(
        NewSilence body, AlertStore store, ConfigStore config, TimeProvider time, HttpContext context, CancellationToken cancel)
    {
        var (by, now) = (body.By ?? Caller.NameOf(context), time.GetUtcNow());
        if (body.Until <= now || body.Until > now.AddDays(90)) return BadRequest("until: must lie ahead, at most 90 days");
        if (body.Reason is not { Length: >= 1 and <= 1000 } || body.Reason.Contains('\0')) return BadRequest("reason: 1 to 1000 characters");
        if (by.Length is 0 or > 200 || by.Any(char.IsControl)) return BadRequest("by: 1 to 200 printable characters");
        foreach (var (key, name) in new[] { ("rule", body.Rule), ("pool", body.Pool), ("instance", body.Instance) })
        {
            if (name is not null && !ConfigValidator.IsName(name)) return BadRequest($"{key}: is not a name");
        }

        // One that matches nothing would let everybody sleep until it rings.
        var document = (await config.LoadAsync(cancel)).Document;
        if (body.Rule is not null && AlertRules.Of(document).All(rule => rule.Name != body.Rule)) return BadRequest($"rule: no rule \"{body.Rule}\"");
        if (body.Pool is not null && document.Pools.All(pool => pool.Name != body.Pool)) return BadRequest($"pool: no pool \"{body.Pool}\"");
        if (body.Instance is not null && document.Instances.All(instance => instance.Name != body.Instance)) return BadRequest($"instance: no instance \"{body.Instance}\"");
        return await store.SilenceAsync(body, body.Until.UtcDateTime, by, cancel) is { } made
            ? TypedResults.Created($"/api/v1/silences/{made.Id}", made)
            : TypedResults.Problem(title: "Conflict", detail: "There are 1000 silences in force already.", statusCode: StatusCodes.Status409Conflict);
    }

    private static async Task<Results<Ok<SilenceView>, ProblemHttpResult>> EndSilence(long id, AlertStore store, CancellationToken cancel) =>
        await store.EndSilenceAsync(id, cancel) is { } ended ? TypedResults.Ok(ended) : ConfigApi.NotFound($"There is no silence {id}.");

    private static async Task<Results<Ok<IReadOnlyList<DeliveryView>>, ProblemHttpResult>> Deliveries(
        WebhookStore store, CancellationToken cancel, string? webhook = null, string? state = null, long before = long.MaxValue, int limit = 50) =>
        state is not null && !s_deliveryStates.Contains(state)
            ? BadRequest("state: expected one of " + string.Join(", ", s_deliveryStates))
            : TypedResults.Ok(await store.ListAsync(webhook, state, before, Math.Clamp(limit, 1, MostPerPage), cancel));

    private static async Task<Results<Accepted<TestSent>, ProblemHttpResult>> Test(
        string name, WebhookStore store, ConfigStore config, WebhookSender sender, TimeProvider time, CancellationToken cancel)
    {
        if ((await config.LoadAsync(cancel)).Document.Webhooks.All(webhook => webhook.Name != name)) return ConfigApi.NotFound($"There is no webhook \"{Units.Shown(name)}\".");
        var now = time.GetUtcNow();
        var notice = Notices.Test(name, Guid.CreateVersion7(now), now.UtcDateTime);
        var delivery = await store.AddAsync(name, notice.Id, JsonSerializer.Serialize(notice, ConfigJson.Options), cancel);
        sender.Wake();
        return TypedResults.Accepted((string?)null, new TestSent(delivery, notice.Id));
    }

    private static ProblemHttpResult BadRequest(string detail) => TypedResults.Problem(title: "Bad request", detail: detail, statusCode: StatusCodes.Status400BadRequest);
}
