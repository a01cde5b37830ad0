"""Who may ask what: tokens with two roles, and the names by which the service may be called."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import HTTPConnection, cookie_parser

from distreid.errors import OptionError

ROLES = ("search", "change")
"""Whoever may change may search."""
COOKIE = "distreid_token"
LEAST_TOKEN = 16  # characters
OPEN_PATHS = (
    *("/", "/page.css", "/page.js", "/box.js", "/export.js", "/care.js", "/favicon.ico"),
    "/v1/session",
    *("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"),
)
"""What holds no person's data: also without a token."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one service."""

    tokens: Mapping[str, str] | None
    """Roles by tokens; None: whoever reaches the service may do all."""
    only_local_names: bool
    """Whether a request must call it localhost, or 127.0.0.1: a page elsewhere whose name was
    turned to this machine is refused."""

    def role(self, headers: Mapping[str, str]) -> str | None:
        """Of whoever sent these headers, by names in lower case; None: of nobody."""
        if self.tokens is None:
            return "change"
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # Cookies of others on this host may be in no form.
            token = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return self.role_of(token.strip())

    def role_of(self, token: str) -> str | None:
        """The role that a token gives, compared in the same time whatever it is."""
        found = None
        for known, role in (self.tokens or {}).items():
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogatepass")):
                found = role
        return found

    def may_call(self, host: str) -> bool:
        """Whether the service may be called by this name, a Host header."""
        if not self.only_local_names:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        return name.lower() == "localhost" or is_loopback(name.strip("[]"))


def plain_headers(request: HTTPConnection) -> dict[str, str]:
    """By names in lower case; of several of one name the last."""
    return {
        name.decode("latin-1").lower(): value.decode("latin-1")
        for name, value in request.scope["headers"]
    }


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_tokens(file: Path) -> dict[str, str]:
    """Lines `search TOKEN` and `change TOKEN` as roles by tokens; OptionError says what is
    wrong, and never the token."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise OptionError(f"--token-file {file}: {why}") from error
    tokens = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        role, token = (words := line.split())[0], words[-1]
        is_token = len(words) == 2 and len(token) >= LEAST_TOKEN and token.isascii()
        if role not in ROLES or not is_token:
            raise OptionError(
                f"--token-file {file}, line {number}: `search TOKEN` or `change TOKEN` is wanted, "
                f"a token of {LEAST_TOKEN} characters or more"
            )
        tokens[token] = role
    if not tokens:
        raise OptionError(f"--token-file {file}: no token; write a line `search TOKEN`")
    return tokens
