"""Who calls: what a token proves, and every way to pretend that it does. Time is a test's to choose."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from cluster import callers
from cluster.callers import Access, Caller, Provider, Unknown, who
from swoosh.errors import Malformed

NOW = 1_800_000_000
SHARED = "a secret that both sides know, long enough"
TOKEN = "0123456789abcdef0123456789abcdef"

RSA_KEY = rsa.generate_private_key(65537, 2048)
STRANGER = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = Ed25519PrivateKey.generate()
PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
SIGNERS: dict[str, Any] = {"RS256": RSA_KEY, "ES256": EC_KEY, "EdDSA": ED_KEY}
PUBLIC: dict[str, dict[str, Any]] = {
    "RS256": {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "rsa", "use": "sig", "alg": "RS256"},
    "ES256": {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec"},
    "EdDSA": {**OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), "kid": "ed"},
}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


PROVIDER = Provider(callers.key_set(key_set(*PUBLIC.values())))
ACCESS = Access({TOKEN: Caller("ci", frozenset({"service"}))}, provider=PROVIDER)


def claims(**more: Any) -> dict[str, Any]:
    """What an ordinary token says; None leaves a claim out."""
    said = {"sub": "ada", "type": "user", "roles": ["developer"], "iat": NOW - 60, "exp": NOW + 60, **more}
    return {name: value for name, value in said.items() if value is not None}


def signed(algorithm: str = "RS256", *, key: Any = None, kid: str | None = None, **more: Any) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**more), key or SIGNERS[algorithm], algorithm, headers=headers)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def asked(token: str, access: Access = ACCESS) -> Caller:
    return who(access, f"Bearer {token}", NOW)


def refused(token: str, access: Access = ACCESS) -> str:
    with pytest.raises(Unknown) as found:
        asked(token, access)
    reason = str(found.value)
    assert len(token) < 8 or token not in reason, "a reason is logged and sent"
    assert not any(len(each) > 8 and each in reason for each in token.split("."))
    return reason


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_a_service_token_names_its_caller_and_the_scheme_may_be_spelled_as_one_likes() -> None:
    assert asked(TOKEN) == who(ACCESS, f"bearer   {TOKEN} ", NOW) == Caller("ci", frozenset({"service"}))


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_jwt_of_the_provider_names_who_it_is_about(algorithm: str) -> None:
    assert asked(signed(algorithm)) == Caller("ada", frozenset({"developer"}))
    assert asked(signed(algorithm, kid=PUBLIC[algorithm]["kid"])).name == "ada"


def test_the_roles_are_those_of_whoosh_and_others_mean_nothing() -> None:
    assert asked(signed(roles=["team_lead", "gardener", "service"])).roles == {"developer", "service"}
    assert asked(signed(roles=["gardener"])).roles == frozenset() == asked(signed(roles=None)).roles
    admin = asked(signed(roles=["admin"]))
    assert admin.may("developer") and admin.may("agent") and not asked(signed()).may("admin", "agent")


def test_an_agent_speaks_for_itself_alone_whatever_else_it_may() -> None:
    assert asked(signed(type="agent", sub="chorus-7", roles=None)) == Caller(
        "chorus-7", frozenset({"agent"}), "chorus-7"
    )
    assert asked(signed(type="agent", sub="chorus-7", roles=["admin"])).agent == "chorus-7"
    assert asked(signed(type="system", roles=["agent"])) == Caller("ada", frozenset({"agent"}), "")


def test_without_a_token_one_is_nobody_with_the_roles_of_nobody() -> None:
    assert who(ACCESS, "", NOW) == Caller("anonymous", frozenset())
    assert who(Access(anonymous=frozenset({"agent"})), "", NOW).may("agent")


def test_a_shared_secret_vouches_like_a_key() -> None:
    access = Access(provider=Provider((callers.shared_secret(SHARED),)))
    assert asked(signed("HS256", key=SHARED), access).name == "ada"
    assert "does not verify" in refused(signed("HS256", key=SHARED + "?"), access)
    assert "another way than HS256" in refused(signed(), access)


def test_times_may_have_fractions_and_clocks_may_be_a_little_apart() -> None:
    assert asked(signed(exp=NOW - 29.5)).name == asked(signed(nbf=NOW + 29, iat=NOW + 30)).name == "ada"


def test_a_provider_that_replaces_its_key_has_two_for_a_while() -> None:
    old = RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True)
    access = Access(provider=Provider(callers.key_set(key_set(old, PUBLIC["RS256"]))))
    assert asked(signed(), access).name == asked(signed(key=STRANGER, kid="named since"), access).name == "ada"


# --- who is not -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"exp": NOW - 31}, "expired 31 s ago"),
        ({"exp": 0}, "expired"),
        ({"exp": None}, "exp and sub are needed"),
        ({"exp": "tomorrow"}, "exp and sub are needed"),
        ({"exp": True}, "are numbers"),
        ({"nbf": NOW + 31}, "not valid before 31 s from now"),
        ({"iat": NOW + 3600}, "not valid before 3600 s from now"),
        ({"sub": None}, "exp and sub are needed"),
        ({"sub": ""}, "cannot be a name"),
        ({"sub": "two words"}, "cannot be a name"),
        ({"sub": "a\nb"}, "cannot be a name"),
        ({"sub": "x" * 121}, "cannot be a name"),
        ({"sub": "anonymous"}, "cannot be a name"),
        ({"type": "god"}, "type is user, agent or system"),
        ({"roles": "admin"}, "roles a list of texts"),
        ({"roles": [{"admin": True}]}, "roles a list of texts"),
        ({"aud": "elsewhere"}, "whoosh.audience"),
    ],
)
def test_a_token_that_is_signed_well_may_still_prove_nothing(more: dict[str, Any], reason: str) -> None:
    # PyJWT itself would not encode some of these, so they are signed over plain bytes.
    body = jwt.PyJWS().encode(json.dumps(claims(**more)).encode(), RSA_KEY, "RS256")
    assert reason in refused(body)


def test_issuer_and_audience_are_held_against_what_is_configured() -> None:
    access = Access(provider=PROVIDER._replace(issuer="https://id.example/", audience="whoosh"))
    right: dict[str, Any] = {"iss": "https://id.example/", "aud": ["git", "whoosh"]}
    assert asked(signed(**right), access).name == asked(signed(**{**right, "aud": "whoosh"}), access).name == "ada"
    for wrong in ("https://id.example", "https://id.example/evil", None):
        assert "another issuer" in refused(signed(**{**right, "iss": wrong}), access)
    for other in ("whoosh2", ["git"], [], None):
        assert "not for whoosh" in refused(signed(**{**right, "aud": other}), access)


def test_a_token_that_nobody_signed_is_refused_however_it_says_so() -> None:
    for algorithm in ("none", "None", "NONE", "", None, ["RS256"]):
        unsigned = f"{part({'alg': algorithm, 'typ': 'JWT'})}.{part(claims(roles=['admin']))}."
        assert "another way than" in refused(unsigned)
    assert "another way than" in refused(f"{part({'typ': 'JWT'})}.{part(claims())}.")


@pytest.mark.parametrize("secret", [PEM, PEM.strip(), json.dumps(PUBLIC["RS256"]).encode(), b""])
def test_the_public_key_is_no_shared_secret(secret: bytes) -> None:
    """The classic confusion: a token signed by HMAC with what everybody may know."""
    said = f"{part({'alg': 'HS256', 'kid': 'rsa'})}.{part(claims(roles=['admin']))}"
    forged = f"{said}.{part(hmac.digest(secret, said.encode(), 'sha256'))}"
    assert "another way than" in refused(forged)
    both = Access(provider=PROVIDER._replace(keys=(*PROVIDER.keys, callers.shared_secret(SHARED))))
    assert "does not verify" in refused(
        forged.replace(part({"alg": "HS256", "kid": "rsa"}), part({"alg": "HS256"})), both
    )
    assert refused(forged, both)


def test_another_s_key_proves_nothing_under_the_name_of_the_right_one() -> None:
    assert "does not verify" in refused(signed(key=STRANGER, kid="rsa"))
    assert "does not have" in refused(signed(key=STRANGER, kid="mine"))
    head = {
        "alg": "RS256",
        "jwk": RSAAlgorithm.to_jwk(STRANGER.public_key(), as_dict=True),
        "jku": "https://evil.example",
    }
    with_its_own_key = jwt.PyJWS().encode(json.dumps(claims()).encode(), STRANGER, "RS256", headers=head)
    assert "does not verify" in refused(with_its_own_key)


@pytest.mark.parametrize("name", ["../../dev/null", "' OR 1=1", "x" * 4_000, 7, None, {"a": 1}])
def test_the_name_of_a_key_only_chooses_among_those_there_are(name: object) -> None:
    said = f"{part({'alg': 'RS256', 'kid': name})}.{part(claims())}"
    assert refused(f"{said}.{part(b'x' * 256)}")


def test_a_token_that_was_changed_is_refused_at_every_place() -> None:
    head, body, signature = signed().split(".")
    said = json.loads(json.dumps(claims(roles=["admin"])))
    assert "does not verify" in refused(f"{head}.{part(said)}.{signature}")
    for place in range(0, len(signature) - 1, 7):
        other = "A" if signature[place] != "A" else "B"
        assert "does not verify" in refused(f"{head}.{body}.{signature[:place]}{other}{signature[place + 1 :]}")
    assert refused(f"{head}.{body}.") and refused(f"{head}.{body}") and refused(f"{head}.{body}.{signature}.x")


def test_extensions_that_must_be_understood_are_not() -> None:
    said = f"{part({'alg': 'RS256', 'crit': ['x'], 'x': 1})}.{part(claims())}"
    signature = SIGNERS["RS256"]
    token = f"{said}.{part(RSAAlgorithm(RSAAlgorithm.SHA256).sign(said.encode(), signature))}"
    assert "neither one of" in refused(token)
    detached = f"{part({'alg': 'RS256', 'b64': False, 'crit': ['b64']})}..{part(b'x' * 256)}"
    assert refused(detached)


def test_a_huge_token_is_not_even_looked_at() -> None:
    assert f"at most {callers.TOKEN_CHARS_MAX}" in refused("a." + "b" * 10_000_000 + ".c")
    deep = b"[" * 3_000 + b"]" * 3_000
    assert "neither" in refused(f"{part(deep)}.{part({})}.x")
    assert refused(jwt.PyJWS().encode(deep[:1_000] + b"]" * 500, ED_KEY, "EdDSA"))


@given(
    st.text(max_size=200)
    | st.from_regex(r"\A[Bb]earer [\w.-]{0,80}\Z")
    | st.binary().map(lambda b: f"Bearer {part(b)}")
)
@example("Bearer \udcff\udcfe")
@example("Bearer ..")
@example("Bearer " + part({"alg": "RS256"}) + "." + part(b"\xff") + ".AAAA")
def test_whatever_stands_in_the_header_is_somebody_or_unknown(header: str) -> None:
    try:
        found = who(ACCESS, header, NOW)
    except Unknown:
        return
    assert not header and found.name == "anonymous"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer  ", TOKEN, f"Bearer{TOKEN}", f"Token {TOKEN}"])
def test_only_bearer_and_a_token_is_read(header: str) -> None:
    with pytest.raises(Unknown, match="not `Bearer` and a token"):
        who(ACCESS, header, NOW)


def test_a_node_that_knows_no_provider_says_so() -> None:
    assert "no keys to JWTs" in refused(signed(), Access())
    assert "not one of this node's service tokens" in refused(TOKEN[:-1])


# --- what a node is told ----------------------------------------------------------------------------------------------

LINES = f"""
# for CI, replaced on Monday
ci       service,developer  {TOKEN}
ci       developer,service  {TOKEN[::-1]}
chorus-7 agent              {"7" * 32}     agent=chorus-7
swarm    agent              {"s" * 22}
"""


def test_service_tokens_are_lines_and_one_name_may_have_two() -> None:
    found = callers.service_tokens(LINES)
    assert found[TOKEN] == found[TOKEN[::-1]] == Caller("ci", frozenset({"service", "developer"}))
    assert found["7" * 32] == Caller("chorus-7", frozenset({"agent"}), "chorus-7")
    assert found["s" * 22].agent == ""
    assert TOKEN not in repr(found), "an accidental look sees nothing"
    assert callers.service_tokens("") == {}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (f"ci {TOKEN}", "2 words"),
        (f"ci service {TOKEN} chorus-7", "4 words"),
        (f"ci service {TOKEN} agent=a agent=b", "5 words"),
        (f"{TOKEN} ci service", "no list of roles"),
        (f"ci service,king {TOKEN}", "no list of roles"),
        (f"ci service, {TOKEN}", "no list of roles"),
        (f"ci service {TOKEN[:21]}", "at least 22"),
        (f"ci service {TOKEN}é", "printable ASCII"),
        (f"anonymous service {TOKEN}", "a name has"),
        (f"{'n' * 121} service {TOKEN}", "a name has"),
        (f"ci agent {TOKEN} agent=", "a name has"),
        (f"ci service {TOKEN} agent=a", "who holds the role agent"),
        (f"a service {TOKEN}\nb admin {TOKEN}", "earlier line, too"),
        (f"a service {TOKEN}\na admin {TOKEN[::-1]}", "with other roles"),
        (f"a agent {TOKEN} agent=a\na agent {TOKEN[::-1]} agent=b", "another agent"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named_and_not_repeated(line: str, fault: str) -> None:
    with pytest.raises(Malformed, match=fault) as found:
        callers.service_tokens(line)
    assert found.value.reason.startswith(f"line {len(line.splitlines())}: ")
    assert TOKEN[:21] not in found.value.reason and TOKEN[::-1] not in found.value.reason


def test_keys_that_are_not_for_signatures_are_left_out() -> None:
    found = callers.key_set(key_set({**PUBLIC["RS256"], "use": "enc", "alg": "RSA-OAEP"}, PUBLIC["ES256"]))
    assert [key.algorithm_name for key in found] == ["ES256"]


WEAK = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
WIDE = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "not a JSON Web Key Set"),
        (b"[]", "not a JSON Web Key Set"),
        (PEM, "not a JSON Web Key Set"),
        (b'{"keys": []}', "no key for signatures"),
        (key_set({**PUBLIC["RS256"], "use": "enc"}), "no key for signatures"),
        (key_set(PUBLIC["ES256"], RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True)), "key 2 is private"),
        (key_set({"kty": "oct", "k": part(SHARED.encode())}), "key 1 is private or a shared secret"),
        (key_set({"kty": "oct"}), "key 1 is not for"),
        (key_set({}), "key 1 is not for"),
        (key_set({**PUBLIC["RS256"], "alg": "none"}), "key 1 is not for RS256, ES256, EdDSA"),
        (key_set({**PUBLIC["RS256"], "alg": "HS256"}), "key 1 is not for"),
        (key_set({**PUBLIC["RS256"], "alg": "RS512"}), "key 1 is not for"),
        (key_set({**PUBLIC["RS256"], "alg": "ES256"}), "key 1 is not for"),
        (key_set({**PUBLIC["RS256"], "kid": 7}), "key 1 is not for"),
        (key_set({**PUBLIC["ES256"], "y": None}), "key 1 is not for"),
        (key_set(WIDE), "key 1 is not for"),
        (key_set({**WIDE, "alg": "ES256"}), "key 1"),
        (key_set(WEAK), "1024 bits"),
    ],
)
def test_a_key_set_that_cannot_be_meant_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(Malformed, match=fault) as found:
        callers.key_set(data)
    assert part(SHARED.encode()) not in found.value.reason


def test_a_shared_secret_is_long_and_is_not_a_public_key() -> None:
    with pytest.raises(Malformed, match="at least 32 bytes"):
        callers.shared_secret("short")
    for key in (PEM.decode(), json.dumps(PUBLIC["RS256"])):
        with pytest.raises(Malformed, match="jwks"):
            callers.shared_secret(key)
