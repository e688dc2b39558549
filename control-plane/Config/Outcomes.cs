namespace Evenkeel.Config;

/// <summary>The taxonomy: what became of an attempt or a request, in one word. lua/evenkeel/outcome.lua speaks the same words.</summary>
public static class Outcomes
{
    public static readonly IReadOnlyList<string> All =
    [
        "ok", "rate_limited", "quota", "auth", "bad_gateway", "server_error", "timeout_first_token", "stalled", "truncated", "empty",
        "context_length", "content_filter", "client_error", "client_gone", "saturated", "circuit_open",
    ];

    /// <summary>Neither good nor bad: it was the caller's doing.</summary>
    public static readonly IReadOnlyList<string> Neutral = ["context_length", "content_filter", "client_error", "client_gone"];
}
