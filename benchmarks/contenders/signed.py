"""Requests of this API, written by hand (WIRE §1, §2), for general HTTP clients."""

import base64
import hashlib
import hmac
import json
from email.utils import formatdate

VMS_PATH = "/v2/virtual-machines"
ZONE = "24e12e20-0851-5354-e2c3-04b16c4c9c45"
TEMPLATE = "2268"
ONLINE = "online"


class Signer:
    """Builds the headers of a request."""

    def __init__(self, url, key, secret):
        self._host = url.partition("://")[2]
        self._key = key
        self._secret = secret.encode()

    def headers(self, method, target, body=b""):
        date = formatdate(usegmt=True)
        text = f"{method}\n{self._host}\n{date}\n{target}\n".encode() + body
        signature = base64.b64encode(hmac.digest(self._secret, text, hashlib.sha256)).decode()
        return {
            "Host": self._host,
            "Content-Type": "application/json",
            "X-Date": date,
            "Authorization": f"{self._key}:{signature}",
        }


def create_body(name):
    """Return the body of a create."""
    asked = {
        "cpus": 1,
        "ram": 1024,
        "compute_zone_id": ZONE,
        "name": name,
        "boot_type": "image",
        "os": TEMPLATE,
    }
    return json.dumps({"create_vm": asked}).encode()


def vm_of(response):
    """Return the VM in the response to a GET, in either form (WIRE §2)."""
    shown = response["virtual_machine"]
    return shown[0] if isinstance(shown, list) else shown
