using System.IO.Compression;
using System.Text;
using static Evenkeel.Provider.Tests.RawHttp;

namespace Evenkeel.Provider.Tests;

public sealed class WireFaultTests(OneInstance fixture) : IClassFixture<OneInstance>
{
    private SimulatedInstance A => fixture.Instance;

    [Fact]
    public async Task Split_cuts_at_any_byte_also_inside_characters()
    {
        var answer = await AskAsync(A, "split_bytes=1;gap_ms=0", Bodies.Stream);
        Assert.Equal(Bodies.Text, answer.StreamedText());
        Assert.All(answer.Chunks, size => Assert.Equal(1, size));
        var (at, cuts) = (0, 0);
        foreach (var size in answer.Chunks)
        {
            at += size;
            cuts += at < answer.Body.Length && (answer.Body[at] & 0xC0) == 0x80 ? 1 : 0;
        }
        Assert.True(cuts > 0, "no chunk boundary fell inside a character");
    }

    [Theory]
    [InlineData(Bodies.Stream)]
    [InlineData(Bodies.Chat)]
    public async Task Split_on_the_wire_sends_small_packets(string body)
    {
        using var client = await ConnectAsync(A);
        await client.SendAsync(body, "x-sim-fault: split_bytes=16;gap_ms=5;level=wire\r\n");
        var reads = 0;
        while ((await client.ReadSomeAsync()).Length > 0)
        {
            reads++;
        }
        Assert.True(reads > 5, $"only {reads} reads");
    }

    [Fact]
    public async Task Coalesce_puts_many_events_into_one_chunk()
    {
        var all = await AskAsync(A, "coalesce", Bodies.Stream);
        Assert.Equal(Bodies.Text, all.StreamedText());
        Assert.Single(all.Chunks);
        var five = await AskAsync(A, "coalesce=5", Bodies.Stream);
        Assert.Equal(Bodies.Text, five.StreamedText());
        Assert.Equal((five.DataLines.Length + 4) / 5, five.Chunks.Count);
    }

    [Fact]
    public async Task Lines_may_end_otherwise()
    {
        var crlf = await AskAsync(A, "crlf", Bodies.Stream);
        Assert.Equal(Bodies.Text, crlf.StreamedText());
        Assert.DoesNotContain("\n", crlf.Text.Replace("\r\n", ""));
        var cr = await AskAsync(A, "crlf=cr", Bodies.Stream);
        Assert.DoesNotContain("\n", cr.Text);
        Assert.EndsWith("data: [DONE]\r\r", cr.Text);
    }

    [Fact]
    public async Task Events_may_be_written_in_every_legal_way()
    {
        var noSpace = await AskAsync(A, "sse_style=no_space", Bodies.Stream);
        Assert.Contains("data:[DONE]\n\n", noSpace.Text);
        Assert.Contains("event: message\nid: 1\ndata: {", (await AskAsync(A, "sse_style=named", Bodies.Stream)).Text);
        var lines = (await AskAsync(A, "sse_style=multiline", Bodies.Stream)).Text.Split("\n\n")[0].Split('\n');
        Assert.Equal(2, lines.Length);
        Assert.All(lines, line => Assert.StartsWith("data: ", line));
        Assert.Equal([0xEF, 0xBB, 0xBF], (await AskAsync(A, "sse_style=bom", Bodies.Stream)).Body[..3]);
    }

    [Theory]
    [InlineData("content")]
    [InlineData("padding")]
    public async Task An_event_may_be_a_megabyte(string mode)
    {
        var answer = await AskAsync(A, $"big_event=1048576;mode={mode}", Bodies.Stream);
        Assert.True(answer.DataLines.Max(line => line.Length) > 1 << 20);
        Assert.Equal(Bodies.Text, answer.StreamedText().Replace("#", ""));
        Assert.Equal(mode == "padding", answer.StreamedText() == Bodies.Text);
    }

    [Theory]
    [InlineData(Bodies.Chat)]
    [InlineData(Bodies.Stream)]
    public async Task Gzip_comes_unasked(string body)
    {
        var plain = await AskAsync(A, body: body);
        var packed = await AskAsync(A, "gzip", body);
        Assert.Equal("gzip", packed.Header("content-encoding"));
        using var unpacked = new StreamReader(new GZipStream(new MemoryStream(packed.Body), CompressionMode.Decompress), Encoding.UTF8);
        var text = await unpacked.ReadToEndAsync();
        Assert.Equal(plain.Text.Length, text.Length);
        Assert.Equal(plain.Text[^40..], text[^40..]);
    }

    [Fact]
    public async Task Heads_may_be_wrong()
    {
        Assert.StartsWith("HTTP/1.1 twohundred OK\r\n", (await AskAsync(A, "bad_status_line")).Head);
        Assert.StartsWith("SSH-2.0-x\r\n", (await AskAsync(A, "bad_status_line=SSH-2.0-x")).Head);
        Assert.StartsWith("HTTP/1.1 103 ", (await AskAsync(A, "interim")).Head);
        Assert.Equal("text/html", (await AskAsync(A, "content_type")).Header("content-type"));
        var both = await AskAsync(A, "bad_framing");
        Assert.True(both.IsChunked && both.Header("content-length") is not null);
        Assert.Equal(2, Occurrences("content-length: ", (await AskAsync(A, "bad_framing=double_length", Bodies.Stream)).Head));
        Assert.Contains("content-length: -1", (await AskAsync(A, "bad_framing=negative_length", Bodies.Stream)).Head);
        Assert.StartsWith("zz", Encoding.ASCII.GetString((await AskAsync(A, "bad_framing=bad_chunk", Bodies.Stream)).RawBody, 0, 2));

        static int Occurrences(string part, string text) => text.Split(part).Length - 1;
    }

    [Theory]
    [InlineData("endless_headers", Bodies.Chat, "x-endless: ")]
    [InlineData("endless_body", Bodies.Chat, "xxxxxxxx")]
    [InlineData("endless_body", Bodies.Stream, " again")]
    public async Task What_is_endless_goes_on_until_the_client_leaves(string fault, string body, string sign)
    {
        var id = Guid.NewGuid().ToString();
        using (var client = await ConnectAsync(A))
        {
            await client.SendAsync(body, $"x-sim-fault: {fault}\r\nx-request-id: {id}\r\n");
            await client.ReadUntilAsync(sign);
            for (var read = 0; read < 100_000;)
            {
                var piece = await client.ReadSomeAsync();
                Assert.NotEmpty(piece);
                read += piece.Length;
            }
        }
        var entries = await fixture.Simulator.Ledger.WaitAsync(all => all.Any(e => e.RequestId == id && e.Ended));
        Assert.Equal(LedgerOutcome.ClientGone, entries.Single(e => e.RequestId == id).Outcome);
    }

    [Fact]
    public async Task A_bomb_unpacks_to_what_it_says()
    {
        var answer = await AskAsync(A, "decompression_bomb=20000000");
        Assert.True(answer.Body.Length < 200_000);
        using var unpacked = new GZipStream(new MemoryStream(answer.Body), CompressionMode.Decompress);
        var buffer = new byte[1 << 16];
        long total = 0;
        for (int read; (read = await unpacked.ReadAsync(buffer)) > 0;)
        {
            total += read;
        }
        Assert.Equal(20_000_000, total);
    }

    [Fact]
    public async Task Faults_combine()
    {
        var answer = await AskAsync(A, "crlf+split_bytes=5;gap_ms=0, reasoning_first=2+cut_after=6", Bodies.Stream);
        Assert.Equal(Answer.TextForPrompt("hello", tokens: 4), answer.StreamedText());
        Assert.False(answer.IsComplete);
        Assert.All(answer.Chunks, size => Assert.InRange(size, 1, 5));
    }
}
