#!/usr/bin/env python3
"""install_test.py SOURCE BUILD CMAKE [unittest options]: what `cmake --install` and the Debian package hold is complete, and runs from where it lies.

Nothing is installed into the system: both are unpacked into a temporary folder, and a guest migrates from QEMU to QEMU there.
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

    def test_debian_package(self):
        if not all(map(shutil.which, ("dpkg-deb", "dpkg-shlibdeps"))):
            self.skipTest("no Debian packages can be made here")
        run(os.path.join(os.path.dirname(CMAKE), "cpack"), "-G", "DEB", "--config", f"{BUILD}/CPackConfig.cmake", "-B", self.work.file("deb"))
        package, = (name for name in os.listdir(self.work.file("deb")) if name.endswith(".deb"))
        package = os.path.join(self.work.file("deb"), package)
        run("dpkg-deb", "-x", package, self.root)
        self.check("/usr", variable("CMAKE_INSTALL_LIBDIR"))
        self.assertEqual(sorted(os.listdir(f"{self.root}/etc")), ["apparmor.d"])
        for name in ("etc/apparmor.d/abstractions/pageferry", "usr/lib/udev/rules.d/60-pageferry.rules"):
            self.assertTrue(os.path.isfile(os.path.join(self.root, name)), name)
        run("dpkg-deb", "-e", package, self.work.file("control"))
        with open(self.work.file("control/control"), encoding="utf-8") as file:
            fields = dict(line.split(": ", 1) for line in file.read().splitlines() if ": " in line and not line.startswith(" "))
        self.assertIn("libc6", fields["Depends"])
        self.assertIn("qemu-system-x86", fields["Recommends"])
        for name, text in (("conffiles", "/etc/apparmor.d/abstractions/pageferry\n"), ("triggers", "interest-noawait /usr/bin/qemu-system-x86_64\n"),
                           ("postinst", "touch /usr/bin/pageferry-qemu"), ("postrm", "sed -i")):
            with open(self.work.file(f"control/{name}"), encoding="utf-8") as file:
                self.assertIn(text, file.read())

    def test_apparmors_rules_are_taken_in_and_out(self):
        """postinst adds one line to libvirt's local additions, once, and postrm takes it out again; the rest is left alone."""
        additions = self.work.file("additions")
        line = "include if exists <abstractions/pageferry>"
        for before, after in ((None, f"{line}\n"), ("", f"{line}\n"), ("  /srv/** r,", f"  /srv/** r,\n{line}\n")):
            with self.subTest(before=before):
                if os.path.exists(additions):
                    os.unlink(additions)
                if before is not None:
                    with open(additions, "w", encoding="utf-8") as file:
                        file.write(before)
                for script, action, expected in (("postinst", "configure", after), ("postinst", "configure", after),
                                                 ("postrm", "remove", after.replace(f"{line}\n", ""))):
                    self.maintainer_script(script, action, additions)
                    with open(additions, encoding="utf-8") as file:
                        self.assertEqual(file.read(), expected)

    def maintainer_script(self, name, action, additions):
        """As in the package, but for the file it changes; and with no udev to talk to."""
        with open(f"{SOURCE}/packaging/debian/{name}", encoding="utf-8") as file:
            text = file.read()
        changed = text.replace("additions=/etc/apparmor.d/local/abstractions/libvirt-qemu", f"additions={additions}").replace("udevadm", "no-udevadm")
        self.assertNotEqual(changed, text)
        run("sh", "-c", changed, name, action)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
