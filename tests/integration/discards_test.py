#!/usr/bin/env python3
"""Guest memory that QEMU gives back to the host: the agent counts it, and RDMA is not used where it would happen all the time.

A virtio-mem device discards all of its memory when it is made, without the guest's help.
"""
import os
import struct

from under_pageferry import FAST, Case, free_port, main, program

COUNTERS = "/memfd:pageferry-discards"


class Discards(Case):
    def counters(self, vm):
        """(begun, ended), read from the memory that the agent hands out."""
        folder = f"/proc/{vm.process.pid}/fd"
        for number in os.listdir(folder):
            path = os.path.join(folder, number)
            if os.readlink(path).startswith(COUNTERS):
                with open(path, "rb") as memory:
                    return struct.unpack("=QQ", memory.read(16))
        self.fail("the agent counts nothing")

    @staticmethod
    def virtio_mem():
        return {"memory": "64M,maxmem=1G",
                "extra": ["-object", "memory-backend-file,id=mem0,size=128M,mem-path=/dev/shm,share=on",
                          "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size=0"]}

    def test_qemus_own_discards_are_counted(self):
        vm = self.started(memory="64M,maxmem=1G")
        before = self.counters(vm)
        self.assertEqual(before[0], before[1])
        vm.qmp.execute("object-add", **{"qom-type": "memory-backend-file", "id": "mem0", "size": 128 << 20, "mem-path": "/dev/shm", "share": True})
        self.assertEqual(self.counters(vm), before)
        vm.qmp.execute("device_add", driver="virtio-mem-pci", id="vm0", memdev="mem0")
        after = self.counters(vm)
        self.assertGreater(after[0], before[0])
        self.assertEqual(after[0], after[1])
        vm.wait_writing()

    def test_a_guest_whose_memory_was_discarded_moves(self):
        source, destination = (self.started("src", **self.virtio_mem()), self.start("dst", incoming=True, **self.virtio_mem()))
        self.assertGreater(self.counters(source)[0], 2)  # the agent's own look at itself
        self.move(source, destination)

    def test_rdma_is_refused_with_virtio_mem_and_tcp_is_used(self):
        if not os.path.exists(program("pageferry-transport-rdma.so")):
            self.skipTest("the RDMA transport was not built")
        source, destination = (self.started("src", **self.virtio_mem()), self.start("dst", incoming=True, **self.virtio_mem()))
        port = free_port()
        destination.qmp.execute("migrate-incoming", uri=f"tcp:127.0.0.1:{port}")
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uris=[f"rdma:127.0.0.1:{port}", f"tcp:127.0.0.1:{port}"])
        self.finish(source, destination)
        used = source.migration()["x-pageferry-transport"]
        self.assertEqual(used["name"], "tcp")
        self.assertEqual(used["attempts"][0]["uri"], f"rdma:127.0.0.1:{port}")
        self.assertIn("virtio-mem-pci (vm0)", used["attempts"][0]["reason"])


if __name__ == "__main__":
    main()
