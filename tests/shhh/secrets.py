"""Secrets that open nothing, put together at run time: a scanner of repositories would take them for real ones."""

A20 = "A1b2C3d4E5f6G7h8J9k0"
BASE64_LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"


def pem(kind: str = "", head: str = "", lines: int = 4, line_feed: str = "\n") -> str:
    name = f"{kind}PRIVATE " + "KEY"
    body = line_feed.join([BASE64_LINE] * lines)
    return f"-----BEGIN {name}-----{line_feed}{head}{body}{line_feed}-----END {name}-----"


JWT = ".".join(
    ("eyJhbGciOi" + "JIUzI1NiJ9", "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0", "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U")
)
OPENAI = "sk-" + A20 + "T3BlbkFJ" + A20
CANARY = "sk-" + "proj-" + A20 + "_" + A20

POSITIVE = {
    "bearer-token": (
        f"Authorization: Bearer {A20}",
        f"authorization: bearer  {A20}=",
        f'curl -H "Authorization: Bearer {JWT}"',
        JWT,
        JWT.replace("eyJhbGciOi", "eyJ0eXAiOi"),
    ),
    "api-key": (
        "AKIA" + "IOSFODNN7EXAMPLE",
        "AIza" + "SyA1b2C3d4E5f6G7h8J9k0A1b2C3d4E5f6G",
        "ghp_" + A20 + "A1b2C3d4E5f6G7h8",
        "github_pat_" + A20 * 4 + "ab",
        "glpat-" + A20,
        "npm_" + A20 + "A1b2C3d4E5f6G7h8",
        "sk_live_" + A20,
        "sk-ant-api03-" + A20 * 4,
        f"OPENAI_API_KEY={A20}",
        f'{{"api-key": "{A20}"}}',
        f"apikey => '{A20}'",
        f"--api-key {A20}",
        f"aws_secret_access_key = {A20}/{A20}",
    ),
    "oauth-token": (
        "gho_" + A20 + "A1b2C3d4E5f6G7h8",
        "ghs_" + A20 + "A1b2C3d4E5f6G7h8",
        "xoxb-" + "123456789012-123456789012-" + A20,
        "ya29." + A20 * 3,
        "GOCSPX-" + A20 + "A1b2C3d4",
        f"access_token={A20}&x=1",
        f'"refreshToken": "{A20}"',
        f"client_secret: {A20}",
    ),
    "private-key": (
        pem(),
        pem("RSA "),
        pem("EC "),
        pem("OPENSSH ", lines=30),
        pem("ENCRYPTED "),
        pem(line_feed="\\n"),
        pem("RSA ", head="Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0123456789ABCDEF0123456789ABCDEF\n\n"),
        "-----BEGIN PGP PRIVATE " + "KEY BLOCK-----\n\n" + BASE64_LINE + "\n-----END",
        "AGE-SECRET-" + "KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" + "QPZRY9X8GF2TVDW0S3JN54KHCE",
    ),
    "openai-secret": (
        OPENAI,
        f"key:{OPENAI}.",
        CANARY,
        "sk-" + "svcacct-" + A20,
        "sk-" + "admin-" + A20 + "-" + A20 * 5,
    ),
}
"""{family: texts in which it finds something}."""

NEGATIVE = (
    "",
    "the bearer of this letter",
    "Bearer authentication-is-described-in-the-guide",
    "AKIA" + "IOSFODNN7EXAMPLE1",
    "xAKIA" + "IOSFODNN7EXAMPLE",
    "ghp_short",
    "sk-learn is a library, sk-proj-ects are not",
    "api_key = get_api_key_from_the_environment(name)",
    'api_key = os.environ["OPENAI_API_KEY_PRODUCTION_1"]',
    "access_token: ${ACCESS_TOKEN_FOR_THE_PRODUCTION_1}",
    "client_secret is read from a file",
    "the access tokens 12345678901234567890123",
    "-----BEGIN CERTIFICATE-----\n" + BASE64_LINE,
    "-----BEGIN PUBLIC KEY-----\n" + BASE64_LINE,
    "look for -----BEGIN RSA PRIVATE " + "KEY----- in your files",
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDQ8zG9h6YxJm3b1 someone@somewhere",
    "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
    "eyJhbGciOi" + "JIUzI1NiJ9 alone is a header",
)
"""Texts in which nothing is to be found."""
