using System.Text.Json;
using Evenkeel.Config;
using Evenkeel.Health;
using Evenkeel.Publishing;
using Evenkeel.Secrets;
using Xunit;

namespace Evenkeel.Tests.Publishing;

/// <summary>From the written price to the billionth: the same cases as the node's (tests/contract/cost), with decimals.</summary>
public sealed class PriceTests
{
    [Theory]
    [InlineData("plain", "    price: {input_per_million: 0.27, cached_input_per_million: 0.07, output_per_million: 1.10}")]
    [InlineData("later", "    prices: [{from: 2026-01-01T00:00:00Z, input_per_million: 0.0005, output_per_million: 0.0015}]")]
    [InlineData("dated", """
            price: {input_per_million: 0.14, cached_input_per_million: 0.014, output_per_million: 0.28}
            prices:
              - {from: 2026-07-01T00:00:00Z, input_per_million: 1.7, output_per_million: 8, currency: CNY}
              - from: 2025-02-08T16:00:00Z
                input_per_million: 0.27
                cached_input_per_million: 0.07
                output_per_million: 1.10
                off_peak:
                  - {from: "16:30", to: "00:30", input_per_million: 0.135, cached_input_per_million: 0.035, output_per_million: 0.55}
                  - {from: "12:00", to: "13:00", input_per_million: 0.2, output_per_million: 1}
        """)]
    public void What_is_written_reaches_the_node_and_costs_what_the_contract_says(string name, string prices)
    {
        var contract = JsonDocument.Parse(File.ReadAllText(Path.Combine(Golden.Folder("cost"), name + ".json"))).RootElement;
        var read = ConfigReader.Read($"instances:\n  - name: a\n    base_url: \"http://a/v1\"\n{prices}\npools: [{{models: [m]}}]", ConfigFormat.Yaml);
        Assert.Empty(read.Faults);

        var snapshot = JsonDocument.Parse(SnapshotBuilder.Build(read.Document, 1, FleetState.Unknown, _ => new ResolvedSecret("x", null)).Json);
        var pushed = snapshot.RootElement.GetProperty("instances")[0].GetProperty("prices");
        Assert.True(JsonElement.DeepEquals(contract.GetProperty("prices"), pushed), pushed.GetRawText());

        Assert.All(contract.GetProperty("cases").EnumerateArray(), one =>
        {
            var (nano, currency) = Cost(pushed, one.GetProperty("at").GetInt64(), Tokens(one, "input"), Tokens(one, "cached_input"), Tokens(one, "output"));
            Assert.Equal((one.GetProperty("cost_nano").GetInt64(), one.GetProperty("currency").GetString()), (nano, currency));
        });
    }

    private static decimal Tokens(JsonElement one, string kind) => one.GetProperty(kind).GetInt64();

    /// <summary>What docs/configuration.md says, in decimals.</summary>
    private static (long Nano, string? Currency) Cost(JsonElement prices, long at, decimal input, decimal cached, decimal output)
    {
        var inForce = prices.EnumerateArray().Where(price => !price.TryGetProperty("from", out var from) || from.GetInt64() <= at).ToList();
        if (inForce.Count == 0) return (0, "");
        var price = inForce[^1];
        var second = at % 86_400;
        var window = price.TryGetProperty("off_peak", out var windows)
            ? windows.EnumerateArray().FirstOrDefault(one => IsIn(one.GetProperty("from_s").GetInt64(), one.GetProperty("to_s").GetInt64(), second))
            : default;
        var rates = window.ValueKind == JsonValueKind.Undefined ? price : window;
        var inputPrice = rates.GetProperty("input_per_million").GetDecimal();
        var cachedPrice = rates.TryGetProperty("cached_input_per_million", out var own) ? own.GetDecimal() : inputPrice;
        var nano = ((input - cached) * inputPrice + cached * cachedPrice + output * rates.GetProperty("output_per_million").GetDecimal()) * 1000;
        return ((long)Math.Floor(nano + 0.5m), price.GetProperty("currency").GetString());
    }

    private static bool IsIn(long from, long to, long second) => from < to ? second >= from && second < to : second >= from || second < to;
}
