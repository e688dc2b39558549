using Evenkeel;
using Evenkeel.Alerts;
using Evenkeel.Audit;
using Evenkeel.Auth;
using Evenkeel.Clients;
using Evenkeel.Config;
using Evenkeel.Dashboard;
using Evenkeel.Database;
using Evenkeel.Ghosts;
using Evenkeel.Health;
using Evenkeel.Incidents;
using Evenkeel.Instances;
using Evenkeel.Nodes;
using Evenkeel.Pools;
using Evenkeel.Publishing;
using Evenkeel.Reports;
using Evenkeel.Revisions;
using Evenkeel.Secrets;
using Evenkeel.Telemetry;
using Microsoft.AspNetCore.Connections;
using Npgsql;

// The control plane: `validate FILE` checks a configuration and ends, `rotate-secret-key` gives stored secrets a new key; without a
// command it serves the REST API.

if (args is ["validate", .. var rest])
{
    return ValidateCommand.Run(rest, Console.Out, Console.Error);
}

try
{
    if (args is ["rotate-secret-key", .. var flags])
    {
        var configuration = new ConfigurationBuilder().AddEnvironmentVariables().Build();
        return await RotateCommand.RunAsync(flags, EvenkeelOptions.From(configuration), Console.Out, Console.Error);
    }

    var builder = WebApplication.CreateSlimBuilder(args);
    var options = EvenkeelOptions.From(builder.Configuration);

    builder.WebHost.UseUrls(options.Listen);
    builder.WebHost.UseKestrelHttpsConfiguration();
    builder.WebHost.ConfigureKestrel(kestrel =>
    {
        ListenerTls.Configure(kestrel, options);
        kestrel.AddServerHeader = false;
        kestrel.Limits.MaxRequestBodySize = ConfigTree.MaxBytes + 1024 * 1024;   // endpoints bound their own bodies, lower and with words
    });
    builder.Logging.ClearProviders().AddSimpleConsole(console =>
    {
        console.SingleLine = true;
        console.UseUtcTimestamp = true;
        console.TimestampFormat = "yyyy-MM-ddTHH:mm:ss.fffZ ";
    });
    builder.Logging.AddFilter("Microsoft.AspNetCore", LogLevel.Warning).AddFilter("Quartz", LogLevel.Warning);

    builder.Services.AddSingleton(options);
    builder.Services.AddSingleton(TimeProvider.System);
    builder.Services.AddSingleton(BearerTokens.From(options));
    builder.Services.AddSingleton<AdminTokens>();
    builder.Services.AddSingleton(new FailureLimiter());
    builder.Services.AddSingleton<AuditLog>();
    builder.Services.AddSingleton(new SecretVault(() => SecretKeyFile.ReadAll(options.SecretKeyFile)));
    builder.Services.AddSingleton<SecretFiles>();
    builder.Services.AddSingleton<SecretResolver>();
    builder.Services.AddSingleton<SecretStore>();
    builder.Services.AddDatabase(options);
    builder.Services.AddScheduler();
    builder.Services.AddSingleton<ConfigStore>();
    builder.Services.AddSingleton(new ConfigTurns());
    builder.Services.AddSingleton(new Exports(atOnce: 4, longest: TimeSpan.FromMinutes(10)));
    builder.Services.AddSingleton<RevisionStore>();
    builder.Services.AddPublishing();
    builder.Services.AddHealth();
    builder.Services.AddGhosts();
    builder.Services.AddIncidents();
    builder.Services.AddTelemetry();
    builder.Services.AddAlerts();
    builder.Services.AddClients();

    builder.Services.ConfigureHttpJsonOptions(json => ConfigJson.Configure(json.SerializerOptions));
    builder.Services.Configure<RouteHandlerOptions>(handlers => handlers.ThrowOnBadRequest = true);   // for UseWordsForBadRequests
    builder.Services.AddProblemDetails(problems => problems.CustomizeProblemDetails = Refusals.Explain);
    builder.Services.AddExceptionHandler<DatabaseAway>();
    builder.Services.AddExceptionHandler<NoText>();
    builder.Services.AddOpenApi(OpenApiDocument.Configure);

    var app = builder.Build();
    app.UseSecurityHeaders();
    app.UseExceptionHandler(new ExceptionHandlerOptions { StatusCodeSelector = e => e is BadHttpRequestException bad ? bad.StatusCode : StatusCodes.Status500InternalServerError });
    app.UseStatusCodePages();
    app.UseSwaggerUI(page =>
    {
        page.RoutePrefix = "openapi";
        page.SwaggerEndpoint("/openapi/v1.json", "Evenkeel");
        page.DocumentTitle = "Evenkeel API";
    });
    app.UseRouting();
    app.UseGate();
    app.UseWordsForBadRequests();
    app.UseRefusalOfControlCharacters();
    app.UseRefusalWhileAway();

    app.MapDashboard();
    app.MapHealth();
    app.MapOpenApi().AllowAnonymous();
    app.MapSession();
    app.MapTokens();
    app.MapAudit();
    app.MapSecrets();
    app.MapConfig();
    app.MapInstances();
    app.MapPools();
    app.MapClients();
    app.MapRevisions();
    app.MapNodes();
    app.MapInstanceHealth();
    app.MapGhosts();
    app.MapIncidents();
    app.MapTelemetry();
    app.MapAlerts();
    app.MapReports();

    var database = app.Services.GetRequiredService<NpgsqlDataSource>();
    var stopping = app.Lifetime.ApplicationStopping;
    await DatabaseSetup.WaitAsync(database, TimeSpan.FromSeconds(options.DatabaseWaitSeconds), app.Logger, TimeProvider.System, stopping);
    foreach (var name in await Migrator.MigrateAsync(database, stopping))
    {
        DatabaseLog.Migrated(app.Logger, name);
    }

    await app.RunAsync();
    return 0;
}
catch (SetupException e)
{
    await Console.Error.WriteLineAsync("evenkeel: " + e.Message);
    return 1;
}
catch (NpgsqlException e) when (args is ["rotate-secret-key", ..])
{
    await Console.Error.WriteLineAsync("evenkeel: nothing was changed: " + e.Message);
    return 1;
}
catch (IOException e) when (e.InnerException is AddressInUseException)
{
    await Console.Error.WriteLineAsync("evenkeel: " + e.Message);
    return 1;
}

public partial class Program;
