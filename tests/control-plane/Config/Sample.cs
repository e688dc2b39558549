namespace Evenkeel.Tests.Config;

/// <summary>Small configurations for tests of the API.</summary>
internal static class Sample
{
    /// <summary>Two instances, one pool.</summary>
    public const string Yaml = """
        instances:
          - {name: a, base_url: "http://127.0.0.1:9001/v1", weight: 50}
          - {name: b, base_url: "http://127.0.0.1:9002/v1", weight: 20, api_key: sk-literal-of-b}
        pools:
          - {name: chat, models: [m], tiers: [{name: primary, instances: [a, b]}]}
        """;

    public const string LiteralOfB = "sk-literal-of-b";

    public static string Example => File.ReadAllText(Repository.PathOf("tests", "contract", "config", "good", "example.yaml"));
}
