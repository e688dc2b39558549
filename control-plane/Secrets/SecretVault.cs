using System.Security.Cryptography;
using System.Text;
using Evenkeel.Config;

namespace Evenkeel.Secrets;

// The ciphertext is the encrypted bytes followed by the 16-byte tag.
public sealed record SealedSecret(string Id, string KeyId, byte[] Nonce, byte[] Ciphertext);

/// <summary>
/// Encrypts and decrypts stored secrets: AES-256-GCM, the id as associated data so that rows cannot be swapped. The id is
/// a keyed hash of the secret: the same secret always has the same id, and without the key an id tells nothing. Seals with the key in
/// force; opens with any of the keys, and asks for them anew when it meets one that it does not know: they change under a running
/// control plane (see <see cref="RotateCommand"/>).
/// </summary>
public sealed class SecretVault
{
    private const int NonceBytes = 12;
    private const int TagBytes = 16;

    private sealed class Key(byte[] key)
    {
        public byte[] Encryption { get; } = HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 32, info: "evenkeel secret encryption"u8.ToArray());
        public byte[] IdKey { get; } = HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 32, info: "evenkeel secret id"u8.ToArray());
        public string Id { get; } = Convert.ToHexStringLower(HKDF.DeriveKey(HashAlgorithmName.SHA256, key, 8, info: "evenkeel key id"u8.ToArray()));
    }

    private readonly Func<IReadOnlyList<byte[]>> _read;
    private volatile IReadOnlyList<Key> _keys;

    /// <param name="key">32 random bytes.</param>
    public SecretVault(byte[] key) : this(() => [key])
    {
    }

    /// <param name="read">Gives the keys, each 32 random bytes, the one in force first.</param>
    public SecretVault(Func<IReadOnlyList<byte[]>> read)
    {
        _read = read;
        _keys = Read();
    }

    /// <summary>Tells keys apart; says nothing about them.</summary>
    public string KeyId => _keys[0].Id;

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

            if (secrets.Count == 0)
            {
                _keys = Read();     // the one in force may be another one by now
            }

            var key = _keys[0];
            var id = Convert.ToHexStringLower(HMACSHA256.HashData(key.IdKey, Encoding.UTF8.GetBytes(literal.Value)))[..20];
            secrets.TryAdd(id, Encrypt(key, id, literal.Value));
            return "secret:" + id;
        });
        return (withReferences, [.. secrets.Values]);
    }

    /// <summary>One secret under an id of the caller's, by the key in force.</summary>
    public SealedSecret Seal(string id, string secret)
    {
        _keys = Read();     // the one in force may be another one by now
        return Encrypt(_keys[0], id, secret);
    }

    /// <summary>The same secret under the key in force, with the id that it has.</summary>
    /// <returns>Null when it cannot be opened.</returns>
    public SealedSecret? Reseal(SealedSecret secret) => Open(secret) is { } plain ? Encrypt(_keys[0], secret.Id, plain) : null;

    /// <returns>Null when the key is another one or the row was tampered with.</returns>
    public string? Open(SealedSecret secret)
    {
        if (KeyOf(secret.KeyId) is not { } key || secret.Nonce.Length != NonceBytes || secret.Ciphertext.Length < TagBytes)
        {
            return null;
        }

        var plain = new byte[secret.Ciphertext.Length - TagBytes];
        try
        {
            using var aes = new AesGcm(key.Encryption, TagBytes);
            aes.Decrypt(secret.Nonce, secret.Ciphertext.AsSpan(0, plain.Length), secret.Ciphertext.AsSpan(plain.Length), plain, Encoding.ASCII.GetBytes(secret.Id));
            return Encoding.UTF8.GetString(plain);
        }
        catch (AuthenticationTagMismatchException)
        {
            return null;
        }
    }

    private List<Key> Read() => [.. _read().Select(key => new Key(key))];

    private Key? KeyOf(string id)
    {
        if (_keys.FirstOrDefault(k => k.Id == id) is { } known)
        {
            return known;
        }

        _keys = Read();
        return _keys.FirstOrDefault(k => k.Id == id);
    }

    private static SealedSecret Encrypt(Key key, string id, string secret)
    {
        var plain = Encoding.UTF8.GetBytes(secret);
        var nonce = RandomNumberGenerator.GetBytes(NonceBytes);
        var ciphertext = new byte[plain.Length + TagBytes];
        using var aes = new AesGcm(key.Encryption, TagBytes);
        aes.Encrypt(nonce, plain, ciphertext.AsSpan(0, plain.Length), ciphertext.AsSpan(plain.Length), Encoding.ASCII.GetBytes(id));
        return new SealedSecret(id, key.Id, nonce, ciphertext);
    }
}
