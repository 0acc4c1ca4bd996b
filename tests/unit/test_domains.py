"""Failure domains of a bulk call."""

import attrs
import pytest

from async_vmapi import CdromBoot, CreateRequest, Reference
from async_vmapi.bulk.domains import Domains, Member, domains_of

from .test_serialization import MACHINE


def vm(vm_id, zone=("1", "DC1"), groups=()):
    groups = tuple(Reference(*group) for group in groups)
    return attrs.evolve(MACHINE, id=vm_id, zone=Reference(*zone), groups=groups)


def names(spread_by, *items, listed=()):
    """Return the domains' names; items are VMs, or pairs of an id and an earlier domain."""
    members = [
        Member(n, item[0], domain=item[1]) if isinstance(item, tuple) else Member(n, item.id, item)
        for n, item in enumerate(items)
    ]
    return list(domains_of(spread_by, members, {vm.id: vm for vm in listed}).values())


class TestNames:
    def test_a_zone_is_its_name(self):
        assert names("zone", vm("a"), vm("b", ("2", "DC2")), vm("c")) == ["DC1", "DC2", "DC1"]

    def test_zones_of_one_name_are_told_apart(self):
        """By their ids; a zone without a name has only that."""
        twins = vm("a", ("1", "DC")), vm("b", ("2", "DC")), vm("c", ("3", ""))
        assert names("zone", *twins) == ["DC (1)", "DC (2)", "3"]

    def test_groups_are_a_set(self):
        """Their order does not matter, and their ids decide."""
        web, db, other = ("1", "web"), ("2", "db"), ("3", "web")
        found = names(
            "group",
            vm("a", groups=[web, db]),
            vm("b", groups=[db, web]),
            vm("c", groups=[web]),
            vm("d", groups=[other]),
            vm("e"),
        )
        assert found == ["db, web", "db, web", "web (1)", "web (3)", "no group"]

    def test_a_create_has_a_zone(self):
        request = CreateRequest(name="w", cpus=1, ram=1, zone_id="z-1", boot=CdromBoot(iso="x"))
        assert list(domains_of("zone", [Member(0, "w", request)], {}).values()) == ["z-1"]

    def test_ids_are_looked_up(self):
        """VMs that no list has are on their own, or where an earlier call saw them."""
        found = names("zone", ("a", ""), ("b", ""), ("c", "DC1"), listed=[vm("a"), vm("z")])
        assert found == ["DC1", "not listed", "DC1"]


class TestDomains:
    def test_without_names_there_is_one(self):
        domains = Domains(7)
        assert (domains.name_of(3), domains.total_of("")) == ("", 7)
        assert domains.may_go_down("", "a")
        assert not domains.take_offline("", "a")

    def test_items_are_sorted_by_the_first_of_their_domain(self):
        domains = Domains(5, {0: "b", 1: "a", 2: "b", 4: "c", 7: "a"})
        assert domains.in_order() == [0, 2, 1, 7, 4]
        assert [domains.total_of(name) for name in "abc"] == [2, 2, 1]

    @pytest.mark.parametrize(("minimum", "least"), [(0, 0), (1, 1), ("50%", 2), ("100%", 3)])
    def test_each_keeps_its_minimum(self, minimum, least):
        """A percentage is of the domain's VMs; other domains do not matter."""
        domains = Domains(4, {0: "x", 1: "x", 2: "x", 3: "y"})
        domains.keep_online(set("abcd"), dict(enumerate("abcd")), minimum)
        assert domains.minimum_of("x") == least
        up = 3
        for vm_id in "abc":
            assert domains.may_go_down("x", vm_id) is (up > least)
            up -= domains.may_go_down("x", vm_id) and domains.take_offline("x", vm_id)
        assert up == least
        domains.take_online("y", "e")
        assert domains.may_go_down("x", "c") is (least == 0)
