#!/usr/bin/env python3
"""The first process of one host of libvirt_hosts.py, in mount, UTS and PID namespaces of its own: makes the host's folders, then reaps.

    unshare --mount --uts --pid --fork --kill-child --mount-proc host_init.py FOLDER NAME BIN [ROOT]

FOLDER holds etc/, passwd and group; BIN becomes /opt/pageferry/bin. ROOT's programs and libraries, of another Debian, come before this
machine's. It ends with its standard input, and everything in the host with it.
Standard library only.
"""
import glob
import os
import signal
import socket
import stat
import subprocess
import sys

USER_ID = 64055  # Debian's own number for libvirt-qemu


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def own_folder(path, folder):
    os.makedirs(path, exist_ok=True)
    mount("--bind", folder, path)


def main():
    folder, name, programs, *root = sys.argv[1:]
    socket.sethostname(name)
    for path in filter(os.path.isdir, ("/run", "/opt", "/srv")):  # the lab's machines have no /srv
        mount("-t", "tmpfs", "-o", "mode=0755", "none", path)
    mount("-t", "tmpfs", "-o", "mode=1777", "none", "/dev/shm")
    os.makedirs("/run/libvirt")
    os.symlink(os.path.join(folder, "sockets/libvirt-sock"), "/run/libvirt/libvirt-sock")  # where `virsh` without a URI looks
    if os.path.isdir("/srv"):
        own_folder("/srv/guests", os.path.join(os.path.dirname(folder), "guests"))  # both hosts'
    os.makedirs("/run/netns", exist_ok=True)
    os.makedirs("/opt/pageferry/bin")
    mount("--bind", programs, "/opt/pageferry/bin")
    for path in ("/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"):
        own_folder(path, os.path.join(folder, path.strip("/").replace("/", "-")))
    for file in ("passwd", "group", "hosts"):
        mount("--bind", os.path.join(folder, file), f"/etc/{file}")
    # As udev rules do it, Pageferry's among them: devices for whoever may run guests. A kvm that only root may use would have libvirt
    # probe an emulator again at every use.
    for name in ("userfaultfd", "kvm"):
        if os.path.exists(f"/dev/{name}"):
            device = os.path.join(folder, name)
            os.mknod(device, stat.S_IFCHR | 0o600, os.stat(f"/dev/{name}").st_rdev)
            os.chown(device, USER_ID, USER_ID)
            mount("--bind", device, f"/dev/{name}")
    if root:
        mount("-t", "overlay", "overlay", "-o", f"ro,lowerdir={root[0]}/usr:/usr", "/usr")
        for modules in glob.glob(f"{root[0]}/usr/lib/*/libvirt") + glob.glob(f"{root[0]}/usr/lib/*/qemu"):  # they load none but their own
            mount("--bind", modules, modules.removeprefix(root[0]))
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    print("ready", flush=True)
    sys.stdin.read()


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


main()
