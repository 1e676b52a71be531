#!/bin/sh
# PID 1 of a lab machine: file systems, modules, network and soft-RoCE devices, then a lane for each of the host's. What the host wants
# of this machine comes as lab_* words on the kernel's command line, which the kernel makes variables of.
# shellcheck disable=SC2154
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/busybox
export PATH HOME=/root TERM="${TERM:-linux}"

problem() {
    echo "lab: $*" >/dev/console
    problems="${problems:+$problems; }$*"
}

# A step that must succeed; what fails is told to the host, which gives up on this machine.
must() { "$@" >/run/step 2>&1 || problem "$*: $(cat /run/step)"; }

echo "lab: the first program runs" >/dev/console # lab/machine.py looks for it

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /dev/hugepages /dev/virtio-ports
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
chmod 1777 /tmp # nothing is mounted there: what was built may lie below it
mkdir -p /var/tmp
mount -t ramfs -o mode=1777 ramfs /var/tmp # what stands for a disk: no tmpfs, so no memory that could be shared with a guest
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t cgroup2 none /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
hostname "$lab_host"

while read -r module; do
    must insmod "/lib/modules/$module.ko"
done </lib/modules/order

must ip link set lo up
case "$lab_two" in
1) devices=eth0 ;;
*)
    devices="veth0 veth1"
    must ip link add veth0 type veth peer name veth1
    ;;
esac
number=0
for device in $devices; do
    must ip link set "$device" mtu "$lab_mtu"
    must ip link set "$device" up
    must rdma link add "rxe$number" type rxe netdev "$device"
    # After the device is there, or its table of GIDs stays without them.
    must ip address add "10.77.$number.$lab_number/24" dev "$device"
    must ip address add "fd77:$number::$lab_number/64" dev "$device" nodad
    number=$((number + 1))
done

for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name" 2>/dev/null && ln -s "/dev/${port##*/}" "/dev/virtio-ports/$name"
done
mkdir -p /run/lab
lane=0
while [ -e "/dev/virtio-ports/lane$lane.control" ]; do
    # setsid -f, not &: what a shell starts in the background ignores SIGINT, and so would every program of a lane.
    setsid -f /lib/lab/lane.sh "$lane" "${problems:-}"
    lane=$((lane + 1))
done
while :; do sleep 3600; done # and reaps what is left without a parent
