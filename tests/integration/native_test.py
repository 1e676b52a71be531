#!/usr/bin/env python3
"""What stays QEMU's own: exec: and fd: migrations into files, snapshots. Guest RAM is whole, and Pageferry's migrations work afterwards."""
import re
import shutil
import subprocess
from unittest import skipUnless

from under_pageferry import FAST, Case, QmpError, main, plain, wait_until


class Native(Case):
    def save(self, vm, file):
        """Into a file, by a command of QEMU's own."""
        vm.qmp.execute("migrate-set-parameters", **FAST)
        vm.qmp.execute("migrate", uri=f"exec:cat > {file}")
        vm.wait_status("completed")
        self.assertFalse(vm.running())

    def assert_goes_on(self, vm):
        vm.wait_running()
        vm.wait_writing()
        self.assert_intact(vm)

    def load(self, name, file, **options):
        """A new guest from that file."""
        vm = self.start(name, incoming=f"exec:cat {file}", **options)
        self.assert_goes_on(vm)
        return vm

    def test_exec_from_pageferry_to_pageferry_and_on(self):
        file = self.work.file("saved")
        source = self.started()
        self.save(source, file)
        self.assertEqual(self.statuses(source)[-1], "completed")
        loaded = self.load("loaded", file)
        source.close()
        self.move(loaded, self.start("dst", incoming=True))

    def test_exec_from_pageferry_to_plain_qemu(self):
        self.save(self.started(), self.work.file("saved"))
        self.load("loaded", self.work.file("saved"), launch=plain())

    def test_exec_from_plain_qemu_to_pageferry(self):
        self.save(self.started(launch=plain()), self.work.file("saved"))
        self.move(self.load("loaded", self.work.file("saved")), self.start("dst", incoming=True))

    def test_a_saved_guest_that_goes_on_moves_with_pageferry(self):
        """The source of a native migration runs on by `cont`; its next migration is Pageferry's."""
        source = self.started()
        self.save(source, self.work.file("saved"))
        source.qmp.execute("cont")
        source.wait_writing()
        self.move(source, self.start("dst", incoming=True))

    def test_fd_out_and_in(self):
        """As `virsh save`: pipes given by getfd, to and from other programs."""
        file = self.work.file("saved")
        source = self.started()
        with open(file, "wb") as target:
            writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=target)
            with writer:
                self.assertIn("return", source.qmp.ask("getfd", {"fdname": "saving"}, fds=[writer.stdin.fileno()]))
                writer.stdin.close()
                source.qmp.execute("migrate-set-parameters", **FAST)
                source.qmp.execute("migrate", uri="fd:saving")
                source.wait_status("completed")
        self.assertEqual(writer.returncode, 0)
        loaded = self.start("loaded", incoming=True)
        with subprocess.Popen(["cat", file], stdout=subprocess.PIPE) as reader:
            self.assertIn("return", loaded.qmp.ask("getfd", {"fdname": "loading"}, fds=[reader.stdout.fileno()]))
            loaded.qmp.execute("migrate-incoming", uri="fd:loading")
            loaded.wait_status("completed")
        self.assert_goes_on(loaded)
        source.close()
        self.move(loaded, self.start("dst", incoming=True))

    def test_a_native_migration_that_fails_leaves_the_guest_to_pageferry(self):
        source = self.started()
        source.qmp.execute("migrate", uri="exec:exit 1")
        source.wait_status("failed")
        source.wait_running()
        source.wait_writing()
        self.move(source, self.start("dst", incoming=True))

    @skipUnless(shutil.which("qemu-img"), "qemu-img is not installed")
    def test_snapshots(self):
        """savevm and loadvm on the human monitor, snapshot-save and snapshot-load on QMP; then a migration."""
        disk = self.work.file("disk.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "256M"], check=True)
        drive = ["-drive", f"file={disk},format=qcow2,if=none,id=disk1,node-name=store,file.locking=off"]
        vm = self.started("vm", extra=drive)
        human = lambda line: vm.qmp.execute("human-monitor-command", command_line=line)  # noqa: E731
        # savevm wants every writable disk to take it: the boot sector is a raw image.
        saved = [("snapshot-save", {"job-id": "save", "tag": "one", "vmstate": "store", "devices": ["store"]}),
                 ("snapshot-load", {"job-id": "load", "tag": "one", "vmstate": "store", "devices": ["store"]})]
        for command, arguments in saved:
            vm.qmp.ask(command, arguments)
            self.wait_job(vm, arguments["job-id"])
            if command == "snapshot-save":
                self.assertRegex(human("info snapshots"), re.compile("one", re.M))
                vm.wait_writing()
        if not vm.running():
            vm.qmp.execute("cont")
        self.assert_goes_on(vm)
        self.move(vm, self.start("dst", incoming=True, extra=drive))

    def test_a_native_migration_that_qemu_refuses_has_not_begun(self):
        source, destination = self.pair()
        with self.assertRaisesRegex(QmpError, "nobody"):
            source.qmp.execute("migrate", uri="fd:nobody")
        self.move(source, destination)

    def wait_job(self, vm, name):
        def concluded():
            job = next(job for job in vm.qmp.execute("query-jobs") if job["id"] == name)
            return job["status"] == "concluded" and job
        job = wait_until(concluded, lambda: f"job {name}: {vm.qmp.execute('query-jobs')}")
        self.assertNotIn("error", job)
        vm.qmp.ask("job-dismiss", {"id": name})


if __name__ == "__main__":
    main()
