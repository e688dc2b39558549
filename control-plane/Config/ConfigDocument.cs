using System.Text.Json.Serialization;

namespace Evenkeel.Config;

// The declarative configuration, typed: what was written, with every default filled in. One shape for YAML, JSON,
// the REST API, the revisions and the renderer; docs/configuration.md lists the keys. Times are TimeSpans here and
// strings with a unit ("800ms", "10s") on the wire.

/// <summary>The whole desired state of a gateway.</summary>
public sealed record ConfigDocument
{
    public GatewayConfig Gateway { get; init; } = new();
    public IReadOnlyList<InstanceConfig> Instances { get; init; } = [];
    public IReadOnlyList<PoolConfig> Pools { get; init; } = [];
    public FailoverConfig FailoverConfig { get; init; } = new();
    public IReadOnlyList<ClientConfig> Clients { get; init; } = [];
    public IReadOnlyList<AlertConfig> Alerts { get; init; } = [];
    public IReadOnlyList<WebhookConfig> Webhooks { get; init; } = [];
}

/// <param name="Listen">Address and port of the edge.</param>
/// <param name="Workers">nginx worker processes; null means one per core ("auto").</param>
/// <param name="Anonymous">Null: true as long as no client exists.</param>
/// <param name="RevenuePerHour">What an hour of the gateway's service is worth; null: nobody says.</param>
/// <param name="ExchangeRates">What one unit of each currency is worth, all in one of them (which is listed with 1).</param>
/// <param name="Retention">Null: the defaults.</param>
/// <param name="WebhookPrivateTargets">True: webhooks may go to private addresses, also without TLS.</param>
/// <param name="LinkLocalTargets">Whether providers and webhooks may be where <see cref="TargetAddress"/> says they never are.</param>
public sealed record GatewayConfig(
    string Listen = "127.0.0.1:8080",
    [property: JsonConverter(typeof(AutoConverter)), JsonIgnore(Condition = JsonIgnoreCondition.Never)] int? Workers = null,
    bool? Anonymous = null,
    MoneyConfig? RevenuePerHour = null,
    IReadOnlyDictionary<string, decimal>? ExchangeRates = null,
    RetentionConfig? Retention = null,
    bool? WebhookPrivateTargets = null,
    bool? LinkLocalTargets = null)
{
    /// <summary>Null: plain HTTP.</summary>
    public EdgeTlsConfig? Tls { get; init; }
}

public sealed record MoneyConfig(decimal Amount, string Currency = "USD");

/// <summary>How long telemetry is kept, by the stretch of time that one row stands for.</summary>
public sealed record RetentionConfig
{
    public TimeSpan TenSeconds { get; init; } = TimeSpan.FromHours(6);
    public TimeSpan Minutes { get; init; } = TimeSpan.FromDays(7);
    public TimeSpan Hours { get; init; } = TimeSpan.FromDays(90);
    public TimeSpan Days { get; init; } = TimeSpan.FromDays(800);
    /// <summary>Single requests.</summary>
    public TimeSpan Traces { get; init; } = TimeSpan.FromDays(7);
}

/// <param name="CertificateFile">PEM, the whole chain, on the nodes.</param>
/// <param name="KeyFile">PEM, readable by nginx only.</param>
/// <param name="MinVersion">"1.2" or "1.3".</param>
public sealed record EdgeTlsConfig(string CertificateFile, string KeyFile, string MinVersion = "1.2");

/// <summary>One provider endpoint.</summary>
public sealed record InstanceConfig
{
    public required string Name { get; init; }
    public required string BaseUrl { get; init; }
    public string? Provider { get; init; }
    /// <summary>"env:NAME", "file:PATH", a literal (only on the way in) or "secret:ID" once it is stored.</summary>
    public string? ApiKey { get; init; }
    /// <summary>The upstream's name of the model; null: the name the client asked for.</summary>
    public string? Model { get; init; }
    public int Weight { get; init; } = 1;
    public int MaxConnections { get; init; } = 100;
    public TimeSpan BaseLatency { get; init; } = TimeSpan.FromSeconds(1);
    public bool Enabled { get; init; } = true;
    /// <summary>True: no new requests; those in flight end in peace.</summary>
    public bool Drain { get; init; }
    public PriceConfig? Price { get; init; }
    /// <summary>Take its place from their dates on; null: none.</summary>
    public IReadOnlyList<DatedPriceConfig>? Prices { get; init; }
    public IReadOnlyList<string> Capabilities { get; init; } = [];
    public TlsConfig Tls { get; init; } = new();
    public TimeoutsConfig Timeouts { get; init; } = new();
    public ProbeConfig Probe { get; init; } = new();
}

/// <summary>Cheapest first. Balance is DeepSeek's GET /user/balance. Each falls back to the next one where the provider does not know it.</summary>
public enum ProbeKind { Models, Balance, Completion }

/// <summary>How the instance's health is asked for.</summary>
public sealed record ProbeConfig(ProbeKind Kind = ProbeKind.Models);

public sealed record PriceConfig(decimal InputPerMillion = 0, decimal OutputPerMillion = 0, decimal? CachedInputPerMillion = null, string Currency = "USD");

/// <param name="From">UTC; in force from then on, until the next one.</param>
/// <param name="InputPerMillion">As of <see cref="PriceConfig"/>, as the next three.</param>
/// <param name="OutputPerMillion">.</param>
/// <param name="CachedInputPerMillion">.</param>
/// <param name="Currency">.</param>
/// <param name="OffPeak">Windows of the UTC day with prices of their own; null: none.</param>
public sealed record DatedPriceConfig(
    DateTime From, decimal InputPerMillion, decimal OutputPerMillion, decimal? CachedInputPerMillion, string Currency, IReadOnlyList<OffPeakConfig>? OffPeak);

/// <param name="From">"HH:MM", UTC.</param>
/// <param name="To">"HH:MM", no longer part of it; not after From: the window crosses midnight.</param>
/// <param name="InputPerMillion">As of <see cref="PriceConfig"/>, as the next two.</param>
/// <param name="OutputPerMillion">.</param>
/// <param name="CachedInputPerMillion">.</param>
public sealed record OffPeakConfig(string From, string To, decimal InputPerMillion, decimal OutputPerMillion, decimal? CachedInputPerMillion);

public sealed record TlsConfig(bool Verify = true, string? CaFile = null, string? ServerName = null);

public sealed record TimeoutsConfig
{
    public TimeSpan Connect { get; init; } = TimeSpan.FromSeconds(2);
    public TimeSpan FirstToken { get; init; } = TimeSpan.FromSeconds(10);
    public TimeSpan Idle { get; init; } = TimeSpan.FromSeconds(10);
    public TimeSpan Total { get; init; } = TimeSpan.FromMinutes(10);
    /// <summary>Tokens per second below which a running stream counts as stalled; 0 switches the floor off.</summary>
    public double MinTokensPerSecond { get; init; }
}

public enum Algorithm { Weighted, LeastLoad, RoundRobin }

public enum StreamBuffer { None, Full }

/// <summary>What a client asks for: public model names, ordered tiers, failover settings.</summary>
public sealed record PoolConfig
{
    public required string Name { get; init; }
    public IReadOnlyList<string> Models { get; init; } = [];
    public Algorithm Algorithm { get; init; } = Algorithm.Weighted;
    /// <summary>Empty: one tier of all instances. See <see cref="EffectiveConfig.EffectiveTiers"/>.</summary>
    public IReadOnlyList<TierConfig> Tiers { get; init; } = [];
    public StreamBuffer StreamBuffer { get; init; } = StreamBuffer.None;
    public QueueConfig Queue { get; init; } = new();
    public RetryConfig Retry { get; init; } = new();
    public GhostConfig Ghost { get; init; } = new();
    /// <summary>The pool's own block; null: the global one. Keys it leaves out take the global block's values when it is read.</summary>
    public FailoverConfig? FailoverConfig { get; init; }
}

/// <param name="Name">Unique inside the pool; default: "tier-N".</param>
/// <param name="Instances">Names of instances.</param>
/// <param name="Model">The upstream model for all instances of this tier; null: each instance's own.</param>
public sealed record TierConfig(string Name, IReadOnlyList<string> Instances, string? Model = null);

public sealed record QueueConfig { public int Size { get; init; } = 100; public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(2); }

public sealed record RetryConfig
{
    public int MaxAttempts { get; init; } = 4;
    [JsonConverter(typeof(RatioConverter))]
    public double BudgetRatio { get; init; } = 0.2;
    public int BudgetMinPerSecond { get; init; } = 10;
    public TimeSpan RetryAfterMaxWait { get; init; } = TimeSpan.FromSeconds(3);
}

/// <summary>Scheduled requests of real shape to each instance of the pool.</summary>
public sealed record GhostConfig
{
    /// <summary>To each instance.</summary>
    public int PerDay { get; init; } = 100;
    /// <summary>Of all ghosts of the pool together, UTC days.</summary>
    public int MaxTokensPerDay { get; init; } = 20_000;
    /// <summary>Share of the clients' chat requests that become prompts; 0: none.</summary>
    [JsonConverter(typeof(RatioConverter))]
    public double Sample { get; init; }
    /// <summary>A file or a directory of files where the control plane runs; null: the built-in prompts only.</summary>
    public string? PromptsFile { get; init; }
    public RedactConfig Redact { get; init; } = new();
    public KeepConfig Keep { get; init; } = new();
}

/// <summary>What is taken out of sampled requests before they are kept.</summary>
public sealed record RedactConfig
{
    /// <summary>Names of members that are left out wherever they stand.</summary>
    public IReadOnlyList<string> Drop { get; init; } = [];
    /// <summary>Regular expressions (without look-around and back-references) whose matches are masked.</summary>
    public IReadOnlyList<string> Mask { get; init; } = [];
    /// <summary>E-mail addresses, phone and card numbers, keys.</summary>
    public bool Patterns { get; init; } = true;
}

/// <summary>How many samples of a pool are kept, and for how long.</summary>
public sealed record KeepConfig { public int Count { get; init; } = 200; public TimeSpan Age { get; init; } = TimeSpan.FromDays(7); }

/// <summary>The article's block, word for word.</summary>
public sealed record FailoverConfig
{
    public HealthCheckConfig HealthCheck { get; init; } = new();
    public CircuitBreakerConfig CircuitBreaker { get; init; } = new();
    public FallbackConfig Fallback { get; init; } = new();
}

public sealed record HealthCheckConfig
{
    public TimeSpan Interval { get; init; } = TimeSpan.FromSeconds(10);
    public TimeSpan Timeout { get; init; } = TimeSpan.FromSeconds(5);
    public int UnhealthyThreshold { get; init; } = 3;
    public int HealthyThreshold { get; init; } = 2;
}

public sealed record CircuitBreakerConfig
{
    /// <summary>A ratio, 0.5 for the written "50%".</summary>
    [JsonConverter(typeof(RatioConverter))]
    public double ErrorRateThreshold { get; init; } = 0.5;
    public TimeSpan SlidingWindow { get; init; } = TimeSpan.FromSeconds(60);
    public int HalfOpenMaxRequests { get; init; } = 5;
    public TimeSpan RecoveryTimeout { get; init; } = TimeSpan.FromSeconds(30);
    /// <summary>Calls in the window below which the error rate says nothing.</summary>
    public int MinRequests { get; init; } = 20;
}

public enum DefaultResponseMode { Error, Completion }

public sealed record FallbackConfig
{
    public TimeSpan CacheTtl { get; init; } = TimeSpan.FromSeconds(3600);
    public string DefaultResponse { get; init; } = "System busy, please retry shortly";
    /// <summary>Error: 503 in OpenAI's error shape. Completion: a normal answer carrying the text.</summary>
    public DefaultResponseMode DefaultResponseMode { get; init; } = DefaultResponseMode.Error;
    /// <summary>A model that no tier names means an implicit last tier: the same instances asked for this model.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.Never)]   // an explicit null in a pool's block is not the same as an absent key
    public string? DegradedModel { get; init; }
}

public sealed record ClientConfig
{
    public required string Name { get; init; }
    /// <summary>As <see cref="InstanceConfig.ApiKey"/>; null: only the hashed keys are valid.</summary>
    public string? Key { get; init; }
    /// <summary>Keys of which only the hash is known, as of those that the API has made.</summary>
    public IReadOnlyList<ClientKey> Keys { get; init; } = [];
    /// <summary>False: refused at once, whatever the key.</summary>
    public bool Enabled { get; init; } = true;
    /// <summary>UTC; refused from then on.</summary>
    public DateTime? Expires { get; init; }
    /// <summary>Public model names this client may ask for; empty: all.</summary>
    public IReadOnlyList<string> Models { get; init; } = [];
    public int? RequestsPerMinute { get; init; }
    public int? TokensPerMinute { get; init; }
    /// <summary>Calls at once.</summary>
    public int? MaxConcurrent { get; init; }
    public BudgetConfig? Budget { get; init; }
}

/// <param name="Sha256">64 hexadecimal digits.</param>
/// <param name="Until">UTC; null: without end. A key that was rotated ends after the overlap.</param>
public sealed record ClientKey(string Sha256, DateTime? Until = null);

/// <param name="Amount">What may be spent in a day or month (UTC).</param>
/// <param name="Currency">Of the amount.</param>
/// <param name="Per">"day" or "month".</param>
/// <param name="WarnAt">The share of the amount from which answers carry a warning.</param>
public sealed record BudgetConfig(
    decimal Amount, string Currency = "USD", string Per = "month", [property: JsonConverter(typeof(RatioConverter))] double WarnAt = 0.8);

/// <summary>One rule. Null where the metric's own default holds, or where it has no such thing; see <see cref="AlertMetrics"/>.</summary>
public sealed record AlertConfig
{
    public required string Name { get; init; }
    public required string Metric { get; init; }
    /// <summary>As written: "3s", "5%" or a number.</summary>
    public string? Above { get; init; }
    /// <summary>In place of above for a metric that is bad when it is small.</summary>
    public string? Below { get; init; }
    public TimeSpan For { get; init; } = TimeSpan.Zero;
    /// <summary>The time that a value is taken over.</summary>
    public TimeSpan? Window { get; init; }
    /// <summary>A word of the taxonomy: the share of this outcome alone.</summary>
    public string? Outcome { get; init; }
    public string? Pool { get; init; }
    /// <summary>One by name, or "*": each by itself.</summary>
    public string? Instance { get; init; }
    public string? Client { get; init; }
    /// <summary>Where it counts as over, as written; between this and the threshold nothing changes.</summary>
    public string? ResolveAt { get; init; }
    /// <summary>How long it must be over.</summary>
    public TimeSpan? ResolveFor { get; init; }
    /// <summary>Requests in the window below which it says nothing.</summary>
    public int? MinRequests { get; init; }
}

public sealed record WebhookConfig
{
    public required string Name { get; init; }
    public required string Url { get; init; }
    public string Format { get; init; } = "json";
    /// <summary>Signs what is sent; as <see cref="InstanceConfig.ApiKey"/>.</summary>
    public string? Secret { get; init; }
}
