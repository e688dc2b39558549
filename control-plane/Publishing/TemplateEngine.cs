using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;
using HandlebarsDotNet;

namespace Evenkeel.Publishing;

/// <summary>
/// The one class that knows the template engine (Handlebars.Net), so that another (Scriban) can take over: in come a template and plain
/// dictionaries, lists and strings, out comes text. Every <c>{{value}}</c> passes <see cref="NginxQuote.Token"/>; typed helpers
/// (<c>{{ident x}}</c>, <c>{{listen x}}</c>, <c>{{path x}}</c>, <c>{{adapterSocket x}}</c>) are for positions that take less than any
/// token. A variable that the model does not have is an error, never an empty string.
/// </summary>
public sealed partial class TemplateEngine
{
    private readonly HandlebarsTemplate<object, object> render;

    /// <exception cref="FormatException">The template uses a construct that <see cref="Lint"/> refuses.</exception>
    public TemplateEngine(string template)
    {
        if (Lint(template) is [var fault, ..]) throw new FormatException(fault);
        var handlebars = Handlebars.Create(new HandlebarsConfiguration
        {
            TextEncoder = new NginxEncoder(),
            NoEscape = false,
            ThrowOnUnresolvedBindingExpression = true,
        });
        Register("ident", NginxQuote.Identifier);
        Register("listen", NginxQuote.Listen);
        Register("path", NginxQuote.Path);
        Register("adapterSocket", name => $"unix:run/instances/{NginxQuote.Identifier(name)}.sock");
        render = handlebars.Compile(template);

        void Register(string name, Func<string, string> quote) => handlebars.RegisterHelper(name, (output, _, arguments) =>
            output.WriteSafeString(quote(arguments[0] as string ?? throw new FormatException($"{{{{{name}}}}} needs a string"))));
    }

    /// <exception cref="FormatException">The model lacks a variable, or a value does not fit its position.</exception>
    public string Render(IReadOnlyDictionary<string, object?> model)
    {
        try
        {
            return render(model);
        }
        catch (Exception failure) when (failure is not FormatException)
        {
            throw new FormatException("the template and its values do not fit: " + failure.GetBaseException().Message, failure);
        }
    }

    /// <summary>
    /// What a template may not contain, "line N: why" each: raw output (<c>{{{</c>, <c>{{&amp;</c>), which bypasses the quoting, and
    /// everything beyond values, if and each, which another engine may not have.
    /// </summary>
    public static IReadOnlyList<string> Lint(string template)
    {
        var faults = new List<string>();
        foreach (Match tag in Tag().Matches(template))
        {
            var line = template.AsSpan(0, tag.Index).Count('\n') + 1;
            if (tag.Value.StartsWith("{{{", StringComparison.Ordinal) || tag.Value.EndsWith("}}}", StringComparison.Ordinal) || tag.Value.StartsWith("{{&", StringComparison.Ordinal))
                faults.Add($"line {line}: raw output {tag.Value} is not quoted for nginx");
            else if (!Plain().IsMatch(tag.Value))
                faults.Add($"line {line}: {tag.Value} is not a plain value, if or each");
        }
        return faults;
    }

    // A whole tag with any further braces around it; an unclosed one runs to the end of its line.
    [GeneratedRegex(@"\\*\{\{+(!--.*?--|[^\n]*?)(\}\}+|\n|\z)", RegexOptions.Singleline | RegexOptions.CultureInvariant)]
    private static partial Regex Tag();

    [GeneratedRegex(@"^\{\{(!--.*--|![^{}]*|else|/(if|each)|(#(if|each) |(ident|listen|path|adapterSocket) )?(\.\./)*[A-Za-z][A-Za-z0-9]*)\}\}\z", RegexOptions.Singleline | RegexOptions.CultureInvariant)]
    private static partial Regex Plain();

    private sealed class NginxEncoder : ITextEncoder
    {
        public IFormatProvider? FormatProvider { get; } = CultureInfo.InvariantCulture;

        public void Encode(StringBuilder? text, TextWriter target) => Encode(text?.ToString(), target);

        public void Encode(string? text, TextWriter target) => target.Write(NginxQuote.Token(text ?? ""));

        public void Encode<T>(T? text, TextWriter target) where T : IEnumerator<char>
        {
            var characters = new StringBuilder();
            while (text?.MoveNext() == true) characters.Append(text.Current);
            Encode(characters, target);
        }
    }
}
