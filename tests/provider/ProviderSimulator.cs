using System.Net;

namespace Evenkeel.Provider;

/// <summary>One instance to start. Port 0 = a free one.</summary>
public sealed record InstanceOptions(string Name, string Host = "127.0.0.1", int Port = 0)
{
    public InstanceSettings Settings { get; init; } = new();
}

/// <summary>What to start.</summary>
public sealed record ProviderOptions
{
    public IReadOnlyList<InstanceOptions> Instances { get; init; } = [];

    /// <summary>Address of the control listener; null = none (in-process use).</summary>
    public (string Host, int Port)? Control { get; init; }

    /// <summary>Where to write the authority's certificate (PEM), so that clients can trust it.</summary>
    public string? CaFile { get; init; }

    /// <summary>How many ledger entries are kept; 0 = none.</summary>
    public int LedgerLimit { get; init; } = 100_000;

    /// <summary>The article's three instances and a small one: 0.8 s calls, ceilings 50, 50, 20 and 40.</summary>
    public static ProviderOptions Demo(int? basePort = null)
    {
        (string Name, int Ceiling)[] instances = [("A", 50), ("B", 50), ("C", 20), ("lite", 40)];
        return new ProviderOptions
        {
            Instances = [.. instances.Select((instance, i) => new InstanceOptions(instance.Name, Port: basePort + i ?? 0)
            {
                Settings = new InstanceSettings { Ceiling = instance.Ceiling, LatencyMs = 800, LatencySigma = 0.25 },
            })],
            Control = ("127.0.0.1", basePort + instances.Length ?? 0),
        };
    }
}

/// <summary>
/// Simulated LLM providers in this process: several instances, one ledger, one certificate authority, and optionally
/// the HTTP control listener. Ends with everything reset when disposed.
/// </summary>
public sealed class ProviderSimulator : IAsyncDisposable
{
    private readonly Certificates _certificates = new();
    private readonly Dictionary<string, SimulatedInstance> _instances = [];
    private HttpServer? _control;

    private ProviderSimulator(int ledgerLimit) => Ledger = new Ledger(ledgerLimit);

    public Ledger Ledger { get; }

    /// <summary>The certificate of the authority behind every certificate that is not selfsigned.</summary>
    public string AuthorityPem => _certificates.AuthorityPem;

    public IPEndPoint? ControlEndPoint => _control?.EndPoint;

    public IReadOnlyList<SimulatedInstance> Instances
    {
        get
        {
            lock (_instances)
            {
                return [.. _instances.Values];
            }
        }
    }

    /// <exception cref="KeyNotFoundException">There is no instance of this name.</exception>
    public SimulatedInstance this[string name] => Find(name) ?? throw new KeyNotFoundException($"no instance '{name}'");

    public SimulatedInstance? Find(string name)
    {
        lock (_instances)
        {
            return _instances.GetValueOrDefault(name);
        }
    }

    public static async Task<ProviderSimulator> StartAsync(ProviderOptions options)
    {
        var simulator = new ProviderSimulator(options.LedgerLimit);
        try
        {
            foreach (var instance in options.Instances)
            {
                simulator.AddInstance(instance);
            }
            if (options.CaFile is { } file)
            {
                await File.WriteAllTextAsync(file, simulator.AuthorityPem + "\n");
            }
            if (options.Control is { } control)
            {
                simulator._control = new HttpServer(new ControlApi(simulator).HandleAsync);
                simulator._control.Start(new IPEndPoint(Hosts.Address(control.Host), control.Port));
            }
            return simulator;
        }
        catch
        {
            await simulator.DisposeAsync();
            throw;
        }
    }

    /// <exception cref="ArgumentException">The name is taken.</exception>
    public SimulatedInstance AddInstance(InstanceOptions options)
    {
        lock (_instances)
        {
            if (_instances.ContainsKey(options.Name))
            {
                throw new ArgumentException($"there is an instance '{options.Name}' already");
            }
            var instance = new SimulatedInstance(options, Ledger, _certificates);
            _instances.Add(options.Name, instance);
            return instance;
        }
    }

    public ValueTask DisposeAsync()
    {
        _control?.Dispose();
        foreach (var instance in Instances)
        {
            instance.Dispose();
        }
        _certificates.Dispose();
        return ValueTask.CompletedTask;
    }
}
