"""Which VMs are older than a request, by the server's clock."""

from datetime import UTC, datetime, timedelta

import pytest

from async_vmapi.transport import codec
from async_vmapi.writes.attach_times import is_older, server_time

SENT = datetime(2026, 11, 23, 18, 0, 30, tzinfo=UTC)
SPAN = 70.0

VM = b"""{"id":"1","label":"web-01","cores":1,"ram":1024,"state":"online","cost_per_hour":0,
"transfer_used":0,"system":{"id":"1","name":"a"},"owner":{"id":"1","name":"a"},
"zone":{"id":"1","name":"a"},"public_interface":{"ipv4_addresses":[%s]},"storage_volumes":[%s]}"""


def vm(*volumes, addresses=()):
    disk = b'{"id":"1","size":40,"system_disk":true,"attach_time":%s}'
    address = b'{"id":"1","ipv4_address":"10.0.0.1","attach_time":%s}'
    return codec.decode_vm(
        VM
        % (
            b",".join(address % text.encode() for text in addresses),
            b",".join(disk % text.encode() for text in volumes),
        )
    )


def text(seconds, **zone):
    return f'"{SENT + timedelta(seconds=seconds, **zone):%Y-%m-%d %H:%M:%S}"'


class TestIsOlder:
    @pytest.mark.parametrize("hours", [-12, -1, 0, 1, 2, 14])
    @pytest.mark.parametrize(
        ("seconds", "older"),
        [(-73, True), (-6, True), (-3, True), (-2, False), (0, False), (90, False), (-74, False)],
    )
    def test_by_the_first_attach_time(self, seconds, older, hours):
        """In any time zone; how much older is limited, as is what the rule is for."""
        found = vm(text(seconds, hours=hours), text(100, hours=hours))
        assert is_older(found, SENT, SPAN) is older
        address = vm(text(100, hours=hours), addresses=[text(seconds, hours=hours)])
        assert is_older(address, SENT, SPAN) is older

    @pytest.mark.parametrize("minutes", [15, 30, 45, 330, 345])
    @pytest.mark.parametrize("seconds", range(0, 200, 20))
    def test_a_new_vm_is_not_older_in_any_time_zone(self, minutes, seconds):
        """Quarters of an hour included."""
        assert not is_older(vm(text(seconds, minutes=minutes)), SENT, SPAN)

    def test_a_long_span_does_not_reach_another_time_zone(self):
        """However old responses may be."""
        assert not is_older(vm(text(20, minutes=45)), SENT, 3600.0)

    @pytest.mark.parametrize("shown", ["null", '""', '"yesterday"', '"0001-01-01 00:00:00+14:00"'])
    def test_an_invalid_time_rules_no_vm_out(self, shown):
        """It is ignored."""
        assert not is_older(vm(shown), SENT, SPAN)
        assert not is_older(vm(), SENT, SPAN)
        assert is_older(vm(shown, text(-6)), SENT, SPAN)

    def test_a_time_zone_that_is_shown(self):
        """No specification says that there is none."""
        assert is_older(vm('"2026-11-23T19:30:20+01:30"'), SENT, SPAN)


class TestServerTime:
    def test_some_time_after_the_response(self):
        """The loop's clock measures how long."""
        assert server_time("Mon, 23 Nov 2026 18:00:00 GMT", 30.0) == SENT

    def test_a_date_without_a_time_zone_is_in_utc(self):
        """As HTTP's dates are."""
        assert server_time("Mon, 23 Nov 2026 18:00:00 -0000", 30.0) == SENT

    @pytest.mark.parametrize("date", ["", "now", "Mon, 99 Nov 2026 18:00:00 GMT"])
    def test_an_invalid_date_is_ignored(self, date):
        """As if there was none."""
        assert server_time(date, 0.0) is None

    def test_a_time_beyond_all_dates(self):
        """A clock may jump far."""
        assert server_time("Mon, 23 Nov 2026 18:00:00 GMT", 1e12) is None
