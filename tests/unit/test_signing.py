"""Signatures, compared with ones that openssl made."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from async_vmapi.signing import (
    Credentials,
    Signer,
    SigningKey,
    http_date,
    sign,
    signature,
    string_to_sign,
)

SECRET = "s3cr3t-Key/+="
MOMENT = datetime(2026, 11, 23, 18, 0, 0, tzinfo=UTC)
DATE = "Mon, 23 Nov 2026 18:00:00 GMT"
HOST = "eu-poland-1warszawa.api.e24cloud.com"

# Each made by openssl, `%` in the text doubled for printf, a space for each `|`:
#   printf 'METHOD\nHOST\nDATE\nTARGET\nBODY' |
#       openssl dgst -sha256 -hmac 's3cr3t-Key/+=' -binary | base64
VECTORS = {
    "GET": (
        ("GET", HOST, "/v2/virtual-machines", ""),
        "EtN0GuvaekvNttRJYfwtPZ+HJNFEo4HNDxE/0vpQBTE=",
    ),
    "a host with a port": (
        ("GET", "127.0.0.1:8024", "/v2/virtual-machines", ""),
        "uDFYAZUYWkZ0MQ0pPjIbIZp7Zjv8gIZBpthrF8rAsN0=",
    ),
    "an IPv6 host with a port": (
        ("POST", "[::1]:8024", "/v2/virtual-machines/1729/reboot", ""),
        "C87JC8Hj01/PWmV8W5Wivr6PkB5nsZKvsvQQK7TBkPg=",
    ),
    "a query string": (
        ("GET", HOST, "/v2/virtual-machines?page=2&name=a%20b", ""),
        "90kP9xq+g8Bua7HPg3PDEwfMwhUs592d3OTtholcRxU=",
    ),
    "PUT with a UTF-8 body": (
        ("PUT", HOST, "/v2/virtual-machines", '{"create_vm":{"name":"Łódź-01","cpus":2}}'),
        "oz+m3SSeKqbsFFM11J4YGMe0gF8aaVWN2+H4TxAr354=",
    ),
    "POST with a body": (
        ("POST", HOST, "/v2/virtual-machines/1729/shutdown", '{"wait_for":4}'),
        "oOA5BKLgXZ2VO3AzSFoCE87efvszLnJ2MEPsN9h8aLg=",
    ),
    "DELETE with a body": (
        ("DELETE", HOST, "/v2/virtual-machines/1729", '{"deleteResources":0}'),
        "QVmBNJ5r0gEQoLxpJbG8ooUweSCCTgMj9FRUzIOTQCo=",
    ),
}

parts = st.tuples(st.text(), st.text(), st.text(), st.text(), st.binary())


class TestSign:
    @pytest.mark.parametrize(("request_", "expected"), VECTORS.values(), ids=VECTORS.keys())
    def test_the_signature_is_openssls(self, request_, expected):
        """The method, the host, the date, the target and the body are signed, one a line."""
        method, host, target, body = request_
        headers = sign(Credentials("key", SECRET), method, host, target, body.encode(), MOMENT)
        assert headers["Authorization"] == f"key:{expected}"

    def test_a_secret_beyond_ascii_is_used_as_utf8(self):
        """A secret is a text; its bytes are those of UTF-8."""
        # The command above with -hmac 'zażółć'.
        message = f"GET\n{HOST}\n{DATE}\n/v2/account\n".encode()
        assert signature("zażółć", message) == "aDZRFMpdc3B3hlf90CLLpZNXYxMo83x0isnQm+Scyrw="

    def test_headers_are_the_four_that_make_a_request_valid(self):
        """The Host header is among them, since it is signed; nothing else is."""
        headers = sign(Credentials("key", SECRET), "GET", HOST, "/v2/regions", b"", MOMENT)
        assert set(headers) == {"Host", "Content-Type", "X-Date", "Authorization"}
        assert headers["Host"] == HOST
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Date"] == DATE

    @given(parts, st.text(), st.integers(0, 4), st.data())
    def test_any_changed_part_changes_the_signature(self, old, secret, index, data):
        """No part of a request can be changed without invalidating the signature."""
        changed = data.draw(st.binary() if index == 4 else st.text())
        assume(changed != old[index])
        new = (*old[:index], changed, *old[index + 1 :])
        before = signature(secret, string_to_sign(*old))
        assert before != signature(secret, string_to_sign(*new))

    @given(parts, st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
    def test_another_secret_makes_another_signature(self, request_, one, other):
        """Without the secret a request cannot be signed."""
        # HMAC pads a short key with zero bytes, so those are the same key by definition.
        assume(one.rstrip("\0") != other.rstrip("\0"))
        message = string_to_sign(*request_)
        assert signature(one, message) != signature(other, message)

    @given(st.binary())
    def test_the_body_is_signed_byte_for_byte(self, body):
        """The bytes that are sent are signed, valid UTF-8 or not."""
        assert string_to_sign("PUT", "h", "d", "/p", body) == b"PUT\nh\nd\n/p\n" + body


class TestSigner:
    @given(st.text(max_size=200), st.binary(max_size=300), st.binary(max_size=300))
    def test_a_prepared_key_signs_as_the_standard_library_does(self, secret, one, other):
        """A secret of any length, and several messages with the same key."""
        key = SigningKey(secret)
        for message in (one, other, one):
            assert key.signature(message) == signature(secret, message)

    def test_each_request_has_the_date_of_its_own_second(self):
        """The date changes with the second, forward or back, and the signature with it."""
        signer = Signer(Credentials("key", SECRET), HOST)
        began = MOMENT.timestamp()
        for later in (0.0, 0.999, 1.0, 86_400.5, 0.5):
            headers = signer.sign("GET", "/v2/regions", b"", began + later)
            moment = MOMENT + timedelta(seconds=later)
            credentials = Credentials("key", SECRET)
            assert headers["X-Date"] == http_date(moment)
            assert headers == sign(credentials, "GET", HOST, "/v2/regions", b"", moment)

    def test_a_signer_shows_no_secret(self):
        """The secret is kept as hash states, and shown in none."""
        for shown in (SigningKey(SECRET), Signer(Credentials("the-key", SECRET), HOST)):
            assert SECRET not in repr(shown)
            assert SECRET not in repr(getattr(shown, "__dict__", {}))


class TestDate:
    def test_a_date_is_in_gmt(self):
        """In the form of RFC 1123, two digits for the day."""
        moment = datetime(2026, 2, 3, 4, 5, 6, 789_000, tzinfo=UTC)
        assert http_date(moment) == "Tue, 03 Feb 2026 04:05:06 GMT"

    @pytest.mark.parametrize(
        "moment",
        [MOMENT.replace(tzinfo=None), MOMENT.astimezone(timezone(timedelta(hours=1)))],
        ids=["naive", "another zone"],
    )
    def test_only_utc_is_formatted(self, moment):
        """A time that is not in UTC would be signed wrongly, so it is refused."""
        with pytest.raises(ValueError, match="UTC"):
            http_date(moment)


class TestCredentials:
    @pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r}".format])
    def test_the_secret_is_never_shown(self, show):
        """However credentials are printed, the key is shown and the secret is not."""
        shown = show(Credentials("the-key", SECRET))
        assert "the-key" in shown
        assert SECRET not in shown

    def test_an_assignment_is_refused_without_showing_the_secret(self):
        """Credentials are frozen, and the error about that shows no secret."""
        credentials = Credentials("the-key", SECRET)
        with pytest.raises(AttributeError) as caught:
            credentials.api_secret = "other"
        assert SECRET not in repr(caught.value)
        assert credentials.api_secret.text() == SECRET
