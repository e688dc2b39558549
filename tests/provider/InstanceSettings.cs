using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace Evenkeel.Provider;

/// <summary>What a listener does at the TLS level. Everything but <see cref="None"/> and <see cref="Good"/> is a fault.</summary>
public enum TlsMode
{
    /// <summary>Plain HTTP.</summary>
    None,
    /// <summary>A certificate of the simulator's own authority for the instance's host and its SNI names.</summary>
    Good,
    Selfsigned,
    Expired,
    WrongName,
    /// <summary>Answers the ClientHello with the fatal alert handshake_failure.</summary>
    HandshakeFailure,
    /// <summary>Never answers the ClientHello.</summary>
    HandshakeHang,
    /// <summary>Resets the connection on the ClientHello.</summary>
    HandshakeReset,
}

/// <summary>
/// How one instance behaves when no fault is scripted. Immutable: a change swaps the whole record, and a request
/// keeps the one it began with. The JSON and command-line form of a name is its snake_case.
/// </summary>
public sealed record InstanceSettings
{
    /// <summary>Calls at once before 429; 0 = no limit.</summary>
    public int Ceiling { get; init; }

    /// <summary>Retry-After of the 429 beyond the ceiling, in the forms of the fault <c>status</c>; null = no such header.</summary>
    public string? CeilingRetryAfter { get; init; }

    /// <summary>Median time of a whole call.</summary>
    public double LatencyMs { get; init; }

    /// <summary>Sigma of the log-normal factor on every latency; 0 = always the median.</summary>
    public double LatencySigma { get; init; }

    /// <summary>Factor on every latency, to be changed at run time.</summary>
    public double LatencyMultiplier { get; init; } = 1;

    /// <summary>Median time to the first token; null = 5/16 of <see cref="LatencyMs"/> (0.25 s of 0.8 s).</summary>
    public double? FirstTokenMs { get; init; }

    /// <summary>Pace after the first token; null = so that the whole takes <see cref="LatencyMs"/>.</summary>
    public double? TokensPerSecond { get; init; }

    /// <summary>Length of the answer.</summary>
    public int Tokens { get; init; } = 20;

    /// <summary>Instances with the same seed give the same text.</summary>
    public int TextSeed { get; init; }

    /// <summary>Share of calls (0..1) that fail with <see cref="ErrorStatus"/>, drawn from the instance's seeded generator.</summary>
    public double ErrorRate { get; init; }

    public int ErrorStatus { get; init; } = 500;

    /// <summary>Windows of trouble: every <c>jitter_every_ms</c>, latencies take <c>jitter_multiplier</c> for <c>jitter_for_ms</c>. 0 = none.</summary>
    public double JitterEveryMs { get; init; }

    public double JitterForMs { get; init; }

    public double JitterMultiplier { get; init; } = 1;

    /// <summary>A last message of role assistant is answered with 400.</summary>
    public bool RejectPrefill { get; init; }

    /// <summary>Idle keep-alive connections are closed after this time; null = never.</summary>
    public int? IdleCloseMs { get; init; }

    /// <summary>The models there are; any other is answered with 404. Empty = every name is taken.</summary>
    public string[] Models { get; init; } = [];

    /// <summary>The model name reported in answers; null = the one asked for.</summary>
    public string? ReportedModel { get; init; }

    /// <summary>The bearer key to demand (else 401); null = none. Never shown.</summary>
    public string? ApiKey { get; init; }

    public decimal Balance { get; init; } = 110m;

    public string BalanceCurrency { get; init; } = "USD";

    /// <summary>Share of the prompt (0..1) reported as read from the cache.</summary>
    public double CachedPromptShare { get; init; }

    /// <summary>Length of an embedding when the request names none.</summary>
    public int EmbeddingDimensions { get; init; } = 8;

    /// <summary>Keep request bodies and headers (without credentials) in the ledger.</summary>
    public bool RecordBodies { get; init; }

    /// <summary>Seed of the generator behind latencies and <see cref="ErrorRate"/>.</summary>
    public int Seed { get; init; }

    public TlsMode Tls { get; init; }

    /// <summary>Host names told apart by SNI on this one listener, each with its own certificate; any other name fails the handshake.</summary>
    public string[] Sni { get; init; } = [];

    internal static readonly JsonSerializerOptions Json = new(JsonSerializerDefaults.General)
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        UnmappedMemberHandling = JsonUnmappedMemberHandling.Disallow,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        Converters = { new JsonStringEnumConverter(JsonNamingPolicy.KebabCaseLower, allowIntegerValues: false) },
    };

    /// <summary>The settings with <paramref name="changes"/> laid over them (null = back to the default).</summary>
    /// <exception cref="FormatException">An unknown name or a value of the wrong type.</exception>
    public InstanceSettings Merge(JsonObject changes)
    {
        var merged = JsonSerializer.SerializeToNode(this, Json)!.AsObject();
        foreach (var (name, value) in changes)
        {
            if (!merged.ContainsKey(name))
            {
                throw new FormatException($"unknown setting '{name}'");
            }
            if (value is null)
            {
                merged.Remove(name);
            }
            else
            {
                merged[name] = value.DeepClone();
            }
        }
        try
        {
            return merged.Deserialize<InstanceSettings>(Json)!.Checked();
        }
        catch (JsonException fault)
        {
            throw new FormatException($"wrong value at {fault.Path}", fault);
        }
    }

    /// <summary>The settings as the control listener shows them: the key is replaced by a mark.</summary>
    internal JsonObject Show() => JsonSerializer.SerializeToNode(this with { ApiKey = ApiKey is null ? null : "***" }, Json)!.AsObject();

    private InstanceSettings Checked()
    {
        Check(Ceiling >= 0, "ceiling must not be negative");
        Check(Tokens is >= 0 and <= 1_000_000, "tokens must be 0..1000000");
        Check(LatencyMs >= 0 && LatencySigma >= 0 && LatencyMultiplier >= 0 && FirstTokenMs is null or >= 0, "latencies must not be negative");
        Check(TokensPerSecond is null or > 0, "tokens_per_second must be above 0");
        Check(ErrorRate is >= 0 and <= 1 && CachedPromptShare is >= 0 and <= 1, "shares must be 0..1");
        Check(ErrorStatus is >= 100 and <= 999, "error_status must be an HTTP status");
        return this;

        static void Check(bool holds, string words)
        {
            if (!holds)
            {
                throw new FormatException(words);
            }
        }
    }
}
