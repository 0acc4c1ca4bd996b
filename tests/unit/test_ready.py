"""`Ready`: conditions as values and as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi import InvalidArgument, Ready


async def healthy(vm):
    return True


async def other(vm):
    return True


class Callable:
    async def __call__(self, vm):
        return True


CONDITIONS = st.one_of(
    st.just(Ready.address()),
    st.builds(Ready.tcp, st.integers(1, 65535)),
    st.builds(Ready.ssh, st.integers(1, 65535)),
    st.builds(
        Ready.http,
        st.from_regex(r"/[a-z0-9/._~-]{0,20}", fullmatch=True),
        st.integers(100, 599),
        port=st.integers(1, 65535),
    ),
)


class TestText:
    @given(st.lists(CONDITIONS, max_size=5))
    def test_text_and_back(self, parts):
        """The text of all that can be stored reads back as the same conditions."""
        ready = Ready()
        for part in parts:
            ready &= part
        assert Ready.parse(str(ready)) == ready

    @pytest.mark.parametrize(
        ("text", "conditions"),
        [
            ("", ""),
            ("address", "address"),
            ("ssh", "address,ssh:22"),
            ("ssh:2222", "address,ssh:2222"),
            ("tcp:443, address", "address,tcp:443"),
            ("http:/health", "address,http:80/health"),
            ("http:8080/health=204", "address,http:8080/health=204"),
            ("ssh,ssh,ssh", "address,ssh:22"),
        ],
    )
    def test_short_forms(self, text, conditions):
        assert str(Ready.parse(text)) == conditions

    @pytest.mark.parametrize(
        "text", ["telnet", "tcp", "tcp:x", "ssh:", "http:health", "ssh,,ssh", 7, None]
    )
    def test_other_texts_are_refused(self, text):
        with pytest.raises(InvalidArgument, match="conditions like 'address', 'tcp:443'"):
            Ready.parse(text)


class TestConditions:
    def test_the_address_comes_first_and_each_once(self):
        """Probes need it, and polls find it."""
        ready = Ready.check(healthy) & Ready.ssh() & Ready.address() & Ready.ssh()
        assert str(ready) == "address,check:healthy,ssh:22"
        assert repr(ready) == "<Ready: online & address & check:healthy & ssh:22>"

    def test_functions_are_not_stored(self):
        ready = Ready.check(healthy) & Ready.ssh()
        assert ready.has_functions
        assert ready.storable == Ready.ssh()
        assert not ready.storable.has_functions

    def test_two_functions_are_two_conditions(self):
        assert len((Ready.check(healthy) & Ready.check(other)).conditions) == 2
        assert len((Ready.check(healthy) & Ready.check(healthy)).conditions) == 1

    def test_an_object_with_an_async_call_is_a_function(self):
        assert str(Ready.check(Callable())) == "check:Callable"

    @pytest.mark.parametrize(
        ("make", "argument"),
        [
            (lambda: Ready.tcp(0), "port"),
            (lambda: Ready.tcp(65536), "port"),
            (lambda: Ready.tcp("22"), "port"),
            (lambda: Ready.ssh(True), "port"),
            (lambda: Ready.http("health"), "url_path"),
            (lambda: Ready.http("/a b"), "url_path"),
            (lambda: Ready.http("/a,b"), "url_path"),
            (lambda: Ready.http(7), "url_path"),
            (lambda: Ready.http("/", 99), "status"),
            (lambda: Ready.http("/", 600), "status"),
            (lambda: Ready.check(lambda vm: True), "function"),
            (lambda: Ready.check(Callable), "function"),
            (lambda: Ready.check(None), "function"),
            (lambda: Ready.check(healthy, timeout=0), "timeout"),
        ],
    )
    def test_wrong_arguments_are_refused(self, make, argument):
        with pytest.raises(InvalidArgument) as caught:
            make()
        assert caught.value.argument == argument

    def test_a_query_is_not_shown(self):
        """It may hold a secret."""
        with pytest.raises(InvalidArgument) as caught:
            Ready.http("/health?key=hunter2")
        assert "hunter2" not in str(caught.value)
        assert "'/health'" in str(caught.value)

    def test_it_combines_with_its_like_only(self):
        with pytest.raises(TypeError):
            Ready.ssh() & "http:/health"
