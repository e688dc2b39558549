using System.Buffers;
using System.Security.Cryptography;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Secrets;
using Evenkeel.Telemetry;

namespace Evenkeel.Publishing;

/// <summary>
/// What is pushed. Json holds provider keys: it is for a node's admin listener and for nothing else. Digest is the sha256 (hex) of the
/// payload without revision, state and digest. State grows with every instance that the probes take out or bring back, and whose weight
/// the ghosts lower or raise. Faults is what had to be left out, for the operator to see.
/// </summary>
public sealed record Snapshot(long Revision, long State, string Digest, ReadOnlyMemory<byte> Json, IReadOnlyList<ConfigFault> Faults);

/// <summary>
/// Document, revision and resolved secrets to the snapshot that is pushed to the nodes. Pure, with a fixed order, so that the same
/// configuration always has the same digest. Every default and the implicit degraded tier are explicit here: a node knows no rules
/// of the configuration. An instance whose key cannot be resolved is pushed disabled, a client without a key is left out; each is a fault.
/// </summary>
public static class SnapshotBuilder
{
    private const int Format = 1;

    /// <summary>
    /// <paramref name="secret"/> gives what is behind a reference (env:…, file:…, secret:…) of the document; <paramref name="fleet"/> is
    /// what probes and ghosts found, laid over it.
    /// </summary>
    public static Snapshot Build(ConfigDocument document, long revision, FleetState fleet, Func<string, ResolvedSecret> secret)
    {
        var faults = new List<ConfigFault>();
        var payload = Write(json => WritePayload(json, document, fleet, secret, faults));
        var digest = Convert.ToHexStringLower(SHA256.HashData(payload.Span));
        var head = Write(json =>
        {
            json.WriteNumber("format", Format);
            json.WriteNumber("revision", revision);
            json.WriteNumber("state", fleet.Number);
            json.WriteString("digest", digest);
        });
        // one object of both: the head without its last brace, a comma, the payload without its first
        byte[] whole = [.. head.Span[..^1], (byte)',', .. payload.Span[1..]];
        return new Snapshot(revision, fleet.Number, digest, whole, faults);
    }

    private static ReadOnlyMemory<byte> Write(Action<Utf8JsonWriter> members)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            members(json);
            json.WriteEndObject();
        }
        return buffer.WrittenMemory;
    }

    private static void WritePayload(Utf8JsonWriter json, ConfigDocument document, FleetState fleet, Func<string, ResolvedSecret> secret, List<ConfigFault> faults)
    {
        json.WriteStartObject("gateway");
        json.WriteBoolean("anonymous", document.IsAnonymous());
        if (document.Gateway.LinkLocalTargets == true) json.WriteBoolean("link_local_targets", true);
        json.WriteEndObject();

        var breakers = document.FailoverByInstance();
        json.WriteStartArray("instances");
        foreach (var (at, instance) in document.Instances.Index().OrderBy(entry => entry.Item.Name, StringComparer.Ordinal))
        {
            var key = instance.ApiKey is null ? default : secret(instance.ApiKey);
            if (key.Fault is not null) faults.Add(new ConfigFault($"instances[{at}].api_key", $"\"{instance.Name}\" is disabled: {key.Fault}"));
            WriteInstance(json, instance, key.Value, instance.Enabled && key.Fault is null, !fleet.Down.Contains(instance.Name), fleet.WeightFactors.GetValueOrDefault(instance.Name, 1), breakers[instance.Name]);
        }
        json.WriteEndArray();

        json.WriteStartArray("pools");
        foreach (var pool in document.Pools.OrderBy(pool => pool.Name, StringComparer.Ordinal)) WritePool(json, document, pool);
        json.WriteEndArray();

        json.WriteStartArray("clients");
        foreach (var (at, client) in document.Clients.Index().OrderBy(entry => entry.Item.Name, StringComparer.Ordinal))
        {
            var key = client.Key is null ? default : secret(client.Key);
            if (key.Fault is not null) faults.Add(new ConfigFault($"clients[{at}].key", client.Keys.Count == 0 ? $"\"{client.Name}\" is left out: {key.Fault}" : $"this key of \"{client.Name}\" is left out: {key.Fault}"));
            if (key.Value is not null || client.Keys.Count > 0) WriteClient(json, client, key.Value, document.Gateway.ExchangeRates);
        }
        json.WriteEndArray();
    }

    private static void WriteInstance(Utf8JsonWriter json, InstanceConfig instance, string? key, bool enabled, bool healthy, double weightFactor, FailoverConfig breaker)
    {
        var url = new Uri(instance.BaseUrl, UriKind.Absolute);
        json.WriteStartObject();
        json.WriteString("name", instance.Name);
        WriteOptional(json, "provider", instance.Provider);
        json.WriteString("scheme", url.Scheme);
        json.WriteString("host", url.IdnHost);   // an IPv6 address comes without its brackets
        json.WriteNumber("port", url.Port);
        json.WriteString("path", url.AbsolutePath.TrimEnd('/'));
        WriteOptional(json, "api_key", key);
        WriteOptional(json, "model", instance.Model);
        json.WriteNumber("weight", instance.Weight);
        json.WriteNumber("max_connections", instance.MaxConnections);
        json.WriteNumber("base_latency_ms", Ms(instance.BaseLatency));
        json.WriteBoolean("enabled", enabled);
        json.WriteBoolean("drain", instance.Drain);
        if (!healthy) json.WriteBoolean("healthy", false);
        if (weightFactor < 1) json.WriteNumber("weight_factor", weightFactor);
        WriteStrings(json, "capabilities", instance.Capabilities);

        json.WriteStartObject("tls");
        json.WriteBoolean("verify", instance.Tls.Verify);
        WriteOptional(json, "server_name", instance.Tls.ServerName);
        json.WriteEndObject();

        if (instance.Price is not null || instance.Prices is not null) WritePrices(json, instance);

        json.WriteStartObject("timeouts_ms");
        json.WriteNumber("connect", Ms(instance.Timeouts.Connect));
        json.WriteNumber("first_token", Ms(instance.Timeouts.FirstToken));
        json.WriteNumber("idle", Ms(instance.Timeouts.Idle));
        json.WriteNumber("total", Ms(instance.Timeouts.Total));
        json.WriteEndObject();
        json.WriteNumber("min_tokens_per_second", instance.Timeouts.MinTokensPerSecond);
        WriteBreaker(json, breaker);
        json.WriteEndObject();
    }

    /// <summary>In the order of their beginnings; the one that always held has none.</summary>
    private static void WritePrices(Utf8JsonWriter json, InstanceConfig instance)
    {
        json.WriteStartArray("prices");
        if (instance.Price is { } always)
        {
            json.WriteStartObject();
            WriteRates(json, always.InputPerMillion, always.CachedInputPerMillion, always.OutputPerMillion);
            json.WriteString("currency", always.Currency);
            json.WriteEndObject();
        }
        foreach (var price in (instance.Prices ?? []).OrderBy(price => price.From))
        {
            json.WriteStartObject();
            json.WriteNumber("from", new DateTimeOffset(price.From, TimeSpan.Zero).ToUnixTimeSeconds());
            WriteRates(json, price.InputPerMillion, price.CachedInputPerMillion, price.OutputPerMillion);
            json.WriteString("currency", price.Currency);
            if (price.OffPeak is { } windows)
            {
                json.WriteStartArray("off_peak");
                foreach (var window in windows)
                {
                    json.WriteStartObject();
                    json.WriteNumber("from_s", Units.ParseTimeOfDay(window.From)!.Value * 60);
                    json.WriteNumber("to_s", Units.ParseTimeOfDay(window.To)!.Value * 60);
                    WriteRates(json, window.InputPerMillion, window.CachedInputPerMillion, window.OutputPerMillion);
                    json.WriteEndObject();
                }
                json.WriteEndArray();
            }
            json.WriteEndObject();
        }
        json.WriteEndArray();
    }

    private static void WriteRates(Utf8JsonWriter json, decimal input, decimal? cachedInput, decimal output)
    {
        json.WriteNumber("input_per_million", input);
        if (cachedInput is { } cached) json.WriteNumber("cached_input_per_million", cached);
        json.WriteNumber("output_per_million", output);
    }

    private static void WritePool(Utf8JsonWriter json, ConfigDocument document, PoolConfig pool)
    {
        var failover = document.FailoverOf(pool);
        json.WriteStartObject();
        json.WriteString("name", pool.Name);
        WriteStrings(json, "models", pool.Models);
        json.WriteString("algorithm", pool.Algorithm switch
        {
            Algorithm.Weighted => "weighted",
            Algorithm.LeastLoad => "least_load",
            Algorithm.RoundRobin => "round_robin",
            _ => throw new ArgumentOutOfRangeException(nameof(pool)),
        });

        json.WriteStartArray("tiers");
        foreach (var tier in document.EffectiveTiers(pool))
        {
            json.WriteStartObject();
            json.WriteString("name", tier.Name);
            WriteOptional(json, "model", tier.Model);
            WriteStrings(json, "instances", tier.Instances);
            json.WriteEndObject();
        }
        json.WriteEndArray();

        if (pool.Ghost.Sample > 0) json.WriteNumber("ghost_sample", pool.Ghost.Sample);
        json.WriteString("stream_buffer", pool.StreamBuffer == StreamBuffer.Full ? "full" : "none");
        json.WriteStartObject("queue");
        json.WriteNumber("size", pool.Queue.Size);
        json.WriteNumber("timeout_ms", Ms(pool.Queue.Timeout));
        json.WriteEndObject();

        json.WriteStartObject("retry");
        json.WriteNumber("max_attempts", pool.Retry.MaxAttempts);
        json.WriteNumber("budget_ratio", pool.Retry.BudgetRatio);
        json.WriteNumber("budget_min_per_second", pool.Retry.BudgetMinPerSecond);
        json.WriteNumber("retry_after_max_wait_ms", Ms(pool.Retry.RetryAfterMaxWait));
        json.WriteEndObject();

        json.WriteStartObject("fallback");
        json.WriteNumber("cache_ttl_s", Seconds(failover.Fallback.CacheTtl));
        json.WriteString("default_response", failover.Fallback.DefaultResponse);
        json.WriteString("default_response_mode", failover.Fallback.DefaultResponseMode == DefaultResponseMode.Completion ? "completion" : "error");
        json.WriteEndObject();
        WriteBreaker(json, failover);
        json.WriteEndObject();
    }

    /// <summary>The sha256 of a client's key: all that nodes and the database know of it.</summary>
    public static string HashOf(string key) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(key)));

    private static void WriteClient(Utf8JsonWriter json, ClientConfig client, string? key, IReadOnlyDictionary<string, decimal>? exchangeRates)
    {
        json.WriteStartObject();
        json.WriteString("name", client.Name);
        json.WriteStartArray("keys");
        foreach (var (sha256, until) in key is null ? client.Keys : [new ClientKey(HashOf(key)), .. client.Keys])
        {
            json.WriteStartObject();
            json.WriteString("sha256", sha256);
            if (until is { } end) json.WriteNumber("until", UnixSeconds(end));
            json.WriteEndObject();
        }
        json.WriteEndArray();
        json.WriteBoolean("enabled", client.Enabled);
        if (client.Expires is { } expires) json.WriteNumber("expires", UnixSeconds(expires));
        WriteStrings(json, "models", client.Models);
        if (client.RequestsPerMinute is { } requests) json.WriteNumber("requests_per_minute", requests);
        if (client.TokensPerMinute is { } tokens) json.WriteNumber("tokens_per_minute", tokens);
        if (client.MaxConcurrent is { } atOnce) json.WriteNumber("max_concurrent", atOnce);
        if (client.Budget is { } budget)
        {
            json.WriteStartObject("budget");
            json.WriteNumber("amount", Math.Max(budget.Amount, ConfigValidator.LeastBudget));
            json.WriteString("currency", budget.Currency);
            json.WriteString("per", budget.Per);
            json.WriteNumber("warn_at", budget.WarnAt);
            json.WriteStartObject("rates");      // what one unit of another currency is in the budget's
            foreach (var currency in (exchangeRates ?? new Dictionary<string, decimal>()).Keys.Where(c => c != budget.Currency).Order(StringComparer.Ordinal))
            {
                if (ExchangeRates.Convert(1, currency, budget.Currency, exchangeRates) is { } rate) json.WriteNumber(currency, rate);
            }
            json.WriteEndObject();
            json.WriteEndObject();
        }
        json.WriteEndObject();
    }

    private static void WriteBreaker(Utf8JsonWriter json, FailoverConfig failover)
    {
        json.WriteStartObject("breaker");
        json.WriteNumber("unhealthy_threshold", failover.HealthCheck.UnhealthyThreshold);
        json.WriteNumber("healthy_threshold", failover.HealthCheck.HealthyThreshold);
        json.WriteNumber("error_rate_threshold", failover.CircuitBreaker.ErrorRateThreshold);
        json.WriteNumber("sliding_window_s", Seconds(failover.CircuitBreaker.SlidingWindow));
        json.WriteNumber("half_open_max_requests", failover.CircuitBreaker.HalfOpenMaxRequests);
        json.WriteNumber("recovery_timeout_s", Seconds(failover.CircuitBreaker.RecoveryTimeout));
        json.WriteNumber("min_requests", failover.CircuitBreaker.MinRequests);
        json.WriteEndObject();
    }

    private static void WriteOptional(Utf8JsonWriter json, string name, string? value)
    {
        if (value is not null) json.WriteString(name, value);
    }

    private static void WriteStrings(Utf8JsonWriter json, string name, IEnumerable<string> values)
    {
        json.WriteStartArray(name);
        foreach (var value in values) json.WriteStringValue(value);
        json.WriteEndArray();
    }

    // One refused value would keep every later change from the nodes; what was stored before it was refused here is over all the same.
    private static long UnixSeconds(DateTime at) => Math.Max(0, new DateTimeOffset(at).ToUnixTimeSeconds());

    private static long Ms(TimeSpan time) => (long)Math.Round(time.TotalMilliseconds);

    private static decimal Seconds(TimeSpan time) => (decimal)time.Ticks / TimeSpan.TicksPerSecond;
}
