#!/bin/sh
# Runs a command among two hosts of its own, h1 and h2, that only the kernel makes believe in:
# each has its own network and host name, and they are joined by a bridge. Needs root and iproute2.
#
#   two_hosts.sh COMMAND…     in it, `on h1 PROGRAM…` runs a program on a host (`on h1 --private DIR
#                             PROGRAM…` with an empty folder of its own in place of DIR), and
#                             `ip link set v2 down` cuts h2 off
#
# All lives in namespaces of this process, so that nothing is left behind, however it ends.
set -eu
if [ "${1:-}" != inside ]; then
    exec unshare --mount --net --pid --fork --kill-child --mount-proc --propagation private \
        sh "$0" inside "$@"
fi
shift
mount -t tmpfs tmpfs /run
mkdir /run/netns /run/bin
printf '127.0.0.1 localhost\n10.78.0.1 h1\n10.78.0.2 h2\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
cat > /run/bin/on <<'ON'
#!/bin/sh
host=$1; shift
[ "$1" = --private ] && { private=$2; shift 2; } || private=
exec nsenter --net=/run/netns/$host unshare --uts --mount sh -ec '
    hostname "$1"; [ -z "$2" ] || mount -t tmpfs tmpfs "$2"; shift 2; exec "$@"
' on "$host" "$private" "$@"
ON
chmod +x /run/bin/on
PATH=/run/bin:$PATH; export PATH
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
for i in 1 2; do
    ip netns add h$i
    ip link add v$i type veth peer name eth0 netns h$i
    ip link set v$i master br0 up
    ip -n h$i link set lo up
    ip -n h$i addr add 10.78.0.$i/24 dev eth0
    ip -n h$i link set eth0 up
done
"$@"
