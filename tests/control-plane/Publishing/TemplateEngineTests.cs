using Evenkeel.Publishing;
using Xunit;

namespace Evenkeel.Tests.Publishing;

public sealed class TemplateEngineTests
{
    [Fact]
    public void The_shipped_template_is_plain()
    {
        using var stream = typeof(Renderer).Assembly.GetManifestResourceStream("nginx/nginx.conf.hbs")!;
        Assert.Empty(TemplateEngine.Lint(new StreamReader(stream).ReadToEnd()));
    }

    [Theory]
    [InlineData("{{{name}}}")]
    [InlineData("server {{{name}} }")]
    [InlineData("{{& name}}")]
    [InlineData("{{&name}}")]
    [InlineData("{{~name}}")]
    [InlineData("{{> partial}}")]
    [InlineData("{{#with x}}{{/with}}")]
    [InlineData("{{#unless x}}{{/unless}}")]
    [InlineData("{{lookup a b}}")]
    [InlineData("{{#if (eq a b)}}{{/if}}")]
    [InlineData("{{name}")]
    [InlineData("{{[a b]}}")]
    [InlineData("\\{{name}}")]
    [InlineData("{{@root.name}}")]
    public void Raw_output_and_anything_but_values_if_and_each_is_refused(string template)
    {
        Assert.NotEmpty(TemplateEngine.Lint("x\n" + template + "\ny"));
        Assert.Throws<FormatException>(() => new TemplateEngine(template));
    }

    [Fact]
    public void A_fault_names_its_line() => Assert.StartsWith("line 3: ", Assert.Single(TemplateEngine.Lint("a\nb\n{{{c}}}\n")));

    [Fact]
    public void A_variable_that_the_model_does_not_have_is_an_error() =>
        Assert.Throws<FormatException>(() => new TemplateEngine("{{missing}}").Render(new Dictionary<string, object?> { ["a"] = "b" }));

    [Fact]
    public void Values_are_quoted_for_nginx_wherever_they_stand()
    {
        var model = new Dictionary<string, object?> { ["value"] = "a \"b\" ;{}\\", ["list"] = new List<object> { new Dictionary<string, object?> { ["item"] = "x y" } } };
        Assert.Equal("""a "a \"b\" ;{}\\" "x y";""", new TemplateEngine("a {{value}} {{#each list}}{{item}}{{/each}};").Render(model));
    }

    [Fact]
    public void A_value_is_never_read_as_a_template() =>
        Assert.Equal("\"{{b}}\"", new TemplateEngine("{{a}}").Render(new Dictionary<string, object?> { ["a"] = "{{b}}", ["b"] = "no" }));

    [Theory]
    [InlineData("plain-1.x/y:80", "plain-1.x/y:80")]
    [InlineData("", "")]
    [InlineData("a b", "\"a b\"")]
    [InlineData("a\"b\\", "\"a\\\"b\\\\\"")]
    [InlineData("#", "\"#\"")]
    [InlineData("é", "\"é\"")]
    public void A_token_is_bare_or_quoted(string value, string token) => Assert.Equal(token, NginxQuote.Token(value));

    [Theory]
    [InlineData("a\nb")]
    [InlineData("a\0")]
    [InlineData("$x")]
    public void What_nginx_cannot_quote_is_refused(string value) => Assert.Throws<FormatException>(() => NginxQuote.Token(value));

    [Theory]
    [InlineData("127.0.0.1:80", "127.0.0.1:80")]
    [InlineData("[::1]:65535", "[::1]:65535")]
    [InlineData("*:8080", "*:8080")]
    [InlineData("localhost:1", "localhost:1")]
    [InlineData("127.0.0.1", null)]
    [InlineData("127.0.0.1:0", null)]
    [InlineData("127.0.0.1:65536", null)]
    [InlineData("::1:80", null)]
    [InlineData("[::1%eth0]:80", null)]
    [InlineData("127.1:80", null)]
    [InlineData("unix:/tmp/x", null)]
    [InlineData("127.0.0.1:80 ssl", null)]
    [InlineData("127.0.0.1:+80", null)]
    public void An_address_to_listen_on_is_an_address_and_a_port(string value, string? listen)
    {
        if (listen is null) Assert.Throws<FormatException>(() => NginxQuote.Listen(value));
        else Assert.Equal(listen, NginxQuote.Listen(value));
    }

    [Fact]
    public void The_error_never_repeats_the_value() =>
        Assert.DoesNotContain("sk-secret", Assert.Throws<FormatException>(() => NginxQuote.Token("sk-secret$")).Message);
}
