using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Evenkeel.Config;

/// <param name="Document">What could be read, defaults elsewhere; only to be used when there is no fault.</param>
/// <param name="Faults">Everything that is wrong, at once; empty: the document is valid.</param>
public sealed record ReadResult(ConfigDocument Document, IReadOnlyList<ConfigFault> Faults)
{
    public bool IsValid => Faults.Count == 0;
}

/// <summary>
/// YAML or JSON → <see cref="ConfigDocument"/>, checked in full: shape and units here, bounds and references by
/// <see cref="ConfigValidator"/>. Pure. All faults of both come back together.
/// </summary>
public static partial class ConfigReader
{
    public static ReadResult Read(string text, ConfigFormat format) => Read(Encoding.UTF8.GetBytes(text), format);

    public static ReadResult Read(ReadOnlyMemory<byte> utf8, ConfigFormat format)
    {
        var faults = new FaultList();
        var tree = ConfigTree.Parse(utf8, format, faults);
        if (tree is ScalarNode { Kind: ScalarKind.Null })
        {
            // An empty file sent by mistake must not empty the gateway.
            faults.Add("", "there is nothing in it; {} is the empty configuration");
            tree = null;
        }

        if (tree is null)
        {
            return new ReadResult(new ConfigDocument(), faults.All());
        }

        var document = Document(ConfigMap.Of(tree, "", faults));
        ConfigValidator.Validate(document, faults);
        return new ReadResult(document, [.. faults.All().Select(f => f.Line is null ? f with { Line = ConfigTree.LineOf(tree, f.Path) } : f).OrderBy(f => f.Line)]);
    }

    /// <summary>
    /// A document with one entry of a list read anew, at its index or behind the last. The others are taken as they are, and all rules are
    /// asked of the whole.
    /// </summary>
    public static ReadResult ReadEntry(ConfigDocument document, string list, int index, JsonObject entry)
    {
        var faults = new FaultList();
        var map = ConfigMap.Of(ConfigTree.Parse(Encoding.UTF8.GetBytes(entry.ToJsonString(ConfigJson.Options)), ConfigFormat.Json, faults), $"{list}[{index}]", faults);
        return Checked(list switch
        {
            "instances" => document with { Instances = With(document.Instances, index, Instance(map)) },
            "pools" => document with { Pools = With(document.Pools, index, Pool(map, document.FailoverConfig)) },
            "clients" => document with { Clients = With(document.Clients, index, Client(map)) },
            _ => throw new ArgumentException($"there is no list {list}", nameof(list)),
        }, faults);
    }

    /// <summary>A document without one entry of a list.</summary>
    public static ReadResult WithoutEntry(ConfigDocument document, string list, int index) => Checked(list switch
    {
        "instances" => document with { Instances = [.. document.Instances.Where((_, i) => i != index)] },
        "pools" => document with { Pools = [.. document.Pools.Where((_, i) => i != index)] },
        "clients" => document with { Clients = [.. document.Clients.Where((_, i) => i != index)] },
        _ => throw new ArgumentException($"there is no list {list}", nameof(list)),
    }, new FaultList());

    private static IReadOnlyList<T> With<T>(IReadOnlyList<T> items, int index, T item) =>
        index < items.Count ? [.. items.Select((other, i) => i == index ? item : other)] : [.. items, item];

    private static ReadResult Checked(ConfigDocument document, FaultList faults)
    {
        ConfigValidator.Validate(document, faults);
        return new ReadResult(document, faults.All());
    }

    private static ConfigDocument Document(ConfigMap map)
    {
        var failover = Failover(map.Map("failover_config"), new FailoverConfig());
        var document = new ConfigDocument
        {
            Gateway = Gateway(map.Map("gateway")),
            Instances = [.. map.Maps("instances").Select(Instance)],
            FailoverConfig = failover,
            Pools = [.. map.Maps("pools").Select(pool => Pool(pool, failover))],
            Clients = [.. map.Maps("clients").Select(Client)],
            Alerts = [.. map.Maps("alerts").Select(Alert)],
            Webhooks = [.. map.Maps("webhooks").Select(Webhook)],
        };
        map.RefuseUnknownKeys();
        return document;
    }

    private static GatewayConfig Gateway(ConfigMap map)
    {
        var otherwise = new GatewayConfig();
        var gateway = new GatewayConfig(
            map.Text("listen") ?? otherwise.Listen,
            map.IntegerOr("auto", "workers", otherwise.Workers),
            map.Boolean("anonymous"),
            Money(map.Map("revenue_per_hour")),
            map.Map("exchange_rates").Decimals(),
            Retention(map.Map("retention")),
            map.Boolean("webhook_private_targets"),
            map.Boolean("link_local_targets"))
        { Tls = EdgeTls(map.Map("tls")) };
        map.RefuseUnknownKeys();
        return gateway;
    }

    private static MoneyConfig? Money(ConfigMap map)
    {
        if (map.IsEmpty) return null;
        map.Require("amount");
        var money = new MoneyConfig(map.Decimal("amount") ?? 0, map.Text("currency") ?? "USD");
        map.RefuseUnknownKeys();
        return money;
    }

    private static RetentionConfig? Retention(ConfigMap map)
    {
        if (map.IsEmpty) return null;
        var otherwise = new RetentionConfig();
        var retention = new RetentionConfig
        {
            TenSeconds = map.Duration("ten_seconds", otherwise.TenSeconds),
            Minutes = map.Duration("minutes", otherwise.Minutes),
            Hours = map.Duration("hours", otherwise.Hours),
            Days = map.Duration("days", otherwise.Days),
            Traces = map.Duration("traces", otherwise.Traces),
        };
        map.RefuseUnknownKeys();
        return retention;
    }

    private static EdgeTlsConfig? EdgeTls(ConfigMap map)
    {
        if (map.IsEmpty)
        {
            return null;
        }

        var tls = new EdgeTlsConfig(map.RequiredText("certificate_file"), map.RequiredText("key_file"), map.Text("min_version") ?? "1.2");
        map.RefuseUnknownKeys();
        return tls;
    }

    private static InstanceConfig Instance(ConfigMap map)
    {
        var otherwise = new InstanceConfig { Name = "", BaseUrl = "" };
        var instance = new InstanceConfig
        {
            Name = map.RequiredText("name"),
            Provider = map.Text("provider"),
            BaseUrl = map.RequiredText("base_url"),
            ApiKey = map.Text("api_key"),
            Model = map.Text("model"),
            Weight = map.Integer("weight", otherwise.Weight),
            MaxConnections = map.Integer("max_connections", otherwise.MaxConnections),
            BaseLatency = map.Duration("base_latency", otherwise.BaseLatency),
            Enabled = map.Boolean("enabled", otherwise.Enabled),
            Drain = map.Boolean("drain", otherwise.Drain),
            Price = Price(map.Map("price")),
            Prices = map.Has("prices") && map.Maps("prices").Select(DatedPrice).ToList() is { Count: > 0 } prices ? prices : null,
            Capabilities = map.Texts("capabilities"),
            Tls = Tls(map.Map("tls")),
            Timeouts = Timeouts(map.Map("timeouts")),
            Probe = Probe(map.Map("probe")),
        };
        map.RefuseUnknownKeys();
        return instance;
    }

    private static PriceConfig? Price(ConfigMap map)
    {
        if (map.IsEmpty)
        {
            return null;
        }

        var price = new PriceConfig(
            map.Decimal("input_per_million") ?? 0,
            map.Decimal("output_per_million") ?? 0,
            map.Decimal("cached_input_per_million"),
            map.Text("currency") ?? "USD");
        map.RefuseUnknownKeys();
        return price;
    }

    private static DatedPriceConfig DatedPrice(ConfigMap map)
    {
        map.Require("from");
        var price = new DatedPriceConfig(
            map.Instant("from") ?? default,
            map.Decimal("input_per_million") ?? 0,
            map.Decimal("output_per_million") ?? 0,
            map.Decimal("cached_input_per_million"),
            map.Text("currency") ?? "USD",
            map.Maps("off_peak").Select(OffPeak).ToList() is { Count: > 0 } windows ? windows : null);
        map.RefuseUnknownKeys();
        return price;
    }

    private static OffPeakConfig OffPeak(ConfigMap map)
    {
        var window = new OffPeakConfig(
            map.RequiredText("from"),
            map.RequiredText("to"),
            map.Decimal("input_per_million") ?? 0,
            map.Decimal("output_per_million") ?? 0,
            map.Decimal("cached_input_per_million"));
        map.RefuseUnknownKeys();
        return window;
    }

    private static TlsConfig Tls(ConfigMap map)
    {
        var tls = new TlsConfig(map.Boolean("verify", true), map.Text("ca_file"), map.Text("server_name"));
        map.RefuseUnknownKeys();
        return tls;
    }

    private static ProbeConfig Probe(ConfigMap map)
    {
        var probe = new ProbeConfig(map.Word("kind", ProbeKind.Models));
        map.RefuseUnknownKeys();
        return probe;
    }

    private static TimeoutsConfig Timeouts(ConfigMap map)
    {
        var otherwise = new TimeoutsConfig();
        var timeouts = new TimeoutsConfig
        {
            Connect = map.Duration("connect", otherwise.Connect),
            FirstToken = map.Duration("first_token", otherwise.FirstToken),
            Idle = map.Duration("idle", otherwise.Idle),
            Total = map.Duration("total", otherwise.Total),
            MinTokensPerSecond = map.Number("min_tokens_per_second", otherwise.MinTokensPerSecond),
        };
        map.RefuseUnknownKeys();
        return timeouts;
    }

    private static PoolConfig Pool(ConfigMap map, FailoverConfig global)
    {
        var models = map.Texts("models");
        var tierNumber = 0;
        var pool = new PoolConfig
        {
            Name = map.Text("name") ?? NameFrom(models),
            Models = models,
            Algorithm = map.Word("algorithm", Algorithm.Weighted),
            Tiers = [.. map.Maps("tiers").Select(tier => Tier(tier, ++tierNumber))],
            StreamBuffer = map.Word("stream_buffer", StreamBuffer.None),
            Queue = Queue(map.Map("queue")),
            Retry = Retry(map.Map("retry")),
            Ghost = Ghost(map.Map("ghost")),
            FailoverConfig = map.Map("failover_config") is { IsEmpty: false } own ? Failover(own, global) : null,
        };
        map.Require("models");
        map.RefuseUnknownKeys();
        return pool;
    }

    /// <summary>A pool without a name is named after its first model, in the letters that a name may have.</summary>
    private static string NameFrom(IReadOnlyList<string> models)
    {
        var model = models.Count == 0 ? "" : models[0] == "*" ? "default" : models[0];
        var name = NotInNames().Replace(model.ToLowerInvariant(), "-").Trim('-', '.', '_');
        return name.Length <= 48 ? name : name[..48].TrimEnd('-', '.', '_');
    }

    [GeneratedRegex("[^a-z0-9._-]+")]
    private static partial Regex NotInNames();

    private static TierConfig Tier(ConfigMap map, int number)
    {
        var tier = new TierConfig(map.Text("name") ?? $"tier-{number}", map.Texts("instances"), map.Text("model"));
        map.RefuseUnknownKeys();
        return tier;
    }

    private static QueueConfig Queue(ConfigMap map)
    {
        var otherwise = new QueueConfig();
        var queue = new QueueConfig { Size = map.Integer("size", otherwise.Size), Timeout = map.Duration("timeout", otherwise.Timeout) };
        map.RefuseUnknownKeys();
        return queue;
    }

    private static RetryConfig Retry(ConfigMap map)
    {
        var otherwise = new RetryConfig();
        var retry = new RetryConfig
        {
            MaxAttempts = map.Integer("max_attempts", otherwise.MaxAttempts),
            BudgetRatio = map.Ratio("budget_ratio", otherwise.BudgetRatio),
            BudgetMinPerSecond = map.Integer("budget_min_per_second", otherwise.BudgetMinPerSecond),
            RetryAfterMaxWait = map.Duration("retry_after_max_wait", otherwise.RetryAfterMaxWait),
        };
        map.RefuseUnknownKeys();
        return retry;
    }

    private static GhostConfig Ghost(ConfigMap map)
    {
        var otherwise = new GhostConfig();
        var ghost = new GhostConfig
        {
            PerDay = map.Integer("per_day", otherwise.PerDay),
            MaxTokensPerDay = map.Integer("max_tokens_per_day", otherwise.MaxTokensPerDay),
            Sample = map.Ratio("sample", otherwise.Sample),
            PromptsFile = map.Text("prompts_file"),
            Redact = Redact(map.Map("redact")),
            Keep = Keep(map.Map("keep")),
        };
        map.RefuseUnknownKeys();
        return ghost;
    }

    private static RedactConfig Redact(ConfigMap map)
    {
        var redact = new RedactConfig { Drop = map.Texts("drop"), Mask = map.Texts("mask"), Patterns = map.Boolean("patterns", true) };
        map.RefuseUnknownKeys();
        return redact;
    }

    private static KeepConfig Keep(ConfigMap map)
    {
        var otherwise = new KeepConfig();
        var keep = new KeepConfig { Count = map.Integer("count", otherwise.Count), Age = map.Duration("age", otherwise.Age) };
        map.RefuseUnknownKeys();
        return keep;
    }

    // Keys left out keep their value of `otherwise`: the built-in one for the global block, the global one for a pool's own block.
    private static FailoverConfig Failover(ConfigMap map, FailoverConfig otherwise)
    {
        var health = map.Map("health_check");
        var breaker = map.Map("circuit_breaker");
        var fallback = map.Map("fallback");
        var failover = new FailoverConfig
        {
            HealthCheck = new HealthCheckConfig
            {
                Interval = health.Duration("interval", otherwise.HealthCheck.Interval),
                Timeout = health.Duration("timeout", otherwise.HealthCheck.Timeout),
                UnhealthyThreshold = health.Integer("unhealthy_threshold", otherwise.HealthCheck.UnhealthyThreshold),
                HealthyThreshold = health.Integer("healthy_threshold", otherwise.HealthCheck.HealthyThreshold),
            },
            CircuitBreaker = new CircuitBreakerConfig
            {
                ErrorRateThreshold = breaker.Ratio("error_rate_threshold", otherwise.CircuitBreaker.ErrorRateThreshold),
                SlidingWindow = breaker.Duration("sliding_window", otherwise.CircuitBreaker.SlidingWindow),
                HalfOpenMaxRequests = breaker.Integer("half_open_max_requests", otherwise.CircuitBreaker.HalfOpenMaxRequests),
                RecoveryTimeout = breaker.Duration("recovery_timeout", otherwise.CircuitBreaker.RecoveryTimeout),
                MinRequests = breaker.Integer("min_requests", otherwise.CircuitBreaker.MinRequests),
            },
            Fallback = new FallbackConfig
            {
                CacheTtl = fallback.Duration("cache_ttl", otherwise.Fallback.CacheTtl),
                DefaultResponse = fallback.Text("default_response") ?? otherwise.Fallback.DefaultResponse,
                DefaultResponseMode = fallback.Word("default_response_mode", otherwise.Fallback.DefaultResponseMode),
                // A pool says "degraded_model: null" to have none although the global block names one.
                DegradedModel = fallback.Has("degraded_model") ? fallback.Text("degraded_model") : otherwise.Fallback.DegradedModel,
            },
        };
        health.RefuseUnknownKeys();
        breaker.RefuseUnknownKeys();
        fallback.RefuseUnknownKeys();
        map.RefuseUnknownKeys();
        return failover;
    }

    private static ClientConfig Client(ConfigMap map)
    {
        var client = new ClientConfig
        {
            Name = map.RequiredText("name"),
            Key = map.Text("key"),
            Keys = [.. map.Maps("keys").Select(Key)],
            Enabled = map.Boolean("enabled", true),
            Expires = map.Instant("expires"),
            Models = map.Texts("models"),
            RequestsPerMinute = map.Integer("requests_per_minute"),
            TokensPerMinute = map.Integer("tokens_per_minute"),
            MaxConcurrent = map.Integer("max_concurrent"),
            Budget = Budget(map.Map("budget")),
        };
        map.RefuseUnknownKeys();
        return client;
    }

    private static ClientKey Key(ConfigMap map)
    {
        var key = new ClientKey(map.RequiredText("sha256"), map.Instant("until"));
        map.RefuseUnknownKeys();
        return key;
    }

    private static BudgetConfig? Budget(ConfigMap map)
    {
        if (map.IsEmpty)
        {
            return null;
        }

        var budget = new BudgetConfig(map.Decimal("amount") ?? 0, map.Text("currency") ?? "USD", map.Text("per") ?? "month", map.Ratio("warn_at", 0.8));
        map.RefuseUnknownKeys();
        return budget;
    }

    private static AlertConfig Alert(ConfigMap map)
    {
        var alert = new AlertConfig
        {
            Name = map.RequiredText("name"),
            Metric = map.RequiredText("metric"),
            Above = map.TextOrNumber("above"),
            Below = map.TextOrNumber("below"),
            For = map.Duration("for", TimeSpan.Zero),
            Window = map.Duration("window"),
            Outcome = map.Text("outcome"),
            Pool = map.Text("pool"),
            Instance = map.Text("instance"),
            Client = map.Text("client"),
            ResolveAt = map.TextOrNumber("resolve_at"),
            ResolveFor = map.Duration("resolve_for"),
            MinRequests = map.Integer("min_requests"),
        };
        map.RefuseUnknownKeys();
        return alert.Above is null && alert.Below is null && AlertMetrics.Of(alert.Metric) is { } metric
            ? metric.WhenBelow ? alert with { Below = metric.Threshold } : alert with { Above = metric.Threshold }
            : alert;
    }

    private static WebhookConfig Webhook(ConfigMap map)
    {
        var webhook = new WebhookConfig { Name = map.RequiredText("name"), Url = map.RequiredText("url"), Format = map.Text("format") ?? "json", Secret = map.Text("secret") };
        map.RefuseUnknownKeys();
        return webhook;
    }
}
