"""Leaving a port to another process that listens at it too (SO_REUSEPORT), without losing a connection.

The kernel gives each new connection to one of the sockets of the port, and resets what waits in the queue of one that is
closed. So new connections are sent to the other socket first, what is queued is accepted, and only then this one is closed.
Sockets are numbered in the order in which they began to listen (socket(7), SO_ATTACH_REUSEPORT_CBPF): of two, the newer one
is number 1. Where there is no number 1 the kernel goes on as if nothing had been said.
"""

import ctypes
import socket
import struct
from typing import Final

QUEUE_S: Final = 0.5  # for what is queued, and for handshakes that are under way
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_RETURN_1: Final = struct.pack("HBBI", 0x06, 0, 0, 1)  # one instruction: BPF_RET | BPF_K, k = 1 (linux/filter.h)


def send_to_the_newer(listener: socket.socket) -> bool:
    """Whether the kernel has taken it; not before Linux 4.5, nor on a socket that shares its port with nobody."""
    program = ctypes.create_string_buffer(_RETURN_1, len(_RETURN_1))
    described = struct.pack("HL", 1, ctypes.addressof(program))  # struct sock_fprog
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, described)
    except OSError:
        return False
    return True
