namespace Evenkeel.Telemetry;

/// <summary>Money between currencies by gateway.exchange_rates. Pure.</summary>
public static class ExchangeRates
{
    /// <summary>Null: one of the two is not listed.</summary>
    public static decimal? Convert(decimal amount, string from, string to, IReadOnlyDictionary<string, decimal>? rates) =>
        from == to ? amount
        : rates is not null && rates.TryGetValue(from, out var its) && rates.TryGetValue(to, out var other) ? amount * its / other
        : null;

    /// <summary>The sum in one currency, and the currencies that could not be converted.</summary>
    public static (decimal Sum, IReadOnlyList<string> Unconverted) Sum(IEnumerable<(decimal Amount, string Currency)> amounts, string to, IReadOnlyDictionary<string, decimal>? rates)
    {
        decimal sum = 0;
        var unconverted = new SortedSet<string>(StringComparer.Ordinal);
        foreach (var (amount, currency) in amounts)
        {
            if (Convert(amount, currency, to, rates) is { } converted) sum += converted;
            else if (amount != 0) unconverted.Add(currency);
        }
        return (sum, [.. unconverted]);
    }
}
