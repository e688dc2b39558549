using Microsoft.AspNetCore.Http.Metadata;

namespace Evenkeel.Auth;

/// <summary>
/// A part of the API that a token may be bound to. Config: the whole document with its instances and pools, revisions, stored secrets.
/// Clients: callers of the gateway. Nodes: what they run, enrolment. Telemetry: measurements, requests, health, reports.
/// Incidents, Alerts (with silences and webhooks), Ghosts. Access: tokens and the audit log.
/// </summary>
public enum Area { Config, Clients, Nodes, Telemetry, Incidents, Alerts, Ghosts, Access }

/// <summary>
/// Which area an endpoint belongs to, by its tag in the OpenAPI document. An endpoint whose tag is none of these takes tokens that are bound to
/// no area, so that a new one is open to nobody by oversight.
/// </summary>
public static class Areas
{
    private static readonly Dictionary<string, Area> s_byTag = new()
    {
        ["config"] = Area.Config,
        ["instances"] = Area.Config,
        ["pools"] = Area.Config,
        ["revisions"] = Area.Config,
        ["secrets"] = Area.Config,
        ["clients"] = Area.Clients,
        ["nodes"] = Area.Nodes,
        ["telemetry"] = Area.Telemetry,
        ["health"] = Area.Telemetry,
        ["reports"] = Area.Telemetry,
        ["incidents"] = Area.Incidents,
        ["alerts"] = Area.Alerts,
        ["ghosts"] = Area.Ghosts,
        ["tokens"] = Area.Access,
        ["audit"] = Area.Access,
    };

    /// <summary>Every token may ask who it is, and end its session.</summary>
    private const string OwnSession = "session";

    public static Area? Of(Endpoint endpoint) => TagOf(endpoint) is { } tag && s_byTag.TryGetValue(tag, out var area) ? area : null;

    /// <param name="bound">The areas of a token; null: all.</param>
    /// <param name="endpoint">What it calls.</param>
    public static bool Allow(IReadOnlyList<Area>? bound, Endpoint endpoint) =>
        bound is null || TagOf(endpoint) == OwnSession || (Of(endpoint) is { } area && bound.Contains(area));

    /// <summary>"config, clients"</summary>
    public static string Words(IEnumerable<Area> areas) => string.Join(", ", areas.Select(area => Config.ConfigJson.Word(area)));

    private static string? TagOf(Endpoint endpoint) => endpoint.Metadata.GetMetadata<ITagsMetadata>()?.Tags is [var tag] ? tag : null;
}
