"""Environment variables of a neuron: the bucket, and the two access keys to the bucket.

Secrets come from the environment alone (no flag, no file), and leave as `Secret`. Does not own
access to buckets (template/store) nor the bytes of a chain record (template/protocol/record.py).
Importing this module does not read the environment.
"""

import difflib
import re
from collections.abc import Mapping, MutableMapping
from typing import Final
from urllib.parse import SplitResult, urlsplit

from template.errors import ConfigError
from template.protocol.record import AccessKind
from template.secret import Secret
from template.settings import ENV_ENDPOINT, ENV_R2_ACCOUNT, BucketKey, BucketSettings

ENV_R2_JURISDICTION: Final = "TESSERA_R2_JURISDICTION"
ENV_WRITE_KEY_ID: Final = "TESSERA_BUCKET_WRITE_KEY_ID"
ENV_WRITE_SECRET: Final = "TESSERA_BUCKET_WRITE_SECRET"
ENV_READ_KEY_ID: Final = "TESSERA_BUCKET_READ_KEY_ID"
ENV_READ_SECRET: Final = "TESSERA_BUCKET_READ_SECRET"

ENV_WRITE_KEY: Final = "TESSERA_BUCKET_WRITE_KEY"
ENV_READ_KEY: Final = "TESSERA_BUCKET_READ_KEY"

ENVIRONMENT: Final[Mapping[str, str]] = {
    ENV_ENDPOINT: "URL of a localnet's bucket server; elsewhere Cloudflare R2:",
    ENV_R2_ACCOUNT: "account id, 32 hex digits",
    ENV_R2_JURISDICTION: "default, eu or fedramp (default: default)",
    ENV_WRITE_KEY_ID: "access key that reads and writes this one bucket; never published",
    ENV_WRITE_SECRET: "its secret",
    ENV_READ_KEY_ID: "access key that only reads this one bucket; PUBLISHED on chain",
    ENV_READ_SECRET: "its secret; published too",
    ENV_WRITE_KEY: "the first key as ID:SECRET, in place of its two variables",
    ENV_READ_KEY: "the key that only reads as ID:SECRET",
}
"""Every variable of a neuron, in the order of --help."""

OWN_PREFIXES: Final = ("TESSERA_BUCKET_", "TESSERA_R2_")
_OTHER_SECRETS: Final = ("WANDB_", "BT_PW_", "BT_WALLET_PASSWORD")
R2_JURISDICTIONS: Final[Mapping[str, AccessKind]] = {
    "default": AccessKind.R2,
    "eu": AccessKind.R2_EU,
    "fedramp": AccessKind.R2_FEDRAMP,
}
R2_DOMAIN: Final = ".r2.cloudflarestorage.com"
R2_KEY_ID_CHARS: Final = 32
R2_SECRET_CHARS: Final = 64
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "::1")
MAX_S3_CHARS: Final = 72
"""Longest URL, key id or secret of another S3 endpoint: more has no room in a chain record."""


def bucket_settings(env: Mapping[str, str]) -> BucketSettings:
    """The bucket of the TESSERA_* variables in `env`.

    Raises ConfigError with the variable and the remedy, never a value: for a missing, ill-formed
    or misspelt variable, two endpoints, or the same key for both purposes (the read key becomes
    public and must not be able to write).
    """
    _refuse_unknown(env)
    env = _split_pairs(env)
    kind, account = _place(env)
    write = _key(env, kind, ENV_WRITE_KEY_ID, ENV_WRITE_SECRET)
    read = _key(env, kind, ENV_READ_KEY_ID, ENV_READ_SECRET)
    if write.key_id == read.key_id or write.secret == read.secret:
        raise ConfigError(
            f"{ENV_READ_KEY_ID} and {ENV_WRITE_KEY_ID} are one key, but the read key is published"
            " on chain: create a second key that can only read this bucket"
        )
    return BucketSettings(kind=kind, account=account, write=write, read=read)


def forget_secrets(env: MutableMapping[str, str]) -> None:
    """Remove the keys of bucket and Weights & Biases, and passwords of wallets.

    A rank that obeys rank 0 has no use for any of them.
    """
    for name in [name for name in env if name.startswith((*OWN_PREFIXES, *_OTHER_SECRETS))]:
        del env[name]


def _refuse_unknown(env: Mapping[str, str]) -> None:
    for name in sorted(env):
        if name.startswith(OWN_PREFIXES) and name not in ENVIRONMENT:
            near = difflib.get_close_matches(name, ENVIRONMENT, n=1)
            hint = f"did you mean {near[0]}?" if near else "unset it; --help names those there are"
            raise ConfigError(f"{name} is no variable of this subnet; {hint}")


_PAIRS: Final[Mapping[str, tuple[str, str]]] = {
    ENV_WRITE_KEY: (ENV_WRITE_KEY_ID, ENV_WRITE_SECRET),
    ENV_READ_KEY: (ENV_READ_KEY_ID, ENV_READ_SECRET),
}


def _split_pairs(env: Mapping[str, str]) -> Mapping[str, str]:
    """The variables with each ID:SECRET taken apart; ConfigError for a key given twice."""
    found = dict(env)
    for name, parts in _PAIRS.items():
        value = found.pop(name, "")
        if not value:
            continue
        twice = [part for part in parts if found.get(part)]
        if twice:
            raise ConfigError(f"{name} and {twice[0]} are both set: unset one of them")
        key_id, colon, secret = value.partition(":")
        if not colon:
            raise ConfigError(f"{name} is ill-formed: give ID:SECRET, with a colon between")
        found |= dict(zip(parts, (key_id, secret), strict=True))
    return found


def _place(env: Mapping[str, str]) -> tuple[AccessKind, str]:
    """The kind of storage, and the account id or endpoint URL."""
    if env.get(ENV_ENDPOINT) and env.get(ENV_R2_ACCOUNT):
        raise ConfigError(f"{ENV_ENDPOINT} and {ENV_R2_ACCOUNT} are both set: unset one of them")
    if env.get(ENV_R2_ACCOUNT):
        return _r2_kind(env), _r2_account(env)
    if env.get(ENV_R2_JURISDICTION):
        raise ConfigError(f"{ENV_R2_JURISDICTION} has no meaning without {ENV_R2_ACCOUNT}: set it")
    if not env.get(ENV_ENDPOINT):
        raise ConfigError(
            f"neither {ENV_ENDPOINT} nor {ENV_R2_ACCOUNT} is set: this node needs a bucket of its"
            " own, see --help"
        )
    return AccessKind.S3, _checked_endpoint(env[ENV_ENDPOINT])


def _r2_kind(env: Mapping[str, str]) -> AccessKind:
    jurisdiction = env.get(ENV_R2_JURISDICTION) or "default"
    if jurisdiction not in R2_JURISDICTIONS:
        raise ConfigError(f"{ENV_R2_JURISDICTION} must be one of {', '.join(R2_JURISDICTIONS)}")
    return R2_JURISDICTIONS[jurisdiction]


def _r2_account(env: Mapping[str, str]) -> str:
    account = env[ENV_R2_ACCOUNT]
    if re.fullmatch(r"[0-9a-f]{32}", account) is None:
        raise ConfigError(
            f"{ENV_R2_ACCOUNT} is not 32 lower-case hex digits: copy the account id from the"
            " R2 page of the dashboard"
        )
    return account


def _checked_endpoint(url: str) -> str:
    """`url`, checked to be scheme, host and port only; http for loopback (the localnet)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad_endpoint("is not a URL") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise _bad_endpoint("is not a URL")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise _bad_endpoint("is plain http to another machine")
    if _has_more_than_host(parts) or re.fullmatch(r"[!-~]+", url) is None:
        raise _bad_endpoint("has more than scheme, host and port")
    if parts.hostname.endswith(R2_DOMAIN):
        raise ConfigError(f"{ENV_ENDPOINT} is Cloudflare R2: set {ENV_R2_ACCOUNT} instead")
    if len(url) > MAX_S3_CHARS:
        raise _bad_endpoint(f"is longer than {MAX_S3_CHARS} characters")
    return f"{parts.scheme}://{parts.netloc}"


def _has_more_than_host(parts: SplitResult) -> bool:
    return parts.path not in ("", "/") or any(
        (parts.query, parts.fragment, parts.username, parts.password)
    )


def _bad_endpoint(what: str) -> ConfigError:
    return ConfigError(f"{ENV_ENDPOINT} {what}: give https://HOST or https://HOST:PORT")


def _key(env: Mapping[str, str], kind: AccessKind, id_name: str, secret_name: str) -> BucketKey:
    if kind is AccessKind.S3:
        key_id, secret = _s3_credential(env, id_name), _s3_credential(env, secret_name)
    else:
        key_id = _r2_credential(env, id_name, R2_KEY_ID_CHARS)
        secret = _r2_credential(env, secret_name, R2_SECRET_CHARS)
    return BucketKey(key_id=key_id, secret=Secret(secret))


def _s3_credential(env: Mapping[str, str], name: str) -> str:
    value = _present(env, name)
    if len(value) > MAX_S3_CHARS or re.fullmatch(r"[!-~]+", value) is None:
        raise ConfigError(
            f"{name} is ill-formed: 1 to {MAX_S3_CHARS} printable ASCII characters without spaces"
        )
    return value


def _r2_credential(env: Mapping[str, str], name: str, num_chars: int) -> str:
    value = _present(env, name)
    if len(value) != num_chars or re.fullmatch(r"[0-9a-f]+", value) is None:
        raise ConfigError(
            f"{name} is ill-formed: R2 gives {num_chars} lower-case hex digits (an S3 access key"
            " of the token, not the token itself)"
        )
    return value


def _present(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value:
        raise ConfigError(f"{name} is not set ({ENVIRONMENT[name]}): see --help")
    return value
