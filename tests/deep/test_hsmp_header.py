"""/dev/hsmp against the kernel's own header: a C program stands in for the driver and reads our messages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import require_program

DRIVER = r"""
#define _GNU_SOURCE
#include <asm/amd_hsmp.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>

/* Stands between the program and the kernel; checks what amd_hsmp's hsmp_ioctl() and validate_message() check. */
int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    struct hsmp_message *message = va_arg(rest, struct hsmp_message *);
    va_end(rest);
    if (request != HSMP_IOCTL_CMD) {
        int (*real)(int, unsigned long, ...) = dlsym(RTLD_NEXT, "ioctl");
        return real(fd, request, message);
    }
    errno = 0;
    if (message->sock_ind > 1)
        errno = ENODEV;
    else if (message->msg_id < HSMP_TEST || message->msg_id >= HSMP_MSG_ID_MAX)
        errno = ENOMSG;
    else if (hsmp_msg_desc_table[message->msg_id].type != HSMP_GET)
        errno = EINVAL;
    else if (message->num_args != hsmp_msg_desc_table[message->msg_id].num_args
             || message->response_sz != hsmp_msg_desc_table[message->msg_id].response_sz)
        errno = EINVAL;
    if (errno)
        return -1;
    /* An answer that says what was asked, and of which socket. */
    message->args[0] = message->msg_id << 24 | message->sock_ind << 16 | (message->args[0] & 0xff);
    return 0;
}
"""
ASK = """
import sys
from collectors._kernel.hsmp import DevicePort, HsmpMessage
device = DevicePort(sys.argv[1])
for message in HsmpMessage:
    for socket in (0, 1):
        print(message.name, hex(device.ask(socket, message, *(0x92,) * message.value.arguments)))
try:
    device.ask(2, HsmpMessage.PROCHOT)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.deep
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the header is x86's")
def test_every_message_is_what_the_header_lays_down(tmp_path: Path) -> None:
    """Each message passes the driver's checks, and number, socket, argument and answer stand where the header says."""
    from collectors._kernel.hsmp import HsmpMessage

    compiler = require_program("cc")
    header = subprocess.run([compiler, "-E", "-include", "asm/amd_hsmp.h", "-xc", os.devnull], capture_output=True)
    if header.returncode and not os.environ.get("STEADYTOK_REQUIRE_PEERS"):
        pytest.skip("the kernel's headers are older than 5.18, or not installed (Debian: linux-libc-dev)")
    source, shim, device = tmp_path / "driver.c", tmp_path / "driver.so", tmp_path / "hsmp"
    source.write_text(DRIVER)
    device.touch()
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", shim, source, "-ldl"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", ASK, device],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [
        f"{message.name} {hex(message.value.number << 24 | socket << 16 | (0x92 if message.value.arguments else 0))}"
        for message in HsmpMessage
        for socket in (0, 1)
    ]

    assert done.stdout.split("\n") == [*expected, "19", ""]  # ENODEV
