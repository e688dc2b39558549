using System.Globalization;
using System.Text.Json;

namespace Evenkeel.Config;

// The rows of migrations/0001_evenkeel.sql that hold the desired state, and the way between them and the document.
// Property names are the column names; positions keep the order in which things were written.

internal sealed record GatewayRow
{
    public bool OnlyRow { get; init; } = true;
    public string Listen { get; init; } = "";
    public int? Workers { get; init; }
    public bool? Anonymous { get; init; }
    public decimal? RevenueAmount { get; init; }
    public string? RevenueCurrency { get; init; }
    public string? ExchangeRates { get; init; }   // JSON
    public string? Retention { get; init; }       // JSON
    public bool? WebhookPrivateTargets { get; init; }
    public string? TlsCertificateFile { get; init; }
    public string? TlsKeyFile { get; init; }
    public string? TlsMinVersion { get; init; }
    public bool? LinkLocalTargets { get; init; }

    public static GatewayRow Of(GatewayConfig g) => new()
    {
        Listen = g.Listen,
        Workers = g.Workers,
        Anonymous = g.Anonymous,
        RevenueAmount = g.RevenuePerHour?.Amount,
        RevenueCurrency = g.RevenuePerHour?.Currency,
        ExchangeRates = g.ExchangeRates is null ? null : JsonSerializer.Serialize(g.ExchangeRates, ConfigJson.Options),
        Retention = g.Retention is null ? null : JsonSerializer.Serialize(g.Retention, ConfigJson.Options),
        WebhookPrivateTargets = g.WebhookPrivateTargets,
        TlsCertificateFile = g.Tls?.CertificateFile,
        TlsKeyFile = g.Tls?.KeyFile,
        TlsMinVersion = g.Tls?.MinVersion,
        LinkLocalTargets = g.LinkLocalTargets,
    };

    public GatewayConfig ToConfig() => new(
        Listen, Workers, Anonymous,
        RevenueAmount is { } amount ? new MoneyConfig(amount, RevenueCurrency!) : null,
        ExchangeRates is null ? null : JsonSerializer.Deserialize<Dictionary<string, decimal>>(ExchangeRates, ConfigJson.Options),
        Retention is null ? null : JsonSerializer.Deserialize<RetentionConfig>(Retention, ConfigJson.Options),
        WebhookPrivateTargets, LinkLocalTargets)
    {
        Tls = TlsCertificateFile is null ? null : new EdgeTlsConfig(TlsCertificateFile, TlsKeyFile!, TlsMinVersion!),
    };
}

internal sealed record InstanceRow
{
    public string Name { get; init; } = "";
    public int Position { get; init; }
    public string? Provider { get; init; }
    public string BaseUrl { get; init; } = "";
    public string? ApiKey { get; init; }
    public string? Model { get; init; }
    public int Weight { get; init; }
    public int MaxConnections { get; init; }
    public int BaseLatencyMs { get; init; }
    public bool Enabled { get; init; }
    public bool Drain { get; init; }
    public decimal? InputPerMillion { get; init; }
    public decimal? CachedInputPerMillion { get; init; }
    public decimal? OutputPerMillion { get; init; }
    public string? Currency { get; init; }
    public string[]? Prices { get; init; }    // each as JSON; null: none
    public string[] Capabilities { get; init; } = [];
    public bool TlsVerify { get; init; }
    public string? TlsCaFile { get; init; }
    public string? TlsServerName { get; init; }
    public int ConnectMs { get; init; }
    public int FirstTokenMs { get; init; }
    public int IdleMs { get; init; }
    public int TotalMs { get; init; }
    public double MinTokensPerSecond { get; init; }
    public string? ProbeKind { get; init; }   // null: written before there were kinds

    public static InstanceRow Of(InstanceConfig i, int position) => new()
    {
        Name = i.Name,
        Position = position,
        Provider = i.Provider,
        BaseUrl = i.BaseUrl,
        ApiKey = i.ApiKey,
        Model = i.Model,
        Weight = i.Weight,
        MaxConnections = i.MaxConnections,
        BaseLatencyMs = (int)i.BaseLatency.TotalMilliseconds,
        Enabled = i.Enabled,
        Drain = i.Drain,
        InputPerMillion = i.Price?.InputPerMillion,
        CachedInputPerMillion = i.Price?.CachedInputPerMillion,
        OutputPerMillion = i.Price?.OutputPerMillion,
        Currency = i.Price?.Currency,
        Prices = i.Prices?.Select(price => JsonSerializer.Serialize(price, ConfigJson.Options)).ToArray(),
        Capabilities = [.. i.Capabilities],
        TlsVerify = i.Tls.Verify,
        TlsCaFile = i.Tls.CaFile,
        TlsServerName = i.Tls.ServerName,
        ConnectMs = (int)i.Timeouts.Connect.TotalMilliseconds,
        FirstTokenMs = (int)i.Timeouts.FirstToken.TotalMilliseconds,
        IdleMs = (int)i.Timeouts.Idle.TotalMilliseconds,
        TotalMs = (int)i.Timeouts.Total.TotalMilliseconds,
        MinTokensPerSecond = i.Timeouts.MinTokensPerSecond,
        ProbeKind = ConfigJson.Word(i.Probe.Kind),
    };

    public InstanceConfig ToConfig() => new()
    {
        Name = Name,
        Provider = Provider,
        BaseUrl = BaseUrl,
        ApiKey = ApiKey,
        Model = Model,
        Weight = Weight,
        MaxConnections = MaxConnections,
        BaseLatency = TimeSpan.FromMilliseconds(BaseLatencyMs),
        Enabled = Enabled,
        Drain = Drain,
        Price = Currency is null ? null : new PriceConfig(InputPerMillion ?? 0, OutputPerMillion ?? 0, CachedInputPerMillion, Currency),
        Prices = Prices?.Select(price => JsonSerializer.Deserialize<DatedPriceConfig>(price, ConfigJson.Options)!).ToList(),
        Capabilities = Capabilities,
        Tls = new TlsConfig(TlsVerify, TlsCaFile, TlsServerName),
        Timeouts = new TimeoutsConfig
        {
            Connect = TimeSpan.FromMilliseconds(ConnectMs),
            FirstToken = TimeSpan.FromMilliseconds(FirstTokenMs),
            Idle = TimeSpan.FromMilliseconds(IdleMs),
            Total = TimeSpan.FromMilliseconds(TotalMs),
            MinTokensPerSecond = MinTokensPerSecond,
        },
        Probe = ProbeKind is null ? new ProbeConfig() : new ProbeConfig(ConfigJson.Words<Config.ProbeKind>()[ProbeKind]),
    };
}

internal sealed record PoolRow
{
    public string Name { get; init; } = "";
    public int Position { get; init; }
    public string Algorithm { get; init; } = "";
    public string StreamBuffer { get; init; } = "";
    public int QueueSize { get; init; }
    public int QueueTimeoutMs { get; init; }
    public int MaxAttempts { get; init; }
    public double BudgetRatio { get; init; }
    public int BudgetMinPerSecond { get; init; }
    public int RetryAfterMaxWaitMs { get; init; }
    public int GhostPerDay { get; init; }
    public int GhostMaxTokensPerDay { get; init; }
    public double? GhostSample { get; init; }   // this and the rest are null where they were written before there were samples
    public string? GhostPromptsFile { get; init; }
    public string[]? GhostRedactDrop { get; init; }
    public string[]? GhostRedactMask { get; init; }
    public bool? GhostRedactPatterns { get; init; }
    public int? GhostKeepCount { get; init; }
    public long? GhostKeepAgeMs { get; init; }

    public static PoolRow Of(PoolConfig p, int position) => new()
    {
        Name = p.Name,
        Position = position,
        Algorithm = ConfigJson.Word(p.Algorithm),
        StreamBuffer = ConfigJson.Word(p.StreamBuffer),
        QueueSize = p.Queue.Size,
        QueueTimeoutMs = (int)p.Queue.Timeout.TotalMilliseconds,
        MaxAttempts = p.Retry.MaxAttempts,
        BudgetRatio = p.Retry.BudgetRatio,
        BudgetMinPerSecond = p.Retry.BudgetMinPerSecond,
        RetryAfterMaxWaitMs = (int)p.Retry.RetryAfterMaxWait.TotalMilliseconds,
        GhostPerDay = p.Ghost.PerDay,
        GhostMaxTokensPerDay = p.Ghost.MaxTokensPerDay,
        GhostSample = p.Ghost.Sample,
        GhostPromptsFile = p.Ghost.PromptsFile,
        GhostRedactDrop = [.. p.Ghost.Redact.Drop],
        GhostRedactMask = [.. p.Ghost.Redact.Mask],
        GhostRedactPatterns = p.Ghost.Redact.Patterns,
        GhostKeepCount = p.Ghost.Keep.Count,
        GhostKeepAgeMs = (long)p.Ghost.Keep.Age.TotalMilliseconds,
    };

    public PoolConfig ToConfig(IEnumerable<PoolModelRow> models, IEnumerable<TierRow> tiers, ILookup<(string, int), TierInstanceRow> held, FailoverRow? own) => new()
    {
        Name = Name,
        Models = [.. models.Select(m => m.Model)],
        Algorithm = ConfigJson.Words<Algorithm>()[Algorithm],
        Tiers = [.. tiers.Select(t => new TierConfig(t.Name, [.. held[(Name, t.Position)].Select(i => i.Instance)], t.Model))],
        StreamBuffer = ConfigJson.Words<StreamBuffer>()[StreamBuffer],
        Queue = new QueueConfig { Size = QueueSize, Timeout = TimeSpan.FromMilliseconds(QueueTimeoutMs) },
        Retry = new RetryConfig
        {
            MaxAttempts = MaxAttempts,
            BudgetRatio = BudgetRatio,
            BudgetMinPerSecond = BudgetMinPerSecond,
            RetryAfterMaxWait = TimeSpan.FromMilliseconds(RetryAfterMaxWaitMs),
        },
        Ghost = ToGhost(new GhostConfig()),
        FailoverConfig = own?.ToConfig(),
    };

    private GhostConfig ToGhost(GhostConfig otherwise) => new()
    {
        PerDay = GhostPerDay,
        MaxTokensPerDay = GhostMaxTokensPerDay,
        Sample = GhostSample ?? otherwise.Sample,
        PromptsFile = GhostPromptsFile,
        Redact = new RedactConfig { Drop = GhostRedactDrop ?? [], Mask = GhostRedactMask ?? [], Patterns = GhostRedactPatterns ?? true },
        Keep = new KeepConfig
        {
            Count = GhostKeepCount ?? otherwise.Keep.Count,
            Age = GhostKeepAgeMs is { } age ? TimeSpan.FromMilliseconds(age) : otherwise.Keep.Age,
        },
    };
}

internal sealed record PoolModelRow
{
    public string Model { get; init; } = "";
    public string Pool { get; init; } = "";
    public int Position { get; init; }

    public static IEnumerable<PoolModelRow> Of(PoolConfig pool) =>
        pool.Models.Select((model, i) => new PoolModelRow { Model = model, Pool = pool.Name, Position = i });
}

internal sealed record TierRow
{
    public string Pool { get; init; } = "";
    public int Position { get; init; }
    public string Name { get; init; } = "";
    public string? Model { get; init; }

    public static IEnumerable<TierRow> Of(PoolConfig pool) =>
        pool.Tiers.Select((tier, i) => new TierRow { Pool = pool.Name, Position = i, Name = tier.Name, Model = tier.Model });
}

internal sealed record TierInstanceRow
{
    public string Pool { get; init; } = "";
    public int Tier { get; init; }
    public int Position { get; init; }
    public string Instance { get; init; } = "";

    public static IEnumerable<TierInstanceRow> Of(PoolConfig pool) =>
        pool.Tiers.SelectMany((tier, t) => tier.Instances.Select((instance, i) =>
            new TierInstanceRow { Pool = pool.Name, Tier = t, Position = i, Instance = instance }));
}

internal sealed record FailoverRow
{
    public string? Pool { get; init; }
    public int IntervalMs { get; init; }
    public int TimeoutMs { get; init; }
    public int UnhealthyThreshold { get; init; }
    public int HealthyThreshold { get; init; }
    public double ErrorRateThreshold { get; init; }
    public int SlidingWindowMs { get; init; }
    public int HalfOpenMaxRequests { get; init; }
    public int RecoveryTimeoutMs { get; init; }
    public int MinRequests { get; init; }
    public long CacheTtlMs { get; init; }
    public string DefaultResponse { get; init; } = "";
    public string DefaultResponseMode { get; init; } = "";
    public string? DegradedModel { get; init; }

    public static FailoverRow Of(FailoverConfig f, string? pool) => new()
    {
        Pool = pool,
        IntervalMs = (int)f.HealthCheck.Interval.TotalMilliseconds,
        TimeoutMs = (int)f.HealthCheck.Timeout.TotalMilliseconds,
        UnhealthyThreshold = f.HealthCheck.UnhealthyThreshold,
        HealthyThreshold = f.HealthCheck.HealthyThreshold,
        ErrorRateThreshold = f.CircuitBreaker.ErrorRateThreshold,
        SlidingWindowMs = (int)f.CircuitBreaker.SlidingWindow.TotalMilliseconds,
        HalfOpenMaxRequests = f.CircuitBreaker.HalfOpenMaxRequests,
        RecoveryTimeoutMs = (int)f.CircuitBreaker.RecoveryTimeout.TotalMilliseconds,
        MinRequests = f.CircuitBreaker.MinRequests,
        CacheTtlMs = (long)f.Fallback.CacheTtl.TotalMilliseconds,
        DefaultResponse = f.Fallback.DefaultResponse,
        DefaultResponseMode = ConfigJson.Word(f.Fallback.DefaultResponseMode),
        DegradedModel = f.Fallback.DegradedModel,
    };

    public FailoverConfig ToConfig() => new()
    {
        HealthCheck = new HealthCheckConfig
        {
            Interval = TimeSpan.FromMilliseconds(IntervalMs),
            Timeout = TimeSpan.FromMilliseconds(TimeoutMs),
            UnhealthyThreshold = UnhealthyThreshold,
            HealthyThreshold = HealthyThreshold,
        },
        CircuitBreaker = new CircuitBreakerConfig
        {
            ErrorRateThreshold = ErrorRateThreshold,
            SlidingWindow = TimeSpan.FromMilliseconds(SlidingWindowMs),
            HalfOpenMaxRequests = HalfOpenMaxRequests,
            RecoveryTimeout = TimeSpan.FromMilliseconds(RecoveryTimeoutMs),
            MinRequests = MinRequests,
        },
        Fallback = new FallbackConfig
        {
            CacheTtl = TimeSpan.FromMilliseconds(CacheTtlMs),
            DefaultResponse = DefaultResponse,
            DefaultResponseMode = ConfigJson.Words<DefaultResponseMode>()[DefaultResponseMode],
            DegradedModel = DegradedModel,
        },
    };
}

internal sealed record ClientRow
{
    public string Name { get; init; } = "";
    public int Position { get; init; }
    public string? Key { get; init; }
    public string[]? KeyHashes { get; init; }        // "SHA256" or "SHA256 UNTIL"; null: written before there were any
    public bool? Enabled { get; init; }              // null: as above
    public DateTime? ExpiresAt { get; init; }
    public string[] Models { get; init; } = [];
    public int? RequestsPerMinute { get; init; }
    public int? TokensPerMinute { get; init; }
    public int? MaxConcurrent { get; init; }
    public decimal? BudgetAmount { get; init; }
    public string? BudgetCurrency { get; init; }
    public string? BudgetPer { get; init; }
    public double? BudgetWarnAt { get; init; }       // null: as above

    public static ClientRow Of(ClientConfig c, int position) => new()
    {
        Name = c.Name,
        Position = position,
        Key = c.Key,
        KeyHashes = [.. c.Keys.Select(k => k.Until is { } until ? $"{k.Sha256} {until:yyyy-MM-dd'T'HH:mm:ss'Z'}" : k.Sha256)],
        Enabled = c.Enabled,
        ExpiresAt = c.Expires,
        Models = [.. c.Models],
        RequestsPerMinute = c.RequestsPerMinute,
        TokensPerMinute = c.TokensPerMinute,
        MaxConcurrent = c.MaxConcurrent,
        BudgetAmount = c.Budget?.Amount,
        BudgetCurrency = c.Budget?.Currency,
        BudgetPer = c.Budget?.Per,
        BudgetWarnAt = c.Budget?.WarnAt,
    };

    public ClientConfig ToConfig() => new()
    {
        Name = Name,
        Key = Key,
        Keys = [.. (KeyHashes ?? []).Select(Hashed)],
        Enabled = Enabled ?? true,
        Expires = ExpiresAt,
        Models = Models,
        RequestsPerMinute = RequestsPerMinute,
        TokensPerMinute = TokensPerMinute,
        MaxConcurrent = MaxConcurrent,
        Budget = BudgetAmount is { } amount ? new BudgetConfig(amount, BudgetCurrency!, BudgetPer!, BudgetWarnAt ?? 0.8) : null,
    };

    private static ClientKey Hashed(string written) => written.Split(' ') switch
    {
        [var sha256, var until] => new(sha256, DateTime.Parse(until, CultureInfo.InvariantCulture, DateTimeStyles.AdjustToUniversal)),
        _ => new(written),
    };
}

internal sealed record AlertRow
{
    public string Name { get; init; } = "";
    public int Position { get; init; }
    public string Metric { get; init; } = "";
    public string Above { get; init; } = "";
    public long ForMs { get; init; }
    public bool? IsBelow { get; init; }   // then the column above holds what it must not fall below
    public long? WindowMs { get; init; }
    public string? Outcome { get; init; }
    public string? Pool { get; init; }
    public string? Instance { get; init; }
    public string? Client { get; init; }
    public string? ResolveAt { get; init; }
    public long? ResolveForMs { get; init; }
    public int? MinRequests { get; init; }

    public static AlertRow Of(AlertConfig a, int position) => new()
    {
        Name = a.Name,
        Position = position,
        Metric = a.Metric,
        Above = a.Above ?? a.Below ?? "",
        ForMs = (long)a.For.TotalMilliseconds,
        IsBelow = a.Below is null ? null : true,
        WindowMs = (long?)a.Window?.TotalMilliseconds,
        Outcome = a.Outcome,
        Pool = a.Pool,
        Instance = a.Instance,
        Client = a.Client,
        ResolveAt = a.ResolveAt,
        ResolveForMs = (long?)a.ResolveFor?.TotalMilliseconds,
        MinRequests = a.MinRequests,
    };

    public AlertConfig ToConfig() => new()
    {
        Name = Name,
        Metric = Metric,
        Above = IsBelow == true ? null : Above,
        Below = IsBelow == true ? Above : null,
        For = TimeSpan.FromMilliseconds(ForMs),
        Window = Span(WindowMs),
        Outcome = Outcome,
        Pool = Pool,
        Instance = Instance,
        Client = Client,
        ResolveAt = ResolveAt,
        ResolveFor = Span(ResolveForMs),
        MinRequests = MinRequests,
    };

    private static TimeSpan? Span(long? ms) => ms is { } known ? TimeSpan.FromMilliseconds(known) : null;
}

internal sealed record WebhookRow
{
    public string Name { get; init; } = "";
    public int Position { get; init; }
    public string Url { get; init; } = "";
    public string Format { get; init; } = "";
    public string? Secret { get; init; }

    public static WebhookRow Of(WebhookConfig w, int position) => new() { Name = w.Name, Position = position, Url = w.Url, Format = w.Format, Secret = w.Secret };

    public WebhookConfig ToConfig() => new() { Name = Name, Url = Url, Format = Format, Secret = Secret };
}
