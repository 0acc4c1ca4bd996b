"""Which labels can be a provider's version of a name."""

import pytest

from async_vmapi.tasks.names import Labels, key
from async_vmapi.transport.codec import NamedVM


def like(name, *labels):
    vms = [NamedVM(str(n), "online", 1, 1024, label) for n, label in enumerate(labels)]
    found = Labels(vms, among=[label for label in labels if label]).like(name)
    return {vm.label for vm in found}


class TestKey:
    @pytest.mark.parametrize(
        "label",
        [
            "web-01",
            "WEB-01",
            " web-01 ",
            "web 01",
            "Web_01",
            "\uff57eb-01",
            "we\u0301b-01",
            "w\u00e9b-01",
        ],
    )
    def test_a_changed_name_has_the_same_key(self, label):
        """Case, white space, punctuation, width and accents do not count."""
        assert key(label) == key("web-01") == "web01"

    def test_letters_of_any_script_count(self):
        """And ligatures and sharp s in their long form."""
        assert key("Größe ﬁ") == key("GRÖSSE FI")
        assert key("сервер-1") != key("сервер-2")
        assert key("🚀") == ""


class TestLike:
    @pytest.mark.parametrize("label", [None, "", " ", "???"])
    def test_an_empty_label_matches_any_name(self, label):
        """Null was seen (WIRE §3)."""
        assert like("web-01", label, "db") == {label}

    def test_a_cut_name_matches(self):
        """Where no label is longer."""
        assert like("web-01-berlin", "web-01-b", "web-02-b", "db") == {"web-01-b"}
        assert like("web-01-berlin", "WEB-01", "web-02", "db") == {"WEB-01"}
        assert like("web 01 berlin", "web 01", "web-02x") == {"web 01"}

    def test_a_prefix_does_not_match_where_a_label_is_longer(self):
        """Else ``vm-1`` would match ``vm-17`` in every fleet."""
        assert like("vm-17", "vm-1", "vm-10", "vm-1700") == set()

    def test_a_longer_label_is_no_cut_name(self):
        """Nor is one with only a common prefix."""
        assert like("web-01", "web-01-b", "web-1") == set()

    def test_a_name_cut_by_bytes_matches(self):
        """Then the longest label in characters is not the longest in bytes."""
        assert like("żółta-łódź-01", "żółta-ł", "0123456789") == {"żółta-ł"}
        assert like("żółta-łódź-01", "żółta-ł", "0123456789abcdef") == set()

    def test_a_very_long_name_matches_by_its_first_part(self):
        """The rest is not compared."""
        assert like("x" * 100_000, "x" * 512) == {"x" * 512}
