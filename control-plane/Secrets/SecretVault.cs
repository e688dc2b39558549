using System.Security.Cryptography;
using System.Text;
using Evenkeel.Config;

namespace Evenkeel.Secrets;

// The ciphertext is the encrypted bytes followed by the 16-byte tag.
public sealed record SealedSecret(string Id, string KeyId, byte[] Nonce, byte[] Ciphertext);

/// <summary>
/// Encrypts and decrypts stored secrets: AES-256-GCM, the id as associated data so that rows cannot be swapped. The id is
/// a keyed hash of the secret: the same secret always has the same id, and without the key an id tells nothing.
/// </summary>
public sealed class SecretVault
{
    private const int NonceBytes = 12;
    private const int TagBytes = 16;

    private readonly byte[] _encryptionKey;
    private readonly byte[] _idKey;

    /// <param name="key">32 random bytes.</param>
    public SecretVault(byte[] key)
    {
        _encryptionKey = HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 32, info: "evenkeel secret encryption"u8.ToArray());
        _idKey = HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 32, info: "evenkeel secret id"u8.ToArray());
        KeyId = Convert.ToHexStringLower(HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 8, info: "evenkeel key id"u8.ToArray()));
    }

    /// <summary>Tells keys apart; says nothing about them.</summary>
    public string KeyId { get; }

    /// <summary>The document with every literal replaced by "secret:ID", and what has to be stored for that.</summary>
    public (ConfigDocument Document, IReadOnlyList<SealedSecret> Secrets) Seal(ConfigDocument document)
    {
        var secrets = new Dictionary<string, SealedSecret>();
        var withReferences = SecretFields.Map(document, text =>
        {
            if (SecretReference.Parse(text) is not { Kind: SecretKind.Literal } literal)
            {
                return text;
            }

            var id = IdOf(literal.Value);
            secrets.TryAdd(id, Encrypt(id, literal.Value));
            return "secret:" + id;
        });
        return (withReferences, [.. secrets.Values]);
    }

    /// <returns>Null when the key is another one or the row was tampered with.</returns>
    public string? Open(SealedSecret secret)
    {
        if (secret.KeyId != KeyId || secret.Nonce.Length != NonceBytes || secret.Ciphertext.Length < TagBytes)
        {
            return null;
        }

        var plain = new byte[secret.Ciphertext.Length - TagBytes];
        try
        {
            using var aes = new AesGcm(_encryptionKey, TagBytes);
            aes.Decrypt(secret.Nonce, secret.Ciphertext.AsSpan(0, plain.Length), secret.Ciphertext.AsSpan(plain.Length), plain, Encoding.ASCII.GetBytes(secret.Id));
            return Encoding.UTF8.GetString(plain);
        }
        catch (AuthenticationTagMismatchException)
        {
            return null;
        }
    }

    private string IdOf(string secret) => Convert.ToHexStringLower(HMACSHA256.HashData(_idKey, Encoding.UTF8.GetBytes(secret)))[..20];

    private SealedSecret Encrypt(string id, string secret)
    {
        var plain = Encoding.UTF8.GetBytes(secret);
        var nonce = RandomNumberGenerator.GetBytes(NonceBytes);
        var ciphertext = new byte[plain.Length + TagBytes];
        using var aes = new AesGcm(_encryptionKey, TagBytes);
        aes.Encrypt(nonce, plain, ciphertext.AsSpan(0, plain.Length), ciphertext.AsSpan(plain.Length), Encoding.ASCII.GetBytes(id));
        return new SealedSecret(id, KeyId, nonce, ciphertext);
    }
}
