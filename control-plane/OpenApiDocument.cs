using Evenkeel.Auth;
using Evenkeel.Config;
using Microsoft.AspNetCore.Authorization;
using Microsoft.AspNetCore.OpenApi;
using Microsoft.OpenApi;

namespace Evenkeel;

/// <summary>What the generator cannot know: how durations and shares are written, and who may call what.</summary>
internal static class OpenApiDocument
{
    private static OpenApiParameter Optional(string name, ParameterLocation where, string description) =>
        new() { Name = name, In = where, Description = description, Schema = new OpenApiSchema { Type = JsonSchemaType.String } };

    public static void Configure(OpenApiOptions options)
    {
        options.AddDocumentTransformer((document, _, _) =>
        {
            document.Info = new OpenApiInfo { Title = "Evenkeel", Version = "v1", Description = "Control plane of an LLM gateway. Errors are problem details (RFC 9457); a configuration that is refused lists every fault as errors: [{path, message}]." };
            document.Servers = [];   // wherever it runs
            document.Components ??= new OpenApiComponents();
            document.Components.SecuritySchemes = new Dictionary<string, IOpenApiSecurityScheme>
            {
                ["admin"] = new OpenApiSecurityScheme { Type = SecuritySchemeType.Http, Scheme = "bearer", Description = "An admin token, or in its place the cookie that POST /api/v1/session gives; changes by cookie need the header x-evenkeel-csrf: 1. Reads take the role viewer, changes the role admin, unless the operation says otherwise. A token may be bound to areas." },
                ["node"] = new OpenApiSecurityScheme { Type = SecuritySchemeType.Http, Scheme = "bearer", Description = "The token of the node that the path names." },
            };
            return Task.CompletedTask;
        });
        options.AddOperationTransformer((operation, context, _) =>
        {
            var metadata = context.Description.ActionDescriptor.EndpointMetadata;
            if (!metadata.OfType<IAllowAnonymous>().Any())
            {
                var audience = metadata.OfType<TokenAudience>().LastOrDefault()?.Audience ?? Audience.Admin;
                var scheme = new OpenApiSecuritySchemeReference(audience == Audience.Node ? "node" : "admin", context.Document);
                if (metadata.OfType<NeedsRole>().LastOrDefault() is { } needs)
                {
                    operation.Description = $"Needs the role {needs.Role.ToString().ToLowerInvariant()}.";
                }

                operation.Security = [new OpenApiSecurityRequirement { [scheme] = [] }];
            }

            if (metadata.OfType<WritesConfig>().Any())
            {
                operation.Parameters ??= [];
                operation.Parameters.Add(Optional("If-Match", ParameterLocation.Header, "The ETag of the last read: refused with 412 when somebody wrote meanwhile."));
                operation.Parameters.Add(Optional("message", ParameterLocation.Query, "Why; kept with the revision."));
            }

            return Task.CompletedTask;
        });
        options.AddSchemaTransformer((schema, context, _) =>
        {
            var type = context.JsonTypeInfo.Type;
            if (type.IsEnum)
            {
                schema.Type = JsonSchemaType.String;
            }
            else if (type == typeof(PoolConfig) && context.JsonPropertyInfo is null)
            {
                schema.Required = new HashSet<string> { "models" };   // the name has a default
            }
            else if (type == typeof(TierConfig))
            {
                schema.Required = new HashSet<string> { "instances" };
            }
            else if (context.JsonTypeInfo.Type == typeof(TimeSpan) || context.JsonTypeInfo.Type == typeof(TimeSpan?))
            {
                schema.Type = JsonSchemaType.String;
                schema.Format = null;
                schema.Pattern = @"^\d+(\.\d+)?(ms|s|m|h|d)$";
            }
            else if (context.JsonPropertyInfo?.CustomConverter is RatioConverter)
            {
                schema.Type = JsonSchemaType.String | JsonSchemaType.Number;
                schema.Description = "A share: \"50%\" or 0.5.";
            }
            else if (context.JsonPropertyInfo?.CustomConverter is AutoConverter)
            {
                schema.Type = JsonSchemaType.String | JsonSchemaType.Integer;
                schema.Description = "\"auto\" or a number.";
            }

            return Task.CompletedTask;
        });
    }
}
