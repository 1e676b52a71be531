#!/usr/bin/env python3
"""Runs a command as the user nobody, and if told so, with userfaultfd() forbidden as by a container's filter.

faults_as_nobody.py [--deny-userfaultfd] -- COMMAND ARGUMENTS
"""
import ctypes
import errno
import os
import pwd
import struct
import sys

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def deny(number):
    instructions = [(LOAD_WORD, 0, 0, 0), (EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in instructions))
    filter_program = ctypes.create_string_buffer(struct.pack("@HP", len(instructions), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_program, 0, 0):
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")


def main():
    split = sys.argv.index("--")
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    if "--deny-userfaultfd" in sys.argv[1:split]:
        deny(SYS_USERFAULTFD[os.uname().machine])
    os.execvp(sys.argv[split + 1], sys.argv[split + 1:])


main()
