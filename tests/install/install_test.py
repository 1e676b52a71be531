#!/usr/bin/env python3
"""install_test.py SOURCE BUILD CMAKE [unittest options]: what `cmake --install` and the Debian package hold is complete, and runs from where it lies.

Nothing is installed into the system: both are unpacked into a temporary folder, and a guest migrates from QEMU to QEMU there. dpkg has a
system of its own there too.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import unittest

SOURCE, BUILD, CMAKE = (os.path.abspath(argument) if os.path.exists(argument) else argument for argument in sys.argv[1:4])
sys.path.insert(0, os.path.join(SOURCE, "tests"))
from qemu_pair import PATIENCE, Launch, Vm, Workspace, free_port  # noqa: E402

LONG = 5 * PATIENCE  # a package is made in that time
EMULATOR = "pageferry-qemu-system-x86_64"


def run(*command, **environment):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False, stdin=subprocess.DEVNULL,
                          env={**os.environ, **environment})
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def variable(name):
    """Of the build's CMake cache."""
    with open(os.path.join(BUILD, "CMakeCache.txt"), encoding="utf-8") as cache:
        return re.search(rf"^{name}:\w+=(.*)$", cache.read(), re.MULTILINE).group(1)


class Installed(unittest.TestCase):
    def setUp(self):
        self.work = self.enterContext(Workspace())
        self.root = self.work.file("root")

    def check(self, prefix, libdir):
        """The tree at root/prefix is whole, and works."""
        there = os.path.join(self.root, prefix.lstrip("/"))
        plugins = ["tcp", "unix"] + (["rdma"] if os.path.exists(f"{BUILD}/bin/pageferry-transport-rdma.so") else [])
        for name in ("bin/pageferry", "bin/pageferry-qemu", f"bin/{EMULATOR}", "libexec/pageferry/pageferry-monitor",
                     "libexec/pageferry/pageferry-mover", f"{libdir}/pageferry/libpageferry-agent.so", "share/doc/pageferry/copyright",
                     "include/pageferry/transport/pageferry_transport.h",
                     *(f"{libdir}/pageferry/pageferry-transport-{plugin}.so" for plugin in plugins)):
            self.assertTrue(os.path.isfile(os.path.join(there, name)), name)
        self.assertEqual(os.readlink(os.path.join(there, "bin", EMULATOR)), "pageferry-qemu")
        with open(os.path.join(there, "share/doc/pageferry/examples/qemu.json"), encoding="utf-8") as example:
            settings = json.load(example)
        emulator = os.path.join(there, "bin", EMULATOR)
        qemus = run("qemu-system-x86_64", "-version")
        none = self.work.file("no-settings")
        self.assertEqual(run(emulator, "-version", PAGEFERRY_CONFIG=none), qemus)
        example = self.work.file("example.json")  # is one that would be accepted
        with open(example, "w", encoding="utf-8") as file:
            json.dump({**settings, "log": self.work.file("log")}, file)
        launch = Launch(["env"], emulator, {"PAGEFERRY_CONFIG": example})
        with Vm(self.work, "src", launch, memory=64) as source, Vm(self.work, "dst", launch, memory=64, incoming=True) as destination:
            uri = f"tcp:127.0.0.1:{free_port()}"
            destination.qmp.execute("migrate-incoming", uri=uri)
            run(os.path.join(there, "bin/pageferry"), "migrate", "--qmp", source.cli_path, uri)
            destination.wait_running()
        self.assertGreater(os.path.getsize(self.work.file("log")), 0)

    def test_cmake_install(self):
        run(CMAKE, "--install", BUILD, DESTDIR=self.root)
        self.assertFalse(os.path.exists(f"{self.root}/etc"), "an installation from source activates nothing")
        self.check(variable("CMAKE_INSTALL_PREFIX"), variable("CMAKE_INSTALL_LIBDIR"))

    def package(self):
        """The Debian package of this build."""
        if not all(map(shutil.which, ("dpkg-deb", "dpkg-shlibdeps"))):
            self.skipTest("no Debian packages can be made here")
        folder = self.work.file("deb")
        run(os.path.join(os.path.dirname(CMAKE), "cpack"), "-G", "DEB", "--config", f"{BUILD}/CPackConfig.cmake", "-B", folder)
        package, = (name for name in os.listdir(folder) if name.endswith(".deb"))
        return os.path.join(folder, package)

    def test_debian_package(self):
        package = self.package()
        run("dpkg-deb", "-x", package, self.root)
        self.check("/usr", variable("CMAKE_INSTALL_LIBDIR"))
        self.assertEqual(sorted(os.listdir(f"{self.root}/etc")), ["apparmor.d"])
        for name in ("etc/apparmor.d/abstractions/pageferry", "usr/lib/udev/rules.d/60-pageferry.rules"):
            self.assertTrue(os.path.isfile(os.path.join(self.root, name)), name)
        fields = self.fields(package)
        self.assertIn("libc6", fields["Depends"])
        self.assertIn("qemu-system-x86", fields["Recommends"])

    def text(self, name):
        with open(self.work.file(name), encoding="utf-8") as file:
            return file.read()

    def fields(self, package):
        lines = run("dpkg-deb", "-f", package).splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))

    def dpkg(self, *arguments):
        """In a system of its own, that has nothing else."""
        run("dpkg", f"--root={self.root}", f"--log={self.work.file('dpkg.log')}", "--force-script-chrootless", "--force-not-root", *arguments)

    def test_dpkg(self):
        """What the package's scripts do: rules into libvirt's local additions, once, and out again; a new QEMU makes the emulator a new one."""
        package = self.package()
        for folder in ("updates", "info", "triggers"):
            os.makedirs(f"{self.root}/var/lib/dpkg/{folder}")
        for name in ("status", "available"):
            with open(f"{self.root}/var/lib/dpkg/{name}", "wb"):
                pass
        additions = "root/etc/apparmor.d/local/abstractions/libvirt-qemu"
        line = "include if exists <abstractions/pageferry>\n"
        needed = [name.split()[0] for name in self.fields(package)["Depends"].split(", ")]
        self.dpkg("-i", self.fake_package("libraries", provides=", ".join(f"{name} (= 9999:1)" for name in needed)), package)
        self.assertEqual(self.text(additions), line)
        self.dpkg("-i", package)
        self.assertEqual(self.text(additions), line)
        with open(self.work.file(additions), "w", encoding="utf-8") as file:
            file.write("  /srv/** r,")  # an administrator's, with no end of line
        self.dpkg("-i", package)
        self.assertEqual(self.text(additions), f"  /srv/** r,\n{line}")
        emulator = f"{self.root}/usr/bin/{EMULATOR}"
        before = os.stat(emulator).st_ctime_ns
        self.dpkg("-i", self.fake_package("qemu", file="usr/bin/qemu-system-x86_64"))
        self.assertGreater(os.stat(emulator).st_ctime_ns, before)  # libvirt looks at this time
        self.dpkg("-r", "pageferry")
        self.assertEqual(self.text(additions), "  /srv/** r,\n")
        self.assertFalse(os.path.lexists(emulator))

    def fake_package(self, name, provides="nothing-else", file="usr/share/nothing"):
        """A package with one file, in the place of another."""
        folder = self.work.file(f"fake-{name}")
        architecture = run("dpkg", "--print-architecture").strip()
        control = f"Package: fake-{name}\nVersion: 1\nArchitecture: {architecture}\nProvides: {provides}\nMaintainer: nobody <nobody@localhost>\nDescription: a test\n"
        for path, text in (("DEBIAN/control", control), (file, "#!/bin/false\n")):
            os.makedirs(os.path.dirname(os.path.join(folder, path)))
            with open(os.path.join(folder, path), "w", encoding="utf-8") as opened:
                opened.write(text)
        run("dpkg-deb", "--build", folder, f"{folder}.deb")
        return f"{folder}.deb"


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
