using Evenkeel.Provider;
using Xunit;

namespace Evenkeel.EndToEnd.Stacks;

/// <summary>A small stack for tests that break parts of it, with two instances behind the model "chat-model".</summary>
public sealed class OwnStack : IAsyncLifetime
{
    private Stack? _stack;
    private ProviderSimulator? _providers;

    internal Stack Stack => _stack!;
    internal Gateway Gateway => Stack.Gateway;
    internal AdminApi Admin => Stack.Admin;
    internal ProviderSimulator Providers => _providers!;
    internal Config Config { get; } = new();

    public async Task InitializeAsync()
    {
        _providers = await ProviderSimulator.StartAsync(new ProviderOptions
        {
            Instances = [SharedStack.Simulated("one"), SharedStack.Simulated("two"), SharedStack.Simulated("three")],
        });
        foreach (var name in new[] { "one", "two" })
        {
            Config.Instance(Providers[name], new { api_key = SharedStack.KeyOf(name), max_connections = 1000 });
        }
        Config.Pool("chat", [["one", "two"]]);
        _stack = await Stack.StartAsync("broken", Config);
    }

    public async Task DisposeAsync()
    {
        if (_stack is not null)
        {
            await _stack.DisposeAsync();
        }
        if (_providers is not null)
        {
            await _providers.DisposeAsync();
        }
    }
}

[CollectionDefinition(Name)]
public sealed class OwnStackCollection : ICollectionFixture<OwnStack>
{
    public const string Name = "3 a stack whose parts are broken";
}
