namespace Evenkeel.Nodes;

/// <summary>A node's part of an instance: permits of its max_connections, and half-open trials.</summary>
public sealed record InstanceShare(int Permits, int Trials);

/// <summary>What a node is told to hold from now on. BasedOn is the version of the shares that it holds, Share its fraction of the clients' limits.</summary>
public sealed record ShareOrder(long BasedOn, double Share, IReadOnlyDictionary<string, InstanceShare> Instances)
{
    // What all nodes together may have above a ceiling.
    private const double Slack = 0.05;

    /// <summary>
    /// For a node that has just come to others, which have yet to make room: one permit of an instance, if twice as many newcomers as there
    /// are nodes would stay within the slack with that, else none. Who asks it meanwhile waits in its queue.
    /// </summary>
    public static ShareOrder ForNewcomer(IEnumerable<(string Instance, int MaxConnections)> instances, int nodes) =>
        new(0, 1.0 / nodes, instances.ToDictionary(of => of.Instance, of => new InstanceShare(of.MaxConnections * Slack >= 2 * nodes ? 1 : 0, 0)));
}

/// <summary>
/// A node that has a part of a ceiling. Held: null when it was never told one. Answers: false when nothing is heard of it, so that it
/// keeps what it holds: it may well serve with it.
/// </summary>
public sealed record Holder(string Node, int? Held, int InFlight, bool Answers = true);

/// <summary>
/// Deals what all nodes have together. Pure. What is dealt never sums to more than there is: parts shrink first, and grow only by what
/// nobody holds and no call uses any more. So a change may take several rounds, each of which begins with what the nodes say.
/// </summary>
public static class Shares
{
    /// <summary>Of everything, dealt in equal parts whatever the load, so that a node with nothing to do has something to begin with.</summary>
    private const double EqualPart = 0.25;

    /// <summary>A node that uses so much of its part is short of it.</summary>
    private const double ShortAt = 0.9;

    /// <summary>And is only given more when that is more by so much: parts do not follow every ripple of the load.</summary>
    private const double WorthIt = 1.1;

    /// <summary>Fractions of the clients' limits stay while none is further off than this.</summary>
    private const double FractionSlack = 0.15;

    /// <summary>So many calls under way in all say too little of the load.</summary>
    private const double FewCalls = 8;

    /// <summary>The parts of a ceiling that the answering nodes are to hold after this round.</summary>
    public static IReadOnlyDictionary<string, int> Deal(int ceiling, IReadOnlyList<Holder> holders)
    {
        var answering = holders.Where(holder => holder.Answers).OrderBy(holder => holder.Node, StringComparer.Ordinal).ToList();
        // Of a silent one that has told nothing: an equal part is the best guess.
        var kept = holders.Where(holder => !holder.Answers).Sum(holder => Math.Max(holder.Held ?? ceiling / holders.Count, (long)holder.InFlight));
        var available = (int)Math.Max(ceiling - kept, 0);
        var targets = Targets(available, answering);
        var dealt = new int[answering.Count];
        var free = (long)available;
        for (var i = 0; i < dealt.Length; i++)
        {
            dealt[i] = Math.Min(answering[i].Held ?? 0, targets[i]);
            free -= Math.Max(answering[i].Held ?? 0, answering[i].InFlight);
        }
        // Those who have nothing come first.
        foreach (var i in Enumerable.Range(0, dealt.Length).OrderByDescending(i => dealt[i] == 0).ThenByDescending(i => targets[i] - dealt[i]))
        {
            // What its own calls use already is no growth.
            var used = Math.Max(answering[i].Held ?? 0, answering[i].InFlight);
            var more = (int)Math.Max(Math.Min(targets[i] - used, free), 0);
            if (targets[i] <= dealt[i]) continue;
            dealt[i] = Math.Min(targets[i], used + more);
            free -= more;
        }
        return answering.Select((holder, i) => (holder.Node, Part: dealt[i])).ToDictionary(part => part.Node, part => part.Part);
    }

    // Parts are dealt anew only when somebody is short, has too little to begin with, or there is less than they hold. Else they stay, and
    // what nobody holds goes to those who lack most: if each ripple were dealt anew, a little would be under way, and idle, for many rounds.
    private static int[] Targets(int available, List<Holder> answering)
    {
        var targets = ByLoad(available, answering);
        var held = answering.Select(holder => holder.Held ?? -1).ToArray();
        var least = available >= answering.Count ? 1 : 0;
        var left = available - held.Sum(part => (long)part);
        var isShort = answering.Where((holder, i) => holder.InFlight >= ShortAt * held[i] && targets[i] >= (WorthIt * held[i]) + 1).Any();
        if (isShort || left < 0 || held.Any(part => part < least)) return targets;
        foreach (var i in Enumerable.Range(0, held.Length).OrderByDescending(i => targets[i] - held[i]))
        {
            var more = (int)Math.Min(Math.Max(targets[i] - held[i], 0), left);
            held[i] += more;
            left -= more;
        }
        return held;
    }

    // A part in equal parts, the rest by load; whole numbers by the largest remainders; at least 1 each, where there is enough.
    private static int[] ByLoad(int available, List<Holder> answering)
    {
        var count = answering.Count;
        if (count == 0) return [];
        var least = available >= count ? 1 : 0;
        var rest = available - (least * count);
        var load = (double)answering.Sum(holder => holder.InFlight);
        var exact = answering.Select(holder => rest * (load > 0 ? (EqualPart / count) + ((1 - EqualPart) * holder.InFlight / load) : 1.0 / count)).ToArray();
        var parts = exact.Select(part => least + (int)part).ToArray();
        var left = available - parts.Sum();
        foreach (var i in Enumerable.Range(0, count).OrderByDescending(i => exact[i] - (int)exact[i]).ThenBy(i => i).Take(left)) parts[i]++;
        return parts;
    }

    /// <summary>Half-open trials in equal parts. Who gets one more differs from instance to instance, and not from round to round.</summary>
    public static IReadOnlyDictionary<string, int> DealTrials(int trials, string instance, IEnumerable<string> nodes)
    {
        var names = nodes.Order(StringComparer.Ordinal).ToList();
        var first = names.Count == 0 ? 0 : instance.Sum(letter => letter) % names.Count;
        return names.Index().ToDictionary(
            node => node.Item,
            node => (trials / names.Count) + ((node.Index - first + names.Count) % names.Count < trials % names.Count ? 1 : 0));
    }

    /// <summary>Fractions of the clients' limits, by load, whose sum is 1.</summary>
    public static IReadOnlyDictionary<string, double> DealFractions(IReadOnlyList<(string Node, double Held, double InFlight)> nodes)
    {
        var load = nodes.Sum(node => node.InFlight);
        double Target(double inFlight) => load < FewCalls ? 1.0 / nodes.Count : (EqualPart / nodes.Count) + ((1 - EqualPart) * inFlight / load);
        var stays = Math.Abs(nodes.Sum(node => node.Held) - 1) < 0.001 && nodes.All(node => Math.Abs(node.Held - Target(node.InFlight)) <= FractionSlack);
        return nodes.ToDictionary(node => node.Node, node => stays ? node.Held : Math.Clamp(Math.Round(Target(node.InFlight), 6), 0.000001, 1));
    }
}
