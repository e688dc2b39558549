using System.Net;
using System.Net.Sockets;

namespace Evenkeel.Tests;

/// <summary>
/// Stands between a control plane and PostgreSQL. It can be silent, as a server whose machine hangs: it takes connections and bytes, and
/// nothing comes back. And it can cut the connection of one request, before that or its answer has passed.
/// </summary>
internal sealed class FrailWire : IAsyncDisposable
{
    private readonly TcpListener listener = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource ending = new();
    private readonly int serverPort;
    private readonly Lock gate = new();
    private readonly List<Task> connections = [];
    private volatile TaskCompletionSource open = Opened();
    private readonly Task accepting;
    private int untilCut;
    private bool isCutAfterwards;

    public FrailWire(int serverPort)
    {
        this.serverPort = serverPort;
        listener.Start();
        accepting = AcceptAsync();
    }

    public int Port => ((IPEndPoint)listener.LocalEndpoint).Port;

    /// <summary>Nothing passes any more; what is sent meanwhile passes when it speaks again.</summary>
    public void Silence() => open = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);

    public void Speak() => open.TrySetResult();

    /// <summary>Cuts at the nth request from now, whoever's: before it is delivered, or when the server has answered it. 0: never.</summary>
    public void CutAt(int nth, bool afterwards)
    {
        lock (gate) (untilCut, isCutAfterwards) = (nth, afterwards);
    }

    /// <summary>Whether the cut is still to come.</summary>
    public bool IsCutToCome { get { lock (gate) return untilCut > 0; } }

    public async ValueTask DisposeAsync()
    {
        await ending.CancelAsync();
        Speak();
        listener.Stop();
        await accepting;
        Task[] left;
        lock (gate) left = [.. connections];
        await Task.WhenAll(left);
        ending.Dispose();
        listener.Dispose();
    }

    private static TaskCompletionSource Opened()
    {
        var source = new TaskCompletionSource();
        source.SetResult();
        return source;
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                var client = await listener.AcceptTcpClientAsync(ending.Token);
                lock (gate)
                {
                    connections.RemoveAll(connection => connection.IsCompleted);
                    connections.Add(Task.Run(() => RelayAsync(client)));
                }
            }
        }
        catch (Exception over) when (over is OperationCanceledException or SocketException or ObjectDisposedException)
        {
        }
    }

    private async Task RelayAsync(TcpClient client)
    {
        using var _ = client;
        using var server = new TcpClient();
        using var over = CancellationTokenSource.CreateLinkedTokenSource(ending.Token);
        try
        {
            await open.Task.WaitAsync(over.Token);
            await server.ConnectAsync(IPAddress.Loopback, serverPort, over.Token);
            var cut = new TaskCompletionSource();
            var requests = PumpAsync(client.GetStream(), server.GetStream(), isRequests: true);
            var answers = PumpAsync(server.GetStream(), client.GetStream(), isRequests: false);
            await Task.WhenAny(requests, answers);
            await over.CancelAsync();
            await Task.WhenAll(requests, answers);

            async Task PumpAsync(NetworkStream from, NetworkStream to, bool isRequests)
            {
                var buffer = new byte[64 * 1024];
                try
                {
                    for (int length; (length = await from.ReadAsync(buffer, over.Token)) > 0;)
                    {
                        await open.Task.WaitAsync(over.Token);
                        if (cut.Task.IsCompleted) return;                               // an answer that is not to pass
                        var isCut = isRequests && IsCutNow();
                        if (isCut && !isCutAfterwards) return;
                        if (isCut) cut.SetResult();
                        await to.WriteAsync(buffer.AsMemory(0, length), over.Token);
                    }
                }
                catch (Exception broken) when (broken is IOException or OperationCanceledException or ObjectDisposedException)
                {
                }
            }
        }
        catch (Exception broken) when (broken is IOException or SocketException or OperationCanceledException)
        {
        }
    }

    private bool IsCutNow()
    {
        lock (gate) return untilCut > 0 && --untilCut == 0;
    }
}
