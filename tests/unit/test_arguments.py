"""Validation of arguments."""

import enum
import math
import re
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument, VMAPIError

LARGEST = 2**31 - 1
SECRET = "planted-secret"
things = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.characters().map(lambda c: c * 200),
    st.binary(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.just(object()),
    st.just(object),
)


def refused(check, *args, **kwargs):
    """Return the `InvalidArgument` that a check raises."""
    with pytest.raises(InvalidArgument) as caught:
        check(*args, **kwargs)
    return caught.value


class Word(str):
    __slots__ = ()


class Shade(enum.StrEnum):
    RED = "red"


class Size(enum.IntEnum):
    TWO = 2


class TestWhole:
    @pytest.mark.parametrize("value", [1, 2, LARGEST])
    def test_integers_in_range_are_accepted(self, value):
        """Both ends of the range are in it."""
        assert validation.whole("cpus", value, minimum=1) == value

    def test_zero_is_accepted_where_it_is_the_minimum(self):
        """Zero minutes of `wait_for` are allowed."""
        assert validation.whole("wait_for", 0, minimum=0) == 0

    @pytest.mark.parametrize(
        "value", [0, -1, LARGEST + 1, True, False, 1.0, "2", b"2", None, [2], 1 + 0j, math.nan]
    )
    def test_other_values_are_refused(self, value):
        """Bools, floats and digits in a text are no integers."""
        error = refused(validation.whole, "cpus", value, minimum=1)
        assert error.argument == "cpus"
        assert "an integer from 1 to 2147483647" in str(error)

    @pytest.mark.parametrize("digits", [100, 5000])
    def test_a_huge_integer_is_refused_with_a_short_message(self, digits):
        """Even one with more digits than Python prints."""
        error = refused(validation.whole, "ram", 10**digits, minimum=1)
        assert len(str(error)) < 200

    def test_a_subclass_of_int_becomes_a_plain_integer(self):
        """The encoder knows plain integers alone, so an IntEnum becomes one."""
        value = validation.whole("cpus", Size.TWO, minimum=1)
        assert value == 2
        assert type(value) is int

    @given(st.integers(), st.integers(0, LARGEST))
    def test_the_range_alone_decides(self, value, minimum):
        """For any integer."""
        if minimum <= value <= LARGEST:
            assert validation.whole("n", value, minimum=minimum) == value
        else:
            refused(validation.whole, "n", value, minimum=minimum)


class TestBoolean:
    @pytest.mark.parametrize("value", [True, False])
    def test_bools_are_accepted(self, value):
        """True and False."""
        assert validation.boolean("delete_resources", value) is value

    @pytest.mark.parametrize("value", [0, 1, "true", "", None, 1.0, []])
    def test_truthy_and_falsy_values_are_refused(self, value):
        """A word like "no" must never be read as True."""
        error = refused(validation.boolean, "delete_resources", value)
        assert error.argument == "delete_resources"
        assert "True or False" in str(error)


class TestText:
    @pytest.mark.parametrize("value", ["web-01", " a ", "zażółć", "🐘", "a" * 1000])
    def test_texts_are_kept_unchanged(self, value):
        """Spaces at the ends are kept, and any script is allowed."""
        assert validation.text("name", value) == value

    @pytest.mark.parametrize(
        "value",
        ["", " ", "\u00a0", "\n", "a\nb", "a\tb", "a\0", "\x7f", "\x85", "\ud800", 1, None],
    )
    def test_blank_and_unsendable_texts_are_refused(self, value):
        """Blanks, control characters and lone surrogates are no names."""
        error = refused(validation.text, "name", value)
        assert error.argument == "name"
        assert str(error).startswith(f"name={value!r} is not a text")

    def test_a_long_value_is_shown_shortened(self):
        """A message stays readable."""
        message = str(refused(validation.text, "name", "x\n" * 10_000))
        assert "..." in message
        assert len(message) < 200

    def test_a_subclass_of_str_becomes_a_plain_text(self):
        """The encoder knows plain texts alone."""
        assert type(validation.text("name", Word("web"))) is str
        assert validation.text("name", Shade.RED) == "red"

    @given(st.text(alphabet=st.characters()))
    @example("\ud800")
    def test_every_accepted_text_can_be_encoded(self, value):
        """A valid text does not fail later, when it is sent."""
        try:
            taken = validation.text("name", value)
        except InvalidArgument:
            return
        assert taken.encode()


class TestSecret:
    @pytest.mark.parametrize("value", ["x", " ", "line\nline", "zażółć", "\0"])
    def test_any_text_that_is_not_empty_is_accepted(self, value):
        """A password may have any characters, and user data has lines."""
        assert validation.secret("password", value).text() == value

    @pytest.mark.parametrize(
        "value",
        ["", None, 7, SECRET.encode(), [SECRET], {"p": SECRET}, f"{SECRET}\ud800", object()],
    )
    def test_a_refused_secret_is_not_shown(self, value):
        """Neither the message nor its causes hold the value."""
        error = refused(validation.secret, "password", value)
        assert error.argument == "password"
        assert "its value is not shown" in str(error)
        assert SECRET not in repr(error)
        assert error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None

    def test_the_encoding_error_is_not_chained(self):
        """An error that holds the whole secret must not be attached to the one that is raised."""
        # UnicodeEncodeError.object is the text; reporters that follow __context__ would send it.
        assert refused(validation.secret, "password", f"{SECRET}\ud800").__context__ is None


class TestIdentifier:
    @pytest.mark.parametrize("value", ["1", "a", "A-b_9", "24e12e20-0851-5354-e2c3", "x" * 128])
    def test_plain_tokens_are_accepted(self, value):
        """The API's ids are numbers and UUIDs."""
        assert validation.identifier("vm", value) == value

    @pytest.mark.parametrize(
        "value",
        [
            *("", ".", "..", "a/b", "a?b", "a#b", "a%2fb", "a b", "a\n", "\na", "a\r\nX: y"),
            *("ą", "\N{ARABIC-INDIC DIGIT ONE}", "x" * 129, 5, None, True, b"a", ["a"]),
        ],
    )
    def test_ids_that_could_change_the_path_are_refused(self, value):
        """An id leads nowhere but to its VM."""
        error = refused(validation.identifier, "vm", value)
        assert error.argument == "vm"
        assert "letters, digits" in str(error)

    @given(st.text(alphabet=st.characters(), max_size=140))
    @example("a" * 128)
    @example("a" * 129)
    def test_only_ascii_letters_digits_underscore_and_dash_pass(self, value):
        """The rule is about single characters and the length, nothing else."""
        plain = set(string.ascii_letters + string.digits + "_-")
        if 1 <= len(value) <= 128 and set(value) <= plain:
            assert validation.identifier("vm", value) == value
        else:
            refused(validation.identifier, "vm", value)


class TestSeconds:
    @pytest.mark.parametrize("value", [1, 0.001, 3600.5, math.inf])
    def test_numbers_above_zero_become_floats(self, value):
        """Whole numbers too, and so does infinity."""
        taken = validation.seconds("timeout", value)
        assert taken == value
        assert type(taken) is float

    @pytest.mark.parametrize(
        "value", [0, 0.0, -1, -math.inf, math.nan, True, "30", None, [30], 1j, b"1"]
    )
    def test_other_values_are_refused(self, value):
        """Zero and NaN are no timeouts."""
        error = refused(validation.seconds, "timeout", value)
        assert error.argument == "timeout"
        assert "a number of seconds above 0" in str(error)

    def test_the_message_names_the_bound(self):
        """Another bound can be given."""
        assert validation.number("rate", 2, above=1.5) == 2.0
        assert "a number above 1.5" in str(refused(validation.number, "rate", 1.5, above=1.5))
        assert validation.number("window", 0, least=0) == 0.0
        assert "of at least 0" in str(refused(validation.number, "window", -1, least=0))
        assert validation.number("window", math.inf, least=0) == math.inf
        endless = refused(validation.number, "window", math.inf, least=0, finite=True)
        assert "of at least 0, and finite" in str(endless)

    def test_an_integer_beyond_any_float_is_refused(self):
        """With `InvalidArgument`, not an OverflowError."""
        assert refused(validation.seconds, "timeout", 10**400).argument == "timeout"


class TestMessages:
    @pytest.mark.parametrize("value", [[SECRET], {"a": SECRET}, SECRET.encode(), (SECRET,)])
    @pytest.mark.parametrize(
        "check", [validation.text, validation.identifier, validation.boolean, validation.seconds]
    )
    def test_the_content_of_a_container_is_not_shown(self, check, value):
        """It may hold a secret, so the message has only its type."""
        message = str(refused(check, "thing", value))
        assert SECRET not in message
        assert f"<{type(value).__name__}>" in message

    @given(things)
    @example(10**5000)
    def test_every_check_returns_or_raises_invalid_argument(self, value):
        """Whatever the value."""
        for check, extra in [
            (validation.boolean, {}),
            (validation.text, {}),
            (validation.secret, {}),
            (validation.identifier, {}),
            (validation.whole, {"minimum": 0}),
            (validation.seconds, {}),
        ]:
            error = None
            try:
                check("thing", value, **extra)
            except VMAPIError as caught:
                error = caught
            if error is not None:
                assert isinstance(error, InvalidArgument)
                assert error.argument == "thing"
                assert re.match(r"thing[ =]", str(error))
