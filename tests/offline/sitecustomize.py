"""Cuts the network off from a Python process and its children: this folder stands first in their PYTHONPATH.

Whoever asks for an address that is not on loopback gets an OSError, and a line in the file that ESLAB_OFFLINE_LOG names, even if the error is caught.
An audit hook sees what goes through Python's sockets, and cannot be taken out again; run_notebooks.py cuts off native code where the system lets it.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path
from typing import Any

ADDRESS_AT = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
LOCAL_NAMES = {"", "localhost", socket.gethostname()}


def inside(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in LOCAL_NAMES
    return address.is_loopback or address.is_unspecified  # connecting to 0.0.0.0 ends here


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ADDRESS_AT:
        return
    address = arguments[ADDRESS_AT[event]]
    if event.startswith(("socket.connect", "socket.send")):
        if not isinstance(address, tuple):  # a socket in the file system, or a datagram to where the socket is connected
            return
        address = address[0]
    host = address.decode() if isinstance(address, bytes) else address or ""
    if inside(host):
        return
    with Path(os.environ["ESLAB_OFFLINE_LOG"]).open("a") as log:
        log.write(f"{event} {host}\n")
    raise OSError(f"the network is cut: {event} {host}")


if "ESLAB_OFFLINE_LOG" in os.environ:
    sys.addaudithook(refuse)
