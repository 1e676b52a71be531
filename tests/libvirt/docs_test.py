#!/usr/bin/env python3
"""docs/libvirt.md, run as it stands: its domain, and the commands of its console blocks with what they print."""
import os
import re
import shutil
import subprocess

from libvirt_case import EMULATOR, PATIENCE, Case, main, wait_until

DOCUMENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/libvirt.md")


class Document(Case):
    def test_from_nothing_to_a_migrated_domain(self):
        with open(DOCUMENT, encoding="utf-8") as file:
            text = file.read()
        part = re.search(r"^## From nothing.*?(?=^## )", text, re.MULTILINE | re.DOTALL).group(0)
        blocks = re.findall(r"^```(xml|console)\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        self.assertEqual([kind for kind, _ in blocks], ["xml"] + ["console"] * (len(blocks) - 1))
        for host in self.hosts.both:
            self.install(host)
        shutil.copy(self.writer, os.path.join(self.work.file("guests"), "guest.img"))
        os.chmod(os.path.join(self.work.file("guests"), "guest.img"), 0o666)
        folder = os.path.join(self.source.folder, "ram")
        with open(os.path.join(folder, "guest.xml"), "w", encoding="utf-8") as file:
            file.write(blocks[0][1])
        self.background = []
        at = self.source
        for number, (_, block) in enumerate(blocks[1:]):
            at = self.destination if number == 2 else self.source
            self.run_block(at, folder, block)
        for process in self.background:
            process.communicate(timeout=PATIENCE)
        self.assert_intact(self.destination)

    def install(self, host):
        """The emulator where an installation has it, in a layer over the machine's own programs."""
        layer = os.path.join(host.folder, "usr-bin")
        os.makedirs(os.path.join(layer, "upper"))
        os.makedirs(os.path.join(layer, "work"))
        host.run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/usr/bin,upperdir={layer}/upper,workdir={layer}/work", "/usr/bin")
        host.run("ln", "-s", EMULATOR, "/usr/bin/pageferry-qemu-system-x86_64")

    def run_block(self, host, folder, block):
        for command, printed in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            with self.subTest(host=host.name, command=command):
                if command == "virsh migrate-postcopy guest":  # a person types it when the migration is under way
                    wait_until(lambda: self.status(host) == "active", "the migration does not begin")
                if command.endswith("--postcopy") and "domjobabort" in command:
                    self.destination.wait_state("guest", "running (post-copy)")
                if command.startswith("virsh domstate"):
                    self.source.wait_state("guest", printed.strip())
                line = host.inside("sh", "-c", f"cd {folder} && exec {command.removesuffix('&')}")
                if command.endswith("&"):
                    self.background.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                    continue
                done = subprocess.run(line, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
                self.assertEqual(done.returncode, 0, done.stderr)
                if printed:
                    self.assertEqual(done.stdout.strip(), printed.strip())


if __name__ == "__main__":
    main()
