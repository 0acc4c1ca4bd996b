"""What a new VM is made from (WIRE §2)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from async_vmapi import validation
from async_vmapi.errors import InvalidArgument
from async_vmapi.models.serialization import Document, stored
from async_vmapi.redaction import Secret

__all__ = ["CdromBoot", "CreateRequest", "ImageBoot", "SecretRef"]


def _check(owner: object, name: str, check: Callable[[str, object], object]) -> None:
    # Keep the checked value: it has a plain type, which can be encoded.
    object.__setattr__(owner, name, check(name, getattr(owner, name)))


@attrs.frozen
class SecretRef:
    """A reference to a secret, which a worker of a durable fleet resolves.

    Args:
        name: ``env:NAME`` for an environment variable that the worker allows, such as
            ``env:VMAPI_SECRET_ROOT``; any other name is passed to the worker's function for
            secrets.

    Raises:
        InvalidArgument: If it is blank or not text.
    """

    name: str

    def __attrs_post_init__(self) -> None:
        _check(self, "name", validation.text)


def _name_of(field: str, value: Secret | SecretRef | None) -> str | None:
    if isinstance(value, Secret):
        raise InvalidArgument(
            f"the {field} is a plain secret, which is never stored or shown: pass a "
            f"SecretRef('env:VMAPI_SECRET_NAME'), or a name that the workers resolve",
            argument=field,
        )
    return None if value is None else value.name


def _reference(name: str | None, _: object) -> SecretRef | None:
    return None if name is None else SecretRef(name)


def _by_name(field: str) -> dict[str, Any]:
    """Return the metadata of a secret, of which only the name of its `SecretRef` is stored."""
    return stored(
        rename=f"{field}_ref", unstruct_hook=partial(_name_of, field), struct_hook=_reference
    )


@attrs.frozen(kw_only=True, init=False)
class ImageBoot(Document):
    """Boot a new VM from a template (WIRE §2).

    Args:
        os: The template's id.
        password: The administrator's password, if the template supports ``password``. A durable
            fleet takes a `SecretRef` for it, and for `user_data`.
        key_id: An SSH key's id, if the template supports ``sshkey``.
        user_data: The cloud-init text, if the template supports ``cloudinit``.

    Raises:
        InvalidArgument: If an argument is empty or not text.
    """

    os: str
    key_id: str | None = None
    _password: Secret | SecretRef | None = attrs.field(
        default=None, repr=False, metadata=_by_name("password")
    )
    _user_data: Secret | SecretRef | None = attrs.field(
        default=None, repr=False, metadata=_by_name("user_data")
    )

    def __init__(
        self,
        *,
        os: str,
        password: str | SecretRef | None = None,
        key_id: str | None = None,
        user_data: str | SecretRef | None = None,
    ) -> None:
        # Before any check fails: an error shows this frame's variables.
        hidden = {"password": _hidden(password), "user_data": _hidden(user_data)}
        del password, user_data
        self.__attrs_init__(  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
            os=validation.text("os", os),
            key_id=None if key_id is None else validation.text("key_id", key_id),
            **{
                name: validation.secret(name, value) if isinstance(value, Secret) else value
                for name, value in hidden.items()
            },
        )

    @property
    def password(self) -> str | SecretRef | None:
        """The administrator's password."""
        return self._password.text() if isinstance(self._password, Secret) else self._password

    @property
    def user_data(self) -> str | SecretRef | None:
        """The cloud-init text."""
        return self._user_data.text() if isinstance(self._user_data, Secret) else self._user_data

    @property
    def secrets(self) -> dict[str, Secret]:
        """The secrets, by the name of their field."""
        secrets = {"password": self._password, "user_data": self._user_data}
        return {name: value for name, value in secrets.items() if isinstance(value, Secret)}

    @property
    def references(self) -> tuple[str, ...]:
        """The names of the fields that hold a `SecretRef`."""
        secrets = (("password", self._password), ("user_data", self._user_data))
        return tuple(name for name, value in secrets if isinstance(value, SecretRef))


def _hidden(value: object) -> Secret | SecretRef | None:
    return value if value is None or isinstance(value, SecretRef) else Secret.of(value)


@attrs.frozen(kw_only=True)
class CdromBoot(Document):
    """Boot a new VM from a CD image, by the image's name (WIRE §2).

    Raises:
        InvalidArgument: If `iso` is empty or not text.
    """

    iso: str

    def __attrs_post_init__(self) -> None:
        _check(self, "iso", validation.text)


@attrs.frozen(kw_only=True)
class CreateRequest(Document):
    """A request to create a VM (WIRE §2).

    Args:
        name: The new VM's label; it need not be unique.
        cpus: Number of CPUs, at least 1.
        ram: Memory in MB, at least 1.
        zone_id: The id of the zone to create it in.
        boot: What it boots from.

    Raises:
        InvalidArgument: If an argument is invalid.
    """

    name: str
    cpus: int
    ram: int
    zone_id: str
    boot: ImageBoot | CdromBoot

    def __attrs_post_init__(self) -> None:
        _check(self, "name", validation.text)
        _check(self, "cpus", partial(validation.whole, minimum=1))
        _check(self, "ram", partial(validation.whole, minimum=1))
        _check(self, "zone_id", validation.text)
        if not isinstance(self.boot, ImageBoot | CdromBoot):
            raise InvalidArgument(
                f"boot of type {type(self.boot).__name__} is not an ImageBoot or a CdromBoot: pass "
                "ImageBoot(os=...) with a template's id, or CdromBoot(iso=...)",
                argument="boot",
            )
