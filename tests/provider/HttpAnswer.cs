using System.Text;

namespace Evenkeel.Provider;

/// <summary>Whole answers in one piece of bytes, for everything that is not under a fault's control.</summary>
internal static class HttpAnswer
{
    public static byte[] Json(int status, string json, bool close = false, string extraHeaders = "") =>
        Text(status, "application/json", json, close, extraHeaders);

    public static byte[] Text(int status, string contentType, string text, bool close = false, string extraHeaders = "")
    {
        var body = Encoding.UTF8.GetBytes(text);
        var head = $"HTTP/1.1 {status} {Reason(status)}\r\ncontent-type: {contentType}\r\ncontent-length: {body.Length}\r\n"
            + extraHeaders + (close ? "connection: close\r\n" : "") + "\r\n";
        return [.. Encoding.Latin1.GetBytes(head), .. body];
    }

    public static string Reason(int status) => status switch
    {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Site Is Overloaded",
        _ => "Status",
    };
}

/// <summary>Error bodies in the shape OpenAI and DeepSeek use, with the words they use.</summary>
internal static class ErrorBody
{
    public static string Json(string type, string? code, string message)
    {
        using var buffer = new ByteBuffer();
        buffer.Append("{\"error\":{\"message\":\""u8);
        buffer.AppendJsonText(message);
        buffer.Append("\",\"type\":\""u8);
        buffer.AppendJsonText(type);
        buffer.Append("\",\"param\":null,\"code\":"u8);
        if (code is null)
        {
            buffer.Append("null"u8);
        }
        else
        {
            buffer.Append("\""u8);
            buffer.AppendJsonText(code);
            buffer.Append("\""u8);
        }
        buffer.Append("}}"u8);
        return Encoding.UTF8.GetString(buffer.Span);
    }

    /// <summary>The usual body of an error status.</summary>
    public static string ForStatus(int status, string? message) => status switch
    {
        400 => Json("invalid_request_error", null, message ?? "Invalid request."),
        401 => Json("authentication_error", "invalid_api_key", message ?? "Authentication Fails (no such user)"),
        402 => Json("insufficient_balance", "insufficient_balance", message ?? "Insufficient Balance"),
        403 => Json("permission_error", "permission_denied", message ?? "You are not allowed to use this resource."),
        404 => ForCode("model_not_found", message),
        408 => Json("timeout", null, message ?? "The request took too long."),
        413 => Json("invalid_request_error", "request_too_large", message ?? "The request body is too large."),
        422 => Json("invalid_request_error", "invalid_parameters", message ?? "Invalid parameters."),
        429 => ForCode("rate_limit_exceeded", message),
        529 => Json("overloaded_error", "overloaded", message ?? "Overloaded"),
        _ => Json("server_error", null, message ?? "The server had an error while processing your request."),
    };

    /// <summary>The body that goes with an error code.</summary>
    public static string ForCode(string code, string? message) => code switch
    {
        "context_length_exceeded" => Json("invalid_request_error", code,
            message ?? "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens. Please reduce the length of the messages."),
        "content_policy_violation" => Json("invalid_request_error", code, message ?? "Your request was rejected as a result of our safety system."),
        "content_filter" => Json("invalid_request_error", code, message ?? "The response was filtered due to the prompt triggering the content management policy."),
        "model_not_found" => Json("invalid_request_error", code, message ?? "The model does not exist or you do not have access to it."),
        "insufficient_quota" => Json("insufficient_quota", code, message ?? "You exceeded your current quota, please check your plan and billing details."),
        "rate_limit_exceeded" => Json("rate_limit_error", code, message ?? "Rate limit reached, please try again later."),
        "invalid_api_key" => Json("authentication_error", code, message ?? "Incorrect API key provided."),
        _ => Json("error", code, message ?? "The request failed: " + code),
    };
}
