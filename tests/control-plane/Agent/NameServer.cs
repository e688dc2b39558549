using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Evenkeel.Tests.Agent;

/// <summary>A name server that knows a few names, each by one IPv4 address; of all others it says that there are none.</summary>
internal sealed class NameServer : IDisposable
{
    private readonly UdpClient _socket = new(new IPEndPoint(IPAddress.Loopback, 0));
    private readonly IReadOnlyDictionary<string, IPAddress> _names;

    public NameServer(IReadOnlyDictionary<string, IPAddress> names)
    {
        _names = names;
        _ = AnswerAsync();
    }

    public int Port => ((IPEndPoint)_socket.Client.LocalEndPoint!).Port;

    public void Dispose() => _socket.Dispose();

    private async Task AnswerAsync()
    {
        try
        {
            while (true)
            {
                var asked = await _socket.ReceiveAsync();
                await _socket.SendAsync(Answer(asked.Buffer), asked.RemoteEndPoint);
            }
        }
        catch (Exception over) when (over is SocketException or ObjectDisposedException)
        {
        }
    }

    private byte[] Answer(byte[] question)
    {
        var labels = new List<string>();
        var at = 12;
        for (; question[at] != 0; at += 1 + question[at]) labels.Add(Encoding.ASCII.GetString(question, at + 1, question[at]));
        var isKnown = _names.TryGetValue(string.Join('.', labels), out var address);
        byte[] head = [question[0], question[1], 0x81, (byte)(isKnown ? 0x80 : 0x83), 0, 1, 0, (byte)(isKnown ? 1 : 0), 0, 0, 0, 0];
        byte[] record = isKnown ? [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, .. address!.GetAddressBytes()] : [];
        return [.. head, .. question[12..(at + 5)], .. record];
    }
}
