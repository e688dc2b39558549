using Evenkeel.Config;
using Xunit;

namespace Evenkeel.Tests.Config;

public sealed class ValidateCommandTests
{
    [Theory]
    [InlineData("good/example.yaml", 0)]
    [InlineData("good/json.json", 0)]
    [InlineData("bad/dangling.yaml", 1)]
    [InlineData("bad/not-json.json", 1)]
    [InlineData("bad/missing.yaml", 2)]
    public void Validate_prints_every_fault_and_its_exit_code_says_what_was_found(string file, int expected)
    {
        var (output, errors) = (new StringWriter(), new StringWriter());
        var path = Repository.PathOf("tests", "contract", "config", file);
        Assert.Equal(expected, ValidateCommand.Run([path], output, errors));
        Assert.Equal(expected == 1 ? File.ReadAllText(path + ".faults") : "", output.ToString());
        Assert.Equal(expected == 2, errors.ToString().Length > 0);
    }

    [Fact]
    public void Validate_without_a_file_says_how_it_is_used()
    {
        var errors = new StringWriter();
        Assert.Equal(2, ValidateCommand.Run([], new StringWriter(), errors));
        Assert.StartsWith("usage:", errors.ToString());
    }
}
