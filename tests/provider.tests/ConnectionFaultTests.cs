using System.Net.Sockets;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class ConnectionFaultTests(OneInstance fixture) : IClassFixture<OneInstance>
{
    private SimulatedInstance A => fixture.Instance;

    [Fact]
    public async Task Reset_before_headers_sends_nothing_and_resets()
    {
        var answer = await AskAsync(A, "reset_before_headers");
        Assert.Equal(("", End.Reset), (answer.Head, answer.End));
    }

    [Theory]
    [InlineData(Bodies.Chat)]
    [InlineData(Bodies.Stream)]
    public async Task Reset_after_headers_sends_the_head_only(string body)
    {
        var answer = await AskAsync(A, "reset_after_headers", body);
        Assert.Equal((200, End.Reset), (answer.Status, answer.End));
        Assert.Empty(answer.RawBody);
    }

    [Theory]
    [InlineData("close", End.Fin)]
    [InlineData("reset", End.Reset)]
    internal async Task Accept_and_hang_sends_nothing_until_it_ends(string then, End end)
    {
        var started = DateTime.UtcNow;
        var answer = await AskAsync(A, $"accept_and_hang;ms=150;then={then}");
        Assert.Equal(("", end), (answer.Head, answer.End));
        Assert.True((DateTime.UtcNow - started).TotalMilliseconds >= 145);
    }

    [Fact]
    public async Task A_hung_call_notices_that_the_client_left()
    {
        using (var client = await ConnectAsync(A))
        {
            await client.SendAsync(headers: "x-sim-fault: accept_and_hang\r\nx-request-id: hung\r\n");
            await fixture.Simulator.Ledger.WaitAsync(entries => entries.Any(e => e.RequestId == "hung"));
        }
        var entries = await fixture.Simulator.Ledger.WaitAsync(all => all.Any(e => e.RequestId == "hung" && e.Ended));
        var hung = entries.Single(e => e.RequestId == "hung");
        Assert.Equal((LedgerOutcome.ClientGone, 0, 0), (hung.Outcome, hung.Status, hung.TokensBilled));
    }

    [Theory]
    [InlineData("fin", End.Fin)]
    [InlineData("rst", End.Reset)]
    internal async Task Close_idle_closes_a_connection_it_had_promised_to_keep(string how, End end)
    {
        using var client = await ConnectAsync(A);
        await client.SendAsync(headers: $"x-sim-fault: close_idle=30;how={how}\r\n", keepAlive: true);
        var answer = await client.ReadAllAsync();
        Assert.Equal((200, end), (answer.Status, answer.End));
        Assert.Null(answer.Header("connection"));
        Assert.EndsWith("}", answer.Text);
    }

    [Fact]
    public async Task A_reused_connection_may_be_reset_where_a_fresh_one_is_served()
    {
        await using var simulator = await ProviderSimulator.StartAsync(new ProviderOptions { Instances = [new InstanceOptions("R")] });
        simulator["R"].AddFault("reset_before_headers", match: new FaultMatch(Reused: true));
        using var client = await ConnectAsync(simulator["R"]);
        await client.SendAsync(keepAlive: true);
        await client.ReadUntilAsync("total_tokens");
        await client.SendAsync(keepAlive: true);
        Assert.Equal(End.Reset, (await client.ReadAllAsync()).End);
        Assert.Equal(200, (await AskAsync(simulator["R"])).Status);
    }

    [Fact]
    public async Task An_http10_answer_ends_with_the_connection()
    {
        using var client = await ConnectAsync(A);
        await client.SendAsync(Bodies.Stream, "x-sim-fault: http10_close\r\n", keepAlive: true);
        var answer = await client.ReadAllAsync();
        Assert.StartsWith("HTTP/1.0 200", answer.Head);
        Assert.Null(answer.Header("content-length"));
        Assert.False(answer.IsChunked);
        Assert.Equal(Bodies.Text, answer.StreamedText());
        Assert.Equal(End.Fin, answer.End);
    }

    [Fact]
    public async Task Down_resets_and_refuses_and_up_serves_again_on_the_same_port()
    {
        await using var simulator = await ProviderSimulator.StartAsync(new ProviderOptions { Instances = [new InstanceOptions("D")] });
        var instance = simulator["D"];
        using var open = await ConnectAsync(instance);
        await open.SendAsync(Bodies.Stream, "x-sim-fault: stall_after=2;stall_ms=forever\r\n");
        await open.ReadUntilAsync("choices");
        instance.Down();
        Assert.Equal(End.Reset, (await open.ReadAllAsync()).End);
        var refused = await Assert.ThrowsAsync<SocketException>(() => ConnectAsync(instance));
        Assert.Equal(SocketError.ConnectionRefused, refused.SocketErrorCode);
        instance.Up();
        Assert.Equal(200, (await AskAsync(instance)).Status);
        var entries = await simulator.Ledger.WaitAsync(all => all[0].Ended);
        Assert.Equal(LedgerOutcome.ResetByUs, entries[0].Outcome);
    }
}
