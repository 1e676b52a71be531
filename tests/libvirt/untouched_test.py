#!/usr/bin/env python3
"""What libvirt does that is no migration to a host: saved, restored, snapshot, dumped, devices and memory plugged, disks copied. QEMU does
it as if Pageferry were not there, before and after the guest has moved."""
import os
import subprocess

from libvirt_case import Case, guest_image, main, wait_until


class Untouched(Case):
    def path(self, name):
        return os.path.join(self.source.folder, "ram", name)  # a folder in which QEMU may write

    def file(self, name, size=1 << 20):
        """An empty file that both QEMUs may write."""
        with open(self.path(name), "wb") as file:
            file.truncate(size)
        os.chmod(self.path(name), 0o666)
        return self.path(name)

    def give(self, host, name, text):
        path = os.path.join(host.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def test_saved_and_restored(self):
        """After a migration, and the restored guest moves again."""
        self.start()
        self.move()
        self.destination.virsh("save", "guest", self.path("saved"))
        self.assertEqual(self.destination.state("guest"), "")
        self.destination.virsh("restore", self.path("saved"))
        self.assert_intact(self.destination)
        self.move(back=True)
        self.source.virsh("managedsave", "guest")
        self.assertEqual(self.source.state("guest"), "shut off (saved)")
        self.source.virsh("start", "guest")
        self.assert_intact(self.source)
        self.move()

    def test_snapshots_with_memory(self):
        self.start()
        overlay = self.file("overlay.qcow2", 0)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.writer, "-F", "raw", overlay], check=True)
        self.source.virsh("snapshot-create-as", "guest", "one", "--memspec", f"file={self.path('memory')},snapshot=external", "--diskspec",
                          f"hda,snapshot=external,file={overlay}", "--live", "--reuse-external")
        self.assertGreater(os.path.getsize(self.path("memory")), guest_image.end_mib(self.writer) << 20)
        self.assert_intact(self.source)
        self.source.virsh("snapshot-delete", "guest", "one", "--metadata")  # libvirt moves none with snapshots
        self.move()
        self.destination.virsh("destroy", "guest")
        self.destination.virsh("restore", self.path("memory"))
        self.assert_intact(self.destination)

    def test_dumped(self):
        self.start()
        self.source.virsh("dump", "guest", self.path("core"), "--memory-only", "--live")
        with open(self.path("core"), "rb") as core:
            self.assertEqual(core.read(4), b"\x7fELF")
        self.assert_intact(self.source)
        self.move()

    def test_devices_come_and_go(self):
        """At one host, and after the move at the other."""
        self.start()
        disk = self.give(self.source, "disk.xml", f"""<disk type='file' device='disk'><driver name='qemu' type='raw'/>
          <source file='{self.file("second")}'/><target dev='vdb' bus='virtio'/></disk>""")
        tablet = self.give(self.source, "tablet.xml", "<input type='tablet' bus='usb'/>")
        for device in (disk, tablet):
            self.source.virsh("attach-device", "guest", device, "--live")
        self.assertEqual(self.devices(self.source), (2, 1))
        self.move()
        self.assertEqual(self.devices(self.destination), (2, 1))
        self.destination.virsh("detach-device", "guest", tablet, "--live")  # a disk would have to be let go of by the guest
        wait_until(lambda: self.devices(self.destination) == (2, 0), "the tablet stays")
        self.move(back=True)
        self.assertEqual(self.devices(self.source), (2, 0))

    def devices(self, host):
        """Disks and tablets, as QEMU has them."""
        return (len([one for one in host.monitor("guest", "query-block") if one.get("inserted")]),
                len([one for one in host.monitor("guest", "query-mice") if "Tablet" in one["name"]]))

    def test_a_disk_is_copied(self):
        self.start()
        copied = self.file("copy.raw", os.path.getsize(self.writer))
        self.source.virsh("blockcopy", "guest", "hda", copied, "--format", "raw", "--wait", "--pivot", "--transient-job", "--reuse-external")
        with open(copied, "rb") as copy, open(self.writer, "rb") as original:
            self.assertEqual(copy.read(512), original.read(512))
        self.assertIn("copy.raw", self.source.virsh("domblklist", "guest"))
        self.move()

    def test_memory_is_plugged(self):
        """Between migrations: the new memory moves with the rest."""
        self.start(memory_mib=64, memory="<maxMemory slots='4' unit='MiB'>512</maxMemory>",
                   cpu="<cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>")
        module = self.give(self.source, "dimm.xml", "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>")
        self.source.virsh("attach-device", "guest", module, "--live")
        self.assertEqual(self.source.monitor("guest", "query-memory-size-summary")["plugged-memory"], 128 << 20)
        self.move()
        self.assertEqual(self.destination.monitor("guest", "query-memory-size-summary")["plugged-memory"], 128 << 20)
        self.destination.virsh("attach-device", "guest", module, "--live")
        self.move(back=True)
        self.assertEqual(self.source.monitor("guest", "query-memory-size-summary")["plugged-memory"], 256 << 20)

    def test_a_guest_whose_memory_is_private(self):
        """libvirt's default: no memoryBacking at all."""
        self.start(backing="")
        self.move()
        self.move(back=True)


if __name__ == "__main__":
    main()
