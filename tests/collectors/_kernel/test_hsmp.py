"""The message to the HSMP driver, byte by byte."""

from __future__ import annotations

import pytest

from collectors._kernel.hsmp import COMMAND, HsmpMessage, pack_message, unpack_first_word


def test_a_message_is_the_kernels_struct() -> None:
    """Number, counts, eight words and the socket are packed to 44 bytes, as in include/uapi/asm/amd_hsmp.h."""
    message = pack_message(1, HsmpMessage.DIMM_THERMAL, (0x92,))

    assert message.hex(" ", 4) == "18000000 01000100 92000000" + " 00000000" * 7 + " 01000000"
    assert COMMAND == 0xC02CF800  # _IOWR(0xF8, 0, struct hsmp_message)
    assert unpack_first_word(message) == 0x92
    with pytest.raises(ValueError, match="DIMM_THERMAL takes 1 words, got 0"):
        pack_message(0, HsmpMessage.DIMM_THERMAL, ())
