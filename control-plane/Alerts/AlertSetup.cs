using Evenkeel.Config;
using Evenkeel.Jobs;
using Evenkeel.Publishing;
using Quartz;

namespace Evenkeel.Alerts;

public static class AlertSetup
{
    /// <summary>Rules, silences, webhooks, and their clocks.</summary>
    public static IServiceCollection AddAlerts(this IServiceCollection services)
    {
        services.AddSingleton<AlertStore>();
        services.AddSingleton<AlertReadings>();
        services.AddSingleton<AlertWatch>();
        services.AddSingleton<WebhookStore>();
        services.AddSingleton<WebhookSender>();
        services.AddHostedService(provider => provider.GetRequiredService<WebhookSender>());
        return services.AddQuartz(quartz =>
        {
            quartz.Every<AlertJob>("alerts", "alerts", TimeSpan.FromSeconds(5));
            quartz.Every<PruneAlertsJob>("prune", "alerts", TimeSpan.FromHours(1));
        });
    }
}

/// <summary>Looks at all rules once.</summary>
public sealed class AlertWatch(DesiredState state, AlertReadings readings, AlertStore store, WebhookSender sender, ILogger<AlertWatch> log)
{
    public async Task RunAsync(CancellationToken cancel)
    {
        if (state.Current?.Document is not { } document) return;
        var rules = AlertRules.Of(document);
        var result = await store.RunAsync(rules, await readings.ReadAsync(document, rules, cancel), PoolsOf(document), [.. document.Webhooks.Select(webhook => webhook.Name)], cancel);
        foreach (var telling in result.Tellings)
        {
            if (telling.Firing.Count > 0) AlertLog.Firing(log, telling.RuleName, telling.Firing.Count, telling.Firing[0].Subject, telling.Cause is null ? "" : $" ({telling.Cause})");
            if (telling.Resolved.Count > 0) AlertLog.Resolved(log, telling.RuleName, telling.Resolved.Count, telling.Resolved[0].Subject);
        }
        if (result.Tellings.Count > 0) sender.Wake();
    }

    /// <summary>Instance → the pools that hold it.</summary>
    public static Func<string, IReadOnlyCollection<string>> PoolsOf(ConfigDocument document)
    {
        var pools = document.Pools.SelectMany(pool => document.EffectiveTiers(pool).SelectMany(tier => tier.Instances).Distinct().Select(instance => (instance, pool.Name)))
            .ToLookup(pair => pair.instance, pair => pair.Name);
        return instance => [.. pools[instance]];
    }
}

/// <summary>Looks at all rules.</summary>
[DisallowConcurrentExecution]
public sealed class AlertJob(AlertWatch watch) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default) => await watch.RunAsync(cancel);
}

/// <summary>Forgets old alerts, silences and deliveries.</summary>
[DisallowConcurrentExecution]
public sealed class PruneAlertsJob(AlertStore alerts, WebhookStore webhooks) : IJob
{
    public async ValueTask Execute(IJobExecutionContext context, CancellationToken cancel = default)
    {
        await alerts.PruneAsync(cancel);
        await webhooks.PruneAsync(cancel);
    }
}

internal static partial class AlertLog
{
    [LoggerMessage(Level = LogLevel.Warning, Message = "alert {Rule} fires at {Count}, first {Subject}{Cause}")]
    public static partial void Firing(ILogger log, string rule, int count, AlertSubject subject, string cause);

    [LoggerMessage(Level = LogLevel.Information, Message = "alert {Rule} is over at {Count}, first {Subject}")]
    public static partial void Resolved(ILogger log, string rule, int count, AlertSubject subject);

    [LoggerMessage(Level = LogLevel.Warning, Message = "webhook {Webhook} does not take notice {Notice}, try {Attempt}: {Words}")]
    public static partial void NotTaken(ILogger log, string webhook, Guid notice, int attempt, string words);

    [LoggerMessage(Level = LogLevel.Error, Message = "webhook {Webhook} never took notice {Notice}; it is given up: {Words}")]
    public static partial void GivenUp(ILogger log, string webhook, Guid notice, string words);

    [LoggerMessage(Level = LogLevel.Error, Message = "webhooks are not sent; it is tried again")]
    public static partial void Failed(ILogger log, Exception failure);
}
