using System.Net;
using System.Net.Sockets;
using System.Text.RegularExpressions;
using Evenkeel.Ghosts;
using Evenkeel.Secrets;

namespace Evenkeel.Config;

/// <summary>
/// The bounds and references of a document: what every later reader of it (rows, snapshot, nginx.conf, Lua) relies on.
/// Pure. docs/configuration.md lists the same bounds.
/// </summary>
public static partial class ConfigValidator
{
    public const int MostInstances = 5_000;
    public const int MostPools = 1_000;
    public const int MostInstancesPerPool = 1_000;
    public const int MostTiers = 16;
    public const int MostModels = 256;
    public const int MostClients = 100_000;
    public const int MostAlerts = 1_000;
    public const int MostWebhooks = 100;
    public const int MostKeys = 10;
    public const decimal LeastBudget = 0.000001m;

    private static readonly TimeSpan s_ms = TimeSpan.FromMilliseconds(1);
    private static readonly TimeSpan s_hour = TimeSpan.FromHours(1);

    /// <summary>How many entries a list of the document may have; null: there is no such list.</summary>
    internal static int? MostOf(string list) => list switch
    {
        "instances" => MostInstances,
        "pools" => MostPools,
        "clients" => MostClients,
        "alerts" => MostAlerts,
        "webhooks" => MostWebhooks,
        _ => null,
    };

    public static IReadOnlyList<ConfigFault> Validate(ConfigDocument document)
    {
        var faults = new FaultList();
        Validate(document, faults);
        return faults.All();
    }

    internal static void Validate(ConfigDocument document, FaultList faults)
    {
        var check = new Check(document, faults);
        check.Gateway();
        check.Instances();
        check.Failover("failover_config", document.FailoverConfig);
        check.Pools();
        check.Breakers();
        check.Clients();
        check.Alerts();
        check.Webhooks();
    }

    // What stands in nginx.conf is judged here and nowhere else: NginxQuote asks these again before it writes.

    /// <summary>A name of anything: safe bare, inside a file name and inside a Lua string.</summary>
    public static bool IsName(string text) => Name().IsMatch(text);

    /// <summary>"HOST:PORT" where nginx can listen: an IP address, "*" or "localhost".</summary>
    public static bool IsListen(string text) => ListenFault(text) is null;

    /// <summary>An absolute path of printable ASCII in which nothing means anything to nginx but space.</summary>
    public static bool IsPath(string text) => PemPath().IsMatch(text);

    private sealed class Check(ConfigDocument document, FaultList faults)
    {
        private readonly HashSet<string> _instances = [.. document.Instances.Select(i => i.Name)];
        private readonly HashSet<string> _models = [.. document.Pools.SelectMany(p => p.Models)];

        public void Gateway()
        {
            var gateway = document.Gateway;
            Require(ListenFault(gateway.Listen) is null, "gateway.listen", ListenFault(gateway.Listen) ?? "");
            Between("gateway.workers", gateway.Workers ?? 1, 1, 256);
            if (gateway.RevenuePerHour is { } revenue)
            {
                Between("gateway.revenue_per_hour.amount", revenue.Amount, 0, 1_000_000_000);
                IsCurrency("gateway.revenue_per_hour.currency", revenue.Currency);
            }

            AtMost("gateway.exchange_rates", gateway.ExchangeRates?.Count ?? 0, 50, "currencies");
            foreach (var (currency, rate) in gateway.ExchangeRates ?? new Dictionary<string, decimal>())
            {
                IsCurrency($"gateway.exchange_rates.{Units.Shown(currency)}", currency);
                Require(rate is >= 0.000001m and <= 1_000_000, $"gateway.exchange_rates.{Units.Shown(currency)}", "must be between 0.000001 and 1000000");
            }

            if (gateway.Retention is { } kept)
            {
                var tenYears = TimeSpan.FromDays(3_660);
                Between("gateway.retention.ten_seconds", kept.TenSeconds, TimeSpan.FromHours(2), tenYears);
                Between("gateway.retention.minutes", kept.Minutes, kept.TenSeconds, tenYears);
                Between("gateway.retention.hours", kept.Hours, kept.Minutes, tenYears);
                Between("gateway.retention.days", kept.Days, kept.Hours, tenYears);
                Between("gateway.retention.traces", kept.Traces, s_hour, tenYears);
            }

            if (gateway.Tls is { } tls)
            {
                PemFile("gateway.tls.certificate_file", tls.CertificateFile);
                PemFile("gateway.tls.key_file", tls.KeyFile);
                Require(tls.MinVersion is "1.2" or "1.3", "gateway.tls.min_version", "expected \"1.2\" or \"1.3\"");
            }
        }

        public void Instances()
        {
            AtMost("instances", document.Instances.Count, MostInstances, "instances");
            Unique("instances", document.Instances.Select(i => i.Name), "an instance");
            Each(document.Instances, "instances", Instance);
        }

        private void Instance(string path, InstanceConfig instance)
        {
            Named(path + ".name", instance.Name);
            if (instance.Provider is { } provider)
            {
                Named(path + ".provider", provider);
            }

            if (BaseUrl.Fault(instance.BaseUrl, document.Gateway.LinkLocalTargets == true) is { } why)
            {
                faults.Add(path + ".base_url", why);
            }
            else
            {
                // The node checks certificates by DNS name.
                Require(!(instance.Tls.Verify && instance.Tls.ServerName is null && new Uri(instance.BaseUrl) is { Scheme: "https", HostNameType: not UriHostNameType.Dns }),
                    path + ".base_url", "https to an IP address needs tls.server_name, the name in the certificate, or tls.verify: false");
            }

            Secret(path + ".api_key", instance.ApiKey);
            Model(path + ".model", instance.Model);
            Between(path + ".weight", instance.Weight, 0, 10_000);
            Between(path + ".max_connections", instance.MaxConnections, 1, 100_000);
            Between(path + ".base_latency", instance.BaseLatency, s_ms, TimeSpan.FromSeconds(600));
            if (instance.Price is { } price)
            {
                Rates(path + ".price", price.InputPerMillion, price.OutputPerMillion, price.CachedInputPerMillion);
                IsCurrency(path + ".price.currency", price.Currency);
            }

            Prices(path + ".prices", instance.Prices ?? []);
            AtMost(path + ".capabilities", instance.Capabilities.Count, 32, "capabilities");
            UniqueTexts(path + ".capabilities", instance.Capabilities);
            Each(instance.Capabilities, path + ".capabilities", (p, c) =>
                Require(Capability().IsMatch(c), p, "a capability is a word of a-z, 0-9 and _, 48 at most"));
            if (instance.Tls.CaFile is { } authorities)
            {
                PemFile(path + ".tls.ca_file", authorities);
            }

            Require(instance.Tls.ServerName is null || DnsName.IsMatch(instance.Tls.ServerName), path + ".tls.server_name", "is not a DNS name");

            var timeouts = instance.Timeouts;
            Between(path + ".timeouts.connect", timeouts.Connect, s_ms, TimeSpan.FromSeconds(60));
            Between(path + ".timeouts.first_token", timeouts.FirstToken, s_ms, s_hour);
            Between(path + ".timeouts.idle", timeouts.Idle, s_ms, s_hour);
            Between(path + ".timeouts.total", timeouts.Total, s_ms, s_hour);
            Require(timeouts.Total >= timeouts.FirstToken, path + ".timeouts.total", "is shorter than first_token");
            Between(path + ".timeouts.min_tokens_per_second", (decimal)Math.Clamp(timeouts.MinTokensPerSecond, -1, 1e9), 0, 100_000);
        }

        private void Prices(string path, IReadOnlyList<DatedPriceConfig> prices)
        {
            AtMost(path, prices.Count, 100, "prices");
            var dates = new HashSet<DateTime>();
            Each(prices, path, (at, price) =>
            {
                Require(dates.Add(price.From), at + ".from", "another price begins then, too");
                Rates(at, price.InputPerMillion, price.OutputPerMillion, price.CachedInputPerMillion);
                IsCurrency(at + ".currency", price.Currency);
                AtMost(at + ".off_peak", price.OffPeak?.Count ?? 0, 8, "windows");
                var taken = new bool[24 * 60];
                Each(price.OffPeak ?? [], at + ".off_peak", (windowAt, window) => OffPeak(windowAt, window, taken));
            });
        }

        private void OffPeak(string path, OffPeakConfig window, bool[] taken)
        {
            Rates(path, window.InputPerMillion, window.OutputPerMillion, window.CachedInputPerMillion);
            if (Units.ParseTimeOfDay(window.From) is not { } from || Units.ParseTimeOfDay(window.To) is not { } to)
            {
                Require(Units.ParseTimeOfDay(window.From) is not null, path + ".from", "expected a time of the day as in 16:30");
                Require(Units.ParseTimeOfDay(window.To) is not null, path + ".to", "expected a time of the day as in 00:30");
                return;
            }

            Require(from != to, path + ".to", "the window ends when it begins");
            for (var minute = from; minute != to; minute = (minute + 1) % taken.Length)
            {
                Require(!taken[minute], path + ".from", "the window overlaps another one");
                taken[minute] = true;
            }
        }

        private void Rates(string path, decimal input, decimal output, decimal? cachedInput)
        {
            Between(path + ".input_per_million", input, 0, 1_000_000);
            Between(path + ".output_per_million", output, 0, 1_000_000);
            Between(path + ".cached_input_per_million", cachedInput ?? 0, 0, 1_000_000);
        }

        public void Pools()
        {
            AtMost("pools", document.Pools.Count, MostPools, "pools");
            Unique("pools", document.Pools.Select(p => p.Name), "a pool");
            var modelOwner = new Dictionary<string, string>();
            Each(document.Pools, "pools", (path, pool) =>
            {
                Pool(path, pool);
                Each(pool.Models, path + ".models", (p, model) =>
                {
                    if (!modelOwner.TryAdd(model, p))
                    {
                        faults.Add(p, $"the model \"{Units.Shown(model)}\" is already at {modelOwner[model]}");
                    }
                });
            });
        }

        private void Pool(string path, PoolConfig pool)
        {
            Named(path + ".name", pool.Name);
            Require(pool.Models.Count > 0, path + ".models", "needs at least one model name");
            AtMost(path + ".models", pool.Models.Count, MostModels, "models");
            Each(pool.Models, path + ".models", (p, model) => { if (model != "*") { Model(p, model); } });

            AtMost(path + ".tiers", pool.Tiers.Count, MostTiers, "tiers");
            Unique(path + ".tiers", pool.Tiers.Select(t => t.Name), "a tier");
            Each(pool.Tiers, path + ".tiers", Tier);
            var held = document.EffectiveTiers(pool).SelectMany(t => t.Instances).Distinct().Count();
            Require(held > 0 || pool.Tiers.Count > 0, path + ".tiers", "there is no instance to send requests to");
            AtMost(path + ".tiers", held, MostInstancesPerPool, "instances in one pool");

            Between(path + ".queue.size", pool.Queue.Size, 0, 100_000);
            Between(path + ".queue.timeout", pool.Queue.Timeout, TimeSpan.Zero, TimeSpan.FromMinutes(5));
            Between(path + ".retry.max_attempts", pool.Retry.MaxAttempts, 1, 20);
            Ratio(path + ".retry.budget_ratio", pool.Retry.BudgetRatio, zero: true);
            Between(path + ".retry.budget_min_per_second", pool.Retry.BudgetMinPerSecond, 0, 100_000);
            Between(path + ".retry.retry_after_max_wait", pool.Retry.RetryAfterMaxWait, TimeSpan.Zero, TimeSpan.FromSeconds(60));
            Between(path + ".ghost.per_day", pool.Ghost.PerDay, 0, 100_000);
            Between(path + ".ghost.max_tokens_per_day", pool.Ghost.MaxTokensPerDay, 0, 1_000_000_000);
            Ghost(path + ".ghost", pool.Ghost);
            if (pool.FailoverConfig is { } own)
            {
                Failover(path + ".failover_config", own);
            }
        }

        private void Ghost(string path, GhostConfig ghost)
        {
            Ratio(path + ".sample", ghost.Sample, zero: true);
            Require(ghost.PromptsFile is null || IsPath(ghost.PromptsFile), path + ".prompts_file",
                "needs an absolute path of printable characters without quotes, backslash, ; { } $ #, 512 at most");
            AtMost(path + ".redact.drop", ghost.Redact.Drop.Count, 100, "fields");
            Each(ghost.Redact.Drop, path + ".redact.drop", (p, field) => Require(field.Length is > 0 and <= 100, p, "needs 1 to 100 characters"));
            AtMost(path + ".redact.mask", ghost.Redact.Mask.Count, 50, "expressions");
            Each(ghost.Redact.Mask, path + ".redact.mask", (p, pattern) => Require(Redaction.Fault(pattern) is null, p, Redaction.Fault(pattern) ?? ""));
            Between(path + ".keep.count", ghost.Keep.Count, 0, 10_000);
            Between(path + ".keep.age", ghost.Keep.Age, TimeSpan.Zero, TimeSpan.FromDays(90));
        }

        private void Tier(string path, TierConfig tier)
        {
            Named(path + ".name", tier.Name);
            Model(path + ".model", tier.Model);
            Require(tier.Instances.Count > 0, path + ".instances", "needs at least one instance");
            AtMost(path + ".instances", tier.Instances.Count, MostInstancesPerPool, "instances in one tier");
            UniqueTexts(path + ".instances", tier.Instances);
            Each(tier.Instances, path + ".instances", (p, name) =>
                Require(_instances.Contains(name), p, $"no instance \"{Units.Shown(name)}\""));
        }

        public void Failover(string path, FailoverConfig failover)
        {
            var (health, breaker, fallback) = (failover.HealthCheck, failover.CircuitBreaker, failover.Fallback);
            Between(path + ".health_check.interval", health.Interval, TimeSpan.FromMilliseconds(100), s_hour);
            Between(path + ".health_check.timeout", health.Timeout, TimeSpan.FromMilliseconds(10), TimeSpan.FromMinutes(5));
            Between(path + ".health_check.unhealthy_threshold", health.UnhealthyThreshold, 1, 100);
            Between(path + ".health_check.healthy_threshold", health.HealthyThreshold, 1, 100);
            Ratio(path + ".circuit_breaker.error_rate_threshold", breaker.ErrorRateThreshold, zero: false);
            Between(path + ".circuit_breaker.sliding_window", breaker.SlidingWindow, TimeSpan.FromSeconds(1), s_hour);
            Between(path + ".circuit_breaker.half_open_max_requests", breaker.HalfOpenMaxRequests, 1, 1_000);
            Between(path + ".circuit_breaker.recovery_timeout", breaker.RecoveryTimeout, TimeSpan.FromMilliseconds(100), s_hour);
            Between(path + ".circuit_breaker.min_requests", breaker.MinRequests, 1, 1_000_000);
            Between(path + ".fallback.cache_ttl", fallback.CacheTtl, TimeSpan.Zero, TimeSpan.FromDays(30));
            Require(fallback.DefaultResponse.Length is > 0 and <= 4_096, path + ".fallback.default_response", "needs 1 to 4096 characters");
            Require(!fallback.DefaultResponse.Any(c => (char.IsControl(c) && c is not ('\n' or '\t')) || c == '\uFFFD'),
                path + ".fallback.default_response", "has control characters");
            Model(path + ".fallback.degraded_model", fallback.DegradedModel);
        }

        /// <summary>An instance has one breaker, so the pools that hold it must not ask for two kinds.</summary>
        public void Breakers()
        {
            var first = new Dictionary<string, PoolConfig>();
            Each(document.Pools, "pools", (path, pool) =>
            {
                if (pool.FailoverConfig is not { } own)
                {
                    return;
                }

                foreach (var name in document.EffectiveTiers(pool).SelectMany(t => t.Instances).Distinct())
                {
                    if (!first.TryAdd(name, pool)
                        && first[name].FailoverConfig is { } other
                        && (other.CircuitBreaker != own.CircuitBreaker || other.HealthCheck != own.HealthCheck))
                    {
                        faults.Add(path + ".failover_config",
                            $"instance \"{Units.Shown(name)}\" is also in pool \"{Units.Shown(first[name].Name)}\", whose health_check or circuit_breaker differs");
                    }
                }
            });
        }

        public void Clients()
        {
            AtMost("clients", document.Clients.Count, MostClients, "clients");
            Unique("clients", document.Clients.Select(c => c.Name), "a client");
            var keys = new Dictionary<string, string>();
            void New(string key, string path)
            {
                if (!keys.TryAdd(key, path))
                {
                    faults.Add(path, $"is the same as at {keys[key]}; a key tells clients apart");
                }
            }

            Each(document.Clients, "clients", (path, client) =>
            {
                Named(path + ".name", client.Name);
                Secret(path + ".key", client.Key);
                Require(client.Key is not null || client.Keys.Count > 0, path + ".key", "is required, unless there are keys");
                if (client.Key is { } reference)
                {
                    New(reference, path + ".key");
                }

                AtMost(path + ".keys", client.Keys.Count, MostKeys, "keys");
                Each(client.Keys, path + ".keys", (p, key) =>
                {
                    Require(Sha256().IsMatch(key.Sha256), p + ".sha256", "expected the sha256 of the key as 64 hexadecimal digits, a-f small");
                    New(key.Sha256, p + ".sha256");
                    EpochTime(p + ".until", key.Until, "leave it out for a key without end, or leave the key out");
                });
                EpochTime(path + ".expires", client.Expires, "leave it out for a client without end, or write enabled: false");

                AtMost(path + ".models", client.Models.Count, MostModels, "models");
                UniqueTexts(path + ".models", client.Models);
                Each(client.Models, path + ".models", (p, model) =>
                    Require(_models.Contains(model) || (_models.Contains("*") && ModelName().IsMatch(model)), p, $"no pool offers the model \"{Units.Shown(model)}\""));
                Between(path + ".requests_per_minute", client.RequestsPerMinute ?? 1, 1, 1_000_000_000);
                Between(path + ".tokens_per_minute", client.TokensPerMinute ?? 1, 1, int.MaxValue);
                Between(path + ".max_concurrent", client.MaxConcurrent ?? 1, 1, 1_000_000);
                if (client.Budget is { } budget)
                {
                    Between(path + ".budget.amount", budget.Amount, LeastBudget, 1_000_000_000);
                    IsCurrency(path + ".budget.currency", budget.Currency);
                    Require(budget.Per is "day" or "month", path + ".budget.per", "expected day or month");
                    Ratio(path + ".budget.warn_at", budget.WarnAt, zero: false);
                }
            });
        }

        public void Alerts()
        {
            AtMost("alerts", document.Alerts.Count, MostAlerts, "alerts");
            Unique("alerts", document.Alerts.Select(a => a.Name), "an alert");
            Each(document.Alerts, "alerts", (path, alert) =>
            {
                Named(path + ".name", alert.Name);
                Between(path + ".for", alert.For, TimeSpan.Zero, TimeSpan.FromDays(7));
                Between(path + ".resolve_for", alert.ResolveFor ?? TimeSpan.Zero, TimeSpan.Zero, TimeSpan.FromDays(7));
                if (AlertMetrics.Of(alert.Metric) is not { } metric)
                {
                    faults.Add(path + ".metric", "expected one of " + string.Join(", ", AlertMetrics.All));
                    return;
                }

                var (written, unused) = metric.WhenBelow ? ("below", "above") : ("above", "below");
                Require((metric.WhenBelow ? alert.Above : alert.Below) is null, $"{path}.{unused}", $"{alert.Metric} is judged by {written}");
                Threshold($"{path}.{written}", metric.WhenBelow ? alert.Below : alert.Above);
                Threshold(path + ".resolve_at", alert.ResolveAt);
                Require(alert.ResolveAt is null || AlertMetrics.IsBeyond(metric, alert.ResolveAt, alert.Above ?? alert.Below) != true,
                    path + ".resolve_at", "lies on the bad side of the threshold");

                Only(".window", alert.Window, metric.Window is not null);
                Between(path + ".window", alert.Window ?? TimeSpan.FromMinutes(1), TimeSpan.FromSeconds(10), TimeSpan.FromDays(30));
                Only(".min_requests", alert.MinRequests, metric.Window is not null);
                Between(path + ".min_requests", alert.MinRequests ?? 1, 1, 1_000_000);
                Only(".outcome", alert.Outcome, metric.Name == "error_rate");
                Require(alert.Outcome is null || Outcomes.All.Contains(alert.Outcome), path + ".outcome", "expected one of " + string.Join(", ", Outcomes.All));
                Only(".pool", alert.Pool, metric.ByPool);
                Require(alert.Pool is null || document.Pools.Any(p => p.Name == alert.Pool), path + ".pool", $"no pool \"{Units.Shown(alert.Pool ?? "")}\"");
                Only(".instance", alert.Instance, metric.ByInstance);
                Require(alert.Instance is null or "*" || _instances.Contains(alert.Instance), path + ".instance", $"no instance \"{Units.Shown(alert.Instance ?? "")}\"");
                Only(".client", alert.Client, metric.ByClient);
                Require(alert.Client is null || document.Clients.Any(c => c.Name == alert.Client), path + ".client", $"no client \"{Units.Shown(alert.Client ?? "")}\"");

                void Threshold(string where, string? text)
                {
                    if (text is not null && AlertMetrics.ThresholdFault(metric.Unit, text) is { } why)
                    {
                        faults.Add(where, why);
                    }
                }

                void Only(string key, object? value, bool holds) => Require(value is null || holds, path + key, $"means nothing for {alert.Metric}");
            });
        }

        public void Webhooks()
        {
            AtMost("webhooks", document.Webhooks.Count, MostWebhooks, "webhooks");
            Unique("webhooks", document.Webhooks.Select(w => w.Name), "a webhook");
            Each(document.Webhooks, "webhooks", (path, webhook) =>
            {
                Named(path + ".name", webhook.Name);
                Secret(path + ".url", webhook.Url);
                if (SecretReference.Parse(webhook.Url) is { Kind: SecretKind.Literal } literal)
                {
                    Require(Uri.TryCreate(literal.Value, UriKind.Absolute, out var uri) && uri.Scheme is "http" or "https" && uri.UserInfo.Length == 0,
                        path + ".url", "needs an http or https address, or env:, file: or secret:");
                    Require(uri is not { Scheme: "http" } || uri.IsLoopback || document.Gateway.WebhookPrivateTargets == true,
                        path + ".url", "needs https, or http to a loopback address, unless gateway.webhook_private_targets is true");
                    Require(uri is null || document.Gateway.LinkLocalTargets == true || !TargetAddress.IsRefused(uri.Host), path + ".url",
                        "is a link-local, metadata or multicast address, or none");
                }

                Secret(path + ".secret", webhook.Secret);
                Require(webhook.Format is "json" or "slack", path + ".format", "expected json or slack");
            });
        }

        private static void Each<T>(IReadOnlyList<T> items, string path, Action<string, T> check)
        {
            for (var i = 0; i < items.Count; i++)
            {
                check($"{path}[{i}]", items[i]);
            }
        }

        private void Require(bool holds, string path, string message)
        {
            if (!holds)
            {
                faults.Add(path, message);
            }
        }

        private void Named(string path, string name) =>
            Require(IsName(name), path, "a name is 1 to 48 of a-z, 0-9, dot, dash and underscore, with a letter or digit at both ends");

        private void Model(string path, string? model) =>
            Require(model is null || ModelName().IsMatch(model), path, "a model name is 1 to 128 printable ASCII characters without spaces, quotes or backslash");

        private void Secret(string path, string? reference)
        {
            if (reference is not null && SecretReference.Parse(reference).Fault() is { } why)
            {
                faults.Add(path, why);
            }
        }

        private void PemFile(string path, string file) =>
            Require(IsPath(file), path, "needs an absolute path of printable characters without quotes, backslash, ; { } $ #, 512 at most");

        private void IsCurrency(string path, string currency) =>
            Require(Currency().IsMatch(currency), path, "a currency is three capital letters, as in USD");

        private void Between(string path, decimal value, decimal least, decimal most) =>
            Require(value >= least && value <= most, path, $"{value} is not between {least} and {most}");

        private void Between(string path, TimeSpan value, TimeSpan least, TimeSpan most) =>
            Require(value >= least && value <= most, path,
                $"{Units.FormatDuration(value)} is not between {Units.FormatDuration(least)} and {Units.FormatDuration(most)}");

        /// <summary>Nodes count seconds from 1970 on.</summary>
        private void EpochTime(string path, DateTime? at, string instead) =>
            Require(!(at < DateTime.UnixEpoch), path, $"lies before 1970-01-01T00:00:00Z; {instead}");

        private void Ratio(string path, double value, bool zero) =>
            Require(value <= 1 && (zero ? value >= 0 : value > 0), path,
                value > 1 ? $"{Units.FormatRatio(Math.Min(value, 1e9))} is above 100%" : "must be above 0%");

        private void AtMost(string path, int count, int most, string what) => Require(count <= most, path, $"{count} {what}; {most} at most");

        private void Unique(string path, IEnumerable<string> names, string what)
        {
            var first = new Dictionary<string, int>();
            foreach (var (index, name) in names.Index())
            {
                // A name that is empty has a fault of its own.
                if (name.Length > 0 && !first.TryAdd(name, index))
                {
                    faults.Add($"{path}[{index}].name", $"{what} \"{Units.Shown(name)}\" is already at {path}[{first[name]}]");
                }
            }
        }

        private void UniqueTexts(string path, IReadOnlyList<string> texts)
        {
            var seen = new HashSet<string>();
            Each(texts, path, (p, text) => Require(seen.Add(text), p, $"\"{Units.Shown(text)}\" is there twice"));
        }
    }

    private static string? ListenFault(string listen)
    {
        var colon = listen.LastIndexOf(':');
        var host = colon > 0 ? listen[..colon] : "";
        var isHost = host is "*" or "localhost" || ((host.StartsWith('[') || IPv4().IsMatch(host)) && HostFault(host) is null);
        return isHost && IsPort(listen.AsSpan(colon + 1)) ? null : "expected an IP address and a port, as in 127.0.0.1:8080, [::1]:8080 or *:8080";
    }

    private static bool IsPort(ReadOnlySpan<char> text) =>
        text.Length is > 0 and <= 5 && text[0] != '0' && !text.ContainsAnyExceptInRange('0', '9') && int.Parse(text) <= 65_535;

    private static string? HostFault(string host)
    {
        if (host.StartsWith('[') && host.EndsWith(']'))
        {
            return !host.Contains('%') && IPAddress.TryParse(host.AsSpan(1, host.Length - 2), out var v6) && v6.AddressFamily == AddressFamily.InterNetworkV6
                ? null : "is not an IPv6 address";
        }

        // Resolvers read "127.1" and "2130706433" as addresses too; here only the plain form is one.
        var numeric = host.Length > 0 && !host.AsSpan().ContainsAnyExcept("0123456789.");
        return numeric
            ? IPv4().IsMatch(host) && IPAddress.TryParse(host, out var v4) && v4.ToString() == host ? null : "is not an IPv4 address"
            : DnsName.IsMatch(host) ? null : "is neither a DNS name nor an IP address";
    }

    /// <summary>The address of a provider.</summary>
    private static class BaseUrl
    {
        public static string? Fault(string url, bool anyTarget)
        {
            if (url.Length is 0 or > 512)
            {
                return "needs an http or https address, 512 characters at most";
            }

            var match = HttpAddress().Match(url);
            if (!match.Success)
            {
                return "needs an address as in https://api.example.com/v1: http or https, no user, query or fragment, plain characters";
            }

            var host = match.Groups["host"].Value;
            if (HostFault(host) is { } why)
            {
                return $"the host \"{Units.Shown(host)}\" {why}";
            }

            if (!anyTarget && TargetAddress.IsRefused(host))
            {
                return $"{Units.Shown(host)} is a link-local, metadata or multicast address, or none: never a provider (see gateway.link_local_targets)";
            }

            if (match.Groups["port"] is { Success: true } port && !IsPort(port.Value))
            {
                return "the port is not between 1 and 65535";
            }

            // "0x7f000001" and its like are names here and addresses to others; whoever means an address writes it plainly.
            if (!Uri.TryCreate(url, UriKind.Absolute, out var uri) || (uri.HostNameType == UriHostNameType.IPv4 && uri.Host != host))
            {
                return $"the host \"{Units.Shown(host)}\" is not written as a plain name or address";
            }

            return match.Groups["path"].Value.Split('/').Any(segment => segment is "." or "..") ? "the path has dot segments" : null;
        }
    }

    private static readonly Regex DnsName = DnsNamePattern();

    [GeneratedRegex(@"^[a-z0-9]([a-z0-9._-]{0,46}[a-z0-9])?\z")]
    private static partial Regex Name();

    [GeneratedRegex(@"^[!#-&(-\[\]-_a-~]{1,128}\z")]
    private static partial Regex ModelName();

    [GeneratedRegex(@"^[a-z0-9_]{1,48}\z")]
    private static partial Regex Capability();

    [GeneratedRegex(@"^[0-9a-f]{64}\z")]
    private static partial Regex Sha256();

    [GeneratedRegex(@"^[A-Z]{3}\z")]
    private static partial Regex Currency();

    [GeneratedRegex(@"^/[^""'`;{}$#\\\x00-\x1f\x7f-\uffff]{1,511}\z")]
    private static partial Regex PemPath();

    [GeneratedRegex(@"^(?=.{1,253}\z)(?!.*\.[0-9]+\.?\z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\z")]
    private static partial Regex DnsNamePattern();

    [GeneratedRegex(@"^[0-9]{1,3}(\.[0-9]{1,3}){3}\z")]
    private static partial Regex IPv4();

    [GeneratedRegex(@"^https?://(?<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:(?<port>[0-9]+))?(?<path>(/([A-Za-z0-9._~!&()*+,=:@-]|%[0-9A-Fa-f]{2})*)*)\z")]
    private static partial Regex HttpAddress();
}
